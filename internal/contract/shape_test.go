package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// kept are members whose values are part of the contract; of all others the type is.
var kept = map[string]bool{"code": true, "finish_reason": true, "object": true, "param": true, "role": true,
	"state": true, "status": true, "stop_reason": true, "type": true}

// shape reduces a JSON document to its sorted paths with the types of their values.
func shape(text []byte) []string {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return []string{"not JSON"}
	}
	set := map[string]bool{}
	paths(v, "", "", set)
	return slices.Sorted(maps.Keys(set))
}

var numeral = regexp.MustCompile(`^[0-9]+$`)

func paths(v any, path, member string, set map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			set[path+" {}"] = true
		}
		dict := dictionary(v, path)
		for key, value := range v {
			if dict {
				key = "*"
			}
			paths(value, path+"."+key, key, set)
		}
	case []any:
		if len(v) == 0 {
			set[path+"[]"] = true
		}
		for _, value := range v {
			paths(value, path+"[]", member, set)
		}
	case string:
		if kept[member] {
			set[fmt.Sprintf("%s %q", path, v)] = true
		} else {
			set[path+" string"] = true
		}
	case float64:
		set[path+" number"] = true
	case bool:
		set[path+" bool"] = true
	case nil:
		set[path+" null"] = true
	}
}

// dictionary tells objects whose keys are data: token ids, or tokens.
func dictionary(v map[string]any, path string) bool {
	if strings.HasSuffix(path, ".top_logprobs[]") && v["token"] == nil {
		return true
	}
	for key := range v {
		if !numeral.MatchString(key) {
			return false
		}
	}
	return len(v) > 0
}

// answer reduces a response.
func answer(resp *http.Response, body []byte) []string {
	lines := []string{fmt.Sprint("status ", resp.StatusCode)}
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		switch name {
		case "Date", "Content-Length":
		case "Allow", "Cache-Control", "Connection", "Content-Type", "Www-Authenticate", "X-Accel-Buffering":
			lines = append(lines, "header "+name+": "+resp.Header.Get(name))
		default:
			lines = append(lines, "header "+name)
		}
	}
	switch media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); media {
	case "application/json":
		return append(lines, shape(body)...)
	case "text/event-stream":
		return append(lines, events(string(body))...)
	}
	if resp.StatusCode == http.StatusOK && len(body) > 0 && len(body) < 200 {
		return append(lines, fmt.Sprintf("text %q", body))
	}
	return lines
}

// events reduces a stream to its different events in the order of their first appearance.
func events(body string) []string {
	var lines []string
	for event := range strings.SplitSeq(body, "\n\n") {
		data, isData := strings.CutPrefix(event, "data: ")
		switch {
		case event == "" || strings.HasPrefix(event, ":"): // a comment keeps proxies awake
			continue
		case !isData:
			data = "other: " + event
		case data != "[DONE]":
			data = strings.Join(shape([]byte(data)), ", ")
		}
		if line := "event " + data; !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

var label = regexp.MustCompile(`([a-z_A-Z]+)="(?:[^"\\]|\\.)*"`)

// metricNames reduces /metrics to names, types and labels. Go's own metrics change with its releases.
func metricNames(text string) []string {
	set := map[string]bool{}
	for line := range strings.SplitSeq(text, "\n") {
		if name, isType := strings.CutPrefix(line, "# TYPE "); isType {
			set[name] = true
		} else if name, rest, labels := strings.Cut(line, "{"); labels && !strings.HasPrefix(line, "#") {
			var names []string
			for _, m := range label.FindAllStringSubmatch(rest, -1) {
				names = append(names, m[1])
			}
			set[name+"{"+strings.Join(names, ",")+"}"] = true
		}
	}
	maps.DeleteFunc(set, func(name string, _ bool) bool {
		return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_")
	})
	return slices.Sorted(maps.Keys(set))
}

// routeNames reduces an OpenAPI document to its operations.
func routeNames(text []byte) []string {
	var doc struct {
		Paths map[string]map[string]any
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return []string{"not JSON"}
	}
	var out []string
	for path, methods := range doc.Paths {
		for method := range methods {
			out = append(out, method+" "+path)
		}
	}
	slices.Sort(out)
	return out
}
