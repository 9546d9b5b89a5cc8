package tokenizer

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
)

// protobuf reads the wire format field by field; bounds are those of the slice.
type protobuf struct {
	data []byte
	size int // of the whole data
	err  error
}

func newProtobuf(data []byte) protobuf { return protobuf{data: data, size: len(data)} }

func (p *protobuf) fail(format string, args ...any) {
	p.err = fmt.Errorf("%w: at byte %d of %d: %s", ErrFormat, p.size-len(p.data), p.size, fmt.Sprintf(format, args...))
	p.data = nil
}

// next returns the next field: its number and, by wire type, a number or bytes. ok is false at the end or at an error.
func (p *protobuf) next() (field int, value uint64, data []byte, ok bool) {
	if len(p.data) == 0 || p.err != nil {
		return 0, 0, nil, false
	}
	key := p.varint()
	switch key & 7 {
	case 0:
		value = p.varint()
	case 1:
		data = p.take(8)
	case 2:
		data = p.take(p.varint())
	case 5:
		if data = p.take(4); data != nil {
			value = uint64(binary.LittleEndian.Uint32(data))
		}
	default:
		p.fail("wire type %d", key&7)
	}
	return int(key >> 3 & 0xffffff), value, data, p.err == nil
}

func (p *protobuf) varint() uint64 {
	v, n := binary.Uvarint(p.data)
	if n <= 0 {
		p.fail("a number is cut short")
		return 0
	}
	p.data = p.data[n:]
	return v
}

func (p *protobuf) take(n uint64) []byte {
	if n > uint64(len(p.data)) {
		p.fail("a field of %d bytes, %d are left", n, len(p.data))
		return nil
	}
	out := p.data[:n]
	p.data = p.data[n:]
	return out
}

// parseSentencePiece reads tokenizer.model, a ModelProto of sentencepiece_model.proto; finish must follow.
func parseSentencePiece(text []byte) (*Tokenizer, error) {
	var pieces []string
	var scores []float32
	var types []int32
	special := map[int]int32{} // trainer_spec field → id
	modelType, prefix := uint64(1), true
	p := newProtobuf(text)
	for {
		field, _, data, ok := p.next()
		if !ok {
			break
		}
		switch field {
		case 1:
			piece, score, ty, err := parsePiece(data)
			if err != nil {
				return nil, fmt.Errorf("piece %d: %w", len(pieces), err)
			}
			if len(pieces) >= maxVocab {
				return nil, fmt.Errorf("%w: more than %d pieces", ErrFormat, maxVocab)
			}
			pieces, scores, types = append(pieces, piece), append(scores, score), append(types, ty)
		case 2:
			q := newProtobuf(data)
			for {
				f, v, _, ok := q.next()
				if !ok {
					break
				}
				if f == 3 {
					modelType = v
				} else if f >= 40 && f <= 43 {
					special[f] = int32(v)
				}
			}
			if q.err != nil {
				return nil, fmt.Errorf("trainer_spec: %w", q.err)
			}
		case 3:
			q := newProtobuf(data)
			for {
				f, v, _, ok := q.next()
				if !ok {
					break
				}
				if f == 3 {
					prefix = v != 0
				}
			}
			if q.err != nil {
				return nil, fmt.Errorf("normalizer_spec: %w", q.err)
			}
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	if modelType != 2 {
		return nil, fmt.Errorf("%w: SentencePiece model type %d; supported is BPE (2)", ErrUnsupported, modelType)
	}
	t, err := newTokenizer(pieces)
	if err != nil {
		return nil, err
	}
	t.scored = true
	t.sentencePiece(scores, func(id int32) int32 { return types[id] }, prefix)
	for i, ty := range types {
		if ty == typeControl || ty == typeUser || ty == typeUnknown {
			if err := t.add(addedToken{id: int32(i), content: pieces[i], special: ty != typeUser}); err != nil {
				return nil, err
			}
		}
	}
	at := func(field int, def int32) int32 {
		id, ok := special[field]
		if !ok {
			id = def
		}
		if id < 0 || int(id) >= len(pieces) {
			return -1
		}
		return id
	}
	t.bpe.unk, t.bos, t.eos = at(40, 0), at(41, 1), at(42, 2)
	if t.bos >= 0 {
		t.before = []int32{t.bos}
	}
	return t, nil
}

// llamaTokenizer follows tokenizer_config.json where it names transformers' LlamaTokenizer, which reads tokenizer.model
// otherwise than SentencePiece does: ▁ stands before the text only if it begins with no space, unless "legacy" is true
// also behind each added token, and BOS and EOS are added where the file says so.
func (t *Tokenizer) llamaTokenizer(dir string) error {
	var config struct {
		Class          string `json:"tokenizer_class"`
		Legacy         *bool  `json:"legacy"`
		AddPrefixSpace *bool  `json:"add_prefix_space"`
		AddBOS         *bool  `json:"add_bos_token"`
		AddEOS         *bool  `json:"add_eos_token"`
	}
	if err := readJSON(filepath.Join(dir, "tokenizer_config.json"), &config); err != nil {
		return err
	}
	is := func(b *bool, absent bool) bool { return b != nil && *b || b == nil && absent }
	if config.Class != "LlamaTokenizer" && config.Class != "LlamaTokenizerFast" {
		if is(config.Legacy, true) {
			return nil
		}
		config.AddBOS = cmp.Or(config.AddBOS, new(len(t.before) > 0))
	}
	mode := prefixFirst
	if is(config.Legacy, false) {
		mode = prefixAlways
	}
	t.decoding.lead = 1
	if !is(config.AddPrefixSpace, true) {
		mode, t.decoding.lead = prefixNever, 0
	}
	t.norm, t.pre = nil, []preStep{metaspace(meta, mode, false)}
	t.before, t.after = nil, nil
	if is(config.AddBOS, false) && t.bos >= 0 {
		t.before = []int32{t.bos}
	}
	if is(config.AddEOS, false) && t.eos >= 0 {
		t.after = []int32{t.eos}
	}
	return nil
}

func parsePiece(data []byte) (piece string, score float32, ty int32, err error) {
	ty = typeNormal
	p := newProtobuf(data)
	for {
		f, v, b, ok := p.next()
		if !ok {
			return piece, score, ty, p.err
		}
		switch f {
		case 1:
			piece = string(b)
		case 2:
			score = math.Float32frombits(uint32(v))
		case 3:
			ty = int32(v & 0xff)
		}
	}
}
