package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/internal/chatclient"
	"weft/internal/node/doctor"
)

func doctorCommand() *cobra.Command {
	var asJSON bool
	var url string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine offers and what weft will use, or (--url) whether a server is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url != "" {
				err := checkServer(cmd.Context(), url)
				if err == nil && asJSON {
					return printJSON(cmd.OutOrStdout(), []doctor.Check{{What: "server", Found: url + " is ready", OK: true}})
				}
				return err
			}
			checks := doctor.Examine(version)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), checks)
			}
			for _, c := range checks {
				mark := "ok  "
				if !c.OK {
					mark = "note"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %-16s %s\n", mark, c.What, c.Found)
				if c.Advice != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "      %-16s → %s\n", "", c.Advice)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	cmd.Flags().StringVar(&url, "url", "", "ask this server instead: exit status 0 if it is ready")
	return cmd
}

// checkServer asks a server's /ready, as a container's health check does.
func checkServer(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		strings.TrimSuffix(strings.TrimSuffix(url, "/"), "/v1")+"/ready", nil)
	if err != nil {
		return usagef("--url: %v", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return chatclient.ServerError(resp)
	}
	return nil
}
