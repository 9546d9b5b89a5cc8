package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// WrongArguments says which arguments a command takes and which were given.
func WrongArguments(cmd *cobra.Command, args []string) error {
	_, takes, _ := strings.Cut(cmd.Use, " ")
	takes, _, _ = strings.Cut(takes, "--") // what follows are flags
	takes, _, _ = strings.Cut(takes, "[--")
	takes = strings.TrimSpace(takes)
	given := "none is given"
	if len(args) > 0 {
		quoted := make([]string, len(args))
		for i, a := range args {
			quoted[i] = fmt.Sprintf("%q", a)
		}
		given = strings.Join(quoted, " ") + " are given"
		if len(args) == 1 {
			given = quoted[0] + " is given"
		}
	}
	hint := ""
	word := func(s string) bool {
		return slices.Contains([]string{"true", "false", "yes", "no"}, strings.ToLower(s))
	}
	switch {
	case len(args) > 0 && !slices.ContainsFunc(args, func(s string) bool { return !word(s) }):
		hint = "; a flag that is on or off is written --FLAG=" + args[0]
	case cmd.Name() == "train":
		hint = "; several files of samples: --data FILE --data FILE"
	}
	if takes == "" {
		return fmt.Errorf("`%s` takes no arguments, %s%s", cmd.CommandPath(), given, hint)
	}
	return fmt.Errorf("`%s` takes the arguments %s, %s", cmd.CommandPath(), takes, given)
}

// TakeYesNo lets the boolean flags of c and of the commands below it take yes and no.
func TakeYesNo(c *cobra.Command) {
	AcceptYesNo(c.Flags())
	for _, sub := range c.Commands() {
		TakeYesNo(sub)
	}
}
