package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/internal/interrupt"
	"weft/internal/modelref"
	"weft/internal/node"
	"weft/internal/settings"
)

// serveFlags are the settings of `weft serve`.
type serveFlags struct {
	node.Config
	stores    node.StoreConfig
	adapters  []string // NAME=DIR
	logFormat string
	logLevel  settings.LogLevel
}

func serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a model behind an OpenAI-compatible API",
		Long: "Serve a model behind an OpenAI-compatible API. The default model is " + modelref.Default + ".\n" +
			"SIGTERM or SIGHUP starts draining: new requests are answered with status 503, and running ones may " +
			"finish within --drain-timeout. A second signal stops the server at once.",
		Example: "  weft serve --listen 127.0.0.1:8000 --memory 4GiB\n" +
			"  weft serve --model Qwen2.5-0.5B-Instruct --adapter support=runs/support/adapter\n" +
			"  weft serve --config weft.yaml --log-format json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.serve(cmd.Context()) },
	}
	fs := cmd.Flags()
	addModelFlags(fs, &f.Model)
	addGenerationFlag(fs, &f.Model)
	f.Settings.AddFlags(fs)
	f.addAdapterFlags(fs)
	addCacheFlags(fs, &f.Config)
	addStoreFlags(fs, &f.stores, "data")
	addCaptureFlags(fs, &f.Config, &f.stores)
	addLogFlag(fs, &f.logLevel)
	defer settings.Topic(fs, topicLog)()
	fs.StringVar(&f.logFormat, "log-format", "text", "`format` of log lines on standard error: text or json")
	return cmd
}

func (f *serveFlags) addAdapterFlags(fs *pflag.FlagSet) {
	defer settings.Topic(fs, topicTenants)()
	fs.StringArrayVar(&f.adapters, "adapter", nil,
		"`NAME=DIR`: add the PEFT folder DIR under NAME to the tenant default; may be repeated")
	fs.StringArrayVar(&f.AdapterDirs, "adapter-dir", nil,
		"`folder` from which /v1/load_lora_adapter may read; may be repeated (default: none)")
}

// serve runs until a signal; it returns nil after a clean drain.
func (f *serveFlags) serve(ctx context.Context) (err error) {
	log, err := f.logLevel.Logger(os.Stderr, f.logFormat)
	if err != nil {
		return usageError{err}
	}
	for _, a := range f.adapters {
		name, dir, ok := strings.Cut(a, "=")
		if !ok || dir == "" {
			return usagef("--adapter %q: write NAME=DIR", a)
		}
		f.Adapters = append(f.Adapters, node.NamedAdapter{Name: name, Path: dir})
	}
	f.Stores, f.Version, f.Log, f.Model.Log = &f.stores, version, log, log
	ctx, stop := interrupt.Until(ctx)
	defer stop()
	n, err := node.Open(ctx, f.Config)
	if err != nil && ctx.Err() != nil {
		log.Info("stopped while loading")
		return nil // the process ends now, and what is loaded so far with it
	}
	if err != nil {
		return err
	}
	return errors.Join(n.Serve(ctx), n.Close())
}
