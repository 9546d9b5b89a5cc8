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

// The problems. All but the last five make a record bad; Long has a policy of its own.
const (
	BrokenJSON   Problem = "broken JSON"
	InvalidUTF8  Problem = "invalid UTF-8"
	TooLarge     Problem = "record too large"
	WrongShape   Problem = "unknown fields or types"
	UnknownRole  Problem = "unknown role"
	NoAnswer     Problem = "no assistant turn"
	EmptyAnswer  Problem = "empty answer"
	NotRendered  Problem = "the chat template refuses it"
	Unrendered   Problem = "the chat template leaves content out" // so that the model would not learn it
	NoTargets    Problem = "no target left"
	NoEmbedding  Problem = "token without embedding"   // its id is beyond the rows of the embedding
	Long         Problem = "longer than the limit"     // truncated, skipped or refused as Options.OnLong says
	Placeholder  Problem = "placeholder without value" // {{word}} stays in the text: a note
	ToolsIgnored Problem = "tools unknown to template" // the template does not show the tools: a note
	Changed      Problem = "text changed by template"  // more than white space around it: a note
	Unread       Problem = "fields of messages unread" // the template does not use them: a note
	// the template closes an answer with no token that stops the generation: a note
	Endless Problem = "answer without end of turn"
)

// note reports whether a problem is reported but does not make a record bad.
func (p Problem) note() bool {
	return slices.Contains([]Problem{Placeholder, ToolsIgnored, Changed, Unread, Endless}, p)
}

// Finding is one problem at one place; as an error it says that a record cannot be used.
type Finding struct {
	File    string  `json:"file,omitempty"` // where several are read
	Line    int     `json:"line"`
	Problem Problem `json:"problem"`
	Detail  string  `json:"detail,omitempty"`
}

func (f Finding) Error() string {
	return fmt.Sprintf("%sline %d: %s%s", suffixed(f.File, ": "), f.Line, f.Problem, prefixed(": ", f.Detail))
}

// Report summarizes the reading of a file.
type Report struct {
	Path   string `json:"path"`   // the paths given, joined by commas
	SHA256 string `json:"sha256"` // of the file, or of all files one after another
	// Files are those that were read, in their order, where they are not the path itself.
	Files []File `json:"files,omitempty"`
	// LeftOut counts files of folders whose names do not end as those of samples do.
	LeftOut int `json:"files_left_out,omitempty"`
	// Digest is the SHA-256 of the encoded samples: each one's length, ids and labels as little-endian int32.
	Digest   string          `json:"digest"`
	Format   string          `json:"format"`
	Records  int             `json:"records"`
	Samples  int             `json:"samples"`
	Tokens   int64           `json:"tokens"`
	Targets  int64           `json:"targets"`
	Longest  int             `json:"longest"` // tokens of the longest sample
	Counts   map[Problem]int `json:"problems,omitempty"`
	Findings []Finding       `json:"findings,omitempty"` // the first maxFindings, those that a refusal is about first

	found [3][]Finding // by severity, at most maxFindings each
}

// File is one of several files that were read.
type File struct {
	Path    string `json:"path"`
	Format  string `json:"format"`
	Records int    `json:"records"`
	SHA256  string `json:"sha256,omitempty"` // of the file as stored; Each knows it
}

// severity orders problems: 0 refuse the file, 1 leave the record out, 2 are only told.
func (o *Options) severity(p Problem) int {
	policy := o.OnBad
	switch {
	case p.note():
		return 2
	case p == Long:
		policy = o.OnLong
	}
	return slices.Index([]string{Refuse, Skip, Truncate}, policy)
}

const (
	maxFindings = 100 // kept
	maxInError  = 10  // in an error
)

func (r *Report) add(o *Options, found ...Finding) {
	for _, f := range found {
		r.Counts[f.Problem]++
		if list := &r.found[o.severity(f.Problem)]; len(*list) < maxFindings {
			*list = append(*list, f)
		}
	}
}

// formats sets the format to the files' own, each once.
func (r *Report) formats(ofFiles []string) {
	slices.Sort(ofFiles)
	r.Format = strings.Join(slices.DeleteFunc(slices.Compact(ofFiles), func(f string) bool { return f == "" }), ", ")
}

// verdict applies the policies to the findings.
func (r *Report) verdict(o *Options, samples int) error {
	r.Findings = slices.Concat(r.found[0], r.found[1], r.found[2])
	r.Findings = r.Findings[:min(len(r.Findings), maxFindings)]
	bad := 0
	for p, n := range r.Counts {
		if o.severity(p) == 0 {
			bad += n
		}
	}
	refused := func(p Problem) bool { return o.severity(p) == 0 }
	others := func(p Problem) bool { return o.severity(p) != 0 }
	switch {
	case bad > 0:
		return fmt.Errorf("%w: %d of %d records (%s); %s:%s%s", ErrBad, bad, r.Records, r.counted(refused), r.advice(o),
			listed(r.found[0], bad), prefixed("\n  besides, not refused: ", r.counted(others)))
	case samples == 0:
		return fmt.Errorf("%w: none of %d records can be trained on%s%s", ErrBad, r.Records,
			prefixed(": ", r.counted(others)), listed(r.Findings, len(r.Findings)))
	}
	return nil
}

// advice returns a hint for a refused file; the settings are those of package train.
func (r *Report) advice(o *Options) string {
	var out []string
	if o.OnBad == Refuse && slices.ContainsFunc(slices.Collect(maps.Keys(r.Counts)),
		func(p Problem) bool { return p != Long && o.severity(p) == 0 }) {
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

func suffixed(s, suffix string) string {
	if s == "" {
		return ""
	}
	return s + suffix
}

// counted lists the counts of the problems that of chooses.
func (r *Report) counted(of func(Problem) bool) string {
	var parts []string
	for _, p := range slices.Sorted(maps.Keys(r.Counts)) {
		if of(p) {
			parts = append(parts, fmt.Sprintf("%d × %s", r.Counts[p], p))
		}
	}
	return strings.Join(parts, ", ")
}

// listed returns the first of total findings, a line each.
func listed(found []Finding, total int) string {
	var b strings.Builder
	shown := found[:min(len(found), maxInError)]
	for _, f := range shown {
		b.WriteString("\n  " + f.Error())
	}
	if more := total - len(shown); more > 0 {
		fmt.Fprintf(&b, "\n  … and %d more", more)
	}
	return b.String()
}

// String is the report in a few lines.
func (r *Report) String() string {
	total, files := 0, ""
	for _, n := range r.Counts {
		total += n
	}
	if n := len(r.Files); n > 0 {
		files = fmt.Sprintf(" (%d files)", n)
	}
	if r.LeftOut > 0 {
		files += fmt.Sprintf(" (%d files with other endings than %s left out)", r.LeftOut, strings.Join(endings, ", "))
	}
	return fmt.Sprintf("%s%s: %s, %d records, %d samples, %d tokens, %d trained tokens, longest %d%s%s", r.Path, files,
		r.Format, r.Records, r.Samples, r.Tokens, r.Targets, r.Longest,
		prefixed("; ", r.counted(func(Problem) bool { return true })), listed(r.Findings, total))
}

func (d *Dataset) summarize() {
	h := sha256.New()
	var buf []byte
	for i := range d.Samples {
		buf = d.Samples[i].appendTo(buf[:0])
		h.Write(buf)
	}
	d.Report.Digest = hex.EncodeToString(h.Sum(nil))
	d.Count()
}

// Count makes the report's numbers of samples and tokens those of Samples, for sets of which some were taken away.
func (d *Dataset) Count() {
	r := &d.Report
	r.Samples, r.Tokens, r.Targets, r.Longest = len(d.Samples), 0, 0, 0
	for i := range d.Samples {
		s := &d.Samples[i]
		r.Tokens += int64(len(s.IDs))
		r.Targets += int64(s.Targets())
		r.Longest = max(r.Longest, len(s.IDs))
	}
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
