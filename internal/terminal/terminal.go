// Package terminal says whether a program reads from or writes to a terminal, and how wide that is.
package terminal

import (
	"os"

	"github.com/mattn/go-isatty"
)

// Is reports whether v, a reader or writer, is a file that is a terminal.
func Is(v any) bool {
	f, ok := v.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// Width returns the columns of the terminal that v, a writer, is; 0: unknown.
func Width(v any) int {
	if f, ok := v.(*os.File); ok && Is(f) {
		return width(f)
	}
	return 0
}
