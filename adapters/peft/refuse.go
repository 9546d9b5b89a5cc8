package peft

import (
	"errors"
	"fmt"
	"strings"
)

// ErrRefused is wrapped by every error that refuses an adapter: because of its files, its configuration, or the base
// model.
var ErrRefused = errors.New("adapter refused")

// maxReasons bounds how many reasons a refusal lists.
const maxReasons = 50

// Reason says why an adapter is refused, and what to do about it.
type Reason struct {
	What string `json:"what"`
	Fix  string `json:"fix,omitempty"`
}

// RefusedError is a refusal with all of its reasons, at most maxReasons of them; More counts the rest. It wraps
// ErrRefused.
type RefusedError struct {
	Path    string
	Reasons []Reason
	More    int
}

// Error lists the reasons; advice that is the same for several in a row is given once.
func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v: ", e.Path, ErrRefused)
	for i, r := range e.Reasons {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(r.What)
		if last := i == len(e.Reasons)-1; r.Fix != "" && (last || e.Reasons[i+1].Fix != r.Fix) {
			fmt.Fprintf(&b, " (%s)", r.Fix)
		}
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "; and %d more", e.More)
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Unwrap() error { return ErrRefused }

// reasons gathers what is wrong; the zero value is empty.
type reasons struct {
	list []Reason
	more int
}

func (r *reasons) add(fix, format string, args ...any) {
	if len(r.list) == maxReasons {
		r.more++
		return
	}
	r.list = append(r.list, Reason{What: fmt.Sprintf(format, args...), Fix: fix})
}

// err returns nil where nothing is wrong.
func (r *reasons) err(path string) error {
	if len(r.list) == 0 {
		return nil
	}
	return &RefusedError{Path: path, Reasons: r.list, More: r.more}
}

// listed joins names for a message, at most ten of them.
func listed(names []string) string {
	const most = 10
	if n := len(names); n > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}
