package peft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"math"
	"slices"
)

// Digest returns the digest of the adapter at path, as Adapter.Digest does; the adapter must be valid without a base.
func Digest(path string) (string, error) {
	a, err := Open(path)
	if err != nil {
		return "", err
	}
	defer a.Close()
	return a.Digest()
}

// Digest returns 64 hexadecimal digits: the SHA-256 of what the adapter computes. It does not depend on the order of
// files, members and tensors, on white space, on headers, on PEFT's spelling of names, or on members of the
// configuration about training only; it depends on the type and every bit of every tensor.
//
// What is hashed is a sequence of fields, each a text preceded by its length in bytes as a little-endian uint64:
//
//	"weft adapter 1"
//	"peft", or "gguf" and the architecture (whose rows of q and k are in another order)
//	"init_lora_weights pissa" or "… olora" where these are not yet subtracted
//	for each module by path, ascending bytewise:
//	    its path ("model.layers.0.self_attn.q_proj")
//	    the bits of its scale as a little-endian float64: the multiplier of BA; 0 where it has no A
//	    for each of its tensors, in this order: the kind (lora_A, lora_B, lora_B.bias, lora_embedding_A,
//	    lora_embedding_B, lora_magnitude_vector, base_layer, bias, weight), the type ("F32", …), the number of
//	    dimensions followed by each of them (of the mathematical matrix: A [r, in]) as little-endian uint64 in one
//	    field, and the values as they are stored
//	    an empty field
func (a *Adapter) Digest() (string, error) {
	h := sha256.New()
	field(h, []byte("weft adapter 1"))
	if a.gguf {
		field(h, []byte("gguf"))
		field(h, []byte(a.arch))
	} else {
		field(h, []byte("peft"))
	}
	if a.Config.Init != "" {
		field(h, []byte("init_lora_weights "+a.Config.Init))
	}
	for _, path := range a.paths() {
		field(h, []byte(path))
		m := a.modules[path]
		scale := 0.0
		if fa, _, ok, _ := pair(m); ok {
			scale = a.scale(path, fa.shape[0])
		}
		field(h, binary.LittleEndian.AppendUint64(nil, math.Float64bits(scale)))
		for _, k := range sortedKinds(m) {
			if err := a.digestTensor(h, k, m[k]); err != nil {
				return "", fmt.Errorf("digest: %w", err)
			}
		}
		field(h, nil)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// kindNames are the names of the kinds in Digest and Write.
var kindNames = map[kind]string{
	kindA: "lora_A", kindB: "lora_B", kindLoRABias: "lora_B.bias", kindEmbedA: "lora_embedding_A",
	kindEmbedB:    "lora_embedding_B",
	kindMagnitude: "lora_magnitude_vector", kindBase: "base_layer", kindBias: "bias", kindWeight: "weight",
}

func (a *Adapter) digestTensor(h hash.Hash, k kind, r stored) error {
	field(h, []byte(kindNames[k]))
	field(h, []byte(r.format))
	shape := binary.LittleEndian.AppendUint64(nil, uint64(len(r.shape)))
	for _, n := range r.shape {
		shape = binary.LittleEndian.AppendUint64(shape, uint64(n))
	}
	field(h, shape)
	return a.bytes(r, func(data []byte) error {
		field(h, data)
		return nil
	})
}

// field writes a text preceded by its length.
func field(h hash.Hash, text []byte) {
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(text))))
	h.Write(text)
}

// paths lists the modules, sorted.
func (a *Adapter) paths() []string { return slices.Sorted(maps.Keys(a.modules)) }
