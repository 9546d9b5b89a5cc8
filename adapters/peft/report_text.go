package peft

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"weft/internal/bytesize"
)

// WriteText writes r as text, the verdict last. Names from the adapter are written as they are: a caller that prints to
// a terminal escapes them.
func (r *Report) WriteText(w io.Writer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	kind := "LoRA"
	if r.DoRA {
		kind = "DoRA"
	}
	if r.RSLoRA {
		kind += ", rank-stabilized"
	}
	if r.Init != "" {
		kind += ", initialized by " + r.Init
	}
	row("adapter", "%s (%s, %s)", r.Path, r.Format, kind)
	if r.Digest != "" {
		row("digest", "%s", r.Digest)
	}
	if r.Base != "" {
		row("made for", "%s", r.Base)
	}
	row("rank", "%s, alpha %s, scale %s", joined(r.Ranks), joined(r.Alphas), joined(r.Scales))
	row("targets", "%s in %s", orNone(strings.Join(r.Targets, ", ")), layerText(r.Layers))
	if len(r.Saved) > 0 {
		row("replaces", "%s", strings.Join(r.Saved, ", "))
	}
	if r.Bias != BiasNone {
		row("bias", "%s", r.Bias)
	}
	row("size", "%d parameters in %d tensors (%s), %s on a device", r.Params, r.Tensors,
		orNone(strings.Join(r.Types, ", ")), bytesize.Format(r.Bytes))
	for _, text := range r.Warnings {
		row("warning", "%s", text)
	}
	switch r.Verdict {
	case Fits:
		row("verdict", "fits %s", r.Model)
	case Sound:
		row("verdict", "sound by itself; --model REF checks whether it fits a model")
	default:
		row("verdict", "refused")
	}
	for _, reason := range r.Reasons {
		fmt.Fprintf(w, "  - %s\n", reason.What)
		if reason.Fix != "" {
			fmt.Fprintf(w, "    fix: %s\n", reason.Fix)
		}
	}
	if r.More > 0 {
		fmt.Fprintf(w, "  - and %d more\n", r.More)
	}
}

func joined[T int | float64](list []T) string {
	var out []string
	for _, v := range list {
		out = append(out, strconv.FormatFloat(float64(v), 'g', 6, 64))
	}
	return orNone(strings.Join(out, ", "))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// layerText writes ascending layers as ranges: "layers 0-3, 7".
func layerText(layers []int) string {
	var out []string
	for i := 0; i < len(layers); {
		j := i
		for j+1 < len(layers) && layers[j+1] == layers[j]+1 {
			j++
		}
		text := strconv.Itoa(layers[i])
		if j > i {
			text += "-" + strconv.Itoa(layers[j])
		}
		out = append(out, text)
		i = j + 1
	}
	return "layers " + orNone(strings.Join(out, ", "))
}
