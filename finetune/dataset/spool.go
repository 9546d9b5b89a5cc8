package dataset

import (
	"bufio"
	"errors"
	"io"
	"os"

	"github.com/klauspost/compress/s2"

	"weft/internal/durable"
)

// spool keeps what is written, compressed, in a file without name, and gives it back once, from its start. What was
// read is removed from the disk, so that input of some size does not need twice the space.
type spool struct {
	file     *os.File
	pack     *s2.Writer
	in       *bufio.Reader
	buf      []byte
	read     int64 // bytes of the file
	released int64 // of these
}

// releaseEvery is how much of the file is read before its space is given back.
const releaseEvery = 16 << 20

func newSpool(dir string) (*spool, error) {
	f, err := durable.Scratch(dir)
	if err != nil {
		return nil, err
	}
	return &spool{file: f, pack: s2.NewWriter(f, s2.WriterConcurrency(1), s2.WriterBlockSize(256<<10))}, nil
}

func (s *spool) Write(b []byte) (int, error) { return s.pack.Write(b) }

// rewind ends the writing and begins the reading.
func (s *spool) rewind() error {
	if err := s.pack.Close(); err != nil {
		return err
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.in = bufio.NewReaderSize(s2.NewReader(releasing{s}), 1<<16)
	return nil
}

// releasing reads the file of a spool.
type releasing struct{ *spool }

func (s releasing) Read(b []byte) (int, error) {
	n, err := s.file.Read(b)
	if s.read += int64(n); s.read-s.released >= releaseEvery {
		if err == nil {
			err = durable.Release(s.file, s.released, s.read-s.released)
		}
		s.released = s.read
	}
	return n, err
}

// next returns the next n bytes; they are valid until the next call.
func (s *spool) next(n int) ([]byte, error) {
	if cap(s.buf) < n {
		s.buf = make([]byte, n+n/2)
	}
	_, err := io.ReadFull(s.in, s.buf[:n])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return s.buf[:n], err
}

func (s *spool) Close() error { return s.file.Close() }
