package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/internal/settings"
)

// resolve fills the flags of a command; what is wrong with the environment or the file is a mistake of the caller.
func resolve(flags *pflag.FlagSet, lookup func(string) (string, bool)) ([]settings.Setting, error) {
	out, err := settings.Resolve(flags, lookup, knownKeys)
	if err != nil {
		return nil, usageError{err}
	}
	return out, nil
}

// knownKeys lists the flags of every command.
func knownKeys() map[string]bool {
	keys := map[string]bool{}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return // of other programs
			}
			for _, name := range settings.Names(f) {
				keys[name] = true
			}
		})
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(rootCommand())
	return keys
}

func configCommand() *cobra.Command {
	var asJSON bool
	var inForce []settings.Setting
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the settings that `weft serve` would use and the source of each",
		Example: "  weft config --config weft.yaml\n" +
			"  WEFT_MAX_SEQS=8 weft config --json",
		Args: cobra.NoArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) (err error) {
			inForce, err = resolve(cmd.Flags(), os.LookupEnv)
			inForce = slices.DeleteFunc(inForce,
				func(s settings.Setting) bool { return s.Key == "json" }) // this command's own
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(cmd.OutOrStdout(), inForce)
			}
			for _, s := range inForce {
				fmt.Fprintf(cmd.OutOrStdout(), "%-22s %-28q %s\n", s.Key, s.Value, s.Source)
			}
			return nil
		},
	}
	addJSONFlag(cmd.Flags(), &asJSON)
	cmd.Flags().AddFlagSet(serveCommand().Flags())
	return cmd
}
