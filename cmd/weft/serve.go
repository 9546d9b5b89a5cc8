package main

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weft/internal/modelref"
	"weft/internal/node"
)

// serveFlags are the settings of `weft serve`.
type serveFlags struct {
	node.Config
	stores    node.StoreConfig
	adapters  []string // NAME=DIR
	keyFile   string
	logFormat string
	logLevel  logLevel
}

func serveCommand() *cobra.Command {
	var f serveFlags
	f.MaxBody = 4 << 20
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a model behind an OpenAI-compatible API",
		Long: "Serve a model behind an OpenAI-compatible API. With no --model the default one, " + modelref.Default +
			".\n" +
			"SIGTERM drains: new requests are answered 503, running ones finish within --drain-timeout; a second " +
			"signal stops at once.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.serve(cmd.Context()) },
	}
	fs := cmd.Flags()
	addModelFlags(fs, &f.Model)
	add4BitFlags(fs, &f.Model.Load4Bit)
	addStoreFlags(fs, &f.stores, "data")
	fs.StringArrayVar(&f.adapters, "adapter", nil,
		"`NAME=DIR`: add the PEFT folder DIR as NAME of the tenant default; may be given often")
	fs.StringArrayVar(&f.AdapterDirs, "adapter-dir", nil,
		"`folder` below which /v1/load_lora_adapter may read; may be given often (default: nowhere)")
	addCacheFlags(fs, &f.Config)
	fs.StringVar(&f.Listen, "listen", "127.0.0.1:8000", "address to listen on")
	fs.BoolVar(&f.Insecure, "insecure", false, "listen on another address than loopback without any key")
	fs.StringVar(&f.keyFile, "api-key-file", "",
		"`file` with one API key a line; requests then need Authorization: Bearer KEY")
	fs.StringVar(&f.ServedName, "served-model-name", "",
		"name of the model in the API (default: its file's or folder's name)")
	fs.DurationVar(&f.DrainTimeout, "drain-timeout", 30*time.Second,
		"how long running requests may finish after SIGTERM")
	fs.Var(&f.MaxBody, "max-body", "largest request body")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json, to standard error")
	f.logLevel.register(fs)
	return cmd
}

// readKeys reads one key a line; blank lines and lines that begin with # are skipped.
func readKeys(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, usagef("--api-key-file: %v", err)
	}
	defer file.Close()
	var keys []string
	sc := bufio.NewScanner(file)
	for sc.Scan() {
		key := strings.TrimSpace(sc.Text())
		if key == "" || strings.HasPrefix(key, "#") {
			continue
		}
		if len(key) < 8 {
			return nil, usagef("%s: a key of %d characters is too short; use at least 8", path, len(key))
		}
		keys = append(keys, key)
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, usagef("%s: no key in it", path)
	}
	return keys, nil
}

// serve runs until a signal; it returns nil after a clean drain.
func (f *serveFlags) serve(ctx context.Context) (err error) {
	log, err := f.logLevel.logger(os.Stderr, f.logFormat)
	if err != nil {
		return err
	}
	if f.Keys, err = readKeys(f.keyFile); err != nil {
		return err
	}
	for _, a := range f.adapters {
		name, dir, ok := strings.Cut(a, "=")
		if !ok || dir == "" {
			return usagef("--adapter %q: write NAME=DIR", a)
		}
		f.Adapters = append(f.Adapters, node.NamedAdapter{Name: name, Path: dir})
	}
	f.Stores, f.Version, f.Log, f.Model.Log = &f.stores, version, log, log
	ctx, stop := untilSignal(ctx)
	defer stop()
	go stopOnSecondSignal(ctx, log)
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

// stopOnSecondSignal waits for the signal that ended ctx and ends the process at the next one.
func stopOnSecondSignal(ctx context.Context, log *slog.Logger) {
	<-ctx.Done()
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	<-again
	log.Warn("second signal: stopping at once")
	os.Exit(1)
}
