package data

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/runtime/tokenizer"
)

// encoded is the result for one record.
type encoded struct {
	sample   Sample
	findings []Finding
	bad      bool
	format   string // that the record shows
}

// NewEncoder returns what encodes records, for one goroutine: the sample, and the findings about it; ok is false where
// it cannot be trained on.
func NewEncoder(m Model, o Options) (func(*Record) (s Sample, found []Finding, ok bool), error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	e := &encoder{m: m, o: &o, spell: newSpeller(m.Tokenizer), shapes: map[string][]bool{}}
	return func(rec *Record) (Sample, []Finding, bool) {
		out := e.encode(rec)
		return out.sample, out.findings, !out.bad
	}, nil
}

// encoder encodes records, for one goroutine.
type encoder struct {
	m     Model
	o     *Options
	spell *speller
	// shapes are those of rendering.lost.
	shapes map[string][]bool
}

// record parses and encodes one record.
func (c *encoder) record(r raw) encoded {
	rec, format, err := r.parse(c.o)
	var bad Finding
	if errors.As(err, &bad) {
		return encoded{findings: []Finding{bad}, bad: true, format: format}
	}
	out := c.encode(rec)
	out.findings = append(rec.Notes, out.findings...)
	out.format = format
	return out
}

func (c *encoder) encode(rec *Record) (e encoded) {
	m, o := c.m, c.o
	e.sample.Line = rec.Line
	find := func(p Problem, detail string) {
		e.findings = append(e.findings, Finding{Line: rec.Line, Problem: p, Detail: detail})
	}
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
		m.Template = m.Template.For(rec.Tools != nil)
		r, err := newRendering(m, rec, o.Now)
		var ended bool
		if err == nil {
			e.sample.IDs, e.sample.Labels, ended, err = r.tokens(c.spell, rec, o)
		}
		if err != nil {
			find(NotRendered, err.Error())
			e.bad = true
			return e
		}
		if !ended {
			find(Endless, "")
		}
		lost := r.lost(rec, c.shapes)
		if lost.tools {
			find(ToolsIgnored, "")
		}
		if len(lost.changed) > 0 {
			find(Changed, listOf(lost.changed))
		}
		if len(lost.fields) > 0 {
			find(Unread, listOf(lost.fields))
		}
		if len(lost.bad) > 0 {
			find(Unrendered, listOf(lost.bad))
			e.bad = true
			return e
		}
	}
	if i := slices.IndexFunc(e.sample.IDs, func(id int32) bool { return o.Vocab > 0 && int(id) >= o.Vocab }); i >= 0 {
		id := e.sample.IDs[i]
		token, _ := m.Tokenizer.Token(id)
		find(NoEmbedding, fmt.Sprintf("token %q has the id %d, the model has embeddings for the ids below %d", token,
			id,
			o.Vocab))
		e.bad = true
		return e
	}
	limit := o.MaxTokens
	if o.Positions > 0 {
		limit = min(limit, o.Positions)
	}
	if n := len(e.sample.IDs); n > limit {
		detail := fmt.Sprintf("%d tokens, more than %d", n, limit)
		if limit < o.MaxTokens {
			detail = fmt.Sprintf("%d tokens, more than the %d positions of the model", n, limit)
		}
		find(Long, detail)
		if o.OnLong != Truncate {
			e.bad = true
			return e
		}
		e.sample.IDs, e.sample.Labels = e.sample.IDs[:limit], e.sample.Labels[:limit]
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

// listOf lists the first of the names.
func listOf(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// tokens renders the conversation, encodes it as one text as the server does, and sets the labels.
func (r *rendering) tokens(spell *speller, rec *Record, o *Options) (ids, labels []int32, ended bool, err error) {
	m := r.m
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
	ids, ranges := encodeText(spell, r.full, regions)
	labels, ended = labelsOf(m.Tokenizer, ids, ranges, regions, r.full)
	return ids, labels, ended, nil
}
