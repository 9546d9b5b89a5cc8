package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"slices"
	"sync/atomic"

	"weft/internal/bytesize"
)

// Records go from the goroutine that reads the files in batches to the encoders, one per core, and from these in the
// files' order to Load's goroutine. The batches under way are all that is in memory besides the samples.
const (
	batchRecords = 256
	batchBytes   = 1 << 20 // a batch ends with the record that reaches it
)

// batch is some consecutive records of one file, with what was made of each.
type batch[T any] struct {
	file   int // of the files
	raws   []raw
	bytes  int
	out    []T
	read   int64 // bytes of the file, as stored, that were read when the batch was complete
	size   int64 // of the file
	done   chan struct{}
	failed error // ends the reading, behind the records
}

// pipeline is the reading of files.
type pipeline[T any] struct {
	files   []string
	o       *Options
	ordered chan *batch[T] // in the files' order; its capacity bounds the batches under way
	work    chan *batch[T]
	stop    chan struct{} // closed when its user needs no more
	sum     hash.Hash     // of the bytes of all files; read it once ordered is closed
	// sums are those of each file instead, where it is not nil; each is complete before the next file is read.
	sums []string
}

// start starts the reading; worker returns what makes a T of a record, for one goroutine.
func start[T any](files []string, o *Options, sums []string, worker func() func(raw) T) *pipeline[T] {
	cores := runtime.GOMAXPROCS(0)
	p := &pipeline[T]{files, o, make(chan *batch[T], 2*cores), make(chan *batch[T]), make(chan struct{}), sha256.New(),
		sums}
	go p.read()
	for range cores {
		go p.encode(worker())
	}
	return p
}

// read reads the files that the paths name and encodes their records.
func (d *Dataset) read(paths []string, m Model, o *Options) error {
	r := &d.Report
	files, others, _, err := sourceFiles(paths)
	if err != nil {
		return err
	}
	r.LeftOut = others
	several := !slices.Equal(files, paths) || len(files) > 1
	if several {
		for _, path := range files {
			r.Files = append(r.Files, File{Path: path})
		}
	}
	p := start(files, o, nil, func() func(raw) encoded {
		return (&encoder{m: m, o: o, spell: newSpeller(m.Tokenizer), shapes: map[string][]bool{}}).record
	})
	defer close(p.stop)
	formats, tokens := make([]string, len(files)), int64(0)
	for b := range p.ordered {
		<-b.done
		if b.failed != nil {
			if several {
				return fmt.Errorf("%s: %w", files[b.file], b.failed)
			}
			return b.failed
		}
		for i := range b.out {
			e := &b.out[i]
			e.sample.File = b.file
			if _, err := inFormat(nil, e.format, &formats[b.file], b.raws[i].line, nil); err != nil {
				var bad Finding
				errors.As(err, &bad)
				e.findings, e.bad = []Finding{bad}, true
			}
			for k := range e.findings {
				if several {
					e.findings[k].File = files[b.file]
				}
			}
			r.add(o, e.findings...)
		}
		r.Records += len(b.out)
		tokens += d.keep(b.out)
		if need := memory(len(d.Samples), tokens); o.MaxMemory > 0 && need > o.MaxMemory {
			return fmt.Errorf(
				"%w: those up to line %d%s take %s, more than the %s that may be used: give fewer, or raise "+
					"memory",
				ErrMemory,
				b.raws[len(b.raws)-1].line,
				textIf(several, " of "+files[b.file]),
				bytesize.Format(need),
				bytesize.Format(o.MaxMemory),
			)
		}
		if several {
			f := &r.Files[b.file]
			f.Records, f.Format = f.Records+len(b.out), formats[b.file]
		}
		if o.OnProgress != nil {
			o.OnProgress(Progress{Path: files[b.file], Records: r.Records, Bytes: b.read, Size: b.size})
		}
	}
	r.formats(formats)
	r.SHA256 = hex.EncodeToString(p.sum.Sum(nil))
	return nil
}

// keep appends the samples of a batch, all in one piece of memory, and returns their tokens.
func (d *Dataset) keep(list []encoded) (tokens int64) {
	total := 0
	for i := range list {
		if !list[i].bad {
			total += len(list[i].sample.IDs)
		}
	}
	all := make([]int32, 0, 2*total)
	own := func(v []int32) []int32 {
		begin := len(all)
		all = append(all, v...)
		return all[begin:len(all):len(all)]
	}
	for i := range list {
		if s := list[i].sample; !list[i].bad {
			s.IDs, s.Labels = own(s.IDs), own(s.Labels)
			d.Samples = append(d.Samples, s)
		}
	}
	return int64(total)
}

// read reads all files in turn.
func (p *pipeline[T]) read() {
	defer close(p.ordered)
	defer close(p.work)
	for file := range p.files {
		err := p.readFile(file)
		if errors.Is(err, errEnough) {
			return
		}
		if err != nil {
			last := &batch[T]{file: file, failed: err, done: make(chan struct{})}
			close(last.done)
			select {
			case p.ordered <- last:
			case <-p.stop:
			}
			return
		}
	}
}

func (p *pipeline[T]) readFile(file int) (err error) {
	f, size, err := openSource(p.files[file])
	if err != nil {
		return err
	}
	if p.files[file] != Stdin {
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	var read atomic.Int64
	src := io.TeeReader(f, io.MultiWriter(p.sum, counter{&read}))
	b := &batch[T]{file: file}
	flush := func() error {
		if len(b.raws) == 0 {
			return nil
		}
		b.done, b.read, b.size = make(chan struct{}), read.Load(), size
		select {
		case p.ordered <- b:
		case <-p.stop:
			return errEnough
		}
		p.work <- b // encoders take it in any case
		b = &batch[T]{file: file}
		return nil
	}
	var ended error
	take := func(r raw) bool {
		r.text = bytes.Clone(r.text)
		b.raws = append(b.raws, r)
		if b.bytes += len(r.text); len(b.raws) == batchRecords || b.bytes >= batchBytes {
			ended = flush()
		}
		return ended == nil
	}
	if isParquet(f, size) {
		if _, err = io.Copy(io.Discard, src); err == nil {
			err = readParquet(f, size, p.o, take)
		}
		if errors.Is(err, errEnough) {
			err = nil
		}
	} else {
		err = readRaw(src, p.files[file], p.o, take)
	}
	if ended == nil {
		ended = flush()
	}
	if p.sums != nil {
		p.sums[file] = hex.EncodeToString(p.sum.Sum(nil))
		p.sum.Reset()
	}
	return errors.Join(err, ended)
}

// counter counts the bytes written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// encode encodes batches until there are no more.
func (p *pipeline[T]) encode(of func(raw) T) {
	for b := range p.work {
		b.out = make([]T, len(b.raws))
		for i, r := range b.raws {
			b.out[i] = of(r)
			b.raws[i].text = nil
		}
		close(b.done)
	}
}
