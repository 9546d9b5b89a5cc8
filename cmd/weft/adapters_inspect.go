package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/adapters"
	"weft/adapters/peft"
	"weft/internal/chatclient"
	"weft/internal/modelref"
)

func adaptersInspectCommand() *cobra.Command {
	var ref string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "inspect DIR",
		Short: "Explain an adapter before anybody uploads it: ranks, targets, bytes, whether it fits a model, and " +
			"what to fix",
		Long: "Explain an adapter, a PEFT folder or a LoRA in GGUF, before anybody uploads it. With --model it is " +
			"checked against that model as a server\n" +
			"would do it; without, only by itself. The exit status is 1 where it is refused.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := inspectAdapter(args[0], ref)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				var text strings.Builder
				printReport(&text, r)
				_, err = io.WriteString(cmd.OutOrStdout(), chatclient.Printable(text.String()))
			}
			if err == nil && r.Verdict == peft.Refused {
				err = fmt.Errorf("%s: %w, reasons: %d", args[0], peft.ErrRefused, len(r.Reasons)+r.More)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&ref, "model", "",
		"Hugging Face folder, .gguf file or a `name` in the model cache that the adapter shall fit")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func inspectAdapter(dir, ref string) (*peft.Report, error) {
	r, err := inspectFiles(dir, ref)
	if err != nil {
		return nil, err
	}
	if err := adapters.CheckTemplate(dir); err != nil {
		r.Verdict = peft.Refused
		r.Reasons = append(r.Reasons, peft.Reason{What: err.Error(), Fix: "correct or remove the chat template"})
	}
	return r, nil
}

func inspectFiles(dir, ref string) (*peft.Report, error) {
	if ref == "" {
		return peft.Inspect(dir, nil)
	}
	path, name, err := modelref.Resolve(ref)
	if err != nil {
		return nil, err
	}
	base, err := peft.OpenModel(path, name)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	return peft.Inspect(dir, base)
}

// printReport writes r for people, the verdict last.
func printReport(w io.Writer, r *peft.Report) {
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
	if r.Bias != peft.BiasNone {
		row("bias", "%s", r.Bias)
	}
	row("size", "%d parameters in %d tensors (%s), %s on a device", r.Params, r.Tensors,
		orNone(strings.Join(r.Types, ", ")), formatBytes(r.Bytes))
	for _, text := range r.Warnings {
		row("warning", "%s", text)
	}
	switch r.Verdict {
	case peft.Fits:
		row("verdict", "fits %s", r.Model)
	case peft.Sound:
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
