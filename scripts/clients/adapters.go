// Command clients writes adapters that fit a model, each with different random LoRA matrices, for the tests of the
// clients: go run ./scripts/clients MODEL DIR...
package main

import (
	"errors"
	"fmt"
	"os"

	"weft/adapters/peft/pefttest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("give a model and the folders to write: MODEL DIR")
	}
	cfg, err := pefttest.Config(args[0])
	if err != nil {
		return err
	}
	for i, dir := range args[1:] {
		if err := pefttest.Write(dir, cfg, pefttest.Options{Seed: uint64(i) + 1, Rank: 4, Strength: 0.6}); err != nil {
			return err
		}
	}
	return nil
}
