package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/goldens"
	"weft/internal/jinja"
)

// goldenFile is the layout of the chat goldens: a template for the file, or one in each case, or a table of them.
type goldenFile struct {
	Template    string            `json:"template"`
	TemplateRef string            `json:"template_ref"`
	Templates   map[string]string `json:"templates"`
	Cases       []goldenCase      `json:"cases"`
}

type goldenCase struct {
	Name                string          `json:"name"`
	Template            string          `json:"template"`
	TemplateName        string          `json:"template_name"`
	Messages            json.RawMessage `json:"messages"`
	Tools               json.RawMessage `json:"tools"`
	Documents           json.RawMessage `json:"documents"`
	AddGenerationPrompt bool            `json:"add_generation_prompt"`
	Kwargs              json.RawMessage `json:"kwargs"`
	BOS                 *string         `json:"bos_token"`
	EOS                 *string         `json:"eos_token"`
	GenerationSpans     *[][2]int       `json:"generation_spans"`
	WithNullKept        *outcome        `json:"with_null_kept"`
	outcome
}

type outcome struct {
	Expected *string `json:"expected"`
	Error    *struct {
		Type      string `json:"type"`
		Message   string `json:"message"`
		MatchText bool   `json:"match_text"`
	} `json:"error"`
}

func decodeList(t *testing.T, raw json.RawMessage) []any {
	t.Helper()
	if len(raw) == 0 {
		return nil
	}
	v, err := jinja.DecodeJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	list, _ := v.([]any)
	return list
}

func (c goldenCase) input(t *testing.T, now time.Time) Input {
	in := Input{
		Messages: decodeList(t, c.Messages), Tools: decodeList(t, c.Tools), Documents: decodeList(t, c.Documents),
		AddGenerationPrompt: c.AddGenerationPrompt, BOS: c.BOS, EOS: c.EOS, Vars: map[string]any{},
		Now: func() time.Time { return now },
	}
	if len(c.Kwargs) > 0 {
		v, err := jinja.DecodeJSON(c.Kwargs)
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := v.(*jinja.Map); ok {
			for i := range m.Len() {
				k, x := m.At(i)
				in.Vars[k.(string)] = x
			}
		}
	}
	return in
}

func check(t *testing.T, src string, in Input, want outcome) [][2]int {
	t.Helper()
	var text string
	var ranges [][2]int
	tmpl, err := Parse(src)
	if err == nil {
		text, ranges, err = tmpl.RenderRanges(in)
	}
	switch {
	case want.Expected != nil && err != nil:
		t.Fatalf("got error %v, want %q", err, *want.Expected)
	case want.Expected != nil:
		if text != *want.Expected {
			t.Fatalf("got  %q\nwant %q", text, *want.Expected)
		}
	case want.Error == nil:
		t.Fatal("the case has neither an expected text nor an error")
	case err == nil:
		t.Fatalf("got %q, want %s: %s", text, want.Error.Type, want.Error.Message)
	case !errors.Is(err, jinja.ErrTemplate):
		t.Fatalf("%v does not wrap ErrTemplate", err)
	case want.Error.MatchText:
		var raised *jinja.RaisedError
		if !errors.As(err, &raised) || raised.Message != want.Error.Message {
			t.Fatalf("got error %v, want the template's %q", err, want.Error.Message)
		}
	}
	return ranges
}

// loadGoldens reads every golden file of the folder and the time its clock stood at.
func loadGoldens(t *testing.T) (map[string]goldenFile, time.Time) {
	dir := goldens.Path(t, "serve", "chat")
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files in %s: %v", dir, err)
	}
	files := map[string]goldenFile{}
	now := time.Date(2025, 3, 9, 14, 5, 6, 0, time.UTC)
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(p), ".json")
		if name == "summary" {
			var s struct{ Now string }
			if err := json.Unmarshal(data, &s); err == nil && s.Now != "" {
				if now, err = time.Parse("2006-01-02T15:04:05", s.Now); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		var f goldenFile
		if err := json.Unmarshal(data, &f); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if f.TemplateRef != "" {
			src, err := os.ReadFile(goldens.Shared(t, filepath.FromSlash(f.TemplateRef)))
			if err != nil {
				t.Fatal(err)
			}
			f.Template = string(src)
		}
		files[name] = f
	}
	return files, now
}

func TestGoldens(t *testing.T) { goldens.Each(t, testGoldens) }

func testGoldens(t *testing.T) {
	files, now := loadGoldens(t)
	for name, f := range files {
		for i, c := range f.Cases {
			src := c.Template
			if src == "" {
				src = f.Templates[c.TemplateName]
			}
			if src == "" {
				src = f.Template
			}
			continued := src == ""
			if continued {
				src = files[c.TemplateName].Template
			}
			t.Run(fmt.Sprintf("%s/%d-%s", name, i, c.Name), func(t *testing.T) {
				in := c.input(t, now)
				in.ContinueFinalMessage = continued
				ranges := check(t, src, in, c.outcome)
				if c.GenerationSpans != nil && fmt.Sprint(ranges) != fmt.Sprint(*c.GenerationSpans) {
					t.Errorf("ranges %v, want %v", ranges, *c.GenerationSpans)
				}
				if c.WithNullKept != nil {
					in.KeepNull = true
					check(t, src, in, *c.WithNullKept)
				}
			})
		}
	}
}

func TestSharedTemplates(t *testing.T) {
	data, err := os.ReadFile(goldens.Shared(t, "data", "goldens", "chat_templates.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Messages            json.RawMessage
		AddGenerationPrompt bool `json:"add_generation_prompt"`
		Cases               []struct {
			Name, Template string
			BOS            *string `json:"bos_token"`
			EOS            *string `json:"eos_token"`
			Want           string  `json:"python_jinja2"`
		}
	}
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	for _, c := range f.Cases {
		t.Run(strings.ReplaceAll(c.Name, "/", "_"), func(t *testing.T) {
			in := Input{Messages: decodeList(t, f.Messages), AddGenerationPrompt: f.AddGenerationPrompt, BOS: c.BOS,
				EOS: c.EOS}
			check(t, c.Template, in, outcome{Expected: &c.Want})
		})
	}
}
