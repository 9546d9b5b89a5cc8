package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Problem is the kind of a record's problem; it is also the key of Report.Counts.
type Problem string

// The problems. All but the last four make a record bad; Long and Unanswered have their own policies.
const (
	BrokenJSON   Problem = "broken JSON"
	InvalidUTF8  Problem = "invalid UTF-8"
	TooLarge     Problem = "record too large"
	WrongShape   Problem = "unknown fields or types"
	UnknownRole  Problem = "unknown role"
	NoAnswer     Problem = "no assistant turn"
	EmptyAnswer  Problem = "empty answer"
	NotRendered  Problem = "the chat template refuses it"
	NoTargets    Problem = "no target left"
	Long         Problem = "longer than the limit"     // truncated, skipped or refused as Options.OnLong says
	Placeholder  Problem = "placeholder without value" // {{word}} stays in the text: a note
	ToolsIgnored Problem = "tools unknown to template" // the template does not mention tools: a note
	// the template closes an answer with no token that stops the generation: a note
	Endless Problem = "answer without end of turn"
)

// note reports whether a problem is reported but does not make a record bad.
func (p Problem) note() bool { return p == Placeholder || p == ToolsIgnored || p == Endless }

// Finding is one problem at one place; as an error it says that a record cannot be used.
type Finding struct {
	Line    int     `json:"line"`
	Problem Problem `json:"problem"`
	Detail  string  `json:"detail,omitempty"`
}

func (f Finding) Error() string {
	if f.Detail == "" {
		return fmt.Sprintf("line %d: %s", f.Line, f.Problem)
	}
	return fmt.Sprintf("line %d: %s: %s", f.Line, f.Problem, f.Detail)
}

// Report summarizes the reading of a file.
type Report struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"` // of the file
	// Digest is the SHA-256 of the encoded samples: each one's length, ids and labels as little-endian int32.
	Digest   string          `json:"digest"`
	Format   string          `json:"format"`
	Records  int             `json:"records"`
	Samples  int             `json:"samples"`
	Tokens   int64           `json:"tokens"`
	Targets  int64           `json:"targets"`
	Longest  int             `json:"longest"` // tokens of the longest sample
	Counts   map[Problem]int `json:"problems,omitempty"`
	Findings []Finding       `json:"findings,omitempty"` // the first maxFindings
}

const (
	maxFindings = 100 // kept
	maxInError  = 10  // in an error
)

func (r *Report) add(found ...Finding) {
	for _, f := range found {
		r.Counts[f.Problem]++
		if len(r.Findings) < maxFindings {
			r.Findings = append(r.Findings, f)
		}
	}
}

// merge adds the findings of another report.
func (r *Report) merge(other *Report) {
	for p, n := range other.Counts {
		r.Counts[p] += n
	}
	r.Findings = append(r.Findings, other.Findings[:min(len(other.Findings), maxFindings-len(r.Findings))]...)
}

// verdict applies the policies to the findings.
func (r *Report) verdict(o *Options, samples int) error {
	bad := 0
	for p, n := range r.Counts {
		if !p.note() && (p != Long || o.OnLong == Refuse) && (o.OnBad == Refuse || p == Long) {
			bad += n
		}
	}
	switch {
	case bad > 0:
		return fmt.Errorf("%w: %d of %d records (%s); %s:%s", ErrBad, bad, r.Records, r.counted(), r.advice(o),
			r.listed())
	case samples == 0:
		return fmt.Errorf("%w: none of %d records can be trained on%s%s", ErrBad, r.Records,
			prefixed(": ", r.counted()), r.listed())
	}
	return nil
}

// advice returns a hint for a refused file; the settings are those of package train.
func (r *Report) advice(o *Options) string {
	var out []string
	bad := 0
	for p, n := range r.Counts {
		if !p.note() && p != Long {
			bad += n
		}
	}
	if o.OnBad == Refuse && bad > 0 {
		out = append(out, "fix them, or leave them out with bad_samples "+Skip)
	}
	if o.OnLong == Refuse && r.Counts[Long] > 0 {
		out = append(out,
			fmt.Sprintf("raise max_length, or set overlong to %s or %s for what is too long", Truncate, Skip))
	}
	return strings.Join(out, "; ")
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func (r *Report) counted() string {
	var parts []string
	for _, p := range slices.Sorted(maps.Keys(r.Counts)) {
		parts = append(parts, fmt.Sprintf("%d × %s", r.Counts[p], p))
	}
	return strings.Join(parts, ", ")
}

func (r *Report) listed() string {
	var b strings.Builder
	for i, f := range r.Findings {
		if i == maxInError {
			b.WriteString("\n  …")
			break
		}
		b.WriteString("\n  " + f.Error())
	}
	return b.String()
}

// String is the report in a few lines.
func (r *Report) String() string {
	return fmt.Sprintf("%s: %s, %d records, %d samples, %d tokens, %d trained tokens, longest %d%s%s", r.Path, r.Format,
		r.Records, r.Samples, r.Tokens, r.Targets, r.Longest,
		prefixed("; ", r.counted()), r.listed())
}

func (d *Dataset) summarize() {
	r, h := &d.Report, sha256.New()
	r.Samples = len(d.Samples)
	var buf []byte
	for i := range d.Samples {
		s := &d.Samples[i]
		r.Tokens += int64(len(s.IDs))
		r.Targets += int64(s.Targets())
		r.Longest = max(r.Longest, len(s.IDs))
		buf = s.appendTo(buf[:0])
		h.Write(buf)
	}
	r.Digest = hex.EncodeToString(h.Sum(nil))
}

// appendTo writes the sample as Digest hashes it.
func (s *Sample) appendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.IDs)))
	for _, list := range [][]int32{s.IDs, s.Labels} {
		for _, v := range list {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
	}
	return b
}
