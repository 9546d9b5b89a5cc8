package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	sdk "github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"weft/server/tenant"
)

// The official Go client reads everything that the server answers.
func TestOfficialClient(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "Hé!"}, func(_ *Config, d *Deps) { d.Tenants = withKeys("the-key") })
	addr, _ := serveTest(t, s)
	ctx := context.Background()
	client := sdk.NewClient(option.WithBaseURL("http://"+addr+"/v1"), option.WithAPIKey("the-key"),
		option.WithMaxRetries(0), option.WithHTTPClient(checkedClient))
	params := sdk.ChatCompletionNewParams{Model: "org/tiny",
		Messages: []sdk.ChatCompletionMessageParamUnion{sdk.SystemMessage("s"), sdk.UserMessage("hi")}}

	models, err := client.Models.List(ctx)
	if err != nil || len(models.Data) != 1 || models.Data[0].ID != "org/tiny" {
		t.Fatalf("models: %+v %v", models, err)
	}
	if m, err := client.Models.Get(ctx, "org/tiny"); err != nil || m.ID != "org/tiny" {
		t.Errorf("model: %+v %v", m, err)
	}
	whole := params
	whole.Logprobs, whole.TopLogprobs, whole.N = sdk.Bool(true), sdk.Int(2), sdk.Int(2)
	answer, err := client.Chat.Completions.New(ctx, whole)
	if err != nil || len(answer.Choices) != 2 || answer.Choices[1].Message.Content != "Hé!" ||
		answer.Choices[0].FinishReason != "stop" || answer.Usage.CompletionTokens != 10 ||
		answer.Usage.PromptTokensDetails.CachedTokens != 1 || len(answer.Choices[0].Logprobs.Content) != 4 ||
		len(answer.Choices[0].Logprobs.Content[0].TopLogprobs) != 2 {
		t.Errorf("chat: %+v %v", answer, err)
	}
	streamed := params
	streamed.StreamOptions = sdk.ChatCompletionStreamOptionsParam{IncludeUsage: sdk.Bool(true)}
	stream := client.Chat.Completions.NewStreaming(ctx, streamed)
	acc := sdk.ChatCompletionAccumulator{}
	for stream.Next() {
		if !acc.AddChunk(stream.Current()) {
			t.Error("a chunk does not fit the others")
		}
	}
	if err := stream.Err(); err != nil || acc.Choices[0].Message.Content != "Hé!" ||
		acc.Choices[0].Message.Role != "assistant" || acc.Usage.TotalTokens == 0 {
		t.Errorf("stream: %+v %v", acc, err)
	}
	completion, err := client.Completions.New(ctx,
		sdk.CompletionNewParams{Model: "org/tiny",
			Prompt: sdk.CompletionNewParamsPromptUnion{OfString: sdk.String("x")}, Logprobs: sdk.Int(1)})
	if err != nil || completion.Choices[0].Text != "Hé!" || len(completion.Choices[0].Logprobs.Tokens) != 4 ||
		completion.Usage.TotalTokens != 7 {
		t.Errorf("completion: %+v %v", completion, err)
	}
	texts := client.Completions.NewStreaming(ctx,
		sdk.CompletionNewParams{Model: "org/tiny",
			Prompt: sdk.CompletionNewParamsPromptUnion{OfArrayOfTokens: []int64{1, 2}}})
	text := ""
	for texts.Next() {
		text += texts.Current().Choices[0].Text
	}
	if texts.Err() != nil || text != "Hé!" {
		t.Errorf("completion stream: %q %v", text, texts.Err())
	}

	for name, c := range map[string]struct {
		change         func(*sdk.ChatCompletionNewParams)
		key            string
		status         int
		param, message string
	}{
		"range": {func(p *sdk.ChatCompletionNewParams) { p.Temperature = sdk.Float(9) }, "the-key", 400, "temperature",
			"from 0 to 2"},
		"model": {func(p *sdk.ChatCompletionNewParams) { p.Model = "gpt-9" }, "the-key", 404, "model", "gpt-9"},
		"key":   {func(*sdk.ChatCompletionNewParams) {}, "wrong", 401, "", "API key"},
	} {
		p := params
		c.change(&p)
		_, err := client.Chat.Completions.New(ctx, p, option.WithAPIKey(c.key))
		var e *sdk.Error
		if !errors.As(err, &e) || e.StatusCode != c.status || e.Param != c.param ||
			!strings.Contains(e.Message, c.message) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The official Go client stores completions, finds them page by page, and changes and deletes them.
func TestOfficialClientReadsStoredCompletions(t *testing.T) {
	tenants, _, auth := capturing(t, nil, func(set *tenant.Settings) { set.Capture = tenant.CaptureOnRequest })
	addr, _ := serveTest(t, tenants.Server)
	ctx := context.Background()
	client := sdk.NewClient(option.WithBaseURL("http://"+addr+"/v1"), option.WithMaxRetries(0),
		option.WithAPIKey(strings.TrimPrefix(auth, "Bearer ")), option.WithHTTPClient(checkedClient))
	var ids []string
	for _, topic := range []string{"a", "b", "a", "a"} {
		answer, err := client.Chat.Completions.New(ctx, sdk.ChatCompletionNewParams{Model: "org/tiny",
			Messages: []sdk.ChatCompletionMessageParamUnion{sdk.SystemMessage("s"), sdk.UserMessage("hi")},
			Store:    sdk.Bool(true), Metadata: map[string]string{"topic": topic}, User: sdk.String("u")})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, answer.ID)
	}
	completions := client.Chat.Completions
	var found []string
	pages := completions.ListAutoPaging(ctx, sdk.ChatCompletionListParams{Limit: sdk.Int(2),
		Order: sdk.ChatCompletionListParamsOrderDesc, Metadata: map[string]string{"topic": "a"}})
	for pages.Next() {
		found = append(found, pages.Current().ID)
	}
	if want := []string{ids[3], ids[2], ids[0]}; pages.Err() != nil || !slices.Equal(found, want) {
		t.Errorf("%v %v, want %v", found, pages.Err(), want)
	}
	one, err := completions.Update(ctx, ids[1], sdk.ChatCompletionUpdateParams{Metadata: map[string]string{"x": "y"}})
	if err != nil || one.ID != ids[1] {
		t.Errorf("%+v %v", one, err)
	}
	one, err = completions.Get(ctx, ids[1])
	if err != nil || one.Choices[0].Message.Content != "abc" || one.Choices[0].FinishReason != "stop" ||
		one.Usage.TotalTokens == 0 || one.Model != "org/tiny" ||
		!strings.Contains(one.RawJSON(), `"metadata":{"x":"y"}`) {
		t.Errorf("%+v %v", one, err)
	}
	messages, err := completions.Messages.List(ctx, ids[1], sdk.ChatCompletionMessageListParams{})
	if err != nil || len(messages.Data) != 2 || messages.Data[1].Content != "hi" || messages.Data[0].ID == "" {
		t.Errorf("%+v %v", messages, err)
	}
	var taken map[string]any
	err = client.Post(ctx, "feedback", map[string]any{"id": ids[1], "value": true}, &taken)
	if err != nil || taken["id"] != ids[1] {
		t.Errorf("%v %v", taken, err)
	}
	if gone, err := completions.Delete(ctx, ids[1]); err != nil || !gone.Deleted || gone.ID != ids[1] {
		t.Errorf("%+v %v", gone, err)
	}
	var refused *sdk.Error
	if _, err := completions.Get(ctx, ids[1]); !errors.As(err, &refused) || refused.StatusCode != 404 {
		t.Errorf("%v", err)
	}
}
