package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weft/quant"
)

// The files of a model folder, by Hugging Face's names.
const (
	singleFile = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
)

// maxIndexBytes bounds the JSON that lists the shards.
const maxIndexBytes = 64 << 20

// Dir is an opened Hugging Face folder: model.safetensors, or else the shards that model.safetensors.index.json lists.
type Dir struct {
	path   string
	shards []*Safetensors
	where  map[string]*Safetensors
}

// OpenDir opens the weights of a model folder. The index must be correct: every tensor is in the shard that it names,
// and in no other. The index's total_size is not checked: real files often have it wrong.
func OpenDir(path string) (*Dir, error) {
	d := &Dir{path: path, where: map[string]*Safetensors{}}
	if err := d.open(); err != nil {
		d.Close()
		return nil, fmt.Errorf("open model folder %s: %w", path, err)
	}
	return d, nil
}

func (d *Dir) open() error {
	single := filepath.Join(d.path, singleFile)
	_, err := os.Stat(single)
	if err == nil {
		s, err := OpenSafetensors(single)
		if err != nil {
			return err
		}
		d.shards = append(d.shards, s)
		for name := range s.tensors {
			d.where[name] = s
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	weightMap, err := readIndex(filepath.Join(d.path, indexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: it has neither %s nor %s; %s", ErrFormat, singleFile, indexFile, d.advice())
	}
	if err != nil {
		return err
	}
	return d.openShards(weightMap)
}

func (d *Dir) openShards(weightMap map[string]string) error {
	for _, file := range slices.Compact(slices.Sorted(maps.Values(weightMap))) {
		s, err := OpenSafetensors(filepath.Join(d.path, file))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s names the shard %s, which is missing", ErrFormat, indexFile, file)
		}
		if err != nil {
			return err
		}
		d.shards = append(d.shards, s)
		for _, name := range s.Names() {
			if first := d.where[name]; first != nil {
				return fmt.Errorf("%w: tensor %q is in %s and again in %s", ErrFormat, name,
					filepath.Base(first.m.path), file)
			}
			listed, ok := weightMap[name]
			if !ok {
				return fmt.Errorf("%w: tensor %q of %s is not listed in %s", ErrFormat, name, file, indexFile)
			}
			if listed != file {
				return fmt.Errorf("%w: %s says that tensor %q is in %s, but it is in %s", ErrFormat, indexFile, name,
					listed, file)
			}
			d.where[name] = s
		}
	}
	for name, file := range weightMap {
		if d.where[name] == nil {
			return fmt.Errorf("%w: %s says that tensor %q is in %s, but it is not", ErrFormat, indexFile, name, file)
		}
	}
	return nil
}

// readIndex returns the index's weight_map: tensor name to file name, each a plain name inside the folder.
func readIndex(path string) (map[string]string, error) {
	text, err := readSmall(path, maxIndexBytes)
	if err != nil {
		return nil, err
	}
	weightMap, err := parseIndex(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	return weightMap, nil
}

func parseIndex(text []byte) (map[string]string, error) {
	r, err := newJSONReader(text)
	if err != nil {
		return nil, err
	}
	weightMap := map[string]string{}
	err = r.object("index", func(key string) error {
		if key != "weight_map" {
			return r.skip(key)
		}
		return r.object(key, func(name string) error {
			file, err := r.text(key + "." + name)
			if err != nil {
				return err
			}
			if file == "" || file == "." || file == ".." || strings.ContainsAny(file, "/\\\x00") {
				return fmt.Errorf("weight_map.%s: %q is not the name of a file in the folder", name, file)
			}
			weightMap[name] = file
			return nil
		})
	})
	if err == nil {
		err = r.end()
	}
	if err == nil && len(weightMap) == 0 {
		err = errors.New("weight_map is missing or empty")
	}
	return weightMap, err
}

// advice returns a hint for a folder without safetensors.
func (d *Dir) advice() string {
	for _, c := range []struct{ pattern, say string }{
		{"*.gguf", "open %s itself"},
		{"*.safetensors", "rename %s, or open it by its own path"},
		{"*.bin", "%s is a pickle, which is never read: save the model as safetensors"},
	} {
		if found, _ := filepath.Glob(filepath.Join(d.path, c.pattern)); len(found) > 0 {
			return fmt.Sprintf(c.say, filepath.Base(found[0]))
		}
	}
	return "give a folder that save_pretrained wrote, or a GGUF file"
}

// Names lists the tensors of all shards, sorted.
func (d *Dir) Names() []string { return slices.Sorted(maps.Keys(d.where)) }

// Info describes a tensor without reading it.
func (d *Dir) Info(name string) (Info, bool) {
	s := d.where[name]
	if s == nil {
		return Info{}, false
	}
	return s.Info(name)
}

// Matrix returns an F32, F16 or BF16 tensor of two dimensions; Data aliases the mapping.
func (d *Dir) Matrix(name string) (*quant.Matrix, error) {
	s := d.where[name]
	if s == nil {
		return nil, fmt.Errorf("%s: %w: %q", d.path, ErrNoTensor, name)
	}
	return s.Matrix(name)
}

// Vector returns a floating-point tensor of one dimension.
func (d *Dir) Vector(name string) ([]float32, error) {
	s := d.where[name]
	if s == nil {
		return nil, fmt.Errorf("%s: %w: %q", d.path, ErrNoTensor, name)
	}
	return s.Vector(name)
}

// Floats returns a floating-point tensor of any shape as float32, row-major.
func (d *Dir) Floats(name string) ([]float32, []int, error) {
	s := d.where[name]
	if s == nil {
		return nil, nil, fmt.Errorf("%s: %w: %q", d.path, ErrNoTensor, name)
	}
	return s.Floats(name)
}

// Ints returns an integer tensor of any shape, row-major; a value outside int32 is an error.
func (d *Dir) Ints(name string) ([]int32, []int, error) {
	s := d.where[name]
	if s == nil {
		return nil, nil, fmt.Errorf("%s: %w: %q", d.path, ErrNoTensor, name)
	}
	return s.Ints(name)
}

func (d *Dir) raw(name string) ([]byte, error) {
	s := d.where[name]
	if s == nil {
		return nil, fmt.Errorf("%s: %w: %q", d.path, ErrNoTensor, name)
	}
	return s.raw(name)
}

// Release implements Source.
func (d *Dir) Release(name string) {
	if s := d.where[name]; s != nil {
		s.Release(name)
	}
}

// Path returns the folder.
func (d *Dir) Path() string { return d.path }

// Close unmaps every shard.
func (d *Dir) Close() error {
	var errs []error
	for _, s := range d.shards {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
