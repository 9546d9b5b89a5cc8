package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"weft/internal/chatclient"
	"weft/internal/node"
)

func chatCommand() *cobra.Command {
	var f node.ModelConfig
	var url, key, system string
	var temperature float64
	var maxTokens int
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Talk in the terminal, with a model of this machine or (--url) with any OpenAI-compatible server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(temperature >= 0 && temperature <= 2) {
				return usagef("--temperature %v: 0 to 2", temperature)
			}
			if maxTokens < 1 {
				return usagef("--max-tokens %d: at least 1", maxTokens)
			}
			c := &chatclient.Conversation{
				In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), URL: strings.TrimSuffix(strings.TrimSuffix(url, "/"), "/v1"),
				Key: cmp.Or(key, os.Getenv("WEFT_API_KEY")), Model: f.Adapter, System: system, Temperature: temperature,
				MaxTokens: maxTokens, Color: isTerminal(cmd.OutOrStdout()) && os.Getenv("NO_COLOR") == "",
				Prompt: isTerminal(cmd.InOrStdin()),
			}
			if url == "" {
				c.Model = "" // every request here is the adapter's
				n, err := node.Open(cmd.Context(), node.Config{Model: f, Listen: "127.0.0.1:0", Version: version})
				if err != nil {
					return err
				}
				ctx, stop := context.WithCancel(cmd.Context())
				served := make(chan error, 1)
				go func() { served <- n.Serve(ctx) }()
				c.URL = n.URL()
				err = converse(c)
				stop()
				return errors.Join(err, <-served, n.Close())
			}
			return converse(c)
		},
	}
	addModelFlags(cmd.Flags(), &f)
	add4BitFlags(cmd.Flags(), &f.Load4Bit)
	cmd.Flags().StringVar(&f.Adapter, "adapter", "",
		"PEFT folder or GGUF adapter to use; with --url the `name` of a model there")
	fl := cmd.Flags()
	fl.StringVar(&url, "url", "", "talk to this server instead, e.g. http://127.0.0.1:8000")
	fl.StringVar(&key, "api-key", "", "key for --url (or WEFT_API_KEY)")
	fl.StringVar(&system, "system", "", "system message")
	fl.Float64Var(&temperature, "temperature", 0.7, "0: greedy")
	fl.IntVar(&maxTokens, "max-tokens", 512, "longest answer in tokens")
	return cmd
}

// converse lets Ctrl-C end an answer, not the program.
func converse(c *chatclient.Conversation) error {
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	return c.Run(interrupt)
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
