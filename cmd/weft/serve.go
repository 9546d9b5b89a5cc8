package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/server"
)

// serveFlags are the settings of `weft serve` beside the model's.
type serveFlags struct {
	stackFlags
	tenancyFlags
	Listen       string
	Insecure     bool
	KeyFile      string
	ModelName    string
	DrainTimeout time.Duration
	MaxBody      byteSize
	LogFormat    string
	logLevel     logLevel
}

func serveCommand() *cobra.Command {
	var f serveFlags
	f.MaxBody = 4 << 20
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a model behind an OpenAI-compatible API",
		Long: "Serve a model behind an OpenAI-compatible API. With no --model the default one, " + defaultModelName +
			".\n" +
			"SIGTERM drains: new requests are answered 503, running ones finish within --drain-timeout; a second " +
			"signal stops at once.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.serve(cmd.Context()) },
	}
	fs := cmd.Flags()
	f.stackFlags.register(fs)
	f.fourBit.register(fs)
	f.tenancyFlags.register(fs)
	fs.StringVar(&f.Listen, "listen", "127.0.0.1:8000", "address to listen on")
	fs.BoolVar(&f.Insecure, "insecure", false, "listen on another address than loopback without any key")
	fs.StringVar(&f.KeyFile, "api-key-file", "",
		"`file` with one API key a line; requests then need Authorization: Bearer KEY")
	fs.StringVar(&f.ModelName, "served-model-name", "",
		"name of the model in the API (default: its file's or folder's name)")
	fs.DurationVar(&f.DrainTimeout, "drain-timeout", 30*time.Second,
		"how long running requests may finish after SIGTERM")
	fs.Var(&f.MaxBody, "max-body", "largest request body")
	fs.StringVar(&f.LogFormat, "log-format", "text", "text or json, to standard error")
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

// checkAddress refuses to offer the API to others without a key.
func checkAddress(listen string, haveKeys, insecure bool) error {
	if _, _, err := net.SplitHostPort(listen); err != nil {
		return usagef("--listen %q: write HOST:PORT, e.g. 127.0.0.1:8000", listen)
	}
	if haveKeys || insecure || loopback(listen) {
		return nil
	}
	return usagef(
		"--listen %s would let anybody who can reach this machine use the model: make a key with `weft keys add`, "+
			"give --api-key-file FILE, or --insecure where that is meant", listen)
}

// serve runs until a signal; it returns nil after a clean drain.
func (f *serveFlags) serve(ctx context.Context) (err error) {
	log, err := f.logLevel.logger(os.Stderr, f.LogFormat)
	if err != nil {
		return err
	}
	keys, err := readKeys(f.KeyFile)
	if err != nil {
		return err
	}
	if err := checkAddress(f.Listen, true, false); err != nil {
		return err
	}
	t, err := f.tenancyFlags.open(ctx, f.Model, keys, f.Insecure || loopback(f.Listen), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := checkAddress(f.Listen, t.access.HasKeys(), f.Insecure); err != nil {
		return err
	}
	// Listen before loading: a taken port is known at once, and who connects meanwhile waits for the model.
	l, err := net.Listen("tcp", f.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	front := server.NewFront(l, log)
	defer front.Close()
	ctx, stop := untilSignal(ctx)
	defer stop()
	go stopOnSecondSignal(ctx, log)
	log.Info("weft", "version", version, "listen", l.Addr().String())
	if err := t.addNamed(ctx); err != nil {
		return err
	}
	s, err := f.load(ctx, log)
	if s == nil {
		return err
	}
	if f.ModelName != "" {
		s.Name = f.ModelName
	}
	return f.run(ctx, s, t, front, l.Addr(), log)
}

// load opens the stack. It returns nil and no error where ctx ends first: the process ends then, and what is loaded so
// far with it.
func (f *serveFlags) load(ctx context.Context, log *slog.Logger) (*stack, error) {
	type result struct {
		s   *stack
		err error
	}
	loaded := make(chan result, 1)
	go func() {
		s, err := openStack(&f.stackFlags, log)
		loaded <- result{s, err}
	}()
	select {
	case r := <-loaded:
		if r.err != nil {
			return nil, r.err
		}
		return r.s, nil
	case <-ctx.Done():
		log.Info("stopped while loading")
		return nil, nil
	}
}
