package main

import (
	"fmt"
	"io"
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
		Short: "Describe an adapter before it is added: ranks, target modules, size, whether it fits a model, what " +
			"to fix",
		Long: "Describe an adapter, a PEFT folder or a LoRA in GGUF, before it is added. With --model it is checked " +
			"against that model as a server does it, without --model only by itself. The exit status is 1 if it is " +
			"refused.",
		Example: "  weft adapters inspect runs/support/adapter --model SmolLM2-135M-Instruct",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := inspectAdapter(args[0], ref)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				var text strings.Builder
				r.WriteText(&text)
				_, err = io.WriteString(cmd.OutOrStdout(), chatclient.Printable(text.String()))
			}
			if err == nil && r.Verdict == peft.Refused {
				err = fmt.Errorf("%s: %w, reasons: %d", args[0], peft.ErrRefused, len(r.Reasons)+r.More)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&ref, "model", "",
		"check that the adapter fits this "+modelHelp)
	addJSONFlag(cmd.Flags(), &asJSON)
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
