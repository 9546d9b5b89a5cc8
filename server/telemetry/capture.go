package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// CaptureStats are figures of the store of completions, since it was opened.
type CaptureStats struct {
	Written     int64
	Dropped     map[string]int64 // by reason
	Torn        int64
	Deleted     int64
	Queued      int
	QueuedBytes int64
	Lag         time.Duration
	Bytes       int64 // on the disk
}

// WatchCapture adds the metrics of the store of completions; stats is called at each scrape, from any goroutine. Call
// it once.
func (m *Metrics) WatchCapture(stats func() CaptureStats) {
	c := &captureCollector{stats: stats, dropped: prometheus.NewDesc("weft:capture_dropped_total",
		"Completions that were handed to the store and not written, by reason.", []string{"reason"}, nil)}
	add := func(name, help string, kind prometheus.ValueType, value func(CaptureStats) float64) {
		c.plain = append(c.plain, plainMetric{prometheus.NewDesc(name, help, nil, nil), kind, value})
	}
	add("weft:capture_written_total", "Completions and feedback that are on the disk.", prometheus.CounterValue,
		func(s CaptureStats) float64 { return float64(s.Written) })
	add("weft:capture_torn_total", "Ends of segments that were not whole after a crash and were cut.",
		prometheus.CounterValue, func(s CaptureStats) float64 { return float64(s.Torn) })
	add("weft:capture_deleted_total", "Completions that were deleted by a client or by retention.",
		prometheus.CounterValue, func(s CaptureStats) float64 { return float64(s.Deleted) })
	add("weft:capture_queued", "Completions in memory that are not on the disk yet.", prometheus.GaugeValue,
		func(s CaptureStats) float64 { return float64(s.Queued) })
	add("weft:capture_queued_bytes", "Bytes of these.", prometheus.GaugeValue,
		func(s CaptureStats) float64 { return float64(s.QueuedBytes) })
	add("weft:capture_lag_seconds", "Age of the oldest of these.", prometheus.GaugeValue,
		func(s CaptureStats) float64 { return s.Lag.Seconds() })
	add("weft:capture_bytes", "Bytes of the segments that this server has written, deleted ones that are not removed "+
		"yet included.", prometheus.GaugeValue, func(s CaptureStats) float64 { return float64(s.Bytes) })
	m.registry.MustRegister(c)
}

type plainMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(CaptureStats) float64
}

type captureCollector struct {
	stats   func() CaptureStats
	dropped *prometheus.Desc
	plain   []plainMetric
}

// Describe sends the descriptions of the metrics.
func (c *captureCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.dropped
	for _, m := range c.plain {
		ch <- m.desc
	}
}

// Collect reads the store's figures once and sends them.
func (c *captureCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.stats()
	for reason, n := range st.Dropped {
		ch <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(n), reason)
	}
	for _, m := range c.plain {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(st))
	}
}
