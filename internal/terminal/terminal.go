// Package terminal says whether a program reads from or writes to a terminal.
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
