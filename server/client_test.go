package server

import (
	"context"
	"errors"
	"strings"
	"testing"

	sdk "github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
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
