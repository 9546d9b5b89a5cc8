package server

import (
	"net/http"
	"strings"
	"testing"
)

// TestServedNames: every name of the model is accepted as model, alone and before an adapter's name, and listed with
// the model's own name as root; answers have the first.
func TestServedNames(t *testing.T) {
	lib := library()
	s := newTest(t, &fakeEngine{reply: "a"}, withAdapters(lib), func(c *Config, _ *Deps) {
		c.Model, c.Aliases, c.Root, c.Fingerprint = "main", []string{"gpt-4o", "org/other"}, "SmolLM2", "fp_0123456789"
	})
	list := get(s, "/v1/models").Body.String()
	for _, name := range []string{"main", "gpt-4o", "org/other"} {
		if want := `{"id":"` + name + `","object":"model",`; strings.Count(list, want) != 1 {
			t.Errorf("%s is not listed once: %s", name, list)
		}
		w := get(s, "/v1/models/"+name)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"id":"`+name+`"`) ||
			!strings.Contains(w.Body.String(), `"root":"SmolLM2"`) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		for _, stream := range []string{"false", "true"} {
			for path, in := range map[string]string{"/v1/chat/completions": hi, "/v1/completions": `"prompt":"x"`} {
				w := post(s, path, `{"model":"`+name+`","stream":`+stream+`,`+in+`}`)
				if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"model":"main"`) ||
					strings.Count(w.Body.String(), `"system_fingerprint":"fp_0123456789"`) !=
						strings.Count(w.Body.String(), `"model":`) {
					t.Errorf("%s as %s: %d %s", path, name, w.Code, w.Body)
				}
			}
		}
		if w := post(s, "/tokenize", `{"model":"`+name+`","prompt":"x"}`); w.Code != http.StatusOK {
			t.Errorf("tokenize as %s: %d", name, w.Code)
		}
		w = get(s, "/v1/models/"+name+":support")
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"root":"support","parent":"main"`) {
			t.Errorf("an adapter after %s: %d %s", name, w.Code, w.Body)
		}
	}
	wantError(t, get(s, "/v1/models/SmolLM2"), 404, "model",
		`"SmolLM2" does not exist; this server has "main", "gpt-4o", "org/other".`)
	for _, name := range []string{"default/main", "default/", "gpt-4o:nobody"} {
		wantError(t, post(s, "/v1/completions", `{"model":"`+name+`","prompt":"x"}`), 404, "model",
			`"`+name+`" does not exist`)
	}
	if strings.Contains(get(newTest(t, &fakeEngine{}), "/v1/models").Body.String(), "/tmp") {
		t.Error("a path is shown")
	}
}

// TestServedNamesAreChecked: names are used without blanks around them and once; one that no request could use, or that
// would mean an adapter, is refused.
func TestServedNamesAreChecked(t *testing.T) {
	for given, want := range map[string]string{"a": "a", " a , b,a,b ": "a|b",
		"org/a,llama:1b,llama-2": "org/a|llama:1b|llama-2",
		"é x":                    "é x", "": ""} {
		var list []string
		if given != "" {
			list = strings.Split(given, ",")
		}
		if got, err := ServedNames(list); err != nil || strings.Join(got, "|") != want {
			t.Errorf("%q: %q, %v, want %q", given, got, err, want)
		}
	}
	for given, reason := range map[string]string{"a,,b": "a name is empty", "a, ": "a name is empty", "a\nb": "printed",
		"b:x,b": `"b:x" means the adapter "x" of "b"`, "b,b:x": "NAME:ADAPTER", strings.Repeat("n", 257): "longer than 256"} {
		if got, err := ServedNames(strings.Split(given, ",")); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %q, %v, want %q", given, got, err, reason)
		}
	}
	// A name with a colon is the model, alone and before an adapter's name.
	s := newTest(t, &fakeEngine{reply: "a"}, withAdapters(library()), func(c *Config, _ *Deps) { c.Model = "llama:1b" })
	for model, adapter := range map[string]bool{"llama:1b": false, "llama:1b:support": true, "support": true} {
		w := post(s, "/v1/completions", `{"prompt":"x","model":"`+model+`"}`)
		if w.Code != http.StatusOK || (w.Header().Get("X-Weft-Adapter") != "") != adapter {
			t.Errorf("%s: %d %v", model, w.Code, w.Header())
		}
	}
}

// TestSpellings: each form of an adapter's name that the metrics list is one that its tenant's requests may use;
// another tenant's is none.
func TestSpellings(t *testing.T) {
	lib := library()
	taken := version("acme", "base", "6")
	lib.list = append(lib.list, version("acme", "support", "7"), taken)
	s, _ := newTenants(t, withAdapters(lib), func(c *Config, _ *Deps) {
		c.Model, c.Aliases = "org/tiny", []string{"gpt-4o", "acme/base"}
	})
	keys := map[string]string{"acme": s.tenantKey(t, "acme", nil), "default": s.root}
	for _, c := range []struct{ tenant, ref, digit string }{{"default", "support", "a"}, {"default", "support@v1", "b"},
		{"default", "support@bbbbbbbbbbbb", "b"}, {"acme", "support", "7"}, {"acme", "foreign", "8"},
		{"acme", "base", "6"}} {
		forms := s.Spellings(c.tenant, c.ref)
		if want := 5; len(forms) != want && c.ref != "base" || c.ref == "base" && len(forms) != want-1 {
			t.Errorf("%+v has the forms %v", c, forms)
		}
		for _, form := range forms {
			key := strings.TrimPrefix(keys[c.tenant], "Bearer ")
			w := s.do("POST", "/v1/completions", "Bearer "+key, `{"prompt":"x","model":"`+form+`"}`)
			want := c.tenant + "/" + strings.Split(c.ref, "@")[0] + "@" + strings.Repeat(c.digit, 12)
			if used := w.Header().Get("X-Weft-Adapter"); w.Code != 200 || used != want {
				t.Errorf("%s of %+v: %d, %s, want %s: %s", form, c, w.Code, used, want, w.Body)
			}
			if w := s.do("GET", "/v1/models/"+form, "Bearer "+key, ""); w.Code != 200 {
				t.Errorf("GET %s of %+v: %d", form, c, w.Code)
			}
		}
	}
	acme := "Bearer " + strings.TrimPrefix(keys["acme"], "Bearer ")
	for _, form := range []string{"default/support", "default/poet", "org/tiny:acme/support", "acme/acme/support",
		"acme/", "/support", "acme/org/tiny"} {
		wantError(t, s.do("POST", "/v1/completions", acme, `{"prompt":"x","model":"`+form+`"}`), 404, "model", "does not exist")
	}
}
