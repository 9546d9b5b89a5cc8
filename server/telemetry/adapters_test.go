package telemetry

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestAdapterMetrics(t *testing.T) {
	m := NewMetrics(Config{Model: "tiny", MaxContext: 100})
	m.Watch(func() EngineStats {
		return EngineStats{MaxAdapters: 16, RunningAdapters: []string{"a/x@12", "b,c", "\xff"},
			WaitingAdapters: make([]string, 5000)}
	})
	m.WatchAdapters(func() AdapterStats {
		return AdapterStats{Tiers: []AdapterTier{{Tier: "disk", Count: 9, Bytes: 900},
			{Tier: "device", Count: 2, Bytes: 20, Pinned: 1}}}
	})
	m.AdapterLoaded("disk", 20*time.Millisecond, false)
	m.AdapterLoaded("disk", time.Second, true)
	m.AdapterEvicted("device")
	t0 := time.Unix(1000, 0)
	m.Finished(Sequence{Reason: "stop", Tenant: "acme", PromptTokens: 10, GenerationTokens: 4, Queued: t0,
		Scheduled: t0.Add(2 * time.Second), Ended: t0.Add(5 * time.Second)})
	// never scheduled
	m.Finished(Sequence{Reason: "abort", Tenant: "acme", PromptTokens: 1, Queued: t0, Ended: t0.Add(time.Second)})
	m.Finished(Sequence{Reason: "stop", Tenant: "bad\xff\"name\n", PromptTokens: 3})
	m.Finished(Sequence{Reason: "stop", PromptTokens: 5})
	text := scrape(t, m)
	for _, line := range []string{
		`weft:adapters_resident{tier="disk"} 9`, `weft:adapter_bytes{tier="device"} 20`, `weft:adapters_pinned{tier="device"} 1`, `weft:adapters_pinned{tier="disk"} 0`,
		`weft:adapter_loads_total{from="disk",result="ok"} 1`, `weft:adapter_loads_total{from="disk",result="failed"} 1`, `weft:adapter_loads_total{from="host",result="ok"} 0`,
		`weft:adapter_load_seconds_count{from="disk"} 1`, `weft:adapter_load_seconds_bucket{from="disk",le="0.025"} 1`, `weft:adapter_evictions_total{tier="device"} 1`,
		`weft:tenant_requests_total{tenant="acme"} 2`, `weft:tenant_prompt_tokens_total{tenant="acme"} 11`, `weft:tenant_generation_tokens_total{tenant="acme"} 4`,
		`weft:tenant_queue_seconds_total{tenant="acme"} 3`, `weft:tenant_prompt_tokens_total{tenant="default"} 5`,
		`weft:tenant_prompt_tokens_total{tenant="bad?\"name\n"} 3`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	found := regexp.MustCompile(`(?m)^vllm:lora_requests_info\{max_lora="16",running_lora_adapters="a/x@12,b_c,\?",waiting_lora_adapters="(,*)"\} ([0-9.e+]+)$`).FindStringSubmatch(text)
	if found == nil || len(found[1]) != MaxListed-1 {
		t.Errorf("vllm:lora_requests_info is missing or not bounded: %v", found)
	}
}

// TestTenantLabelsAreBounded over many tenants, and the busy ones among the late have names too.
func TestTenantLabelsAreBounded(t *testing.T) {
	l := newTenantLabels(8)
	seen := map[string]bool{}
	for i := range 20_000 {
		seen[l.of(fmt.Sprint("small ", i), 10)] = true
		if i > 100 {
			seen[l.of(fmt.Sprint("busy ", i%12), 1000)] = true
		}
		if len(l.use) > 4*8 {
			t.Fatalf("%d tenants without a name are remembered", len(l.use))
		}
	}
	busy := 0
	for label := range seen {
		if strings.HasPrefix(label, "busy") {
			busy++
		}
	}
	if len(seen) != 8+1 || !seen["other"] || busy != 4 {
		t.Errorf("labels %v", seen)
	}
	if got := l.of("small 1", 1); got != "small 1" {
		t.Errorf("the first tenants keep their names, yet small 1 is %s", got)
	}
}
