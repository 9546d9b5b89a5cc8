package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

// --log-level decides what is logged, and at no level is it what was said.
func TestLogLevel(t *testing.T) {
	const secret = "xylophone"
	for level, has := range map[string][3]bool{ // a probe's line, a request's, a warning
		"debug": {true, true, true}, "info": {false, true, true}, "warn": {false, false, true},
		"error": {false, false, false},
	} {
		p := startServer(t, "--model", stories(t), "--log-level", level, "--memory", "64MiB", "--adapter-memory",
			"1GiB")
		for _, body := range []string{
			`{"prompt":"` + secret + `","max_tokens":1}`, `{"prompt":"` + secret + `","max_tokens":-1}`,
			`{"prompt":"` + secret, `{"` + secret + `":1}`, `{"prompt":["` + secret + `",{}]}`,
		} {
			resp, err := p.post("/v1/completions", body)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		p.signal(15)
		if status := p.wait(30 * time.Second); status != 0 {
			t.Errorf("%s: exit status %d", level, status)
		}
		log := p.log.String()
		for i, text := range []string{"route=/ready", "route=/v1/completions", "level=WARN"} {
			if strings.Contains(log, text) != has[i] {
				t.Errorf("%s: has %q: %v\n%s", level, text, !has[i], log)
			}
		}
		if strings.Contains(log, secret) {
			t.Errorf("%s: a prompt is in the log:\n%s", level, log)
		}
	}
	for _, args := range []string{"serve --log-level loud", "train --log-level 3"} {
		if _, stderr, status := run(t, "", strings.Fields(args)...); status != 2 ||
			!strings.Contains(stderr, "debug, info, warn or error") {
			t.Errorf("%s: status %d, %q", args, status, stderr)
		}
	}
}
