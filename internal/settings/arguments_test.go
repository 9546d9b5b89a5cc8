package settings

import (
	"errors"
	"testing"

	"github.com/spf13/pflag"
)

func TestPlain(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.Int("steps", 0, "")
	fs.Uint64("seed", 0, "")
	fs.Float64("rate", 0, "")
	fs.Bool("packing", false, "")
	for text, want := range map[string]string{
		"--steps=0.1":     `invalid argument "0.1" for "--steps" flag: "0.1" is not a whole number`,
		"--seed=-1":       `invalid argument "-1" for "--seed" flag: "-1" is not a whole number from 0`,
		"--rate=x":        `invalid argument "x" for "--rate" flag: "x" is not a number`,
		"--packing=maybe": `invalid argument "maybe" for "--packing" flag: "maybe" is not true or false`,
		"--rate=1e999":    `invalid argument "1e999" for "--rate" flag: 1e999 is out of range`,
	} {
		if err := fs.Parse([]string{text}); err == nil || Plain(err).Error() != want {
			t.Errorf("%s: %v, want %s", text, Plain(err), want)
		}
	}
	if err := errors.New("disk full"); !errors.Is(Plain(err), err) {
		t.Error("another error is changed")
	}
}
