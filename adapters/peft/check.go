package peft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"weft/runtime/model"
)

// checkModules finds what is wrong with the tensors for every base: pairs, ranks, types, and values that are not
// finite.
func (a *Adapter) checkModules() {
	if len(a.modules) == 0 {
		a.wrong.add("", "it contains no tensors of a LoRA")
	}
	for _, path := range a.paths() {
		m := a.modules[path]
		a.checkPair(path, m)
		a.checkExtras(path, m)
		for _, k := range sortedKinds(m) {
			a.checkValues(m[k])
		}
	}
	for _, name := range a.Config.Save {
		if path := saved(name); path != "" {
			if _, ok := a.modules[path][kindWeight]; !ok {
				a.wrong.add("save the adapter again", "modules_to_save names %s, but the file does not contain it",
					name)
			}
		}
	}
}

func sortedKinds(m map[kind]stored) []kind {
	var out []kind
	for k := kindA; k <= kindWeight; k++ {
		if _, ok := m[k]; ok {
			out = append(out, k)
		}
	}
	return out
}

// pair returns the module's A and B, of the embedding or of a linear layer.
func pair(m map[kind]stored) (a, b stored, hasA, hasB bool) {
	if a, hasA = m[kindA]; !hasA {
		a, hasA = m[kindEmbedA]
	}
	if b, hasB = m[kindB]; !hasB {
		b, hasB = m[kindEmbedB]
	}
	return a, b, hasA, hasB
}

// adapted reports whether the module has any part of a LoRA.
func adapted(m map[kind]stored) bool {
	for _, k := range []kind{kindA, kindB, kindEmbedA, kindEmbedB, kindLoRABias, kindMagnitude} {
		if _, ok := m[k]; ok {
			return true
		}
	}
	return false
}

func (a *Adapter) checkPair(path string, m map[kind]stored) {
	_, linear := m[kindA]
	if _, b := m[kindB]; b {
		linear = true
	}
	_, embedding := m[kindEmbedA]
	if _, b := m[kindEmbedB]; b {
		embedding = true
	}
	switch {
	case !linear && !embedding:
		if adapted(m) {
			a.wrong.add("save the adapter again", "%s: lora_A and lora_B are missing", path)
		}
		return
	case linear && path == embedPath:
		a.wrong.add("",
			"%s: an adapter on the embedding is called lora_embedding_A and lora_embedding_B, not lora_A and lora_B",
			path)
		return
	case embedding && path != embedPath:
		a.wrong.add("", "%s: lora_embedding_A and lora_embedding_B belong to the embedding only", path)
		return
	}
	fa, fb, hasA, hasB := pair(m)
	if !hasA || !hasB {
		missing, there := "lora_B", fa.name
		if !hasA {
			missing, there = "lora_A", fb.name
		}
		a.wrong.add("save the adapter again", "%s: %s is missing, although %q is present", path, missing, there)
		return
	}
	a.checkRank(path, fa, fb)
}

func (a *Adapter) checkRank(path string, fa, fb stored) {
	if len(fa.shape) != 2 || len(fb.shape) != 2 || fa.shape[0] != fb.shape[1] || slices.Contains(fa.shape, 0) ||
		slices.Contains(fb.shape, 0) {
		a.wrong.add("", "%s: A has shape %v and B %v; they must be [r in] and [out r]", path, fa.shape, fb.shape)
		return
	}
	rank := fa.shape[0]
	if rank > maxRank {
		a.wrong.add("", "%s: rank %d, the limit is %d", path, rank, maxRank)
	}
	if a.gguf {
		return
	}
	if want, ok := a.match.rankFits(path, rank); !ok {
		a.wrong.add("the adapter_config.json of another training? its rank must be that of the tensors",
			"%s: the tensors have rank %d, but in the configuration %s", path, rank, want)
	}
}

// checkExtras compares magnitudes, biases and their types with the configuration.
func (a *Adapter) checkExtras(path string, m map[kind]stored) {
	_, b, _, hasB := pair(m)
	for _, k := range sortedKinds(m) {
		r := m[k]
		if !a.readable(k, r.format) {
			a.wrong.add("save it as F32, F16 or BF16", "tensor %q has type %s; adapters are F32, F16 or BF16", r.name,
				r.format)
		}
		switch {
		case k == kindMagnitude && !a.Config.DoRA:
			a.wrong.add("", "%s has a lora_magnitude_vector, but use_dora is false", path)
		case k == kindLoRABias && !a.Config.LoRABias:
			a.wrong.add("", "%s: lora_B has a bias, but lora_bias is false", path)
		case k == kindBias && a.Config.Bias == BiasNone:
			a.wrong.add("", "%s has a bias, but bias is none", path)
		}
		if (k == kindMagnitude || k == kindLoRABias) && hasB && len(b.shape) == 2 &&
			!slices.Equal(r.shape, b.shape[:1]) {
			a.wrong.add("", "tensor %q has shape %v, expected [%d]", r.name, r.shape, b.shape[0])
		}
	}
	if !adapted(m) {
		return
	}
	if _, ok := m[kindMagnitude]; !ok && a.Config.DoRA {
		a.wrong.add("save the adapter again", "%s: use_dora is true, but lora_magnitude_vector is missing", path)
	}
	if _, ok := m[kindLoRABias]; !ok && a.Config.LoRABias && path != embedPath {
		a.wrong.add("save the adapter again", "%s: lora_bias is true, but lora_B has no bias", path)
	}
	if a.Config.DoRA && path == embedPath {
		a.wrong.add("train without use_dora, or without embed_tokens", "%s: DoRA on the embedding is not served", path)
	}
}

// readable reports whether tensors of the type can be read: GGUF's pairs may be quantized.
func (a *Adapter) readable(k kind, format string) bool {
	return format == "F32" || format == "F16" || format == "BF16" || a.gguf && k <= kindEmbedB
}

// checkValues refuses NaN and infinities. Types without them, and types that were refused already, pass.
func (a *Adapter) checkValues(r stored) {
	bad := -1
	err := a.file.Bytes(r.name, func(data []byte) error {
		bad = notFinite(r.format, data)
		return nil
	})
	if err != nil {
		a.wrong.add("", "%v", err)
	}
	if bad >= 0 {
		a.wrong.add("the training diverged: train again with a smaller learning rate",
			"tensor %q contains NaN or an infinity at value %d", r.name, bad)
	}
}

// exponents are the masks of the exponent bits in eight bytes of values, and the lowest of these bits.
var exponents = map[string]struct {
	mask, low uint64
	size      int
}{
	"F32":  {0x7f8000007f800000, 0x0080000000800000, 4},
	"F16":  {0x7c007c007c007c00, 0x0400040004000400, 2},
	"BF16": {0x7f807f807f807f80, 0x0080008000800080, 2},
}

// notFinite returns the index of the first NaN or infinity, whose exponent bits are all set, -1 where all values are
// finite or the type is another. Eight bytes are tested together: adding the lowest bit of an exponent carries into
// the sign's place exactly where all of its bits are set.
func notFinite(format string, data []byte) int {
	e, ok := exponents[format]
	if !ok {
		return -1
	}
	carry := (e.mask + e.low) &^ e.mask
	at := 0
	for ; at+8 <= len(data); at += 8 {
		if (binary.LittleEndian.Uint64(data[at:])&e.mask+e.low)&carry != 0 {
			break
		}
	}
	for ; at+e.size <= len(data); at += e.size {
		var b [8]byte
		copy(b[:], data[at:at+e.size])
		if (binary.LittleEndian.Uint64(b[:])&e.mask+e.low)&carry != 0 {
			return at / e.size
		}
	}
	return -1
}

// checkBase adds to r why the adapter does not fit a base of this configuration.
func (a *Adapter) checkBase(c *model.Config, r *reasons) {
	if a.gguf && a.arch != c.Architecture {
		r.add("convert the adapter again with this base", "it was made for the architecture %q, the base's is %q",
			a.arch, c.Architecture)
	}
	known := map[string]bool{embedPath: true}
	for _, s := range sites(c) {
		known[s.path] = true
		a.checkSite(&s, a.modules[s.path], r)
	}
	a.checkEmbedding(c, r)
	a.checkTokens(c, r)
	maps.Copy(known, a.checkNorms(c, r))
	var unknown []string
	for _, path := range a.paths() {
		if !known[path] {
			unknown = append(unknown, path)
		}
	}
	if len(unknown) > 0 {
		r.add(a.otherBase(), "the base has no %s", listed(explained(unknown, c.Layers)))
	}
	a.checkTargets(c, r)
}

// explained adds the reason to modules beyond the last layer.
func explained(paths []string, layers int) []string {
	out := slices.Clone(paths)
	for i, p := range out {
		rest, ok := strings.CutPrefix(p, "model.layers.")
		number, _, _ := strings.Cut(rest, ".")
		if l, err := strconv.Atoi(number); ok && err == nil && l >= layers {
			out[i] = fmt.Sprintf("%s (it has %d layers)", p, layers)
		}
	}
	return out
}

// otherBase returns the advice where an adapter does not fit the base.
func (a *Adapter) otherBase() string {
	if a.Config.Base == "" {
		return "the adapter was made for another model"
	}
	return fmt.Sprintf("the adapter says that it was made for %.200q: serve that model", a.Config.Base)
}

func (a *Adapter) checkSite(s *site, m map[kind]stored, r *reasons) {
	fa, fb, hasA, hasB := pair(m)
	if hasA && hasB && len(fa.shape) == 2 && len(fb.shape) == 2 && (fa.shape[1] != s.in || fb.shape[0] != s.out) {
		r.add(a.otherBase(), "%s: A has shape %v and B %v, but the base's layer is [%d %d]", s.path, fa.shape, fb.shape,
			s.out, s.in)
	}
	b, hasBias := m[kindBias]
	due := s.bias && (a.Config.Bias == BiasAll || a.Config.Bias == BiasLoRAOnly && adapted(m))
	switch {
	case hasBias && !s.bias:
		r.add(a.otherBase(), "%s has a bias, but the base's layer has none", s.path)
	case hasBias && !slices.Equal(b.shape, []int{s.out}):
		r.add(a.otherBase(), "tensor %q has shape %v, but the base's layer has %d outputs", b.name, b.shape, s.out)
	case !hasBias && due:
		r.add("save the adapter again with a newer PEFT: some old versions did not save biases",
			"%s: bias is %s, but the file contains no trained bias of it", s.path, a.Config.Bias)
	}
	if s.path == headPath {
		a.checkTable(m, s.out, s.in, r)
	}
}

func (a *Adapter) checkEmbedding(c *model.Config, r *reasons) {
	m := a.modules[embedPath]
	fa, fb, hasA, hasB := pair(m)
	if hasA && hasB && len(fa.shape) == 2 && len(fb.shape) == 2 && (fa.shape[1] != c.Vocab || fb.shape[0] != c.Hidden) {
		r.add(a.otherBase(), "%s: A has shape %v and B %v, but the base's embedding is [%d %d]", embedPath, fa.shape,
			fb.shape, c.Vocab, c.Hidden)
	}
	if b, ok := m[kindBias]; ok {
		r.add("", "tensor %q: an embedding has no bias", b.name)
	}
	a.checkTable(m, c.Vocab, c.Hidden, r)
}

// checkTable checks whole weights [vocab, hidden] of the embedding or the head.
func (a *Adapter) checkTable(m map[kind]stored, vocab, hidden int, r *reasons) {
	for _, k := range []kind{kindBase, kindWeight} {
		t, ok := m[k]
		if !ok || slices.Equal(t.shape, []int{vocab, hidden}) {
			continue
		}
		if len(t.shape) == 2 && t.shape[1] == hidden {
			r.add("merge the adapter into its base, and serve that",
				"tensor %q has %d rows: the vocabulary was resized in training, the base's has %d", t.name, t.shape[0],
				vocab)
			continue
		}
		r.add(a.otherBase(), "tensor %q has shape %v, but the base's is [%d %d]", t.name, t.shape, vocab, hidden)
	}
}

// checkTargets compares the target modules of the configuration with those of the file.
func (a *Adapter) checkTargets(c *model.Config, r *reasons) {
	if a.gguf {
		return
	}
	var lacks, unasked []string
	for _, path := range basePaths(c) {
		switch has := adapted(a.modules[path]); {
		case a.match.targets(path) && !has:
			lacks = append(lacks, path)
		case path == headPath && a.Config.TieWeights && c.Tied: // it follows the embedding
		case has && !a.match.targets(path):
			unasked = append(unasked, path)
		}
	}
	if len(lacks) > 0 {
		r.add("save the adapter again, or correct target_modules",
			"target_modules chooses modules that the file does not contain: %s", listed(lacks))
	}
	if len(unasked) > 0 {
		r.add("correct target_modules", "the file contains modules that target_modules does not choose: %s",
			listed(unasked))
	}
}

// basePaths lists every module that can be adapted.
func basePaths(c *model.Config) []string {
	out := []string{embedPath}
	for _, s := range sites(c) {
		out = append(out, s.path)
	}
	return out
}

// warnings lists what is unusual but does not prevent serving the adapter.
func (a *Adapter) warnings(base Base) []string {
	var out []string
	if n := a.Config.Base; otherModel(n, base.Name()) {
		out = append(out,
			fmt.Sprintf("it was made for %.200q, the base is called %q: is it the same model?", n, base.Name()))
	}
	for _, t := range a.Config.Targets.Names {
		if !slices.ContainsFunc(basePaths(base.Config()), func(p string) bool { return named([]string{t}, p) }) {
			out = append(out, fmt.Sprintf("target_modules names %.200q, which the base does not have", t))
		}
	}
	return out
}
