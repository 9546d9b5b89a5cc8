// Command generated tests a running server with the client that oapi-codegen generated beside it: a chat answer, a
// streamed chunk, the adapters. It reads SERVER_URL and keys from the environment.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "generated go client:", err)
		os.Exit(1)
	}
	fmt.Println("generated go client ok")
}

func client(key string) (*ClientWithResponses, error) {
	return NewClientWithResponses(os.Getenv("SERVER_URL"),
		WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
			r.Header.Set("Authorization", "Bearer "+os.Getenv(key))
			return nil
		}))
}

func run(ctx context.Context) error {
	acme, err := client("KEY_ACME")
	if err != nil {
		return err
	}
	admin, err := client("KEY_ADMIN")
	if err != nil {
		return err
	}
	var ask ChatRequest
	if err := json.Unmarshal([]byte(`{"messages":[{"role":"user","content":"What is 2+2?"}],"temperature":0,`+
		`"max_tokens":16}`), &ask); err != nil {
		return err
	}
	answer, err := acme.CreateChatCompletionWithResponse(ctx, ask)
	if err != nil {
		return err
	}
	if answer.JSON200 == nil || answer.JSON200.Usage.CompletionTokens <= 4 {
		return fmt.Errorf("chat answer: %s", answer.Body)
	}
	want := answer.JSON200.Choices[0].Message.Content
	stream := true
	ask.Stream = &stream
	if text, err := streamed(ctx, acme, ask); err != nil || text != want || text == "" {
		return fmt.Errorf("streamed %q instead of %q: %v", text, want, err)
	}
	list, err := admin.ListAdaptersWithResponse(ctx, "acme")
	if err != nil {
		return err
	}
	if list.JSON200 == nil || len(list.JSON200.Adapters) != 2 {
		return fmt.Errorf("adapters: %s", list.Body)
	}
	if err := stored(ctx, acme); err != nil {
		return err
	}
	foreign, err := admin.ListAdaptersWithResponse(ctx, "globex")
	if err != nil {
		return err
	}
	if foreign.JSON404 == nil || *foreign.JSON404.Error.Code != "not_found" {
		return fmt.Errorf("adapters of another tenant: %s", foreign.Body)
	}
	return nil
}

// stored checks that a completion is stored, found and deleted.
func stored(ctx context.Context, c *ClientWithResponses) error {
	var ask ChatRequest
	if err := json.Unmarshal([]byte(`{"messages":[{"role":"user","content":"Hello"}],"max_tokens":4,"store":true,`+
		`"metadata":{"by":"generated go client"}}`), &ask); err != nil {
		return err
	}
	answer, err := c.CreateChatCompletionWithResponse(ctx, ask)
	if err != nil {
		return err
	}
	list, err := c.ListStoredCompletionsWithResponse(ctx, &ListStoredCompletionsParams{
		Metadata: &map[string]any{"by": "generated go client"}})
	if err != nil {
		return err
	}
	if answer.JSON200 == nil || list.JSON200 == nil || len(list.JSON200.Data) != 1 ||
		list.JSON200.Data[0].Id != answer.JSON200.Id {
		return fmt.Errorf("stored %s, listed %s", answer.Body, list.Body)
	}
	gone, err := c.DeleteStoredCompletionWithResponse(ctx, answer.JSON200.Id)
	if err != nil {
		return err
	}
	if gone.JSON200 == nil || !gone.JSON200.Deleted {
		return fmt.Errorf("deleted: %s", gone.Body)
	}
	return nil
}

// streamed returns the text of all chunks.
func streamed(ctx context.Context, c *ClientWithResponses, ask ChatRequest) (string, error) {
	resp, err := c.CreateChatCompletion(ctx, ask)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var text strings.Builder
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: {")
		if !ok {
			continue
		}
		var chunk ChatChunk
		if err := json.Unmarshal([]byte("{"+data), &chunk); err != nil {
			return "", err
		}
		for _, choice := range chunk.Choices {
			if choice.Delta.Content != nil {
				text.WriteString(*choice.Delta.Content)
			}
		}
	}
	return text.String(), lines.Err()
}
