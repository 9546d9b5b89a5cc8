package model

// Config is a decoder's shape in one spelling, whatever the file's.
type Config struct {
	Architecture string // "llama", "qwen3", …
	Hidden       int    // H
	Layers       int
	Heads        int // Hq
	KVHeads      int // Hkv
	HeadDim      int // D
	FFN          int // F
	Vocab        int // V
	MaxContext   int // positions the model was trained for
	RMSEps       float32
}
