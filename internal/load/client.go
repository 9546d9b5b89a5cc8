package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"weft/internal/sse"
)

// client sends the requests of one run.
type client struct {
	cfg        *Config
	url        string // ends in /v1
	http       *http.Client
	overhead   int        // tokens that the chat template and the BOS add
	keys       []string   // at least one, "" for none
	adapters   [][]string // names for each key
	popularity []float64
}

// maxAnswer limits an answer that is not a stream, and an event of one that is.
const maxAnswer = 32 << 20

// connect finds the model and measures what the template adds to a prompt.
func connect(ctx context.Context, cfg *Config) (*client, error) {
	c := &client{cfg: cfg, url: strings.TrimSuffix(strings.TrimSuffix(cfg.URL, "/"), "/v1") + "/v1", http: cfg.Client}
	if c.http == nil {
		// One connection per request: some servers close an idle one just when the next request is written.
		c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	}
	if c.keys = cfg.Keys; len(c.keys) == 0 {
		c.keys = []string{""}
	}
	if cfg.Model == "" {
		models, err := c.models(ctx, c.keys[0])
		if err != nil {
			return nil, err
		}
		cfg.Model = models[0].ID
	}
	if err := c.findAdapters(ctx); err != nil {
		return nil, err
	}
	const probe = 64
	body := c.body(strings.TrimSuffix(strings.Repeat("time ", probe), " "), 1, 0)
	body.Stream, body.Options = false, nil
	var answer chunk
	if err := c.call(ctx, c.keys[0], http.MethodPost, c.path(), body, &answer); err != nil {
		return nil, err
	}
	if answer.Usage != nil {
		c.overhead = max(answer.Usage.Prompt-probe, 0)
	}
	return c, nil
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type streamOptions struct {
	Usage bool `json:"include_usage"`
}

type body struct {
	Model       string         `json:"model"`
	Messages    []message      `json:"messages,omitempty"`
	Prompt      string         `json:"prompt,omitempty"`
	MaxTokens   int            `json:"max_tokens"`
	Temperature float64        `json:"temperature"`
	Seed        int            `json:"seed"`
	IgnoreEOS   bool           `json:"ignore_eos,omitempty"`
	Stream      bool           `json:"stream,omitempty"`
	Options     *streamOptions `json:"stream_options,omitempty"`
	LoRA        []scaled       `json:"lora,omitempty"`
}

// scaled is an entry of llama-server's field lora.
type scaled struct {
	ID    int     `json:"id"`
	Scale float64 `json:"scale"`
}

// chunk has the fields of an event or an answer that are used.
type chunk struct {
	Choices []struct {
		Text  string `json:"text"`
		Delta struct {
			Content   string `json:"content"`
			Reasoning string `json:"reasoning_content"`
		} `json:"delta"`
	} `json:"choices"`
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

func (k *chunk) hasText() bool {
	return len(k.Choices) > 0 &&
		(k.Choices[0].Text != "" || k.Choices[0].Delta.Content != "" || k.Choices[0].Delta.Reasoning != "")
}

func (c *client) path() string {
	if c.cfg.Completions {
		return "/completions"
	}
	return "/chat/completions"
}

func (c *client) body(text string, gen, seed int) *body {
	b := &body{Model: c.cfg.Model, MaxTokens: gen, Seed: seed, IgnoreEOS: !c.cfg.StopAtEOS, Stream: true,
		Options: &streamOptions{Usage: true}}
	if c.cfg.Completions {
		b.Prompt = text
	} else {
		b.Messages = []message{{Role: "user", Content: text}}
	}
	return b
}

func (c *client) post(ctx context.Context, key, method, path string, in any) (*http.Response, error) {
	var raw []byte
	if in != nil {
		raw, _ = json.Marshal(in) //nolint:errchkjson // plain structs of this package
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return nil, fmt.Errorf("%s %s: status %d: %s", method, c.url+path, resp.StatusCode, bytes.TrimSpace(text))
	}
	return resp, nil
}

func (c *client) call(ctx context.Context, key, method, path string, in, out any) error {
	resp, err := c.post(ctx, key, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: %w", method, c.url+path, err)
	}
	return nil
}

// send makes request i with a key and fills o.
func (c *client) send(ctx context.Context, i, key int, due time.Time, o *Outcome) {
	rng := rand.New(rand.NewPCG(c.cfg.Seed, uint64(i)+3<<32))
	prompt, gen := between(rng, c.cfg.Prompt, c.cfg.PromptMax), between(rng, c.cfg.Gen, c.cfg.GenMax)
	if c.cfg.Trace != nil {
		a := &c.cfg.Trace[i%len(c.cfg.Trace)]
		prompt, gen = a.Prompt, a.Gen
	}
	*o = Outcome{due: due, wantPrompt: prompt, wantOutput: gen, Key: key, Adapter: c.adapter(i)}
	b := c.body(c.prompt(i, prompt), gen, i)
	if c.cfg.Choice.LlamaCpp && o.Adapter >= 0 {
		b.LoRA = []scaled{{o.Adapter, 1}}
	} else if o.Adapter >= 0 {
		b.Model = c.adapters[key][o.Adapter]
	}
	resp, err := c.post(ctx, c.keys[key], http.MethodPost, c.path(), b)
	if err == nil {
		err = o.read(resp.Body)
		resp.Body.Close()
	}
	o.Latency = time.Since(due)
	if o.Err = err; err == nil && o.chunks == 0 {
		o.Err = errors.New("the answer has no text")
	}
	if o.chunks > 0 {
		o.TTFT = o.firstChunk.Sub(due)
		o.Latency = o.lastChunk.Sub(due)
	}
	if o.OutputTokens == 0 { // a server without usage: one token per chunk
		o.OutputTokens = o.chunks
	}
}

// read reads the events of an answer.
func (o *Outcome) read(r io.Reader) error {
	events := sse.NewReader(r, maxAnswer)
	for {
		ev, err := events.Next()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("the stream ended without [DONE]: %w", err)
		}
		if string(bytes.TrimSpace(ev.Data)) == "[DONE]" {
			return nil
		}
		now := time.Now()
		var k chunk
		if err := json.Unmarshal(ev.Data, &k); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		if len(k.Error) > 0 && string(k.Error) != "null" {
			return fmt.Errorf("the server sent an error: %s", k.Error)
		}
		if u := k.Usage; u != nil {
			o.PromptTokens, o.OutputTokens, o.Cached = u.Prompt, u.Completion, u.Details.Cached
		}
		if !k.hasText() {
			continue
		}
		if o.chunks == 0 {
			o.firstChunk = now
		} else {
			o.ITL = append(o.ITL, now.Sub(o.lastChunk))
		}
		o.lastChunk = now
		o.chunks++
	}
}
