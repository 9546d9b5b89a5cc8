// Command weft serves a language model with an OpenAI-compatible API. See `weft help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"weft/internal/chatclient"
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
	os.Exit(exitStatus(rootCommand().ExecuteContext(context.Background())))
}

// untilSignal returns a context that the first SIGINT or SIGTERM ends; the next one then ends the process. Commands
// call it once they can stop in order: before that, and in those that never call it, a signal ends the process at once.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
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
		Short:         "Serve one language model to many, behind an OpenAI-compatible API",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if name, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok {
			err = fmt.Errorf("%w%s", err, settings.Suggestion(name, cmd.Flags()))
		}
		return usageError{err}
	})
	root.AddCommand(
		serveCommand(), chatCommand(), generateCommand(), scoreCommand(), trainCommand(), adaptersCommand(),
		tenantsCommand(), keysCommand(), usageCommand(), backupCommand(), restoreCommand(), benchCommand(),
		inspectCommand(), tokenizeCommand(), versionCommand(), doctorCommand(), configCommand(),
	)
	root.PersistentFlags().String("config", "", "YAML `file` with the same keys as the flags")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		_, err := resolve(cmd.Flags(), os.LookupEnv)
		return err
	}
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("unknown command %q", strings.Join(args, " "))
			}
			return c.Help()
		},
	})
	countUsage(root.Commands())
	return root
}

// countUsage makes wrong arguments and refused settings of the commands and of those below them usage errors.
func countUsage(commands []*cobra.Command) {
	for _, c := range commands {
		if inner := c.Args; inner != nil {
			c.Args = func(cmd *cobra.Command, args []string) error {
				if err := inner(cmd, args); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
		if run := c.RunE; run != nil {
			c.RunE = func(cmd *cobra.Command, args []string) error { return settingUsage(run(cmd, args)) }
		}
		countUsage(c.Commands())
	}
}
