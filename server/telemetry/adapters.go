package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// loadBuckets are the histogram buckets of an adapter's load, in seconds: from the page cache to a slow disk or a
// remote bucket.
var loadBuckets = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

// AdapterTier has the figures of one tier of the adapter cache: disk, host or device.
type AdapterTier struct {
	Tier   string
	Count  int
	Bytes  int64
	Pinned int
}

// AdapterStats are the adapter cache's figures at a scrape, by tier.
type AdapterStats struct{ Tiers []AdapterTier }

// WatchAdapters adds the gauges of the adapter cache; stats is called at each scrape, from any goroutine. Call it once.
func (m *Metrics) WatchAdapters(stats func() AdapterStats) {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, []string{"tier"}, nil) }
	m.registry.MustRegister(&adapterCollector{
		stats:    stats,
		resident: desc("weft:adapters_resident", "Adapters by the tier that holds them."),
		bytes:    desc("weft:adapter_bytes", "Bytes of adapters by the tier that holds them."),
		pinned:   desc("weft:adapters_pinned", "Pinned adapters by the tier that holds them."),
	})
}

type adapterCollector struct {
	stats                   func() AdapterStats
	resident, bytes, pinned *prometheus.Desc
}

// Describe sends the descriptions of the metrics.
func (c *adapterCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.resident, c.bytes, c.pinned} {
		ch <- d
	}
}

// Collect reads the cache's figures once and sends them.
func (c *adapterCollector) Collect(ch chan<- prometheus.Metric) {
	for _, t := range c.stats().Tiers {
		for d, v := range map[*prometheus.Desc]float64{c.resident: float64(t.Count), c.bytes: float64(t.Bytes),
			c.pinned: float64(t.Pinned)} {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, t.Tier)
		}
	}
}

// adapterMetrics are the counters of the adapter cache and of tenants.
type adapterMetrics struct {
	loads, evictions                                           *prometheus.CounterVec
	loadTime                                                   *prometheus.HistogramVec
	tenants                                                    *tenantLabels
	tenantRequests, tenantPrompt, tenantGenerated, tenantQueue *prometheus.CounterVec
}

func newAdapterMetrics(m *Metrics) adapterMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(m, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	a := adapterMetrics{
		loads: counter("weft:adapter_loads_total",
			"Loads of adapters by the tier that they came from and how they ended.", "from", "result"),
		evictions: counter("weft:adapter_evictions_total",
			"Adapters evicted from a tier because its memory was needed.", "tier"),
		tenants: newTenantLabels(maxTenantLabels),
		tenantRequests: counter("weft:tenant_requests_total",
			"Finished sequences by tenant; tenants beyond the limit of label values are counted as other.", "tenant"),
		tenantPrompt: counter("weft:tenant_prompt_tokens_total", "Prompt tokens of finished sequences by tenant.",
			"tenant"),
		tenantGenerated: counter("weft:tenant_generation_tokens_total",
			"Generated tokens of finished sequences by tenant.", "tenant"),
		tenantQueue: counter("weft:tenant_queue_seconds_total",
			"Time of finished sequences in the queue by tenant.", "tenant"),
		loadTime: register(m,
			prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "weft:adapter_load_seconds",
				Help:    "Loads of adapters by the tier that they came from.",
				Buckets: loadBuckets}, []string{"from"})),
	}
	for _, tier := range []string{"disk", "host"} {
		a.loadTime.WithLabelValues(tier)
		a.loads.WithLabelValues(tier, "ok")
		a.loads.WithLabelValues(tier, "failed")
	}
	for _, tier := range []string{"host", "device"} {
		a.evictions.WithLabelValues(tier)
	}
	return a
}

// AdapterLoaded records a load from the tier disk or host, and whether it failed.
func (m *Metrics) AdapterLoaded(from string, took time.Duration, failed bool) {
	result := "ok"
	if failed {
		result = "failed"
	} else {
		m.adapters.loadTime.WithLabelValues(from).Observe(took.Seconds())
	}
	m.adapters.loads.WithLabelValues(from, result).Inc()
}

// AdapterEvicted records that an adapter was evicted from the tier host or device because its memory was needed.
func (m *Metrics) AdapterEvicted(tier string) { m.adapters.evictions.WithLabelValues(tier).Inc() }

// tenant records a finished sequence for its tenant.
func (m *Metrics) tenant(s *Sequence) {
	a := &m.adapters
	label := a.tenants.of(s.Tenant, uint64(max(s.PromptTokens+s.GenerationTokens, 0)))
	a.tenantRequests.WithLabelValues(label).Inc()
	a.tenantPrompt.WithLabelValues(label).Add(float64(s.PromptTokens))
	a.tenantGenerated.WithLabelValues(label).Add(float64(s.GenerationTokens))
	if wait := queued(s); wait > 0 {
		a.tenantQueue.WithLabelValues(label).Add(wait.Seconds())
	} else {
		a.tenantQueue.WithLabelValues(label)
	}
}

// queued returns how long a sequence waited in the queue; one that was never scheduled waited until it ended.
func queued(s *Sequence) time.Duration {
	until := s.Scheduled
	if until.IsZero() {
		until = s.Ended
	}
	if s.Queued.IsZero() || until.IsZero() {
		return 0
	}
	return until.Sub(s.Queued)
}
