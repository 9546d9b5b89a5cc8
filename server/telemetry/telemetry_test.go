package telemetry

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// Every name that vLLM's dashboard and the Kubernetes gateway read is there before the first request.
func TestNamesAreThereAtOnce(t *testing.T) {
	m := NewMetrics(Config{Model: "tiny", MaxContext: 8192,
		Cache: CacheInfo{PageLen: 16, NumPages: 7, PrefixCache: true}})
	m.Watch(func() EngineStats {
		return EngineStats{MemoryBytes: map[string]int64{"weights": 5},
			Background: BackgroundStats{Jobs: 3, Running: 4, Waiting: 5, Tokens: 6, Preemptions: 7}}
	})
	text := scrape(t, m)
	types := map[string]string{}
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		if f := strings.Fields(sc.Text()); len(f) == 4 && f[1] == "TYPE" {
			types[f[2]] = f[3]
		}
	}
	for name, kind := range map[string]string{
		"vllm:e2e_request_latency_seconds": "histogram", "vllm:prompt_tokens_total": "counter",
		"vllm:generation_tokens_total":     "counter",
		"vllm:inter_token_latency_seconds": "histogram", "vllm:time_per_output_token_seconds": "histogram",
		"vllm:time_to_first_token_seconds": "histogram",
		"vllm:num_requests_running":        "gauge", "vllm:num_requests_waiting": "gauge",
		"vllm:kv_cache_usage_perc":   "gauge",
		"vllm:gpu_cache_usage_perc":  "gauge",
		"vllm:request_prompt_tokens": "histogram", "vllm:request_generation_tokens": "histogram",
		"vllm:request_success_total":      "counter",
		"vllm:request_queue_time_seconds": "histogram", "vllm:request_prefill_time_seconds": "histogram",
		"vllm:request_decode_time_seconds":    "histogram",
		"vllm:request_inference_time_seconds": "histogram", "vllm:request_max_num_generation_tokens": "histogram",
		"vllm:prefix_cache_queries_total": "counter", "vllm:prefix_cache_hits_total": "counter",
		"vllm:num_preemptions_total":  "counter",
		"vllm:iteration_tokens_total": "histogram", "vllm:request_params_n": "histogram",
		"vllm:request_params_max_tokens": "histogram",
		"vllm:cache_config_info":         "gauge", "vllm:lora_requests_info": "gauge",
		"vllm:admission_rejections_total": "counter", "weft:memory_bytes": "gauge",
		"weft:background_jobs": "gauge", "weft:background_sequences": "gauge",
		"weft:background_tokens_total": "counter", "weft:background_preemptions_total": "counter",
	} {
		if types[name] != kind {
			t.Errorf("%s is %q, want %q", name, types[name], kind)
		}
	}
	for _, line := range []string{
		`vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 0`,
		`vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",model_name="tiny",num_gpu_blocks="7"} 1`,
		`weft:memory_bytes{purpose="weights"} 5`,
		`weft:background_jobs{state="running"} 1`, `weft:background_jobs{state="waiting"} 2`,
		`weft:background_sequences{state="running"} 4`, `weft:background_sequences{state="waiting"} 5`,
		`weft:background_tokens_total 6`, `weft:background_preemptions_total 7`,
		`vllm:request_prompt_tokens_bucket{engine="0",model_name="tiny",le="5000"} 0`,
		`vllm:time_to_first_token_seconds_bucket{engine="0",model_name="tiny",le="2560"} 0`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if regexp.MustCompile(`le="10000"`).MatchString(text) {
		t.Error("a bucket of lengths lies beyond the context")
	}
}

func TestValues(t *testing.T) {
	m := NewMetrics(Config{Model: "tiny", MaxContext: 100})
	m.Watch(func() EngineStats {
		return EngineStats{Running: 3, Waiting: 2, KVUsage: 0.25, PrefixQueries: 64, PrefixHits: 48, Preemptions: 1}
	})
	t0 := time.Unix(1000, 0)
	at := func(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }
	m.Prefilled(10)
	m.FirstToken(30 * time.Millisecond)
	m.NextToken(20 * time.Millisecond)
	m.Params(2, 7)
	m.LongestChoice(2)
	m.Step(12)
	m.Rejected("max_num_queued_reqs")
	m.HTTP("/v1/completions", "POST", 200, time.Second)
	m.Finished(Sequence{Reason: "length", PromptTokens: 10, CachedTokens: 8, GenerationTokens: 2, Arrived: at(0),
		Queued: at(1), Scheduled: at(3), FirstToken: at(7), Ended: at(15)})
	// never scheduled
	m.Finished(Sequence{Reason: "abort", PromptTokens: 10, Arrived: at(0), Queued: at(1), Ended: at(2)})
	text := scrape(t, m)
	const l = `{engine="0",model_name="tiny"} `
	for _, line := range []string{
		"vllm:prompt_tokens_total" + l + "10", "vllm:generation_tokens_total" + l + "2",
		"vllm:num_requests_running" + l + "3", "vllm:num_requests_waiting" + l + "2",
		"vllm:kv_cache_usage_perc" + l + "0.25", "vllm:prefix_cache_hits_total" + l + "48",
		"vllm:prefix_cache_queries_total" + l + "64", "vllm:num_preemptions_total" + l + "1",
		"vllm:e2e_request_latency_seconds_sum" + l + "17", "vllm:request_queue_time_seconds_sum" + l + "2",
		"vllm:request_prefill_time_seconds_sum" + l + "4",
		"vllm:request_decode_time_seconds_sum" + l + "8", "vllm:request_inference_time_seconds_sum" + l + "12",
		"vllm:request_decode_time_seconds_count" + l + "1",
		"vllm:time_to_first_token_seconds_sum" + l + "0.03", "vllm:inter_token_latency_seconds_sum" + l + "0.02",
		"vllm:iteration_tokens_total_sum" + l + "12",
		"vllm:request_params_n_sum" + l + "2", "vllm:request_params_max_tokens_sum" + l + "7",
		"vllm:request_max_num_generation_tokens_sum" + l + "2",
		`vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 1`, `vllm:request_success_total{engine="0",finished_reason="abort",model_name="tiny"} 1`,
		`vllm:admission_rejections_total{engine="0",model_name="tiny",reason="max_num_queued_reqs"} 1`,
		`http_requests_total{handler="/v1/completions",method="POST",status="200"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
}

// stub is an OTLP collector that keeps what it is sent.
type stub struct {
	mu    sync.Mutex
	spans []*tracepb.Span
	names []string // service names
}

// ServeHTTP takes one export.
func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var req collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				s.names = append(s.names, a.Value.GetStringValue())
			}
		}
		for _, ss := range rs.ScopeSpans {
			s.spans = append(s.spans, ss.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func TestTracesReachTheCollector(t *testing.T) {
	s := &stub{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	tr, err := NewTraces(context.Background(), "v1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	span := tr.Start(context.Background(), h, "chat tiny")
	if got := span.TraceID(); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace id %q: traceparent is not honoured", got)
	}
	span.Set("gen_ai.request.model", "tiny")
	span.Set("gen_ai.usage.input_tokens", 5)
	t0 := time.Unix(1000, 0)
	span.Stages(0,
		Sequence{Queued: t0, Scheduled: t0.Add(time.Second), FirstToken: t0.Add(3 * time.Second),
			Ended: t0.Add(7 * time.Second), PromptTokens: 5, GenerationTokens: 4})
	span.Stages(1, Sequence{Queued: t0, Scheduled: t0.Add(time.Second)})
	span.End(200)
	if err := tr.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	lengths := map[string]uint64{}
	var names []string
	var root *tracepb.Span
	for _, sp := range s.spans {
		names = append(names, sp.Name)
		if sp.Name == "chat tiny" {
			root = sp
		} else {
			lengths[sp.Name] = (sp.EndTimeUnixNano - sp.StartTimeUnixNano) / 1e9
		}
	}
	slices.Sort(names)
	if want := []string{"chat tiny", "decode", "prefill", "queue", "queue"}; !slices.Equal(names, want) {
		t.Fatalf("spans %v, want %v", names, want)
	}
	if lengths["queue"] != 1 || lengths["prefill"] != 2 || lengths["decode"] != 4 {
		t.Errorf("seconds %v, want queue 1, prefill 2, decode 4", lengths)
	}
	for _, sp := range s.spans {
		if sp != root && string(sp.ParentSpanId) != string(root.SpanId) {
			t.Errorf("%s is no child of the request", sp.Name)
		}
	}
	if string(root.ParentSpanId) != "\xb7\xad\x6b\x71\x69\x20\x33\x31" || s.names[0] != "weft" {
		t.Errorf("parent %x, service %v", root.ParentSpanId, s.names)
	}
}

func TestNoEndpointNoTraces(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	tr, err := NewTraces(context.Background(), "v1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	span := tr.Start(context.Background(),
		http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}, "x")
	span.Set("a", 1)
	span.Stages(0, Sequence{})
	span.End(500)
	if span.TraceID() != "" {
		t.Error("nothing is traced, but there is a trace id")
	}
	var none *Span
	none.Set("a", 1)
	none.Stages(0, Sequence{})
	none.End(200)
	if none.TraceID() != "" || tr.Shutdown(context.Background()) != nil {
		t.Error("a nil span must do nothing")
	}
}

// A collector that is not there is a line in the log, in its format.
func TestNoCollector(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	var log bytes.Buffer
	tr, err := NewTraces(context.Background(), "v1", slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	tr.Start(context.Background(), http.Header{}, "chat tiny").End(200)
	_ = tr.Shutdown(context.Background())
	if !strings.HasPrefix(log.String(), "{") || !strings.Contains(log.String(), `"msg":"traces","error":`) {
		t.Errorf("log %q", log.String())
	}
}
