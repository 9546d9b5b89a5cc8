package weights

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
)

// mapping is a file as read-only bytes. data is unmapped by close.
type mapping struct {
	path string
	file *os.File
	data []byte
	free func() error

	once sync.Once
	err  error
}

func openMapping(path string) (*mapping, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	return newMapping(f)
}

// newMapping maps an opened regular file and owns it from then on; after an error it is closed.
func newMapping(f *os.File) (*mapping, error) {
	path := f.Name()
	st, err := f.Stat()
	if err == nil && st.Size() == 0 {
		err = fmt.Errorf("%s: %w: the file is empty", path, ErrFormat)
	}
	if err == nil && st.Size() != int64(int(st.Size())) {
		err = fmt.Errorf("%s: %w: %d bytes do not fit this machine's address space", path, ErrUnsupported, st.Size())
	}
	var m *mapping
	if err == nil {
		m = &mapping{path: path, file: f}
		m.data, m.free, err = mapFile(f, int(st.Size()))
		if err != nil {
			err = fmt.Errorf("%s: map: %w", path, err)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return m, nil
}

// openRegular opens a file, and refuses pipes, devices and folders without waiting for one.
func openRegular(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: not a regular file", path, ErrFormat)
	}
	return os.Open(path)
}

func (m *mapping) close() error {
	m.once.Do(func() {
		m.err = m.free()
		if err := m.file.Close(); m.err == nil {
			m.err = err
		}
	})
	return m.err
}

// check refuses a file that is no longer as long as its mapping.
func (m *mapping) check() error {
	st, err := m.file.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w: %w", m.path, ErrChanged, err)
	}
	if st.Size() < int64(len(m.data)) {
		return fmt.Errorf("%s: %w: %d bytes now, %d when it was opened", m.path, ErrChanged, st.Size(), len(m.data))
	}
	return nil
}

// read runs f, which reads m.data on this goroutine only, if the file still has its length.
func (m *mapping) read(f func() error) error {
	if err := m.check(); err != nil {
		return err
	}
	return m.fault(f)
}

// fault runs f; a page of m.data that can no longer be read becomes ErrChanged instead of a crash.
func (m *mapping) fault(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface{ Addr() uintptr })
		if _, isRuntime := r.(runtime.Error); !ok || !isRuntime {
			panic(r)
		}
		err = fmt.Errorf("%s: %w: address %#x cannot be read", m.path, ErrChanged, fault.Addr())
	}()
	return f()
}
