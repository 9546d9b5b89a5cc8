package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeServer answers after wait with tokens chunks, gap apart; its template adds nine tokens to a prompt.
type fakeServer struct {
	wait, gap time.Duration
	spoil     int // the request with this number ends in an error event
	requests  atomic.Int64
	prompts   [16]string
}

func (f *fakeServer) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Request: r, Header: http.Header{}}
	if strings.HasSuffix(r.URL.Path, "/models") {
		resp.Body = io.NopCloser(strings.NewReader(`{"data":[{"id":"m"}]}`))
		return resp, nil
	}
	var b body
	if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
		return nil, err
	}
	prompt := len(strings.Fields(b.Messages[0].Content)) + 9
	if !b.Stream {
		resp.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(`{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":%d,"completion_tokens":1}}`, prompt)))
		return resp, nil
	}
	f.requests.Add(1)
	f.prompts[b.Seed] = b.Messages[0].Content
	out, in := io.Pipe()
	resp.Body = out
	go func() {
		time.Sleep(f.wait)
		io.WriteString(in, ": ping\n\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\r\n\r\n")
		for i := range b.MaxTokens {
			if i > 0 {
				time.Sleep(f.gap)
			}
			if b.Seed == f.spoil {
				io.WriteString(in, "data: {\"error\":{\"message\":\"out of luck\"}}\n\n")
				in.Close()
				return
			}
			io.WriteString(in, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n")
		}
		fmt.Fprintf(in,
			"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,"+
				"\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\ndata: [DONE]\n\n",
			prompt, b.MaxTokens)
		in.Close()
	}()
	return resp, nil
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{wait: ms(100), gap: ms(10), spoil: 3}
		cfg := Config{URL: "http://127.0.0.1:1/v1", Requests: 6, Concurrency: 2, Prompt: 32, Gen: 11, Common: 5,
			Client: &http.Client{Transport: f}}
		out, took, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		// two clients, six requests of 200 ms of which one breaks after 100
		if took != ms(600) && took != ms(500) {
			t.Errorf("took %v", took)
		}
		for i, o := range out {
			if i == 3 {
				if o.Err == nil || !strings.Contains(o.Err.Error(), "out of luck") {
					t.Errorf("request 3: %v", o.Err)
				}
				continue
			}
			if o.Err != nil || o.TTFT != ms(100) || o.Latency != ms(200) || o.TPOT() != ms(10) || len(o.ITL) != 10 ||
				o.OutputTokens != 11 || o.PromptTokens != 32 {
				t.Errorf("request %d: %+v", i, o)
			}
		}
		r := Summarize(out, took, Goal{TTFT: ms(100), TPOT: ms(10)})
		if r.Failed != 1 || r.OutputTokens != 55 || r.CachedTokens != 10 || r.GoodFraction != 5.0/6 ||
			r.TTFT.P99 != 100 || r.ITL.Median != 10 || r.TPOT.Mean != 10 || r.FirstError == "" {
			t.Errorf("%+v", r)
		}
		if r := Summarize(out, took, Goal{TPOT: ms(9)}); r.Goodput != 0 {
			t.Errorf("nothing met 9 ms a token, yet %+v", r)
		}
		common := strings.Join(strings.Fields(f.prompts[0])[:5], " ")
		if !strings.HasPrefix(f.prompts[1], common+" ") || f.prompts[0] == f.prompts[1] {
			t.Errorf("prompts %q and %q", f.prompts[0], f.prompts[1])
		}
	})
}

// TestLargeEvent: an event may be as long as a server likes (log-probabilities make it so), up to a bound.
func TestLargeEvent(t *testing.T) {
	for _, size := range []int{4000, 5000, 1 << 20} {
		var o Outcome
		err := o.read(strings.NewReader("data: {\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("x", size) +
			"\"}}]}\r\n\r\ndata: [DONE]\n\n"))
		if err != nil || o.chunks != 1 {
			t.Errorf("%d bytes: %d chunks, %v", size, o.chunks, err)
		}
	}
	var o Outcome
	if err := o.read(io.MultiReader(strings.NewReader("data: "), endless{})); err == nil {
		t.Error("an event without an end was read")
	}
	if err := o.read(strings.NewReader("data: {}\n\n")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream without its end: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestOpenLoopKeepsItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{wait: ms(1000), gap: ms(1), spoil: -1}
		trace := []Arrival{{0, 20, 1}, {ms(50), 40, 2}, {ms(60), 30, 1}}
		out, took, err := Run(t.Context(),
			Config{URL: "http://127.0.0.1:1", Requests: 3, Trace: trace, Client: &http.Client{Transport: f}})
		if err != nil || took != ms(1060) {
			t.Errorf("took %v, %v", took, err)
		}
		for i, o := range out {
			if o.Err != nil || o.PromptTokens != trace[i].Prompt || o.OutputTokens != trace[i].Gen ||
				o.TTFT != ms(1000) {
				t.Errorf("request %d: %+v", i, o)
			}
		}
		// one at a time: the time spent waiting for a place counts
		out, _, err = Run(t.Context(),
			Config{URL: "http://127.0.0.1:1", Requests: 3, Trace: trace, Concurrency: 1,
				Client: &http.Client{Transport: f}})
		if err != nil || out[0].TTFT+out[1].TTFT+out[2].TTFT < ms(5800) {
			t.Errorf("%v %v %v, %v", out[0].TTFT, out[1].TTFT, out[2].TTFT, err)
		}
	})
}

func TestContextEndsARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{wait: time.Minute, spoil: -1}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := Run(ctx,
			Config{URL: "http://127.0.0.1:1", Requests: 2, Rate: 0.1, Prompt: 10, Gen: 1,
				Client: &http.Client{Transport: f}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute) // the fake's own goroutines
	})
}

func TestPercentile(t *testing.T) {
	d := []time.Duration{0, 10, 20, 30, 40}
	for p, want := range map[float64]float64{0: 0, 50: 20, 90: 36, 99: 39.6, 100: 40} {
		if got := Percentile(d, p); got != want {
			t.Errorf("percentile %v: %v, want %v", p, got, want)
		}
	}
}

func TestReadTrace(t *testing.T) {
	const csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 " +
		"18:17:04.9799600,100,800\n"
	got, err := ReadTrace(strings.NewReader(csv), Scaling{Prompt: 0.05, Gen: 0.1, Speed: 2, MinPrompt: 8, MaxGen: 64},
		10)
	want := []Arrival{{0, 240, 1}, {ms(500), 8, 64}}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "A,B\n", "TIMESTAMP,ContextTokens,GeneratedTokens\n",
		"TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n",
		"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,-1,1\n",
		"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,NaN,1\n"} {
		if _, err := ReadTrace(strings.NewReader(bad), Scaling{Prompt: 1, Gen: 1, Speed: 1}, 10); !errors.Is(err,
			ErrConfig) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []Config{
		{Requests: 0, Concurrency: 1, Prompt: 1, Gen: 1}, {Requests: 1, Prompt: 1, Gen: 1},
		{Requests: 1, Concurrency: 1, Prompt: 0, Gen: 1},
		{Requests: 1, Concurrency: 1, Prompt: 1, Gen: 1, Rate: -1},
		{Requests: 1, Concurrency: 1, Prompt: 1, Gen: 1, Common: -1},
	} {
		if _, _, err := Run(t.Context(), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
