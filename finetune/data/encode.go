package data

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"weft/runtime/tokenizer"
)

// encoded is the result for one record.
type encoded struct {
	sample   Sample
	findings []Finding
	bad      bool
}

// encode appends the samples of the records, in their order, encoded on all cores; found receives their problems.
func (d *Dataset) encode(m Model, o *Options, records []*Record, found *Report) {
	out := make([]encoded, len(records))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(records)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(records); i = int(next.Add(1)) - 1 {
				out[i] = encodeRecord(m, o, records[i])
			}
		})
	}
	wg.Wait()
	for i := range out {
		found.add(out[i].findings...)
		if !out[i].bad {
			d.Samples = append(d.Samples, out[i].sample)
		}
	}
}

func encodeRecord(m Model, o *Options, rec *Record) (e encoded) {
	e.sample.Line = rec.Line
	find := func(p Problem, detail string) { e.findings = append(e.findings, Finding{rec.Line, p, detail}) }
	switch rec.kind {
	case plain:
		e.sample.IDs = withEnd(m.Tokenizer, m.Tokenizer.Encode(rec.Text, tokenizer.EncodeOptions{AddSpecial: true}))
		e.sample.Labels = slices.Clone(e.sample.IDs)
	case split:
		e.sample.IDs, e.sample.Labels = splitTokens(m.Tokenizer, rec, o.Loss)
	default:
		if m.Template == nil {
			find(NotRendered, "the model has no chat template")
			e.bad = true
			return e
		}
		var ended bool
		var err error
		if e.sample.IDs, e.sample.Labels, ended, err = chatTokens(m, rec, o); err != nil {
			find(NotRendered, err.Error())
			e.bad = true
			return e
		}
		if !ended {
			find(Endless, "")
		}
		if rec.Tools != nil && !m.Template.UsesTools() {
			find(ToolsIgnored, "")
		}
	}
	if n := len(e.sample.IDs); n > o.MaxTokens {
		find(Long, fmt.Sprintf("%d tokens, more than %d", n, o.MaxTokens))
		if o.OnLong != Truncate {
			e.bad = true
			return e
		}
		e.sample.IDs, e.sample.Labels = e.sample.IDs[:o.MaxTokens:o.MaxTokens],
			e.sample.Labels[:o.MaxTokens:o.MaxTokens]
	}
	if e.sample.Targets() == 0 {
		find(NoTargets, "")
		e.bad = true
	}
	return e
}

// withEnd appends the end of text if the tokenizer has not.
func withEnd(tok *tokenizer.Tokenizer, ids []int32) []int32 {
	if eos, ok := tok.EOS(); ok && (len(ids) == 0 || ids[len(ids)-1] != eos) {
		return append(ids, eos)
	}
	return ids
}

// splitTokens encodes prompt and completion separately, so that no token crosses the border, and ends the text.
func splitTokens(tok *tokenizer.Tokenizer, rec *Record, loss string) (ids, labels []int32) {
	ids = tok.Encode(rec.Prompt, tokenizer.EncodeOptions{AddSpecial: true})
	if eos, ok := tok.EOS(); ok && len(ids) > 0 && ids[len(ids)-1] == eos {
		ids = ids[:len(ids)-1] // a tokenizer that ends every text itself
	}
	prompt := len(ids)
	ids = withEnd(tok, append(ids, tok.Encode(rec.Text, tokenizer.EncodeOptions{})...))
	labels = slices.Clone(ids)
	for i := 0; i < prompt && loss != OnAll; i++ {
		labels[i] = Ignore
	}
	return ids, labels
}

// chatTokens renders a conversation, encodes it as one text as the server does, and sets the labels.
func chatTokens(m Model, rec *Record, o *Options) (ids, labels []int32, ended bool, err error) {
	r, err := newRendering(m, rec, o.Now)
	if err != nil {
		return nil, nil, false, err
	}
	if o.Loss == OnAll {
		if r.full, err = r.text(len(r.messages), false); err != nil {
			return nil, nil, false, err
		}
		ids = m.Tokenizer.Encode(r.full, tokenizer.EncodeOptions{})
		return ids, slices.Clone(ids), true, nil
	}
	var wanted []int
	for i, msg := range rec.Messages {
		if msg.Train {
			wanted = append(wanted, i)
		}
	}
	if o.Loss == OnCompletion && len(wanted) > 1 {
		wanted = wanted[len(wanted)-1:]
	}
	regions, err := r.regions(wanted)
	if err != nil {
		return nil, nil, false, err
	}
	ids, ranges := encodeText(m.Tokenizer, r.full, regions)
	labels, ended = labelsOf(m.Tokenizer, ids, ranges, regions, r.full)
	return ids, labels, ended, nil
}
