package adapters

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/durable"
)

// item is an entry of a made-up archive.
type item struct {
	name, text string
	kind       byte   // of tar; 0: a file
	link       string // its target
}

var good = []item{{name: configFile, text: "{}"}, {name: tensorsFile, text: "tensors"}}

func inFolder(folder string, items []item) (out []item) {
	for _, i := range items {
		i.name = folder + i.name
		out = append(out, i)
	}
	return out
}

func tarOf(t testing.TB, items []item) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := &tar.Header{Name: i.name, Typeflag: i.kind, Linkname: i.link, Mode: 0o644, Size: int64(len(i.text))}
		if i.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipOf(t testing.TB, items []item) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, i := range items {
		h := &zip.FileHeader{Name: i.name, Method: zip.Deflate}
		switch i.kind {
		case tar.TypeSymlink:
			h.SetMode(os.ModeSymlink | 0o777)
			i.text = i.link
		case tar.TypeFifo:
			h.SetMode(os.ModeNamedPipe | 0o644)
		case tar.TypeDir:
			h.SetMode(os.ModeDir | 0o755)
		default:
			h.SetMode(0o644)
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if i.kind == tar.TypeDir {
			continue
		}
		if _, err := io.WriteString(f, i.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// kinds makes every kind of archive of the items.
func kinds(t testing.TB, items []item) map[string][]byte {
	t.Helper()
	return map[string][]byte{"tar": tarOf(t, items), "tar.gz": gzipOf(t, tarOf(t, items)), "zip": zipOf(t, items)}
}

func TestArchives(t *testing.T) {
	for what, items := range map[string][]item{
		"at the top":  good,
		"in a folder": append([]item{{name: "support/", kind: tar.TypeDir}}, inFolder("support/", good)...),
		"below ./":    inFolder("./", good),
		"with other files": append(inFolder("x/", good), item{name: "x/README.md", text: "?"},
			item{name: "x/checkpoint-1/" + configFile, text: "{}"}, item{name: "__MACOSX/x/._" + configFile}),
		"with a chat template": append(inFolder("", good), item{name: templateFile, text: "t"}),
		"compressible":         {good[0], {name: tensorsFile, text: strings.Repeat("\x00", 1<<20)}},
	} {
		for kind, data := range kinds(t, items) {
			r := localPlace(t).open(t)
			v, err := r.AddArchive(t.Context(), "t", "a", bytes.NewReader(data), AddOptions{})
			if err != nil {
				t.Errorf("%s, %s: %v", what, kind, err)
				continue
			}
			if got := content(t, r, v); what != "compressible" && got != "tensors" ||
				(v.ChatTemplate != "") != (what == "with a chat template") {
				t.Errorf("%s, %s: %q, template %q", what, kind, got, v.ChatTemplate)
			}
		}
	}
}

func TestHostileArchives(t *testing.T) {
	many := inFolder("", good)
	for i := range maxArchiveEntries {
		many = append(many, item{name: "x" + strings.Repeat("y", i%100) + string(rune('0'+i/100)) + ".txt"})
	}
	for what, items := range map[string][]item{
		"slip":              append([]item{{name: "../evil", text: "x"}}, good...),
		"slip inside":       append([]item{{name: "a/../../evil", text: "x"}}, good...),
		"slip of ours":      {good[0], {name: "x/../../" + tensorsFile, text: "x"}},
		"absolute":          append([]item{{name: "/etc/evil", text: "x"}}, good...),
		"drive":             append([]item{{name: "C:evil", text: "x"}}, good...),
		"backslash":         append([]item{{name: `..\evil`, text: "x"}}, good...),
		"symlink":           {good[0], {name: tensorsFile, kind: tar.TypeSymlink, link: "/etc/passwd"}},
		"symlinked folder":  append([]item{{name: "x", kind: tar.TypeSymlink, link: "/tmp"}}, inFolder("x/", good)...),
		"pipe":              {good[0], {name: tensorsFile, kind: tar.TypeFifo}},
		"twice":             append(inFolder("", good), good[0]),
		"twice by case":     append(inFolder("", good), item{name: strings.ToUpper(configFile)}),
		"twice by spelling": append(inFolder("", good), item{name: "./" + configFile}),
		"two adapters":      append(inFolder("a/", good), inFolder("b/", good)...),
		"two places":        {good[0], {name: "b/" + tensorsFile, text: "x"}},
		"too deep":          inFolder("a/b/", good),
		"nothing":           {},
		"no tensors":        good[:1],
		"a pickle":          {good[0], {name: "adapter_model.bin", text: "x"}},
		"long name":         append([]item{{name: strings.Repeat("n", 600), text: "x"}}, good...),
		"many entries":      many,
		"large config":      {{name: configFile, text: strings.Repeat(" ", 1<<20+1)}, good[1]},
		"bomb":              {good[0], {name: "zeros.bin", text: strings.Repeat("\x00", 64<<20)}, good[1]},
		"another base":      {{name: configFile, text: "other base"}, good[1]},
	} {
		for kind, data := range kinds(t, items) {
			if kind == "tar" && what == "bomb" {
				continue // as long as what it unpacks to
			}
			refused(t, what+", "+kind, data)
		}
	}
	refused(t, "hard link", tarOf(t, []item{good[0], {name: tensorsFile, kind: tar.TypeLink, link: configFile}}))
	refused(t, "device", tarOf(t, []item{good[0], {name: tensorsFile, kind: tar.TypeChar}}))
	for kind, data := range kinds(t, good) {
		refused(t, "half a "+kind, data[:len(data)/2])
		refused(t, "half an archive within a gzip", gzipOf(t, data[:100]))
	}
	refused(t, "empty", nil)
	refused(t, "text", []byte("#!/bin/sh\n"))
	refused(t, "NUL in a name",
		bytes.ReplaceAll(zipOf(t, append([]item{{name: "evil_0", text: "x"}}, good...)), []byte("evil_0"),
			[]byte("evil\x000")))
	data := zipOf(t, good)
	at := bytes.LastIndex(data, []byte("PK\x05\x06"))
	for off := 10; off < 20; off++ {
		damaged := bytes.Clone(data)
		damaged[at+off] ^= 0xff
		if r := localPlace(t).open(t); true {
			if _, err := r.AddArchive(t.Context(), "t", "a", bytes.NewReader(damaged), AddOptions{}); err != nil &&
				!errors.Is(err, ErrInvalid) {
				t.Errorf("byte %d of the end: %v", off, err)
			}
		}
	}
	var crowd []item
	for i := range 12_000 {
		crowd = append(crowd, item{name: fmt.Sprintf("%050d", i)})
	}
	_, err := unpack(t.Context(), bytes.NewReader(zipOf(t, crowd)), t.TempDir())
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "directory is longer") {
		t.Errorf("a long directory: %v", err)
	}
}

func refused(t *testing.T, what string, data []byte) {
	t.Helper()
	r := localPlace(t).open(t)
	_, err := r.AddArchive(t.Context(), "t", "a", bytes.NewReader(data), AddOptions{})
	if !errors.Is(err, ErrInvalid) || len(err.Error()) > 500 {
		t.Errorf("%s: %v", what, err)
	}
	nothingLeft(t, r)
	if left, err := os.ReadDir(filepath.Join(r.cfg.Dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("%s: %d in tmp: %v", what, len(left), err)
	}
}

// A connection that breaks is not the archive's fault, and a request that went away ends the copy.
func TestArchiveBroken(t *testing.T) {
	r := localPlace(t).open(t)
	lost := errors.New("connection lost")
	for kind, data := range kinds(t, []item{good[0], {name: tensorsFile, text: strings.Repeat("abcdefgh", 100_000)}}) {
		_, err := r.AddArchive(t.Context(), "t", "a",
			io.MultiReader(bytes.NewReader(data[:len(data)/2]), failing{lost}), AddOptions{})
		if !errors.Is(err, lost) {
			t.Errorf("%s: %v", kind, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = r.AddArchive(ctx, "t", "a", bytes.NewReader(data), AddOptions{})
		wants(t, kind, err, context.Canceled)
	}
	nothingLeft(t, r)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// FuzzArchive: whatever is sent, only an adapter's files are written, in the work folder, and their digests are those
// of their bytes.
func FuzzArchive(f *testing.F) {
	for _, items := range [][]item{good, inFolder("x/", good), {{name: "../evil"}},
		{good[0], {name: tensorsFile, kind: tar.TypeSymlink, link: "/x"}}} {
		for _, data := range kinds(f, items) {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		work := filepath.Join(parent, "work")
		if err := os.Mkdir(work, 0o700); err != nil {
			t.Fatal(err)
		}
		files, err := unpack(t.Context(), bytes.NewReader(data), work)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%v", err)
		}
		for _, file := range files {
			if got, err := durable.SHA256(t.Context(), filepath.Join(work, file.Name)); err != nil ||
				got != file.Digest ||
				maxFileBytes[file.Name] == 0 {
				t.Errorf("%s: %v", file.Name, err)
			}
		}
		for dir, most := range map[string]int{parent: 1, work: len(maxFileBytes)} {
			if list, err := os.ReadDir(dir); err != nil || len(list) > most {
				t.Errorf("%d files in %s: %v", len(list), dir, err)
			}
		}
	})
}
