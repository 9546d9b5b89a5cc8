package deploy

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"weft/server/telemetry"
)

// exposed returns the labels of every metric of /metrics by the names that a query may use.
func exposed(t *testing.T) map[string][]string {
	t.Helper()
	m := telemetry.NewMetrics(telemetry.Config{Model: "m", MaxContext: 100})
	m.Watch(func() telemetry.EngineStats { return telemetry.EngineStats{MemoryBytes: map[string]int64{"kv": 1}} })
	m.WatchAdapters(func() telemetry.AdapterStats {
		return telemetry.AdapterStats{Tiers: []telemetry.AdapterTier{{Tier: "disk"}}}
	})
	m.WatchCapture(func() telemetry.CaptureStats {
		return telemetry.CaptureStats{Dropped: map[string]int64{"full": 1}}
	})
	m.Finished(telemetry.Sequence{Reason: "stop", Tenant: "acme"})
	m.AdapterLoaded("disk", time.Second, false)
	m.HTTP("/v1/completions", "POST", 200, time.Second)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	out := map[string][]string{"up": {"job", "instance"}}
	label := regexp.MustCompile(`(\w+)="`)
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(line, "{")
		name, _, _ = strings.Cut(name, " ")
		labels := []string{"job", "instance"}
		for _, l := range label.FindAllStringSubmatch(rest, -1) {
			labels = append(labels, l[1])
		}
		out[name] = labels
	}
	if len(out) < 50 {
		t.Fatalf("only %d metrics are exposed", len(out))
	}
	return out
}

var (
	inQuotes  = regexp.MustCompile(`"[^"]*"`)
	matchers  = regexp.MustCompile(`([a-z][a-z0-9_:]*)\{([^}]*)\}`)
	matched   = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)`)
	grouped   = regexp.MustCompile(`\b(?:by|without|on|ignoring) *\(([^)]*)\)`)
	names     = regexp.MustCompile(`[a-z][a-z0-9_:]*`)
	durations = regexp.MustCompile(`\[[^\]]*\]`)
	functions = []string{"sum", "by", "rate", "increase", "histogram_quantile", "topk"}
)

// complaints says what a query asks for that /metrics does not have.
func complaints(query string, metrics map[string][]string) []string {
	var out []string
	query = durations.ReplaceAllString(inQuotes.ReplaceAllString(query, `""`), "")
	labels := map[string]bool{}
	for _, m := range matchers.FindAllStringSubmatch(query, -1) {
		for _, l := range matched.FindAllStringSubmatch(m[2], -1) {
			if have, ok := metrics[m[1]]; ok && !slices.Contains(have, l[1]) {
				out = append(out, m[1]+" has no label "+l[1])
			}
		}
	}
	bare := grouped.ReplaceAllString(matchers.ReplaceAllString(query, "$1"), "by")
	used := 0
	for _, name := range names.FindAllString(bare, -1) {
		if slices.Contains(functions, name) {
			continue
		}
		used++
		if _, ok := metrics[name]; !ok {
			out = append(out, "no metric "+name)
		}
		for _, l := range metrics[name] {
			labels[l] = true
		}
	}
	if used == 0 {
		out = append(out, "no metric at all")
	}
	for _, g := range grouped.FindAllStringSubmatch(query, -1) {
		for _, l := range names.FindAllString(g[1], -1) {
			if !labels[l] {
				out = append(out, "no label "+l)
			}
		}
	}
	return out
}

func TestComplaints(t *testing.T) {
	metrics := exposed(t)
	for query, want := range map[string]string{
		`sum(rate(vllm:prompt_tokens_total{job="weft"}[5m]))`:                         "",
		`sum by (le, handler) (rate(http_request_duration_seconds_bucket[5m])) > 0.5`: "",
		`rate(vllm:prompt_tokens[5m])`:                                                "no metric vllm:prompt_tokens",
		`vllm:time_to_first_token_seconds`:                                            "no metric vllm:time_to_first_token_seconds",
		`weft:adapters_resident{level="disk"}`:                                        "weft:adapters_resident has no label level",
		`sum by (tier) (vllm:num_requests_running)`:                                   "no label tier",
		`sum(1)`: "no metric at all",
		`weft:adapter_loads_total{result="failed"} > 0 and on (instance) up == weft:x`: "no metric and, no metric weft:x",
	} {
		if got := strings.Join(complaints(query, metrics), ", "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

// dashboard is what is checked of Grafana's file.
type dashboard struct {
	UID    string
	Panels []struct {
		ID         int
		Type       string
		Title      string
		Datasource struct{ UID string }
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			Datasource struct{ UID string }
			Expr       string
		}
	}
	Templating struct {
		List []struct {
			Datasource struct{ UID string }
			Query      struct{ Query string }
		}
	}
}

func readDashboard(t *testing.T) *dashboard {
	t.Helper()
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return &d
}

func TestDashboardAsksForWhatThereIs(t *testing.T) {
	metrics := exposed(t)
	var all strings.Builder
	d := readDashboard(t)
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s: no query", p.Title)
		}
		for _, target := range p.Targets {
			all.WriteString(target.Expr)
			for _, c := range complaints(target.Expr, metrics) {
				t.Errorf("%s: %s: %s", p.Title, target.Expr, c)
			}
		}
	}
	for _, v := range d.Templating.List {
		query, _, _ := strings.Cut(strings.TrimPrefix(v.Query.Query, "label_values("), ", ")
		for _, c := range complaints(query, metrics) {
			t.Errorf("%s: %s", v.Query.Query, c)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(metrics)) {
		if strings.HasPrefix(name, "weft:") && !strings.HasSuffix(name, "_sum") && !strings.HasSuffix(name, "_count") &&
			!strings.Contains(all.String(), name) {
			t.Errorf("no panel shows %s", name)
		}
	}
}

func TestDashboardIsLaidOut(t *testing.T) {
	source := at(t, documents(t, "compose/grafana/datasources.yaml")[0], "datasources", 0, "uid")
	d := readDashboard(t)
	if d.UID == "" || len(d.Panels) < 20 {
		t.Fatalf("uid %q, %d panels", d.UID, len(d.Panels))
	}
	asks := func(what, uid string) {
		if uid != source {
			t.Errorf("%s asks the data source %q, not %q", what, uid, source)
		}
	}
	for _, v := range d.Templating.List {
		asks(v.Query.Query, v.Datasource.UID)
	}
	for i, p := range d.Panels {
		if p.Type != "row" {
			asks(p.Title, p.Datasource.UID)
		}
		for _, target := range p.Targets {
			asks(target.Expr, target.Datasource.UID)
		}
		a := p.GridPos
		if a.X < 0 || a.W <= 0 || a.H <= 0 || a.X+a.W > 24 {
			t.Errorf("%s lies outside of the grid: %+v", p.Title, a)
		}
		for _, other := range d.Panels[:i] {
			b := other.GridPos
			if other.ID == p.ID || a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s and %s share a place or an id", p.Title, other.Title)
			}
		}
	}
}

func TestAlertsAskForWhatThereIs(t *testing.T) {
	text, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr         string
				For                 time.Duration
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	metrics, seen := exposed(t), map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			for _, c := range complaints(r.Expr, metrics) {
				t.Errorf("%s: %s", r.Alert, c)
			}
			severity := r.Labels["severity"]
			if r.Alert == "" || seen[r.Alert] || severity != "critical" && severity != "warning" ||
				r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %q: a name of its own, a severity, a summary and a description are needed", r.Alert)
			}
			seen[r.Alert] = true
		}
	}
	if len(seen) < 5 {
		t.Errorf("%d alerts", len(seen))
	}
}
