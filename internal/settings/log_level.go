package settings

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// LogLevel is a flag value: debug, info, warn or error.
type LogLevel slog.Level

// Set reads a level's name.
func (l *LogLevel) Set(s string) error {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(s, level.String()) {
			*l = LogLevel(level)
			return nil
		}
	}
	return errors.New("write debug, info, warn or error")
}

func (l *LogLevel) String() string { return strings.ToLower(slog.Level(*l).String()) }

// Type names the value in help texts.
func (l *LogLevel) Type() string { return "level" }

// Logger writes lines of at least the level as text or json.
func (l *LogLevel) Logger(w io.Writer, format string) (*slog.Logger, error) {
	opt := &slog.HandlerOptions{Level: slog.Level(*l)}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opt)), nil
	}
	return nil, fmt.Errorf("--log-format %q: text or json", format)
}
