package main

import (
	"encoding/json"
	"io"

	"weft/internal/bytesize"
)

type byteSize = bytesize.Size

func formatBytes(n int64) string { return bytesize.Format(n) }

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
