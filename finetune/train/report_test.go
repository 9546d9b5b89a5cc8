package train

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/adapters/peft"
	"weft/finetune/data"
)

// The report shows settings, counts and evaluations; a run of one step has a visible curve.
func TestReportPage(t *testing.T) {
	j := scratchJob(t, t.TempDir())
	j.Config.MaxSteps = 1
	j.Config.Vars = map[string]string{"name": "<Ada>"}
	res, err := j.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	read := data.Report{Path: "data.jsonl", Samples: 23, Tokens: 4567, Targets: 1234, Digest: "d1g3st"}
	r, err := j.Report(res, "test", &read)
	if err != nil {
		t.Fatal(err)
	}
	if r.HeldOut != 5 || r.Data.Samples != 23 {
		t.Errorf("%d samples held out, %d trained on", r.HeldOut, r.Data.Samples)
	}
	text, err := os.ReadFile(filepath.Join(j.Dir, pageFile))
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, want := range []string{"<td>samples trained on</td><td>23</td>", "<td>samples held out</td><td>5</td>",
		"<td>trained tokens of an epoch</td><td>1,234 of 4,567</td>", "<td>learning_rate</td><td>0.01</td>",
		"<td>max_steps</td><td>1</td>", "<td>vars</td><td>{&#34;name&#34;:&#34;", "<h2>Evaluations</h2>",
		", the lowest</td>", "<h2>All settings</h2>", "<td>weight_decay</td>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	if n := strings.Count(page, "<circle "); n != 4 { // two losses, the norm, the rate
		t.Errorf("%d points alone are drawn, want 4", n)
	}
	if strings.Contains(page, "<Ada>") {
		t.Error("a value is not escaped")
	}
	changed, all := j.Config.rows()
	if len(changed) >= len(all) || len(changed) < 5 {
		t.Errorf("%d settings are not the defaults, of %d", len(changed), len(all))
	}
}

// A run has prompts for the parity check whatever it is trained on.
func TestParityPrompts(t *testing.T) {
	long := func(n, first int) data.Sample {
		s := data.Sample{IDs: make([]int32, n), Labels: make([]int32, n)}
		for i := range min(first, n) {
			s.Labels[i] = data.Ignore
		}
		return s
	}
	for name, c := range map[string]struct {
		samples []data.Sample
		want    []int // tokens of the prompts
	}{
		"prompts": {[]data.Sample{long(9, 3), long(200, 128), long(7, 5)}, []int{3, 128, 5}},
		"four of them": {[]data.Sample{long(9, 0), long(9, 3), long(9, 4), long(9, 5), long(9, 6), long(9, 7)},
			[]int{3, 4, 5, 6}},
		"all tokens":          {[]data.Sample{long(9, 0), long(2, 0), long(1000, 0)}, []int{4, 1, 128}},
		"one token":           {[]data.Sample{long(1, 0)}, []int{1}},
		"long prompts":        {[]data.Sample{long(400, 300), long(200, 129)}, []int{128, 100}},
		"one and a long one":  {[]data.Sample{long(400, 300), long(9, 2)}, []int{2, 128}},
		"more than are taken": {slices.Repeat([]data.Sample{long(8, 0)}, 9), []int{4, 4, 4, 4}},
	} {
		var got []int
		for _, ids := range parityPromptsOf(c.samples) {
			got = append(got, len(ids))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: prompts of %v tokens, want %v", name, got, c.want)
		}
	}
	j := scratchJob(t, t.TempDir())
	for i := range j.Train {
		j.Train[i].Labels = slices.Clone(j.Train[i].IDs)
	}
	completed(t, j)
	p, err := peft.ReadParity(filepath.Join(j.Dir, "adapter"))
	if err != nil || len(p.Prompts) != 4 {
		t.Errorf("a run trained on all tokens: %v, %v", p, err)
	}
}

// Held-out samples are not counted among those that are trained on.
func TestHeldOutIsNotTrained(t *testing.T) {
	all := samples(40)
	in := &Input{Config: Default(), Train: &data.Dataset{Samples: all}}
	in.Config.EvalFraction = 0.3
	in.Train.Count()
	tokens := in.Train.Report.Tokens
	if err := in.holdOut(); err != nil {
		t.Fatal(err)
	}
	kept, held := in.Train.Report, in.HeldOut.Report
	if kept.Samples != len(in.Train.Samples) || held.Samples != len(in.HeldOut.Samples) || held.Samples == 0 ||
		kept.Samples+held.Samples != 40 || kept.Tokens+held.Tokens != tokens || kept.Targets == 0 {
		text, _ := json.Marshal([]data.Report{kept, held})
		t.Errorf("%s", text)
	}
}
