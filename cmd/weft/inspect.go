package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"weft/internal/chatclient"
	"weft/internal/modelref"
	"weft/runtime/weights"
)

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{
					"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "weft %s (%s, %s/%s)\n", version, runtime.Version(),
				runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func inspectCommand() *cobra.Command {
	var asJSON, tensors bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what a GGUF or safetensors file or a model folder holds",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, _, err := modelref.Resolve(args[0])
			if err != nil {
				return err
			}
			d, err := weights.Describe(path)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), d)
			}
			var text strings.Builder
			printDescription(&text, d, tensors)
			_, err = io.WriteString(cmd.OutOrStdout(), chatclient.Printable(text.String()))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	cmd.Flags().BoolVar(&tensors, "tensors", false, "list every tensor")
	return cmd
}

// printDescription writes d for people: metadata, totals by format and, if asked, every tensor.
func printDescription(w io.Writer, d *weights.Description, tensors bool) {
	fmt.Fprintf(w, "%s: %s", d.Path, d.Kind)
	if d.Architecture != "" {
		fmt.Fprintf(w, ", architecture %s", d.Architecture)
	}
	fmt.Fprintf(w, "\n%d tensors, %d values, %s\n", len(d.Tensors), d.NumValues, formatBytes(d.NumBytes))
	for _, f := range d.Formats {
		fmt.Fprintf(w, "  %-6s %5d tensors %12d values %10s\n", f.Format, f.NumTensors, f.NumValues,
			formatBytes(f.NumBytes))
	}
	for _, k := range slices.Sorted(maps.Keys(d.Metadata)) {
		v := d.Metadata[k]
		if e, ok := v.(weights.Elided); ok {
			v = fmt.Sprintf("%v… (%d in all)", e.Head, e.Len)
		}
		fmt.Fprintf(w, "  %-42s %s\n", k, strings.ReplaceAll(fmt.Sprint(v), "\n", `\n`))
	}
	if !tensors {
		fmt.Fprintln(w, "(--tensors lists every tensor)")
		return
	}
	for _, t := range d.Tensors {
		fmt.Fprintf(w, "  %-56s %-6s %-16s %10s  %s\n", t.Name, t.Format, fmt.Sprint(t.Shape), formatBytes(t.NumBytes),
			t.File)
	}
}
