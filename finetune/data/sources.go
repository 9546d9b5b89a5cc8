package data

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Stdin is the path that means standard input.
const Stdin = "-"

// endings are those of the files that are read of a folder; each may be followed by one of packedEndings.
var (
	endings       = []string{".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"}
	packedEndings = []string{".gz", ".zst", ".zstd"}
)

// Limits of a folder, so that one named by mistake (a home directory) is an error at once.
const (
	maxFiles = 100_000 // entries, of all kinds
	maxDepth = 32      // folders in folders
)

// sourceFiles returns the files that the paths name, in the order in which they are read: the paths in their order; of
// a folder the files whose names end as endings says, folders in it included, by name; of a pattern with *, ? or [ that
// is no file's name what matches it, by name. Names that begin with a dot are left out. others counts the files of
// folders that are left out for their ending, first is one of them.
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
		if err := notFolderOfRows(dir, list); err != nil {
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
	if paths, err = globbed(paths); err != nil {
		return nil, 0, "", err
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
				return nil, 0, "", fmt.Errorf("the folder %s has no file whose name ends in %s, or these with %s%s",
					path,
					strings.Join(endings, ", "), strings.Join(packedEndings, ", "), prefixed("; it has ", first))
			}
		default:
			files = append(files, path)
		}
	}
	return files, others, first, nil
}

// pathHint says how several files are given, for a path that does not exist and looks like several.
func pathHint(path string) string {
	if strings.Contains(path, ",") {
		return "; give several files one by one: --data FILE --data FILE"
	}
	return ""
}

// globbed replaces patterns by the files and folders that match them.
func globbed(paths []string) (out []string, err error) {
	for _, path := range paths {
		_, err := os.Stat(path)
		if err == nil || path == Stdin || !strings.ContainsAny(path, "*?[") {
			out = append(out, path)
			continue
		}
		found, err := filepath.Glob(path)
		switch {
		case err != nil:
			return nil, fmt.Errorf("the pattern %s: %w", path, err)
		case len(found) == 0:
			return nil, fmt.Errorf("no file matches the pattern %s", path)
		}
		out = append(out, found...)
	}
	return out, nil
}

// notFolderOfRows refuses folders whose files are not records each: those that the library datasets saves, and those
// of `weft data split`, which have more than one side.
func notFolderOfRows(dir string, list []os.DirEntry) error {
	has := func(name string) bool {
		return slices.ContainsFunc(list, func(e os.DirEntry) bool { return e.Name() == name })
	}
	script := ""
	switch {
	case has("dataset_dict.json"):
		script = "for name, d in load_from_disk('DIR').items(): d.to_json(f'DIR-{name}.jsonl')"
	case has("dataset_info.json") && has("state.json"):
		script = "load_from_disk('DIR').to_json('DIR.jsonl')"
	}
	dir = filepath.Clean(dir)
	switch _, err := SidesOf(dir); {
	case script != "":
		script = "from datasets import load_from_disk\n" + script
		return fmt.Errorf("%w: %s is a folder of save_to_disk (Arrow): convert it with: python -c $'%s'", ErrBad, dir,
			strings.NewReplacer("DIR", dir, "'", "\"", "\n", "\\n").Replace(script))
	case err == nil:
		return fmt.Errorf("%w: %s is a dataset folder with sides: give the files that are meant, as %s", ErrBad, dir,
			filepath.Join(dir, "train.jsonl"))
	case errors.Is(err, ErrBad):
		return err
	}
	return nil
}

// ending returns the end of a file's name that says what it holds, without that of a compression.
func ending(name string) string {
	name = strings.ToLower(name)
	for _, e := range packedEndings {
		name = strings.TrimSuffix(name, e)
	}
	return filepath.Ext(name)
}

func ofSamples(name string) bool { return slices.Contains(endings, ending(name)) }

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
	{"ARROW1", "an Arrow file", "save it as JSON Lines, with to_json of the library datasets"},
	{"\xff\xff\xff\xff", "an Arrow stream", "save it as JSON Lines, with to_json of the library datasets"},
	{"PK\x03\x04", "a zip archive", "unpack it"},
	{"BZh", "compressed with bzip2", "unpack it (bunzip2), or pipe it: bzcat FILE | weft train --data -"},
	{"\xfd7zXZ", "compressed with xz", "unpack it (unxz), or pipe it: xzcat FILE | weft train --data -"},
	{"SQLite format 3\x00", "an SQLite database", "export its records as JSON Lines"},
}

// maxZstdWindow bounds the memory that a zstd file makes its reader take; zstd -19 and --long=27 stay below it.
const maxZstdWindow = 128 << 20

// unpacked returns src without the compression of gzip or zstd that it may have, and its first two bytes.
func unpacked(src io.Reader) (in *bufio.Reader, start []byte, err error) {
	in = bufio.NewReaderSize(src, 1<<16)
	start, err = in.Peek(2)
	var unpack io.Reader
	switch {
	case string(start) == "\x1f\x8b":
		unzip, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, fmt.Errorf("gzip: %w", err)
		}
		unpack = packErrors{unzip, "gzip"}
	case string(start) == "\x28\xb5":
		if mark, _ := in.Peek(4); string(mark) == "\x28\xb5\x2f\xfd" {
			dec, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(maxZstdWindow))
			if err != nil {
				return nil, nil, fmt.Errorf("zstd: %w", err)
			}
			unpack = packErrors{dec, "zstd"}
		}
	}
	if unpack != nil {
		in = bufio.NewReaderSize(unpack, 1<<16)
		start, err = in.Peek(2)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return in, start, err
}

// decoded returns the text of src as UTF-8 without byte-order mark: src is plain or compressed with gzip or zstd, and
// its text is UTF-8, or UTF-16 with a byte-order mark or with an ASCII character at the start, as JSON has. What is no
// valid UTF-16 becomes invalid UTF-8. Memory does not depend on the size. table reports that it is a Parquet file
// instead, as it is.
func decoded(src io.Reader) (text *bufio.Reader, table bool, err error) {
	in, start, err := unpacked(src)
	if err != nil {
		return nil, false, err
	}
	if string(start) == parquetMagic[:2] {
		if mark, _ := in.Peek(len(parquetMagic)); string(mark) == parquetMagic {
			return in, true, nil
		}
	}
	text, err = plainText(in, start)
	return text, false, err
}

// plainText is decoded for what is neither compressed nor a table.
func plainText(in *bufio.Reader, start []byte) (*bufio.Reader, error) {
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

// packErrors names the compression in errors of reading.
type packErrors struct {
	r    io.Reader
	name string
}

func (g packErrors) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%s: the file is cut off, or other bytes are behind its end", g.name)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		err = fmt.Errorf("zstd: the file needs a window above %d MiB: unpack it (zstd -d --long=31)", maxZstdWindow>>20)
	case err != nil && !errors.Is(err, io.EOF):
		err = fmt.Errorf("%s: %w", g.name, err)
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
