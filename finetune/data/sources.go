package data

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Stdin is the path that means standard input.
const Stdin = "-"

// endings are those of the files that are read of a folder; each may be followed by .gz.
var endings = []string{".json", ".jsonl", ".ndjson"}

// Limits of a folder, so that one named by mistake (a home directory) is an error at once.
const (
	maxFiles = 100_000 // entries, of all kinds
	maxDepth = 32      // folders in folders
)

// sourceFiles returns the files that the paths name, in the order in which they are read: the paths in their order; of
// a folder the files whose names end as endings says, folders in it included, by name. Names that begin with a dot are
// left out. others counts the files of folders that are left out for their ending, first is one of them.
func sourceFiles(paths []string) (files []string, others int, first string, err error) {
	if len(paths) == 0 {
		return nil, 0, "", errors.New("no file is given")
	}
	entries := 0
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		list, err := os.ReadDir(dir) // sorted by name
		if err != nil {
			return err
		}
		if entries += len(list); entries > maxFiles || depth > maxDepth {
			return fmt.Errorf("%s: more than %d files or folders in folders deeper than %d: give the files", dir,
				maxFiles, maxDepth)
		}
		for _, e := range list {
			path := filepath.Join(dir, e.Name())
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			if e.IsDir() {
				if err := walk(path, depth+1); err != nil {
					return err
				}
				continue
			}
			info, err := os.Stat(path) // of what a link points to
			switch {
			case err != nil:
				return err
			case info.Mode().IsRegular() && ofSamples(e.Name()):
				files = append(files, path)
			case info.Mode().IsRegular():
				others++
				first = cmp.Or(first, path)
			}
		}
		return nil
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case path == Stdin:
			if slices.Contains(files, Stdin) {
				return nil, 0, "", errors.New("standard input (-) can be read once")
			}
			files = append(files, Stdin)
		case err != nil:
			return nil, 0, "", fmt.Errorf("%w%s", err, pathHint(path))
		case info.IsDir():
			before := len(files)
			if err := walk(path, 0); err != nil {
				return nil, 0, "", err
			}
			if len(files) == before {
				return nil, 0, "", fmt.Errorf("the folder %s has no file whose name ends in %s, or these with .gz%s",
					path,
					strings.Join(endings, ", "), prefixed("; it has ", first))
			}
		default:
			files = append(files, path)
		}
	}
	return files, others, first, nil
}

// pathHint says how several files are given, for a path that does not exist and looks like several.
func pathHint(path string) string {
	switch {
	case strings.Contains(path, ","):
		return "; give several files one by one: --data FILE --data FILE"
	case strings.ContainsAny(path, "*?["):
		return "; give the folder to read all files in it"
	}
	return ""
}

func ofSamples(name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".gz")
	return slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(name, e) })
}

// openSource opens a file, or standard input. size is 0 where it is not known.
func openSource(path string) (f *os.File, size int64, err error) {
	if path == Stdin {
		return os.Stdin, 0, nil
	}
	if f, err = os.Open(path); err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if info.Mode().IsRegular() {
		size = info.Size()
	}
	return f, size, nil
}

// magics are the starts of files that hold records in a form that is not read, and what to do.
var magics = []struct{ start, name, do string }{
	{
		"PAR1",
		"a Parquet file",
		`convert it: python -c "import pandas; pandas.read_parquet('FILE').to_json('FILE.jsonl', ` +
			`orient='records', lines=True)"`,
	},
	{"ARROW1", "an Arrow file", "save it as JSON Lines, with to_json of the library datasets"},
	{"\xff\xff\xff\xff", "an Arrow stream", "save it as JSON Lines, with to_json of the library datasets"},
	{"PK\x03\x04", "a zip archive", "unpack it"},
	{
		"\x28\xb5\x2f\xfd",
		"compressed with zstd",
		"unpack it (zstd -d), or pipe it: zstd -dc FILE | weft train --data -",
	},
	{"BZh", "compressed with bzip2", "unpack it (bunzip2), or pipe it: bzcat FILE | weft train --data -"},
	{"\xfd7zXZ", "compressed with xz", "unpack it (unxz), or pipe it: xzcat FILE | weft train --data -"},
	{"SQLite format 3\x00", "an SQLite database", "export its records as JSON Lines"},
}

// decoded returns the text of src as UTF-8 without byte-order mark: src is plain or compressed with gzip, and its
// text is UTF-8, or UTF-16 with a byte-order mark or with an ASCII character at the start, as JSON has. What is no
// valid
// UTF-16 becomes invalid UTF-8. Memory does not depend on the size.
func decoded(src io.Reader) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(src, 1<<16)
	start, err := in.Peek(2)
	if string(start) == "\x1f\x8b" {
		unzip, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		in = bufio.NewReaderSize(gzipErrors{unzip}, 1<<16)
		start, err = in.Peek(2)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	} else if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(start) == 2 {
		// Peek more only where a mark or a magic can follow: a pipe may not have more bytes yet.
		switch {
		case string(start) == "\xff\xfe", string(start) == "\xfe\xff", start[0] == 0 || start[1] == 0:
			return utf16Text(in)
		case string(start) == "\xef\xbb":
			if mark, _ := in.Peek(3); string(mark) == "\ufeff" {
				_, err := in.Discard(3)
				return in, err
			}
			return in, nil
		}
	}
	for _, m := range magics {
		if len(start) == 2 && string(start) == m.start[:2] {
			if text, _ := in.Peek(len(m.start)); string(text) == m.start {
				return nil, fmt.Errorf("%w: it is %s: %s", ErrBad, m.name, m.do)
			}
		}
	}
	return in, nil
}

// gzipErrors names gzip in errors of reading.
type gzipErrors struct{ r io.Reader }

func (g gzipErrors) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("gzip: the file is cut off, or other bytes are behind its end")
	case err != nil && !errors.Is(err, io.EOF):
		err = fmt.Errorf("gzip: %w", err)
	}
	return n, err
}

// utf16Text reads UTF-16.
func utf16Text(in *bufio.Reader) (*bufio.Reader, error) {
	start, _ := in.Peek(4)
	u := &utf16Reader{in: in}
	switch {
	case bytes.Equal(start, []byte{0xff, 0xfe, 0, 0}), bytes.Equal(start, []byte{0, 0, 0xfe, 0xff}):
		return nil, fmt.Errorf("%w: it is UTF-32: save it as UTF-8", ErrBad)
	case start[0] == 0 && start[1] == 0:
		return nil, fmt.Errorf("%w: it is not text (it begins with zero bytes)", ErrBad)
	case start[0] == 0xff || start[0] == 0xfe:
		u.big = start[0] == 0xfe
		if _, err := in.Discard(2); err != nil {
			return nil, err
		}
	default:
		u.big = start[0] == 0
	}
	return bufio.NewReaderSize(u, 1<<16), nil
}

// utf16Reader turns UTF-16 into UTF-8; an unpaired surrogate or half a unit becomes the byte 0xFF, which is never
// valid.
type utf16Reader struct {
	in   *bufio.Reader
	big  bool
	held rune // a unit that was read behind an unpaired surrogate, if has
	has  bool
	buf  [utf8.UTFMax]byte
	out  []byte // of buf, not yet read
}

func (u *utf16Reader) unit() (rune, error) {
	if u.has {
		u.has = false
		return u.held, nil
	}
	a, err := u.in.ReadByte()
	if err != nil {
		return 0, err
	}
	b, err := u.in.ReadByte()
	switch {
	case errors.Is(err, io.EOF):
		return -1, nil
	case err != nil:
		return 0, err
	case u.big:
		a, b = b, a
	}
	return rune(a) | rune(b)<<8, nil
}

// Read implements io.Reader.
func (u *utf16Reader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(u.out) > 0 {
			k := copy(p[n:], u.out)
			n, u.out = n+k, u.out[k:]
			continue
		}
		if n > 0 && !u.has && u.in.Buffered() < 4 {
			return n, nil // do not wait for more than is there
		}
		r, err := u.unit()
		if err != nil {
			return n, err
		}
		if r >= 0 && !utf16.IsSurrogate(r) {
			u.out = utf8.AppendRune(u.buf[:0], r)
			continue
		}
		u.out = append(u.buf[:0], 0xff)
		if r < 0 || r >= 0xdc00 {
			continue
		}
		low, err := u.unit()
		switch {
		case errors.Is(err, io.EOF):
		case err != nil:
			return n, err
		case low >= 0xdc00 && low < 0xe000:
			u.out = utf8.AppendRune(u.buf[:0], utf16.DecodeRune(r, low))
		default:
			u.held, u.has = low, true
		}
	}
	return n, nil
}
