package telemetry

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// EngineStats are the engine's figures at a scrape. PrefixQueries, PrefixHits and Preemptions are counters.
type EngineStats struct {
	Running, Waiting int
	KVUsage          float64 // fraction of the KV pages in use, 0 to 1
	PrefixQueries    uint64  // prompt tokens looked up in the prefix cache
	PrefixHits       uint64  // of these, found
	Preemptions      uint64
	RunningAdapters  []string         // names of the adapters in memory, most recently used first
	WaitingAdapters  []string         // of the adapters that requests wait for
	MaxAdapters      int              // so many names there could be without an eviction
	MemoryBytes      map[string]int64 // device memory in use by purpose
	Background       BackgroundStats
}

// BackgroundStats are the figures of background work, which are in no other figure of EngineStats. Tokens and
// Preemptions are counters.
type BackgroundStats struct {
	Jobs             int // the one that has the engine's place and those that wait for it
	Running, Waiting int // sequences
	Tokens           uint64
	Preemptions      uint64
}

// Watch adds the engine's gauges; stats is called at each scrape, from any goroutine. Call it once.
func (m *Metrics) Watch(stats func() EngineStats) {
	l := prometheus.Labels{"model_name": m.cfg.Model, "engine": "0"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, l)
	}
	m.registry.MustRegister(&engineCollector{
		stats:    stats,
		running:  desc("vllm:num_requests_running", "Sequences in the running batch."),
		waiting:  desc("vllm:num_requests_waiting", "Sequences waiting to be scheduled."),
		usage:    desc("vllm:kv_cache_usage_perc", "Fraction of the KV cache in use, 0 to 1."),
		oldUsage: desc("vllm:gpu_cache_usage_perc", "Older name of vllm:kv_cache_usage_perc."),
		queries:  desc("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."),
		hits:     desc("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache."),
		preemptions: desc("vllm:num_preemptions_total",
			"Preemptions: a sequence's pages were taken and it is recomputed later."),
		lora: prometheus.NewDesc("vllm:lora_requests_info",
			"Names of adapters in memory and of those that requests wait for, and how many fit without an eviction; "+
				"the value is the time in Unix seconds.",
			[]string{"max_lora", "running_lora_adapters", "waiting_lora_adapters"}, nil),
		jobs: prometheus.NewDesc("weft:background_jobs",
			"Training jobs and evaluations that have the engine's place for background work (running: at most 1) or "+
				"wait for it.", []string{"state"}, nil),
		sequences: prometheus.NewDesc("weft:background_sequences",
			"Sequences of an evaluation: those that have pages (running) and those that have none (waiting).",
			[]string{"state"}, nil),
		computed: prometheus.NewDesc("weft:background_tokens_total",
			"Tokens computed for evaluations, prompts included.", nil, nil),
		evicted: prometheus.NewDesc("weft:background_preemptions_total",
			"Preemptions of an evaluation's sequences, most because a request needed their pages.", nil, nil),
		memory: prometheus.NewDesc("weft:memory_bytes", "Device memory in use by purpose.", []string{"purpose"}, nil),
	})
}

type engineCollector struct {
	stats                                                               func() EngineStats
	running, waiting, usage, oldUsage, queries, hits, preemptions, lora *prometheus.Desc
	memory, jobs, sequences, computed, evicted                          *prometheus.Desc
}

// Describe sends the descriptions of the metrics.
func (c *engineCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.running, c.waiting, c.usage, c.oldUsage, c.queries, c.hits, c.preemptions,
		c.lora, c.memory, c.jobs, c.sequences, c.computed, c.evicted} {
		ch <- d
	}
}

// Collect reads the engine's figures once and sends them.
func (c *engineCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(c.running, float64(s.Running))
	gauge(c.waiting, float64(s.Waiting))
	gauge(c.usage, s.KVUsage)
	gauge(c.oldUsage, s.KVUsage)
	counter(c.queries, s.PrefixQueries)
	counter(c.hits, s.PrefixHits)
	counter(c.preemptions, s.Preemptions)
	gauge(c.lora, float64(time.Now().Unix()), strconv.Itoa(s.MaxAdapters), listed(s.RunningAdapters),
		listed(s.WaitingAdapters))
	b := &s.Background
	gauge(c.jobs, float64(min(b.Jobs, 1)), "running")
	gauge(c.jobs, float64(max(b.Jobs-1, 0)), "waiting")
	gauge(c.sequences, float64(b.Running), "running")
	gauge(c.sequences, float64(b.Waiting), "waiting")
	counter(c.computed, b.Tokens)
	counter(c.evicted, b.Preemptions)
	for purpose, bytes := range s.MemoryBytes {
		gauge(c.memory, float64(bytes), purpose)
	}
}

// MaxListed bounds the names in a label of vllm:lora_requests_info.
const MaxListed = 256

// listed joins names with commas, as the Kubernetes gateway reads them.
func listed(names []string) string {
	clean := make([]string, 0, min(len(names), MaxListed))
	for _, n := range names[:min(len(names), MaxListed)] {
		clean = append(clean, strings.ReplaceAll(strings.ToValidUTF8(n, "?"), ",", "_"))
	}
	return strings.Join(clean, ",")
}
