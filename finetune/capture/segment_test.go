package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// setFault sets what happens at the borders of writes until the test ends.
func setFault(t testing.TB, f func(point string) error) {
	t.Helper()
	old := fault
	fault = f
	t.Cleanup(func() { fault = old })
}

// A disk that is full drops records and counts them; feedback is refused with an error. Later ones are kept.
func TestDiskFull(t *testing.T) {
	for _, point := range []string{atWriting, atWritten, atSynced} {
		t.Run(point, func(t *testing.T) {
			p := setup{t.TempDir()}
			full := false
			setFault(t, func(at string) error {
				if full && at == point {
					return syscall.ENOSPC
				}
				return nil
			})
			s := p.open(t)
			put(t, s, record("c1", "", "a", "q"))
			get(t, s, "c1")
			must(t, s.do(t.Context(), &item{run: func(context.Context) error { full = true; return nil }}))
			put(t, s, record("c2", "", "a", "q"))
			if err := s.AddFeedback(t.Context(), Feedback{Tenant: "t", ID: "c1", Value: value(1)}); !errors.Is(err,
				ErrDisk) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("feedback: %v", err)
			}
			must(t, s.do(t.Context(), &item{run: func(context.Context) error { full = false; return nil }}))
			put(t, s, record("c3", "", "a", "q"))
			get(t, s, "c3")
			get(t, s, "c1")
			if _, err := s.Get(t.Context(), "t", "c2"); !errors.Is(err, ErrNotFound) {
				t.Errorf("a record that was dropped: %v", err)
			}
			if st := s.Stats(); st.Dropped[DropDisk] != 1 || st.Written != 2 {
				t.Errorf("%+v", st)
			}
			if n := frames(t, s); n != 2 {
				t.Errorf("%d frames", n)
			}
		})
	}
}

// Where it is not known whether the index was committed, the next sweep finds out.
func TestIndexFails(t *testing.T) {
	for _, point := range []string{atIndexing, atIndexed} {
		t.Run(point, func(t *testing.T) {
			failing := true
			setFault(t, func(at string) error {
				if at == point && failing {
					failing = false
					return errors.New("the connection is lost")
				}
				return nil
			})
			s := setup{t.TempDir()}.open(t)
			put(t, s, record("c1", "", "a", "q"))
			must(t, s.Sweep(t.Context()))
			put(t, s, record("c2", "", "a", "q"))
			get(t, s, "c1")
			get(t, s, "c2")
			if st := s.Stats(); st.Dropped[DropStore] != 1 {
				t.Errorf("%+v", st)
			}
			if n := frames(t, s); n != 2 {
				t.Errorf("%d frames", n)
			}
		})
	}
}

// What a kill has left behind the last whole record is cut and counted, and whole records without a row get one.
func TestTornEnds(t *testing.T) {
	p := setup{t.TempDir()}
	s := p.open(t)
	put(t, s, record("c1", "", "a", "q"))
	get(t, s, "c1")
	key, err := s.key(t.Context(), "t", false)
	must(t, err)
	whole := entry{record: &storedRecord{Record: *record("c2", "", "b", "q")}}
	must(t, key.encode("t", &whole))
	must(t, s.Close())
	for n := 0; n <= len(whole.frame); n += 1 + n/8 {
		clean := t.TempDir()
		must(t, os.CopyFS(clean, os.DirFS(p.dir)))
		q := setup{clean}
		addTail(t, q, whole.frame[:n])
		s := q.open(t)
		get(t, s, "c1")
		_, err := s.Get(t.Context(), "t", "c2")
		if there := n == len(whole.frame); there != (err == nil) {
			t.Errorf("%d of %d bytes: %v", n, len(whole.frame), err)
		}
		st := s.Stats()
		if torn := n > 0 && n < len(whole.frame); torn != (st.Torn == 1) {
			t.Errorf("%d of %d bytes: %+v", n, len(whole.frame), st)
		}
		put(t, s, record("c3", "", "c", "q"))
		get(t, s, "c3")
		want := 2
		if n == len(whole.frame) {
			want = 3
		}
		if got := frames(t, s); got != want {
			t.Errorf("%d of %d bytes: %d frames", n, len(whole.frame), got)
		}
		must(t, s.Close())
	}
	addTail(t, p, append(append([]byte{}, whole.frame...), make([]byte, 4096)...)) // zeros, as a lost write leaves them
	s = p.open(t)
	get(t, s, "c2")
	if st := s.Stats(); st.Torn != 1 {
		t.Errorf("%+v", st)
	}
}

func addTail(t *testing.T, p setup, tail []byte) {
	t.Helper()
	paths, err := (&Store{opt: p.options(t)}).files()
	must(t, err)
	f, err := os.OpenFile(paths[0], os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.Write(tail)
	must(t, errors.Join(err, f.Close()))
}

// A damaged or missing segment is reported, and the others work.
func TestLostSegment(t *testing.T) {
	p := setup{t.TempDir()}
	s := p.open(t)
	put(t, s, record("c1", "", "a", "q"))
	get(t, s, "c1")
	must(t, s.Close())
	paths, err := s.files()
	must(t, err)
	must(t, os.Rename(paths[0], paths[0]+".away"))
	s = p.open(t)
	if err := s.Sweep(t.Context()); !errors.Is(err, ErrDisk) || !strings.Contains(err.Error(), paths[0]) {
		t.Errorf("%v", err)
	}
	if _, err := s.Get(t.Context(), "t", "c1"); !errors.Is(err, ErrDisk) {
		t.Errorf("%v", err)
	}
	put(t, s, record("c2", "", "a", "q"))
	get(t, s, "c2")
	must(t, os.Rename(paths[0]+".away", paths[0]))
	must(t, s.Sweep(t.Context()))
	get(t, s, "c1")
	get(t, s, "c2")
}

// Segments end at their size, each is rewritten alone, and all records stay readable meanwhile.
func TestRewriteWhileRead(t *testing.T) {
	s := setup{t.TempDir()}.open(t, func(o *Options) { o.SegmentBytes = 4 << 10 })
	const n = 200
	for i := range n {
		put(t, s, record(fmt.Sprint("c", i), []string{"anna", "berta"}[i%2], "a", strings.Repeat("q", 200)))
		if i%10 == 0 {
			get(t, s, fmt.Sprint("c", i))
		}
	}
	get(t, s, "c0")
	paths, err := s.files()
	must(t, err)
	if len(paths) < 5 {
		t.Fatalf("%d segments", len(paths))
	}
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			for i := 1; i < n; i += 2 {
				if _, err := s.Get(context.Background(), "t", fmt.Sprint("c", i)); err != nil {
					done <- fmt.Errorf("c%d: %w", i, err)
					return
				}
			}
		}
	}()
	for i := 0; i < n; i += 2 {
		must(t, s.Delete(t.Context(), "t", fmt.Sprint("c", i)))
		if i%20 == 0 {
			must(t, s.Sweep(t.Context()))
		}
	}
	must(t, s.Sweep(t.Context()))
	close(stop)
	must(t, <-done)
	if got := frames(t, s); got != n/2 {
		t.Errorf("%d frames", got)
	}
}

func TestRetention(t *testing.T) {
	now := time.Now()
	s := setup{t.TempDir()}.open(t, func(o *Options) { o.now = func() time.Time { return now } })
	ctx := t.Context()
	for i := range 100 {
		r := record(fmt.Sprint("c", i), "", "a", "q")
		r.Created = now.Add(time.Duration(i) * time.Hour)
		put(t, s, r)
	}
	retain := func(limits Retention, records, held int64) {
		t.Helper()
		out, err := s.Retain(ctx, "t", limits)
		must(t, err)
		if out.Records != records || out.Held != held {
			t.Errorf("%+v: deleted %d, held %d; want %d, %d", limits, out.Records, out.Held, records, held)
		}
	}
	age := Retention{MaxAge: 24 * time.Hour}
	retain(age, 0, 0)
	now = now.Add(29*time.Hour + time.Minute)
	retain(age, 6, 0)
	if _, err := s.Get(ctx, "t", "c5"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a record that has expired: %v", err)
	}
	if err := s.AddFeedback(ctx, Feedback{Tenant: "t", ID: "c5", Value: value(1)}); !errors.Is(err, ErrNotFound) {
		t.Errorf("feedback on a record that has expired: %v", err)
	}
	get(t, s, "c6")
	now = now.Add(10 * 365 * 24 * time.Hour) // the clock jumps
	retain(age, 10, 84)
	retain(age, 0, 84) // once a day
	now = now.Add(25 * time.Hour)
	retain(age, 9, 75)
	now = now.Add(-5 * 365 * 24 * time.Hour) // and back again
	retain(Retention{MaxAge: 20 * 365 * 24 * time.Hour}, 0, 0)
	age.Confirmed = true
	retain(age, 75, 0)
	for i := range 20 {
		put(t, s, record(fmt.Sprint("d", i), "", "a", "q"))
	}
	must(t, s.Sweep(ctx))
	retain(Retention{MaxBytes: 1 << 30}, 0, 0)
	retain(Retention{MaxBytes: 1}, 2, 18)
	retain(Retention{MaxBytes: 1}, 2, 16)
	retain(Retention{MaxBytes: 1, Confirmed: true}, 16, 0)
	must(t, s.Sweep(ctx))
	if n := frames(t, s); n != 0 {
		t.Errorf("%d frames are left", n)
	}
	if _, err := s.Retain(ctx, "t", Retention{MaxAge: -1}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if out, err := s.Retain(ctx, "none", Retention{MaxBytes: 1}); err != nil || out.Records != 0 {
		t.Errorf("%+v %v", out, err)
	}
}

// FuzzSegment: any bytes are read without a panic; what is read are whole frames, one behind the other, and frames that
// were written before are all found.
func FuzzSegment(f *testing.F) {
	body := bytes.Repeat([]byte("b"), minBody)
	f.Add([]byte{}, 0)
	f.Add(appendFrame(nil, body), 1)
	f.Add(appendFrame(nil, body)[:20], 3)
	f.Add(bytes.Repeat([]byte{0xff}, 64), 2)
	f.Add(make([]byte, 64), 2)
	f.Fuzz(func(t *testing.T, tail []byte, before int) {
		before = max(0, before%5)
		data := []byte(magic)
		for i := range before {
			data = appendFrame(data, append(body, byte(i)))
		}
		data = append(data, tail...)
		n, last := 0, int64(len(magic))
		end, err := scan(bytes.NewReader(data), last, int64(len(data)), func(at int64, b []byte) error {
			if at != last || len(b) < minBody || n < before && b[len(b)-1] != byte(n) {
				t.Fatalf("frame %d at %d with %d bytes, the one before ends at %d", n, at, len(b), last)
			}
			if again := appendFrame(nil, b); !bytes.Equal(again, data[at:at+int64(len(again))]) {
				t.Fatalf("frame %d is not what was written", n)
			}
			last = at + frameHeader + int64(len(b))
			n++
			return nil
		})
		if err != nil || end != last || n < before || end > int64(len(data)) {
			t.Fatalf("%d frames of %d up to %d: %v", n, before, end, err)
		}
	})
}
