package settings

import (
	"errors"
	"fmt"
	"regexp"
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

var parseError = regexp.MustCompile(`strconv\.(Parse\w+|Atoi): parsing "([^"]*)": (invalid syntax|value out of range)`)

// Plain returns an error of reading a flag's value with the messages of package strconv in plain words.
func Plain(err error) error {
	m := parseError.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	expected := map[string]string{"ParseFloat": "a number", "ParseBool": "true or false",
		"ParseUint": "a whole number from 0"}[m[1]]
	if expected == "" {
		expected = "a whole number"
	}
	text := fmt.Sprintf("%q is not %s", m[2], expected)
	if m[3] == "value out of range" {
		text = m[2] + " is out of range"
	}
	return errors.New(strings.Replace(err.Error(), m[0], text, 1))
}
