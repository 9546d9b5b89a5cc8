package dataset

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
)

// What is written comes back in any pieces, and takes no space once it was read.
func TestSpool(t *testing.T) {
	s, err := newSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := rand.NewChaCha8([32]byte{1})
	part := make([]byte, 1<<20)
	const parts = 50
	for range parts {
		_, _ = r.Read(part) // never fails; no compression makes it smaller
		if _, err := s.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.rewind(); err != nil {
		t.Fatal(err)
	}
	blocks := func() int64 {
		info, err := s.file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	before := blocks()
	r = rand.NewChaCha8([32]byte{1})
	for i := range parts {
		_, _ = r.Read(part)
		for at := 0; at < len(part); {
			n := min(1+(i*7919+at)%100_000, len(part)-at)
			got, err := s.next(n)
			if err != nil || !bytes.Equal(got, part[at:at+n]) {
				t.Fatalf("part %d at %d: %v", i, at, err)
			}
			at += n
		}
	}
	if _, err := s.next(1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("behind the end: %v", err)
	}
	if after := blocks(); before < parts<<20 || after > before-2*releaseEvery {
		t.Errorf("%d bytes on the disk, %d after they were read", before, after)
	}
}
