// Command weft serves a language model with an OpenAI-compatible API. See `weft help`.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"weft/internal/chatclient"
	"weft/internal/limits"
	"weft/internal/settings"
)

// version is the release that this tree becomes, or is. A build at or after a git tag says more: -ldflags -X
// main.version=….
var version = "0.1.0"

// usageError is a mistake in how a command was called: exit status 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	limits.Own().SetProcs()
	os.Exit(exitStatus(rootCommand().ExecuteContext(context.Background())))
}

// maxMessage bounds an error on the terminal: a hostile file's names may be long.
const maxMessage = 8 << 10

// exitStatus prints the error, if any, and returns 0, 1 (failed) or 2 (usage).
func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	text := chatclient.Printable(err.Error())
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	fmt.Fprintln(os.Stderr, "weft:", text)
	var u usageError
	if errors.As(err, &u) {
		fmt.Fprintln(os.Stderr, "weft: see `weft help`")
		return 2
	}
	return 1
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "weft",
		Short:         "Serve and finetune a language model with LoRA adapters, behind an OpenAI-compatible API",
		Example:       "  weft serve --model SmolLM2-135M-Instruct\n  weft chat --url http://127.0.0.1:8000",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
			return noSuchCommand(cmd, words) // its flags are not known either
		}
		if name, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok {
			hint := settings.Suggestion(name, cmd.Flags())
			if name == "json" && cmd.Flags().Lookup("format") != nil {
				hint = ": write --format json"
			}
			err = fmt.Errorf("%w%s", err, hint)
		}
		return usageError{settings.Plain(err)}
	})
	add := func(title string, commands ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: title, Title: title})
		for _, c := range commands {
			c.GroupID = title
		}
		root.AddCommand(commands...)
	}
	add("Serving", serveCommand(), chatCommand(), generateCommand())
	add("Adapters and tenants", adaptersCommand(), tenantsCommand(), keysCommand(), usageCommand(), backupCommand(),
		restoreCommand())
	add("Training", dataCommand(), trainCommand(), evalCommand(), compareCommand(), scoreCommand())
	add("Tools", benchCommand(), inspectCommand(), tokenizeCommand(), doctorCommand(), configCommand(),
		versionCommand())
	root.SetUsageFunc(settings.Usage(topics...))
	root.SetHelpFunc(settings.Help(topics...))
	root.Version = version
	root.SetVersionTemplate(versionText() + "\n")
	root.PersistentFlags().String("config", "", "YAML `file` of settings; the keys are the names of the flags")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		_, err := resolve(cmd.Flags(), os.LookupEnv)
		return err
	}
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [command]",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return noSuchCommand(cmp.Or(c, root), rest)
			}
			return c.Help()
		},
	})
	countUsage(root.Commands())
	settings.TakeYesNo(root)
	return root
}

// noSuchCommand refuses words where the name of a command below cmd is expected.
func noSuchCommand(cmd *cobra.Command, words []string) error {
	if len(words) == 0 {
		return nil
	}
	of, hint := "", ""
	if cmd.HasParent() {
		of = fmt.Sprintf(" of `%s`", cmd.CommandPath())
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(words[0]); len(near) > 0 {
		hint = fmt.Sprintf(" (did you mean %q?)", near[0])
	}
	return usagef("unknown command %q%s%s", words[0], of, hint)
}

// countUsage makes wrong arguments and refused settings of the commands and of those below them usage errors.
func countUsage(commands []*cobra.Command) {
	for _, c := range commands {
		if inner := c.Args; inner != nil {
			c.Args = func(cmd *cobra.Command, args []string) error {
				err := inner(cmd, args)
				if u := (usageError{}); err != nil && !errors.As(err, &u) {
					err = usageError{settings.WrongArguments(cmd, args)}
				}
				return err
			}
		}
		if run := c.RunE; run != nil {
			c.RunE = func(cmd *cobra.Command, args []string) error { return settingUsage(run(cmd, args)) }
		}
		countUsage(c.Commands())
	}
}
