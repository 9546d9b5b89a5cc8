package load

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Scaling changes a trace: multipliers of its lengths and of its arrival rate, and limits of the result.
type Scaling struct {
	Prompt, Gen, Speed   float64
	MinPrompt, MaxPrompt int
	MaxGen               int
}

// ReadFiles reads the trace, scaled, and adds the keys of a file with one a line; "" reads nothing.
func (c *Config) ReadFiles(trace string, s Scaling, keys string) error {
	if trace != "" {
		file, err := os.Open(trace)
		if err != nil {
			return fmt.Errorf("--trace: %w", err)
		}
		defer file.Close()
		s.MinPrompt = 8
		if c.Trace, err = ReadTrace(file, s, c.Requests); err != nil {
			return fmt.Errorf("--trace %s: %w", trace, err)
		}
	}
	if keys != "" {
		text, err := os.ReadFile(keys)
		if err != nil {
			return fmt.Errorf("--api-keys: %w", err)
		}
		c.Keys = append(c.Keys, strings.Fields(string(text))...)
	}
	return nil
}

// ReadTrace reads the Azure LLM inference traces (2023): CSV with the columns TIMESTAMP, ContextTokens,
// GeneratedTokens.
func ReadTrace(r io.Reader, s Scaling, limit int) ([]Arrival, error) {
	rows := csv.NewReader(r)
	head, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("%w: trace: %w", ErrConfig, err)
	}
	at := map[string]int{}
	for i, name := range head {
		at[strings.TrimSpace(name)] = i
	}
	for _, name := range []string{"TIMESTAMP", "ContextTokens", "GeneratedTokens"} {
		if _, ok := at[name]; !ok {
			return nil, fmt.Errorf("%w: trace: no column %s in %q", ErrConfig, name, head)
		}
	}
	if !(s.Speed > 0 && s.Prompt > 0 && s.Gen > 0) {
		return nil, fmt.Errorf("%w: trace: multipliers must be positive", ErrConfig)
	}
	var out []Arrival
	var start time.Time
	for len(out) < limit {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: trace: %w", ErrConfig, err)
		}
		line, _ := rows.FieldPos(0)
		when, err := time.Parse("2006-01-02 15:04:05.9999999", row[at["TIMESTAMP"]])
		if err != nil {
			return nil, fmt.Errorf("%w: trace line %d: %w", ErrConfig, line, err)
		}
		prompt, err1 := strconv.ParseFloat(row[at["ContextTokens"]], 64)
		gen, err2 := strconv.ParseFloat(row[at["GeneratedTokens"]], 64)
		if err1 != nil || err2 != nil || !(prompt >= 0 && gen >= 0) {
			return nil, fmt.Errorf("%w: trace line %d: lengths %q and %q", ErrConfig, line, row[at["ContextTokens"]],
				row[at["GeneratedTokens"]])
		}
		if len(out) == 0 {
			start = when
		}
		a := Arrival{At: time.Duration(float64(when.Sub(start)) / s.Speed),
			Prompt: max(int(prompt*s.Prompt), s.MinPrompt, 1), Gen: max(int(gen*s.Gen), 1)}
		if s.MaxPrompt > 0 {
			a.Prompt = min(a.Prompt, s.MaxPrompt)
		}
		if s.MaxGen > 0 {
			a.Gen = min(a.Gen, s.MaxGen)
		}
		out = append(out, a)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: the trace has no rows", ErrConfig)
	}
	return out, nil
}
