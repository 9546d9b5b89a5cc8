package weights

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"weft/internal/bytesize"
)

// WriteText writes d as text: metadata, totals by format and, with tensors, every tensor. Names from the file are
// written as they are: a caller that prints to a terminal escapes them.
func (d *Description) WriteText(w io.Writer, tensors bool) {
	fmt.Fprintf(w, "%s: %s", d.Path, d.Kind)
	if d.Architecture != "" {
		fmt.Fprintf(w, ", architecture %s", d.Architecture)
	}
	fmt.Fprintf(w, "\n%d tensors, %d values, %s\n", len(d.Tensors), d.NumValues, bytesize.Format(d.NumBytes))
	for _, f := range d.Formats {
		fmt.Fprintf(w, "  %-6s %5d tensors %12d values %10s\n", f.Format, f.NumTensors, f.NumValues,
			bytesize.Format(f.NumBytes))
	}
	for _, k := range slices.Sorted(maps.Keys(d.Metadata)) {
		v := d.Metadata[k]
		if e, ok := v.(Elided); ok {
			v = fmt.Sprintf("%v… (%d in all)", e.Head, e.Len)
		}
		fmt.Fprintf(w, "  %-42s %s\n", k, strings.ReplaceAll(fmt.Sprint(v), "\n", `\n`))
	}
	if !tensors {
		fmt.Fprintln(w, "(--tensors lists every tensor)")
		return
	}
	for _, t := range d.Tensors {
		fmt.Fprintf(w, "  %-56s %-6s %-16s %10s  %s\n", t.Name, t.Format, fmt.Sprint(t.Shape),
			bytesize.Format(t.NumBytes),
			t.File)
	}
}
