package server

import (
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"weft/adapters"
)

// TestPathsAreNotShown: what goes wrong with files is answered without the paths of this machine, which the log has.
func TestPathsAreNotShown(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: "/elsewhere/secret/adapter.gguf", Err: fs.ErrNotExist}
	for text, c := range map[string]struct {
		err  error
		want string
	}{
		"an error of the system": {fmt.Errorf("%w: %w", adapters.ErrInvalid, missing),
			"open adapter.gguf: file does not exist"},
		"a text": {fmt.Errorf("%w: /srv/weft/tmp/work-1/adapter_model.safetensors: header of 9 bytes",
			adapters.ErrInvalid), "refused: adapter_model.safetensors: header of 9 bytes"},
		"a quoted one": {fmt.Errorf(`%w: "/srv/weft/tmp/x y" is a link`, adapters.ErrInvalid), `refused: "x y" is a link`},
		"several": {fmt.Errorf("%w: rename /srv/weft/tmp/a /srv/weft/blobs/ab/b: denied", adapters.ErrInvalid),
			"rename a b: denied"},
		"a folder": {fmt.Errorf("%w: /srv/weft: no room", adapters.ErrInvalid), "refused: weft: no room"},
		"no path": {fmt.Errorf("%w: acme/weft/tmp and /srv/wefts/tmp", adapters.ErrInvalid),
			"acme/weft/tmp and /srv/wefts/tmp"},
		"a relative":    {fmt.Errorf("%w: data/tmp/x: broken", adapters.ErrInvalid), "refused: x: broken"},
		"of one upload": {fmt.Errorf("%w: bad; %w", adapters.ErrInvalid, missing), "adapter.gguf"},
	} {
		var log strings.Builder
		lib := library()
		lib.fail = c.err
		s := newTest(t, &fakeEngine{}, withAdapters(lib), logTo(&log), func(c *Config, _ *Deps) {
			c.UploadDir, c.Folders = t.TempDir(), []string{"/srv/weft", "data"}
		})
		w := post(s, "/admin/v1/tenants/default/adapters/a", "zip")
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), strings.ReplaceAll(c.want, `"`, `\"`)) ||
			strings.Contains(w.Body.String(), "secret/") || strings.Contains(w.Body.String(), "/srv/weft/") {
			t.Errorf("%s: %d %s, want %q", text, w.Code, w.Body, c.want)
		}
		if !strings.Contains(strings.ReplaceAll(log.String(), `\`, ""), strings.SplitN(c.err.Error(), ": ", 2)[1]) {
			t.Errorf("%s: the log has %s", text, log.String())
		}
	}
}
