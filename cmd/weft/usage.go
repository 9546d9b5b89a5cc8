package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weft/server/tenant"
)

func usageCommand() *cobra.Command {
	var f tenantFlags
	var name, from, to, format string
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Print requests and tokens of tenants by day, adapter and key, for billing",
		Long: "Print requests and tokens by day (UTC), tenant, adapter and key. Running servers store their counts " +
			"every second.\nprompt_tokens include cached_tokens, the prompt tokens that were taken from the prefix " +
			"cache. An empty adapter is the base model; (combination) is a request with several adapters.",
		Example: "  weft usage\n  weft usage --tenant acme --from 2026-01-01 --to 2026-01-31 > january.csv",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "csv" && format != "json" {
				return usagef("--format %q: write csv or json", format)
			}
			q := tenant.UsageQuery{Tenant: name}
			var err error
			if q.From, err = tenant.ParseDay(from); err != nil {
				return usagef("--from: %v", err)
			}
			if q.To, err = tenant.ParseDay(to); err != nil {
				return usagef("--to: %v", err)
			}
			if err := f.stores.MustExist(); err != nil {
				return err
			}
			return f.with(cmd.Context(), func(s *tenant.Store) error {
				rows, err := s.Usage(cmd.Context(), q)
				if err != nil {
					return err
				}
				if len(rows) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "weft: no usage is recorded for these days and this tenant")
				}
				if format == "json" {
					return printJSON(cmd.OutOrStdout(), map[string]any{"usage": rows})
				}
				if err := tenant.WriteUsageCSV(cmd.OutOrStdout(), rows); err != nil {
					return fmt.Errorf("write usage: %w", err)
				}
				return nil
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&name, "tenant", "", "print only the usage of this `tenant`")
	fs.StringVar(&from, "from", "", "first `day`, e.g. 2026-01-01 (default: the first of this month)")
	fs.StringVar(&to, "to", "", "last `day` (default: today)")
	fs.StringVar(&format, "format", "csv", "output `format`: csv or json")
	addStoreFlags(fs, &f.stores, "data")
	return cmd
}
