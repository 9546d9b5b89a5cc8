package chatclient

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A conversation grows by question and answer, commands change what follows, and nothing in an answer commands the
// terminal.
func TestConversation(t *testing.T) {
	var asked []struct {
		Model       string
		Temperature float64
		MaxTokens   int `json:"max_tokens"`
		Messages    []struct{ Role, Content string }
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Model       string
			Temperature float64
			MaxTokens   int `json:"max_tokens"`
			Messages    []struct{ Role, Content string }
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Header.Get("Authorization") != "Bearer secret" ||
			r.URL.Path != "/v1/chat/completions" {
			t.Errorf("%s %q: %v", r.URL.Path, r.Header.Get("Authorization"), err)
		}
		asked = append(asked, q)
		switch q.Messages[len(q.Messages)-1].Content {
		case "refuse":
			w.WriteHeader(http.StatusTooManyRequests)
			io.WriteString(w, `{"error":{"message":"come again"}}`)
		case "break":
			io.WriteString(w, `data: {"error":{"message":"it broke"}}`+"\n\n")
		default:
			for _, part := range []string{"an", "\x1b[2Jswer"} {
				text, err := json.Marshal(part)
				if err != nil {
					t.Error(err)
				}
				fmt.Fprintf(w, ": ping\n\ndata: {\"choices\":[{\"delta\":{\"content\":%s}}]}\n\n", text)
			}
			io.WriteString(w, "data: [DONE]\n\n")
		}
	}))
	defer s.Close()
	var out strings.Builder
	c := &Conversation{In: strings.NewReader("hello\nagain\nrefuse\nbreak\n/nonsense\n/temperature 3\n" +
		"/temperature 0.5\n/system be brief\nlast\n/new\n/help\n/quit\nnever\n"),
		Out: &out, URL: s.URL, Key: "secret", Model: "m",
		Temperature: 1, MaxTokens: 9, Prompt: true}
	if err := c.Run(nil); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 5 {
		t.Fatalf("%d requests: %+v", len(asked), asked)
	}
	if q := asked[1]; len(q.Messages) != 3 || q.Messages[1].Role != "assistant" ||
		q.Messages[1].Content != "an\x1b[2Jswer" || q.Model != "m" || q.MaxTokens != 9 || q.Temperature != 1 {
		t.Errorf("second: %+v", q)
	}
	if q := asked[3]; len(q.Messages) != 5 { // what was refused is forgotten
		t.Errorf("after a refusal: %+v", q)
	}
	if q := asked[4]; len(q.Messages) != 2 || q.Messages[0].Content != "be brief" || q.Temperature != 0.5 {
		t.Errorf("last: %+v", q)
	}
	for _, want := range []string{"an[2Jswer\n", "429 Too Many Requests: come again", "it broke", "/help lists them",
		"a number from 0 to 2", "/quit           end"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out.String())
	}
}

// Without a person the first error ends the conversation.
func TestErrorsEndAScript(t *testing.T) {
	var out strings.Builder
	c := &Conversation{In: strings.NewReader("/nonsense\n/help\n"), Out: &out}
	if err := c.Run(nil); err == nil || strings.Contains(out.String(), "/quit") {
		t.Errorf("%v, %q", err, out.String())
	}
}
