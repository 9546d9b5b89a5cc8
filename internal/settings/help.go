package settings

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/internal/terminal"
)

// topicOf annotates a flag with the title of its section in the help.
const topicOf = "weft_topic"

// Widths of help texts, in columns: where they go to no terminal, and on wider ones.
const (
	pipeWidth = 80
	maxWidth  = 110
)

// helpWidth returns the width of help texts that go to w.
func helpWidth(w io.Writer) int { return min(cmp.Or(terminal.Width(w), pipeWidth), maxWidth) }

// Help is a cobra help function: what a command does, and what Usage prints, wrapped at the width of the terminal.
func Help(topics ...string) func(c *cobra.Command, _ []string) {
	return func(c *cobra.Command, _ []string) {
		out := c.OutOrStdout()
		width := helpWidth(out)
		fmt.Fprintf(out, "%s\n\n%s", wrap(cmp.Or(c.Long, c.Short), width), usage(c, width, topics))
	}
}

// wrap breaks the lines of a text at spaces so that none is wider than width, where its words allow.
func wrap(text string, width int) string {
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		at, out := 0, ""
		for _, word := range strings.Fields(line) {
			n := utf8.RuneCountInString(word)
			switch {
			case at == 0:
			case at+1+n > width:
				out, at = out+"\n", 0
			default:
				out, at = out+" ", at+1
			}
			out, at = out+word, at+n
		}
		lines = append(lines, out)
	}
	return strings.Join(lines, "\n")
}

// Topic begins a section of the help: the flags that are added to fs before the returned function is called belong to
// it.
func Topic(fs *pflag.FlagSet, title string) (end func()) {
	before := map[string]bool{}
	fs.VisitAll(func(f *pflag.Flag) { before[f.Name] = true })
	return func() {
		fs.VisitAll(func(f *pflag.Flag) {
			if !before[f.Name] && f.Annotations[topicOf] == nil {
				annotate(f, topicOf, title)
			}
		})
	}
}

// Usage is a cobra usage function: how to call c, examples, the commands below c in their groups, and the flags by
// topic. Topics are listed in the given order, those that it does not name after them, by title.
func Usage(topics ...string) func(c *cobra.Command) error {
	return func(c *cobra.Command) error {
		out := c.OutOrStderr()
		_, err := io.WriteString(out, usage(c, helpWidth(out), topics))
		return err
	}
}

func usage(c *cobra.Command, width int, topics []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s\n", c.UseLine())
	if c.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	}
	commands(&b, c)
	sections := map[string]*pflag.FlagSet{}
	add := func(f *pflag.Flag) {
		title := "Flags"
		switch of := f.Annotations[topicOf]; {
		case of != nil:
			title = of[0]
		case f.Name == "help" || f.Name == "config":
			title = "General"
		}
		if sections[title] == nil {
			sections[title] = pflag.NewFlagSet(title, pflag.ContinueOnError)
		}
		sections[title].AddFlag(shown(f))
	}
	c.LocalFlags().VisitAll(add)
	c.InheritedFlags().VisitAll(add)
	titles := make([]string, 0, len(sections))
	for title := range sections {
		titles = append(titles, title)
	}
	place := func(title string) int {
		switch i := slices.Index(topics, title); {
		case title == "Flags":
			return -1
		case title == "General":
			return len(topics) + 1
		case i < 0:
			return len(topics)
		default:
			return i
		}
	}
	slices.SortFunc(titles, func(x, y string) int {
		if d := place(x) - place(y); d != 0 {
			return d
		}
		return strings.Compare(x, y)
	})
	for _, title := range titles {
		if sections[title].HasAvailableFlags() {
			fmt.Fprintf(&b, "\n%s:\n%s", title, sections[title].FlagUsagesWrapped(width))
		}
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n`%s COMMAND --help` says more about a command.\n", c.CommandPath())
	}
	return b.String()
}

// commands lists the commands below c by group, those of none last.
func commands(w io.Writer, c *cobra.Command) {
	list := func(title, group string) {
		for _, sub := range c.Commands() {
			if sub.GroupID != group || !sub.IsAvailableCommand() && sub.Name() != "help" {
				continue
			}
			if title != "" {
				fmt.Fprintf(w, "\n%s:\n", title)
				title = ""
			}
			fmt.Fprintf(w, "  %-*s  %s\n", c.Commands()[0].NamePadding(), sub.Name(), sub.Short)
		}
	}
	for _, g := range c.Groups() {
		list(g.Title, g.ID)
	}
	if len(c.Groups()) > 0 {
		list("Other commands", "")
	} else {
		list("Commands", "")
	}
}

// typeNames are what help calls the value of a flag whose usage names none in backquotes.
var typeNames = map[string]string{"int": "N", "uint": "N", "float": "X"}

// ValueName returns what help calls the value of f, "" where it takes none: the word in backquotes in its usage, else
// the name of its type.
func ValueName(f *pflag.Flag) string {
	name, _ := pflag.UnquoteUsage(f)
	if short := typeNames[name]; short != "" {
		return short
	}
	if strings.ContainsAny(name, ":/") {
		return name // a pattern in which letters stand for themselves
	}
	return strings.ToUpper(name)
}

// shown is a copy of f for pflag to print.
func shown(f *pflag.Flag) *pflag.Flag {
	out := *f
	if f.Value.Type() == "bool" {
		return &out
	}
	_, out.Usage = pflag.UnquoteUsage(f)
	out.Value = named{f.Value, ValueName(f)}
	if f.DefValue == "[]" || f.DefValue == "0s" {
		out.DefValue = ""
	}
	return &out
}

// named is a value of a flag with the name of its type in help.
type named struct {
	pflag.Value
	name string
}

// Type implements pflag.Value.
func (n named) Type() string { return n.name }
