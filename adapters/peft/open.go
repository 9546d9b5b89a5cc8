// Package peft reads LoRA adapters as PEFT saves them (a folder with adapter_config.json and adapter_model.safetensors)
// and as llama.cpp does (one GGUF file), checks them against a base model, and turns them into lora.Adapter; it writes
// PEFT folders, too. Nothing in an adapter is trusted, and nothing that could change what it computes is ignored: an
// adapter with anything that is not supported is refused, with all reasons at once.
package peft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"weft/internal/bounded"
	"weft/quant"
	"weft/runtime/weights"
)

// The files of a PEFT folder that are read; others (README.md, training_args.bin, …) are ignored.
const (
	ConfigFile  = "adapter_config.json"
	WeightsFile = "adapter_model.safetensors"
)

// maxHeaderBytes bounds an adapter's safetensors header, which takes about 150 bytes a tensor.
const maxHeaderBytes = 8 << 20

// Module paths outside of the blocks.
const (
	embedPath = "model.embed_tokens"
	headPath  = "lm_head"
)

// kind is the role of a tensor in its module.
type kind uint8

const (
	kindA         kind = iota // lora_A [r, in]
	kindB                     // lora_B [out, r]
	kindLoRABias              // lora_B's bias [out]
	kindEmbedA                // lora_embedding_A [r, V]
	kindEmbedB                // lora_embedding_B [H, r]
	kindMagnitude             // DoRA's m [out]
	// the unchanged base weight, which PEFT saves beside an adapter on the embedding or the head
	kindBase
	kindBias   // the layer's trained bias [out]
	kindTokens // rows of the embedding or the head that replace the base's: trainable_token_indices
	kindWeight // a weight that replaces the base's
)

// suffixes lists how PEFT names each kind after the module's path; the adapter's name ("default"), which old versions
// wrote, is removed before.
var suffixes = []struct {
	text string
	kind kind
}{
	{".lora_A.weight", kindA}, {".lora_B.weight", kindB}, {".lora_B.bias", kindLoRABias},
	{".lora_embedding_A", kindEmbedA}, {".lora_embedding_B", kindEmbedB},
	{".lora_magnitude_vector", kindMagnitude}, {".lora_magnitude_vector.weight", kindMagnitude},
	{
		".token_adapter.trainable_tokens_delta",
		kindTokens,
	}, {".base_layer.weight", kindBase}, {".base_layer.bias", kindBias}, {".bias", kindBias},
	{".modules_to_save.weight", kindWeight}, {".weight", kindWeight},
}

// stored is a tensor of the file.
type stored struct {
	name    string // the file's own
	shape   []int
	format  string // "F32", …
	bytes   int64
	flipped bool   // stored as the transpose of shape
	data    []byte // replaces the file's content; nil: none
}

// tensorFile is an opened safetensors or GGUF file.
type tensorFile interface {
	Names() []string
	Info(name string) (weights.Info, bool)
	Bytes(name string, use func(data []byte) error) error
	Matrix(name string) (*quant.Matrix, error)
	Hold(f func() error) error
	Close() error
}

// Adapter is an opened adapter, not yet checked against a base model. Close it after use. Safe for
// concurrent reads.
type Adapter struct {
	Config Config

	path string
	arch string // of a GGUF file: general.architecture
	gguf bool
	file tensorFile

	reserved bool                       // LoRA matrices stay in the file's memory; see Use
	modules  map[string]map[kind]stored // by module path: "model.layers.0.self_attn.q_proj"
	match    *matcher
	harmless []string // the file's tensors that cannot change what a language model computes, and are not used
	wrong    reasons  // found so far
}

// Open opens the PEFT folder or the GGUF file at path. A *RefusedError lists everything that is wrong for every base; a
// folder that cannot be read is the system's error. Symbolic links within the folder are refused, except those of a
// Hugging Face cache.
func Open(path string) (*Adapter, error) {
	a, err := open(path)
	if err != nil {
		return nil, err
	}
	if err := a.wrong.err(path); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// open is Open, except that it leaves the reasons in wrong. Where the tensors cannot be read at all, file is nil.
func open(path string) (*Adapter, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open adapter: %w", err)
	}
	a := &Adapter{path: path, modules: map[string]map[kind]stored{}}
	if st.IsDir() {
		err = a.openFolder()
	} else {
		err = a.openGGUF()
	}
	if err != nil {
		a.Close()
		return nil, fmt.Errorf("open adapter: %w", err)
	}
	if a.file != nil {
		a.checkModules()
	}
	return a, nil
}

// Close unmaps the file.
func (a *Adapter) Close() error {
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

func (a *Adapter) openFolder() error {
	text, err := a.readConfig()
	if err != nil {
		return err
	}
	if text != nil {
		var isLoRA bool
		if a.Config, isLoRA = parseConfig(text, &a.wrong); !isLoRA {
			return nil
		}
	}
	a.match = newMatcher(&a.Config, &a.wrong)
	f, err := a.openRegular(WeightsFile)
	if err != nil || f == nil {
		return err
	}
	if err := checkHeaderLength(f); err != nil {
		f.Close()
		a.wrong.add("", "%s: %v", WeightsFile, err)
		return nil
	}
	s, err := weights.NewSafetensors(f)
	if err != nil {
		return a.malformed(err)
	}
	a.file = s
	for _, name := range s.Names() {
		if info, _ := s.Info(name); weights.Harmless(weights.PlainName(name), info.Shape) {
			a.harmless = append(a.harmless, name)
			continue
		}
		path, kind, ok := splitName(name)
		a.match.spelledAs(name)
		a.addTensor(name, path, kind, ok)
	}
	a.plainWeights()
	return nil
}

// plainWeights treats whole weights of the embedding and the head as the unchanged ones of the base, unless
// modules_to_save names them: PEFT also saves those of a resized vocabulary.
func (a *Adapter) plainWeights() {
	for _, path := range []string{embedPath, headPath} {
		m := a.modules[path]
		tied := path == headPath && a.Config.TieWeights && a.Config.Saves(embedPath)
		if w, ok := m[kindWeight]; ok && !tied && !a.Config.Saves(path) {
			if _, both := m[kindBase]; both {
				a.wrong.add("remove one of them", "tensors %q and %q are two names of the same tensor",
					m[kindBase].name, w.name)
			}
			m[kindBase] = w
			delete(m, kindWeight)
		}
	}
}

// malformed turns an error of the file's format into a reason.
func (a *Adapter) malformed(err error) error {
	if errors.Is(err, weights.ErrFormat) || errors.Is(err, weights.ErrUnsupported) ||
		errors.Is(err, weights.ErrChanged) {
		a.wrong.add("copy the file again, or save the adapter again", "%v", err)
		return nil
	}
	return err
}

// readConfig returns the text of adapter_config.json, nil where a reason against it was found.
func (a *Adapter) readConfig() ([]byte, error) {
	f, err := a.openRegular(ConfigFile)
	if err != nil || f == nil {
		return nil, err
	}
	defer f.Close()
	text, err := bounded.Read(f, maxConfigBytes)
	if errors.Is(err, bounded.ErrTooLong) {
		a.wrong.add("", "%s has more than %d bytes", ConfigFile, maxConfigBytes)
		return nil, nil
	}
	return text, err
}

// cached is where a Hugging Face cache's link from a file of a snapshot points to: a blob named by its content's hash.
var cached = regexp.MustCompile(`^(\.\./){2,8}blobs/[0-9a-f]{40}([0-9a-f]{24})?$`)

// Followed returns the file that a link of a Hugging Face cache stands for, and every other path as it is.
func Followed(path string) (string, error) {
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		return path, err
	}
	to, err := os.Readlink(path)
	if err != nil || !cached.MatchString(to) {
		return path, err
	}
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(folder, to), err
}

// openRegular opens a file of the folder; nil where it is missing, a link or no regular file, which is a reason. Links
// of a Hugging Face cache are followed.
func (a *Adapter) openRegular(name string) (*os.File, error) {
	path, err := Followed(filepath.Join(a.path, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	before, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.wrong.add(a.advice(name), "%s is missing", name)
		return nil, nil
	case err != nil:
		return nil, err
	case before.Mode()&fs.ModeSymlink != 0:
		a.wrong.add("copy the file itself (cp -L)", "%s is a symbolic link", name)
		return nil, nil
	case !before.Mode().IsRegular():
		a.wrong.add("", "%s is not a regular file", name)
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s: %w", path, weights.ErrChanged)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// advice returns what to do about a missing file.
func (a *Adapter) advice(name string) string {
	if _, err := os.Lstat(filepath.Join(a.path, "adapter_model.bin")); err == nil && name == WeightsFile {
		return "adapter_model.bin is a pickle, which is never read: save with safe_serialization=True"
	}
	if found, _ := filepath.Glob(filepath.Join(a.path, "*.gguf")); len(found) > 0 {
		return "open " + filepath.Base(found[0]) + " itself"
	}
	return "give the folder that PEFT's save_pretrained wrote"
}

// checkHeaderLength refuses a safetensors header that is far longer than an adapter's, before any of it is read.
func checkHeaderLength(f *os.File) error {
	var b [8]byte
	read, _ := f.ReadAt(b[:], 0) // the parser reports a file that is too short
	if n := binary.LittleEndian.Uint64(b[:]); read == len(b) && n > maxHeaderBytes {
		return fmt.Errorf("its header claims to have %d bytes, more than %d: not an adapter, or a malicious one", n,
			maxHeaderBytes)
	}
	return nil
}

// splitName splits a tensor's name into its module's path and its kind.
func splitName(name string) (path string, k kind, ok bool) {
	parts := strings.Split(weights.PlainName(name), ".")
	if n := len(parts); n > 2 && parts[n-2] == "default" {
		parts = slices.Delete(parts, n-2, n-1)
	} else if n > 1 && parts[n-1] == "default" {
		parts = parts[:n-1]
	}
	short := strings.Join(parts, ".")
	for _, s := range suffixes {
		if path, ok := strings.CutSuffix(short, s.text); ok && path != "" {
			return path, s.kind, true
		}
	}
	return "", 0, false
}

// addTensor adds a tensor of the file to its module. A plain weight is allowed only for the embedding and the head.
func (a *Adapter) addTensor(name, path string, k kind, ok bool) {
	whole := path == embedPath || path == headPath
	if !ok || !whole && (k == kindBase || k == kindTokens || k == kindWeight && (a.gguf || !isNorm(path))) {
		a.wrong.add("remove it if it does not change what the adapter computes", "tensor %q is unknown", name)
		return
	}
	info, _ := a.file.Info(name)
	m := a.modules[path]
	if m == nil {
		m = map[kind]stored{}
		a.modules[path] = m
	}
	if other, twice := m[k]; twice {
		a.wrong.add("remove one of them", "tensors %q and %q are two names of the same tensor", other.name, name)
		return
	}
	r := stored{name: name, shape: info.Shape, format: info.Format, bytes: info.Bytes}
	if a.gguf && k == kindEmbedA {
		slices.Reverse(r.shape)
		r.flipped = true
	}
	m[k] = r
}
