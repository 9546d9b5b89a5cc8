package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weft/server/telemetry"
)

// otlpCollector keeps the spans that are sent to it over HTTP.
type otlpCollector struct {
	mu    sync.Mutex
	spans []*tracepb.Span
	raw   strings.Builder
}

func (o *otlpCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var req collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &req); err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.raw.Write(body)
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			o.spans = append(o.spans, ss.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// traced runs requests against a server that sends its traces to a collector, and returns the spans by the request's
// id, the request's own first.
func traced(t *testing.T, s *Server, requests func()) (map[string][]*tracepb.Span, string) {
	t.Helper()
	o := &otlpCollector{}
	srv := httptest.NewServer(o)
	t.Cleanup(srv.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	tr, err := telemetry.NewTraces(context.Background(), "v1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.traces = tr
	requests()
	if err := tr.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	out, roots := map[string][]*tracepb.Span{}, map[string]string{}
	for _, sp := range o.spans {
		if id := attr(sp, "weft.request_id"); id != "" {
			roots[string(sp.SpanId)] = id
			out[id] = []*tracepb.Span{sp}
		}
	}
	for _, sp := range o.spans {
		if id, ok := roots[string(sp.ParentSpanId)]; ok {
			out[id] = append(out[id], sp)
		}
	}
	return out, o.raw.String()
}

func attr(sp *tracepb.Span, key string) string {
	for _, a := range sp.Attributes {
		if a.Key == key {
			if s := a.Value.GetStringValue(); s != "" {
				return s
			}
			return fmt.Sprint(a.Value.GetIntValue())
		}
	}
	return ""
}

// A request through the handlers and the real engine is one span with a queue, a prefill and a decode for each
// sequence, one after the other.
func TestTracesOfRequests(t *testing.T) {
	s, _ := realServer(t)
	spans, raw := traced(t, s, func() {
		post(s, "/v1/completions", `{"prompt":"Once upon a time","max_tokens":7,"n":2,"ignore_eos":true}`, "X-Request-Id", "whole",
			"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		post(s, "/v1/completions", `{"prompt":"Once upon a time","max_tokens":0,"echo":true,"logprobs":1}`, "X-Request-Id", "score")
		post(s, "/v1/chat/completions", `{"stream":true,"max_tokens":5,"ignore_eos":true,`+hi+`}`, "X-Request-Id", "streamed")
		post(s, "/v1/chat/completions", `{"model":"none",`+hi+`}`)
	})
	for id, want := range map[string][]string{
		"whole":    {"text_completion org/tiny", "decode", "decode", "prefill", "prefill", "queue", "queue"},
		"score":    {"text_completion org/tiny", "prefill", "queue"},
		"streamed": {"chat org/tiny", "decode", "prefill", "queue"},
	} {
		list := spans[id]
		var names []string
		for _, sp := range list {
			names = append(names, sp.Name)
		}
		if len(names) > 0 {
			slices.Sort(names[1:])
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s: spans %v, want %v", id, names, want)
			continue
		}
		root := list[0]
		if status := attr(root, "http.response.status_code"); status != "200" {
			t.Errorf("%s: status %s", id, status)
		}
		ends := map[string]uint64{} // of each sequence's stage before
		for _, sp := range list[1:] {
			n := attr(sp, "gen_ai.choice.index")
			if sp.StartTimeUnixNano < root.StartTimeUnixNano || sp.EndTimeUnixNano > root.EndTimeUnixNano ||
				sp.EndTimeUnixNano < sp.StartTimeUnixNano || sp.StartTimeUnixNano < ends[n] {
				t.Errorf("%s: %s of choice %s lies outside its place", id, sp.Name, n)
			}
			ends[n] = sp.EndTimeUnixNano
			if sp.Name == "decode" && id == "whole" && attr(sp, "gen_ai.usage.output_tokens") != "7" {
				t.Errorf("%s: %s tokens in the decode", id, attr(sp, "gen_ai.usage.output_tokens"))
			}
		}
	}
	if root := spans["whole"][0]; fmt.Sprintf("%x %x", root.TraceId,
		root.ParentSpanId) != "0af7651916cd43dd8448eb211c80319c b7ad6b7169203331" {
		t.Errorf("trace %x, parent %x: traceparent is not honoured", root.TraceId, root.ParentSpanId)
	}
	for _, text := range []string{"Once upon", "hi"} {
		if strings.Contains(raw, text+" ") || strings.Contains(raw, `"`+text) {
			t.Errorf("the traces hold %q", text)
		}
	}
}

// A request that fails, or panics, is a failed span with its status.
func TestTracesOfFailures(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "ab"})
	spans, _ := traced(t, s, func() {
		post(s, "/v1/chat/completions", `{"messages":[{"role":"user","content":"panic please"}]}`, "X-Request-Id", "panic")
		post(s, "/v1/completions", `{"prompt":5}`, "X-Request-Id", "refused")
	})
	if list := spans["refused"]; len(list) != 1 || attr(list[0], "http.response.status_code") != "400" ||
		list[0].Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("%v", list)
	}
	if list := spans["panic"]; len(list) != 1 || attr(list[0], "http.response.status_code") != "500" ||
		list[0].Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", list)
	}
}
