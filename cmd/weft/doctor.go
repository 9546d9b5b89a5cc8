package main

import (
	"errors"

	"github.com/spf13/cobra"

	"weft/internal/limits"
	"weft/internal/node/doctor"
)

func doctorCommand() *cobra.Command {
	var asJSON bool
	var url string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine, or (--url) whether a server works",
		Example: "  weft doctor\n" +
			"  weft doctor --url http://127.0.0.1:8000",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url != "" {
				err := doctor.CheckServer(cmd.Context(), url)
				if errors.Is(err, doctor.ErrURL) {
					return usagef("--url: %v", err)
				}
				if err == nil && asJSON {
					return printJSON(cmd.OutOrStdout(), []doctor.Check{{What: "server", Found: url + " works",
						OK: true}})
				}
				return err
			}
			checks := doctor.Examine(version, limits.Own())
			if asJSON {
				return printJSON(cmd.OutOrStdout(), checks)
			}
			doctor.WriteText(cmd.OutOrStdout(), checks)
			return nil
		},
	}
	addJSONFlag(cmd.Flags(), &asJSON)
	cmd.Flags().StringVar(&url, "url", "",
		"check the server at this `URL` instead; the exit status is 0 if it works, also while it loads or drains")
	return cmd
}
