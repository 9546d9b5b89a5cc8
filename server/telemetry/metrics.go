// Package telemetry exposes metrics under vLLM's names and sends OpenTelemetry traces. No metric, span or attribute
// contains prompt text.
package telemetry

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config describes the served model; it labels every metric.
type Config struct {
	Model      string // label model_name
	MaxContext int    // longest sequence; bounds the buckets of lengths
	Cache      CacheInfo
}

// CacheInfo is the size of the KV cache, shown by vllm:cache_config_info.
type CacheInfo struct {
	PageLen     int // tokens in a page
	NumPages    int
	PrefixCache bool
}

// Buckets of vLLM (vllm/v1/metrics/loggers.py).
var (
	firstTokenBuckets = []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
		20, 40, 80, 160, 640, 2560}
	perTokenBuckets = []float64{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20,
		40, 80}
	latencyBuckets = []float64{0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960,
		1920, 7680}
	stepBuckets = []float64{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
	nBuckets    = []float64{1, 2, 5, 10, 20}
)

// lengthBuckets returns the series 1, 2, 5, 10, ... up to most.
func lengthBuckets(most int) []float64 {
	var out []float64
	for scale := 1; ; scale *= 10 {
		for _, m := range []int{1, 2, 5} {
			if m*scale > max(most, 1) {
				return out
			}
			out = append(out, float64(m*scale))
		}
	}
}

// Metrics is one server's registry. Its methods may be called from any goroutine.
type Metrics struct {
	registry *prometheus.Registry
	cfg      Config

	promptTokens, generationTokens                   prometheus.Counter
	success, rejections, ignored, captures           *prometheus.CounterVec
	capturedWithoutUser, feedback                    prometheus.Counter
	firstToken, interToken, perToken, endToEnd       prometheus.Histogram
	queue, prefill, decode, inference                prometheus.Histogram
	promptLen, generationLen, maxGenerated           prometheus.Histogram
	paramN, paramMaxTokens, stepTokens, cachedTokens prometheus.Histogram
	httpRequests                                     *prometheus.CounterVec
	httpDuration                                     *prometheus.HistogramVec
	adapters                                         adapterMetrics
}

// NewMetrics registers every metric, so that the first scrape already shows all names.
func NewMetrics(cfg Config) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), cfg: cfg}
	labels := prometheus.Labels{"model_name": cfg.Model, "engine": "0"}
	counter := func(name, help string) prometheus.Counter {
		return register(m, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}))
	}
	counterVec := func(name, help string, l prometheus.Labels, names ...string) *prometheus.CounterVec {
		return register(m,
			prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: l}, names))
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return register(m,
			prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: labels,
				Buckets: buckets}))
	}
	lengths := lengthBuckets(cfg.MaxContext)

	m.promptTokens = counter("vllm:prompt_tokens_total", "Prompt tokens of finished prefills.")
	m.generationTokens = counter("vllm:generation_tokens_total", "Generated tokens.")
	m.success = counterVec("vllm:request_success_total", "Finished sequences by reason.", labels, "finished_reason")
	m.rejections = counterVec("vllm:admission_rejections_total",
		"Requests refused before they were queued.", labels, "reason")
	m.ignored = counterVec("weft:request_fields_ignored_total",
		"Requests with a field that other servers know and this one passes over, by field.", nil, "field")
	m.captures = counterVec("weft:captures_total", "Chat completions that were to be stored, by what became of them: "+
		"stored (handed to the store), unfinished (they failed, or the client left), dropped (the store did not take "+
		"them), refused (answered with a 400).", nil, "result")
	m.capturedWithoutUser = register(m, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "weft:captures_without_user_total",
		Help: "Stored chat completions whose request names no user, by which they could be deleted."}))
	m.feedback = register(m, prometheus.NewCounter(prometheus.CounterOpts{Name: "weft:feedback_total",
		Help: "Feedback on stored chat completions that was accepted."}))
	for _, result := range []string{CaptureStored, CaptureUnfinished, CaptureDropped, CaptureRefused} {
		m.captures.WithLabelValues(result)
	}
	m.firstToken = histogram("vllm:time_to_first_token_seconds",
		"Time from a request's arrival to its first token.",
		firstTokenBuckets)
	m.interToken = histogram("vllm:inter_token_latency_seconds",
		"Time between two tokens of a sequence.", perTokenBuckets)
	m.perToken = histogram("vllm:time_per_output_token_seconds", "Older name of vllm:inter_token_latency_seconds.",
		perTokenBuckets)
	m.endToEnd = histogram("vllm:e2e_request_latency_seconds",
		"Time from a request's arrival to its end.", latencyBuckets)
	m.queue = histogram("vllm:request_queue_time_seconds", "Time from entering the queue to the first scheduled step.",
		latencyBuckets)
	m.prefill = histogram("vllm:request_prefill_time_seconds", "Time from the first scheduled step to the first token.",
		latencyBuckets)
	m.decode = histogram("vllm:request_decode_time_seconds", "Time from the first token to the last.", latencyBuckets)
	m.inference = histogram("vllm:request_inference_time_seconds",
		"Time from the first scheduled step to the last token.",
		latencyBuckets)
	m.promptLen = histogram("vllm:request_prompt_tokens", "Prompt tokens of a sequence.", lengths)
	m.generationLen = histogram("vllm:request_generation_tokens", "Generated tokens of a sequence.", lengths)
	m.maxGenerated = histogram("vllm:request_max_num_generation_tokens",
		"Generated tokens of a request's longest choice.", lengths)
	m.paramN = histogram("vllm:request_params_n", "Parameter n of requests.", nBuckets)
	m.paramMaxTokens = histogram("vllm:request_params_max_tokens", "Parameter max_tokens of requests.", lengths)
	m.stepTokens = histogram("vllm:iteration_tokens_total", "Tokens computed in one step of the engine.", stepBuckets)
	m.cachedTokens = histogram("vllm:request_prefix_cached_tokens",
		"Prompt tokens of a sequence taken from the prefix cache.", lengths)
	m.httpRequests = counterVec("http_requests_total", "HTTP requests by route, method and status.", nil, "handler",
		"method", "status")
	m.httpDuration = register(m,
		prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "http_request_duration_seconds",
			Help: "HTTP requests by route and method.", Buckets: latencyBuckets}, []string{"handler", "method"}))

	m.adapters = newAdapterMetrics(m)
	for _, reason := range []string{"stop", "length", "abort", "error"} {
		m.success.WithLabelValues(reason)
	}
	for _, reason := range []string{"max_num_queued_reqs", "draining"} {
		m.rejections.WithLabelValues(reason)
	}
	info := register(m,
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "vllm:cache_config_info", Help: "Shape of the KV cache.",
			ConstLabels: prometheus.Labels{"model_name": cfg.Model, "engine": "0",
				"block_size":            strconv.Itoa(cfg.Cache.PageLen),
				"num_gpu_blocks":        strconv.Itoa(cfg.Cache.NumPages),
				"enable_prefix_caching": boolText(cfg.Cache.PrefixCache)}}))
	info.Set(1)
	m.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func register[C prometheus.Collector](m *Metrics, c C) C {
	m.registry.MustRegister(c)
	return c
}

func boolText(v bool) string {
	if v {
		return "True" // as Python writes it
	}
	return "False"
}

// Handler serves the text exposition.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Sequence is the record of one finished sequence. A time is zero where the sequence ended before that point.
type Sequence struct {
	Reason                                        string // stop, length, abort or error
	Tenant                                        string // "": default
	PromptTokens, CachedTokens, GenerationTokens  int
	Arrived, Queued, Scheduled, FirstToken, Ended time.Time
}

// Finished records a sequence.
func (m *Metrics) Finished(s Sequence) {
	m.success.WithLabelValues(s.Reason).Inc()
	m.tenant(&s)
	m.promptLen.Observe(float64(s.PromptTokens))
	m.generationLen.Observe(float64(s.GenerationTokens))
	m.cachedTokens.Observe(float64(s.CachedTokens))
	between(m.endToEnd, s.Arrived, s.Ended)
	between(m.queue, s.Queued, s.Scheduled)
	between(m.prefill, s.Scheduled, s.FirstToken)
	between(m.decode, s.FirstToken, s.Ended)
	between(m.inference, s.Scheduled, s.Ended)
}

func between(h prometheus.Histogram, from, to time.Time) {
	if !from.IsZero() && !to.IsZero() {
		h.Observe(max(to.Sub(from), 0).Seconds())
	}
}

// Prefilled counts a sequence's prompt tokens when its prefill has ended.
func (m *Metrics) Prefilled(promptTokens int) { m.promptTokens.Add(float64(promptTokens)) }

// FirstToken records the time from a request's arrival to a sequence's first token.
func (m *Metrics) FirstToken(since time.Duration) {
	m.generationTokens.Inc()
	m.firstToken.Observe(since.Seconds())
}

// NextToken records the time since the sequence's previous token.
func (m *Metrics) NextToken(since time.Duration) {
	m.generationTokens.Inc()
	m.interToken.Observe(since.Seconds())
	m.perToken.Observe(since.Seconds())
}

// Params records a request's parameters; maxTokens 0 means none was given.
func (m *Metrics) Params(n, maxTokens int) {
	m.paramN.Observe(float64(n))
	if maxTokens > 0 {
		m.paramMaxTokens.Observe(float64(maxTokens))
	}
}

// LongestChoice records the number of tokens of a request's longest choice.
func (m *Metrics) LongestChoice(tokens int) { m.maxGenerated.Observe(float64(tokens)) }

// Step records the tokens computed in one step of the engine.
func (m *Metrics) Step(tokens int) { m.stepTokens.Observe(float64(tokens)) }

// Rejected counts a refused request; reason is max_num_queued_reqs or draining.
func (m *Metrics) Rejected(reason string) { m.rejections.WithLabelValues(reason).Inc() }

// DeclareIgnored shows the counters of all fields that Ignored is called with, so that they exist before the first.
func (m *Metrics) DeclareIgnored(fields ...string) {
	for _, f := range fields {
		m.ignored.WithLabelValues(f)
	}
}

// Ignored counts a request's fields that are passed over; each is one of a fixed table, so that the label has few
// values.
func (m *Metrics) Ignored(fields ...string) {
	for _, f := range fields {
		m.ignored.WithLabelValues(f).Inc()
	}
}

// What became of a chat completion that was to be stored.
const (
	CaptureStored     = "stored"
	CaptureUnfinished = "unfinished"
	CaptureDropped    = "dropped"
	CaptureRefused    = "refused"
)

// Captured counts a chat completion that was to be stored; result is one of the above.
func (m *Metrics) Captured(result string) { m.captures.WithLabelValues(result).Inc() }

// CapturedWithoutUser counts a stored completion whose request names no user.
func (m *Metrics) CapturedWithoutUser() { m.capturedWithoutUser.Inc() }

// FeedbackTaken counts accepted feedback.
func (m *Metrics) FeedbackTaken() { m.feedback.Inc() }

// HTTP records one HTTP request; handler is the route's pattern, so that the label has few values.
func (m *Metrics) HTTP(handler, method string, status int, took time.Duration) {
	m.httpRequests.WithLabelValues(handler, method, strconv.Itoa(status)).Inc()
	m.httpDuration.WithLabelValues(handler, method).Observe(took.Seconds())
}
