package compare

import (
	"embed"
	"os"
	"path/filepath"

	"weft/internal/durable"
)

// demo is the data of a comparison without --data: messages to a repair shop with the notes that its staff would write,
// and short general questions. Both were made for this purpose.
//
//go:embed demo/repairs.jsonl demo/general.jsonl
var demo embed.FS

// writeDemo writes a built-in file into a folder.
func writeDemo(dir, name string) (path string, err error) {
	text, err := demo.ReadFile("demo/" + name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	return path, durable.Create(path, text, 0o644)
}
