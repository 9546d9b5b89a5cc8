package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
)

// maxSplits bounds the files of a split model; their names have five digits.
const maxSplits = 99999

// splitName is how llama.cpp names the files of a split model: NAME-00001-of-00003.gguf.
var splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// splitFiles returns the files of the split GGUF model of which path is one by its name, in their order; nil for any
// other name. They need not exist.
func splitFiles(path string) []string {
	folder, file := filepath.Split(path)
	m := splitName.FindStringSubmatch(file)
	if m == nil {
		return nil
	}
	number, _ := strconv.Atoi(m[2])
	count, _ := strconv.Atoi(m[3])
	if number < 1 || number > count {
		return nil
	}
	out := make([]string, count)
	for i := range out {
		out[i] = fmt.Sprintf("%s%s-%05d-of-%05d.gguf", folder, m[1], i+1, count)
	}
	return out
}

// splitInteger returns a number that gguf-split writes, def where the file has none.
func (g *GGUF) splitInteger(key string, def int64) int64 {
	switch v := g.header.meta["split."+key].(type) {
	case uint16:
		return int64(v)
	default:
		if n, ok := perLayer(v, 0); ok {
			return n
		}
	}
	return def
}

// splitCount is the number of files of the model.
func (g *GGUF) splitCount() int { return int(g.splitInteger("count", 1)) }

// openParts opens the further files of a split model. Every file must say its place among as many as the first says,
// and together they must have as many tensors as the first says, each in one file.
func (g *GGUF) openParts(path string) error {
	count := g.splitCount()
	if count < 2 {
		return nil
	}
	files := splitFiles(path)
	if n := g.splitInteger("no", 0); n != 0 {
		first := "its first file, NAME-00001-of-….gguf"
		if files != nil {
			first = files[0]
		}
		return fmt.Errorf("%w: it is file %d of %d of a split model: open %s", ErrFormat, n+1, count, first)
	}
	if len(files) != count || count > maxSplits {
		return fmt.Errorf("%w: it is the first of %d files of a split model, which must be named "+
			"NAME-00001-of-%05d.gguf and so on", ErrFormat, count, count)
	}
	for i, file := range files[1:] {
		m, err := openMapping(file)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: the file %s of the split model is missing", ErrFormat, filepath.Base(file))
		}
		if err != nil {
			return err
		}
		if err := g.openPart(m, i+1, count); err != nil {
			return err
		}
	}
	if n := g.splitInteger("tensors.count", int64(len(g.tensors))); n != int64(len(g.tensors)) {
		return fmt.Errorf("%w: the %d files of the split model have %d tensors, expected %d", ErrFormat, count,
			len(g.tensors), n)
	}
	return nil
}

// openPart reads the file number (from 0) of count and adds its tensors.
func (g *GGUF) openPart(m *mapping, number, count int) error {
	part := &GGUF{m: m, tensors: map[string]ggufTensor{}}
	g.parts = append(g.parts, part) // Close closes it
	return m.read(func() (err error) {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%s: %w: %s", m.path, ErrFormat, fmt.Sprintf(format, args...))
		}
		if part.header, err = parseGGUF(m.data); err != nil {
			return bad("%v", err)
		}
		if n, no := part.splitCount(), part.splitInteger("no", -1); n != count || no != int64(number) {
			return bad(
				"it says that it is file %d of %d of a split model, but by its name it is file %d of %d",
				no+1,
				n,
				number+1,
				count,
			)
		}
		own := part.header.meta
		part.header.meta = g.header.meta // only the first file has the model's
		if err := part.rename(); err != nil {
			return bad("%v", err)
		}
		part.header.meta = own
		for name, t := range part.tensors {
			if first, twice := g.tensors[name]; twice {
				return bad("tensor %q is in %s, too", t.name, filepath.Base(first.m.path))
			}
			g.tensors[name] = t
		}
		return nil
	})
}
