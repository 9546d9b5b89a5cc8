package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"weft/internal/chatclient"
	"weft/internal/modelref"
	"weft/runtime/weights"
)

func versionText() string {
	return fmt.Sprintf("weft %s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  weft version --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{
					"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionText())
			return err
		},
	}
	addJSONFlag(cmd.Flags(), &asJSON)
	return cmd
}

func inspectCommand() *cobra.Command {
	var asJSON, tensors bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show the contents of a GGUF file, a safetensors file or a model folder",
		Example: "  weft inspect model.gguf --tensors\n" +
			"  weft inspect SmolLM2-135M-Instruct --json",
		Args: cobra.ExactArgs(1),
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
			d.WriteText(&text, tensors)
			_, err = io.WriteString(cmd.OutOrStdout(), chatclient.Printable(text.String()))
			return err
		},
	}
	addJSONFlag(cmd.Flags(), &asJSON)
	cmd.Flags().BoolVar(&tensors, "tensors", false, "list every tensor")
	return cmd
}
