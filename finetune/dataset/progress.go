package dataset

import (
	"fmt"
	"io"
	"strings"
	"time"

	"weft/finetune/data"
	"weft/internal/terminal"
)

// Bar shows on w how far the reading of files is, with its rate and the time left: on a terminal a line that is
// rewritten, elsewhere a line every few seconds. done ends the line.
func Bar(w io.Writer, now func() time.Time) (show func(data.Progress), done func()) {
	onTerminal := terminal.Is(w)
	every := 5 * time.Second
	if onTerminal {
		every = 200 * time.Millisecond
	}
	begin := now()
	last, shown, phase := begin, false, ""
	show = func(p data.Progress) {
		at := now()
		if p.Phase != phase { // what is done now is not what was done before
			begin, phase = at, p.Phase
		}
		if at.Sub(last) < every {
			return
		}
		last = at
		line := barLine(p, at.Sub(begin))
		if onTerminal {
			shown = true
			width := max(20, terminal.Width(w)-1)
			fmt.Fprintf(w, "\r%-*.*s", width, width, line)
			return
		}
		fmt.Fprintln(w, line)
	}
	return show, func() {
		if shown {
			fmt.Fprintln(w)
		}
	}
}

const barWidth = 20

// barLine describes the progress after some time.
func barLine(p data.Progress, took time.Duration) string {
	name := p.Phase
	if name == "" {
		name = "reading"
	}
	rate := float64(p.AllBytes) / max(took.Seconds(), 1e-3)
	line := fmt.Sprintf("%s: %d records, %d MB, %.1f MB/s", name, p.Records, p.AllBytes/1e6, rate/1e6)
	if p.AllSize <= 0 || p.AllBytes > p.AllSize {
		return line // standard input
	}
	done := float64(p.AllBytes) / float64(p.AllSize)
	filled := int(done * barWidth)
	left := time.Duration(float64(p.AllSize-p.AllBytes) / max(rate, 1) * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s%s %3.0f %%, %s left; %s", strings.Repeat("█", filled),
		strings.Repeat("░", barWidth-filled), 100*done, left, line)
}
