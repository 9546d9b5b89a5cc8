package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"

	"weft/internal/chatclient"
	"weft/internal/node"
	"weft/internal/settings/network"
	"weft/internal/terminal"
)

func chatCommand() *cobra.Command {
	var f node.ModelConfig
	var url, key, system string
	var temperature float64
	var maxTokens int
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Chat in the terminal with a model on this machine or (--url) on any OpenAI-compatible server",
		Example: "  weft chat --system \"Answer in one sentence.\"\n" +
			"  weft chat --url http://127.0.0.1:8000 --adapter support",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(temperature >= 0 && temperature <= 2) {
				return usagef("--temperature %v: give 0 to 2", temperature)
			}
			if maxTokens < 1 {
				return usagef("--max-tokens %d: give at least 1", maxTokens)
			}
			c := &chatclient.Conversation{
				In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), URL: strings.TrimSuffix(strings.TrimSuffix(url, "/"),
					"/v1"),
				Key: cmp.Or(key, os.Getenv("WEFT_API_KEY")), Model: f.Adapter, System: system, Temperature: temperature,
				MaxTokens: maxTokens, Color: terminal.Is(cmd.OutOrStdout()) && os.Getenv("NO_COLOR") == "",
				Prompt: terminal.Is(cmd.InOrStdin()),
			}
			if url == "" {
				c.Model = "" // every request here is the adapter's
				n, err := node.Open(cmd.Context(), node.Config{Model: f, Version: version,
					Settings: network.Settings{Listen: "127.0.0.1:0"}})
				if err != nil {
					return err
				}
				ctx, stop := context.WithCancel(cmd.Context())
				served := make(chan error, 1)
				go func() { served <- n.Serve(ctx) }()
				c.URL = n.URL()
				if own := n.Model.Sampling; own.Temperature != nil && !cmd.Flags().Changed("temperature") {
					c.Temperature = *own.Temperature
				}
				if own := n.Model.Sampling; own.MaxTokens != nil && !cmd.Flags().Changed("max-tokens") {
					c.MaxTokens = *own.MaxTokens
				}
				err = converse(c)
				stop()
				return errors.Join(err, <-served, n.Close())
			}
			return converse(c)
		},
	}
	addModelFlags(cmd.Flags(), &f)
	addGenerationFlag(cmd.Flags(), &f)
	cmd.Flags().StringVar(&f.Adapter, "adapter", "",
		"`adapter` to use: a PEFT folder or a GGUF file; with --url the name of a model of the server")
	fl := cmd.Flags()
	fl.StringVar(&url, "url", "", "`URL` of the server to use, e.g. http://127.0.0.1:8000")
	fl.StringVar(&key, "api-key", "", "API `key` for --url (default: that in WEFT_API_KEY)")
	fl.StringVar(&system, "system", "", "`text` of the system message")
	fl.Float64Var(&temperature, "temperature", 0.7,
		"sampling temperature, 0 is greedy; if not given, the default of a model on this machine comes first")
	fl.IntVar(&maxTokens, "max-tokens", 512,
		"largest number of tokens in an answer; if not given, the default of a model on this machine comes first")
	return cmd
}

// converse lets Ctrl-C end an answer, not the program.
func converse(c *chatclient.Conversation) error {
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	return c.Run(interrupt)
}
