package data

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Row is a record of one of several files.
type Row struct {
	File   int // index in Report.Files
	Path   string
	Line   int
	Record *Record
	Notes  []Finding // that work adds for the report
}

// Each reads the records of files: work makes something of each record, on all cores, and take gets it, in the files'
// order. An error of work that is a Finding or wraps ErrFormat makes the record bad; any other error of the two ends
// the reading. Records that cannot be used are in the report, which is returned in any case; with the policy Refuse
// they are an error in the end. Options.OnProgress is called in between.
func Each[T any](paths []string, o Options, work func() func(*Row) (T, error), take func(*Row, T) error) (r *Report,
	err error) {
	r = &Report{Path: strings.Join(paths, ", "), Counts: map[Problem]int{}}
	if err := o.fill(); err != nil {
		return r, err
	}
	files, others, _, err := sourceFiles(paths)
	if err != nil {
		return r, err
	}
	r.LeftOut = others
	for _, path := range files {
		r.Files = append(r.Files, File{Path: path})
	}
	if err = each(files, &o, r, work, take); err == nil {
		err = r.verdict(&o, r.Samples)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", r.Path, err)
	}
	return r, err
}

// made is what became of a record.
type made[T any] struct {
	row    Row
	format string
	out    T
	err    error
}

func each[T any](files []string, o *Options, r *Report, work func() func(*Row) (T, error),
	take func(*Row, T) error) error {
	sums := make([]string, len(files))
	p := start(files, o, sums, func() func(raw) made[T] {
		of := work()
		return func(text raw) (m made[T]) {
			rec, format, err := text.parse(o)
			m.row, m.format, m.err = Row{Line: text.line, Record: rec}, format, err
			if err == nil {
				if m.out, err = of(&m.row); errors.Is(err, ErrFormat) {
					err = Finding{Line: text.line, Problem: WrongShape, Detail: err.Error()}
				}
				m.err = err
			}
			return m
		}
	})
	defer close(p.stop)
	formats, before := make([]string, len(files)), 0
	all, done := int64(0), int64(0)
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			all += info.Size()
		}
	}
	for b := range p.ordered {
		<-b.done
		if b.failed != nil {
			return fmt.Errorf("%s%w", textIf(len(files) > 1, files[b.file]+": "), b.failed)
		}
		for ; before < b.file; before++ {
			r.Files[before].SHA256 = sums[before] // the file was read to its end before the next one was opened
			if info, err := os.Stat(files[before]); err == nil {
				done += info.Size()
			}
		}
		f := &r.Files[b.file]
		for i := range b.out {
			m := &b.out[i]
			m.row.File, m.row.Path = b.file, f.Path
			_, err := inFormat(m.row.Record, m.format, &formats[b.file], m.row.Line, m.err)
			var bad Finding
			r.Records++
			f.Records++
			for _, n := range m.row.Notes {
				n.File = textIf(len(files) > 1, f.Path)
				r.add(o, n)
			}
			switch {
			case errors.As(err, &bad):
				bad.File = textIf(len(files) > 1, f.Path)
				r.add(o, bad)
				continue
			case err != nil:
				return err
			}
			r.Samples++
			if err := take(&m.row, m.out); err != nil {
				return err
			}
		}
		f.Format = formats[b.file]
		if o.OnProgress != nil {
			o.OnProgress(Progress{Path: f.Path, Records: r.Records, Bytes: b.read, Size: b.size,
				AllBytes: done + b.read, AllSize: all})
		}
	}
	for i := range files {
		r.Files[i].SHA256 = sums[i]
	}
	r.formats(formats)
	return nil
}

// textIf is the text, or "" where it does not apply.
func textIf(applies bool, text string) string {
	if applies {
		return text
	}
	return ""
}
