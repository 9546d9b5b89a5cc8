package main

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"weft/internal/goldens"
	"weft/internal/modelref"
	"weft/internal/node"
)

type goldenPrompts struct {
	Prompts []struct {
		Messages  []struct{ Role, Content string } `json:"messages"`
		PromptIDs []int32                          `json:"prompt_ids"`
		GreedyIDs []int32                          `json:"greedy_ids"`
		Text      string                           `json:"text"`
		Gaps      []float64                        `json:"gaps"`
		Error     float64                          `json:"f32_vs_f64_max_abs"`
	} `json:"prompts"`
}

// defaultModel skips a test where the default model cannot run.
func defaultModel(t *testing.T) string {
	t.Helper()
	if testing.Short() || !node.HaveCPU {
		t.Skip("the default model runs without -short and with cgo only")
	}
	path, _, err := modelref.Resolve("")
	if err != nil {
		t.Skipf("%v", err)
	}
	return path
}

// TestDefaultModelThroughTheGoClient asks the real server, through the official client and all at once, for the greedy
// continuations of the golden file.
func TestDefaultModelThroughTheGoClient(t *testing.T) {
	defaultModel(t)
	var g goldenPrompts
	text, err := os.ReadFile(goldens.Path(t, "serve", "smollm2", "smollm2.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	p := startServer(t, "--activations", "float", "--kv-type", "f32")
	client := openai.NewClient(option.WithBaseURL(p.url+"/v1"), option.WithAPIKey("unused"),
		option.WithMaxRetries(0), option.WithRequestTimeout(2*time.Minute))
	t.Run("prompts", func(t *testing.T) {
		for i, c := range g.Prompts {
			t.Run(c.Messages[len(c.Messages)-1].Content, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				var messages []openai.ChatCompletionMessageParamUnion
				for _, m := range c.Messages {
					switch m.Role {
					case "system":
						messages = append(messages, openai.SystemMessage(m.Content))
					case "assistant":
						messages = append(messages, openai.AssistantMessage(m.Content))
					default:
						messages = append(messages, openai.UserMessage(m.Content))
					}
				}
				answer, err := client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
					Model: modelref.Default, Messages: messages, Temperature: openai.Float(0),
					MaxTokens: openai.Int(int64(len(c.GreedyIDs))),
				}, option.WithJSONSet("ignore_eos", true), option.WithJSONSet("return_token_ids", true),
					option.WithJSONSet("skip_special_tokens", false))
				if err != nil {
					t.Fatal(err)
				}
				var raw struct {
					PromptTokenIDs []int32 `json:"prompt_token_ids"`
					Choices        []struct {
						TokenIDs []int32 `json:"token_ids"`
					} `json:"choices"`
				}
				if err := json.Unmarshal([]byte(answer.RawJSON()), &raw); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(raw.PromptTokenIDs, c.PromptIDs) {
					t.Errorf("prompt %d: prompt ids %v, want %v", i, raw.PromptTokenIDs, c.PromptIDs)
				}
				sure := len(c.GreedyIDs) // ids before the first step whose best two logits are too close to tell apart
				if n := slices.IndexFunc(c.Gaps, func(gap float64) bool { return gap <= 10*c.Error }); n >= 0 {
					sure = n
				}
				if len(raw.Choices) != 1 || len(raw.Choices[0].TokenIDs) != len(c.GreedyIDs) ||
					!slices.Equal(raw.Choices[0].TokenIDs[:sure], c.GreedyIDs[:sure]) {
					t.Fatalf("prompt %d: ids %v, want %v", i, raw.Choices, c.GreedyIDs)
				}
				if got := answer.Choices[0].Message.Content; sure == len(c.GreedyIDs) && got != c.Text {
					t.Errorf("prompt %d: text %q, want %q", i, got, c.Text)
				}
			})
		}
	})
	stream := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{
		Model:       modelref.Default,
		Messages:    []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What is the capital of France?")},
		Temperature: openai.Float(0),
	})
	var acc openai.ChatCompletionAccumulator
	for stream.Next() {
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if got := acc.Choices[0].Message.Content; got != "The capital of France is Paris." {
		t.Errorf("streamed %q", got)
	}
}

func TestChatInATerminal(t *testing.T) {
	defaultModel(t)
	out, stderr, status := run(t, "/help\nWhat is 2+2?\n/nonsense\n", "chat", "--temperature", "0", "--memory", "2GiB")
	if status != 1 || !contains(out, "The answer to this classic math problem is 4.", "/quit") ||
		!contains(stderr, "/help lists them") {
		t.Errorf("status %d\n%s\n%s", status, out, stderr)
	}
}
