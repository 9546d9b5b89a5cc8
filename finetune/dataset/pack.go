package dataset

import (
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// packer returns what compresses to w as the name of a file says; nil where it is not compressed.
func packer(name string, w io.Writer) (io.WriteCloser, error) {
	switch name = strings.ToLower(name); {
	case strings.HasSuffix(name, ".gz"):
		return gzip.NewWriter(w), nil
	case strings.HasSuffix(name, ".zst"):
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	}
	return nil, nil
}
