package main

import (
	"errors"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"weft/internal/settings"
)

// logLevel is a flag value: debug, info, warn or error.
type logLevel slog.Level

// Set reads a level's name.
func (l *logLevel) Set(s string) error {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(s, level.String()) {
			*l = logLevel(level)
			return nil
		}
	}
	return errors.New("write debug, info, warn or error")
}

func (l *logLevel) String() string { return strings.ToLower(slog.Level(*l).String()) }

// Type names the value in help texts.
func (l *logLevel) Type() string { return "level" }

// register adds --log-level, which every command that logs has.
func (l *logLevel) register(fs *pflag.FlagSet) {
	defer settings.Topic(fs, topicLog)()
	fs.Var(l, "log-level", "lowest level that is logged: debug (health checks too), info, warn or error")
}

// logger writes lines of at least the level as text or json.
func (l *logLevel) logger(w io.Writer, format string) (*slog.Logger, error) {
	opt := &slog.HandlerOptions{Level: slog.Level(*l)}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opt)), nil
	}
	return nil, usagef("--log-format %q: text or json", format)
}
