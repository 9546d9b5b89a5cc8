package grad

import (
	"weft/runtime/lora"
	"weft/runtime/model"
)

func sizesOf(c *model.Config) sizes {
	return sizes{hidden: c.Hidden, q: c.Heads * c.HeadDim, kv: c.KVHeads * c.HeadDim, ffn: c.FFN}
}

// Weights returns the sizes of all matrices and vectors of a model, a tied head once.
func Weights(c *model.Config) []int {
	out := []int{c.Vocab * c.Hidden, c.Hidden}
	if !c.Tied {
		out = append(out, c.Vocab*c.Hidden)
	}
	for range c.Layers {
		for _, s := range targetsOf(sizesOf(c)) {
			out = append(out, s[0]*s[1], s[0]) // the bias, where there is one
		}
		out = append(out, 4*c.Hidden, 2*c.HeadDim)
	}
	return out
}

// Adapters are the LoRA sizes that Bytes needs; the zero value: no LoRA.
type Adapters struct {
	Rank                int // the largest rank, assumed for every projection
	EmbedRank, HeadRank int // 0: none there
	Dropout, DoRA       bool
}

// Bytes returns what Prepare allocates for a model with adapters.
func (o Config) Bytes(c *model.Config, use Adapters) int64 {
	s, rank, dropout, dora := sizesOf(c), use.Rank, use.Dropout, use.DoRA
	wide := max(s.hidden, s.q, s.ffn)
	kept := s.q + s.hidden + s.q + 2*s.kv + c.Heads + 2*s.ffn + int(lora.NumTargets)*rank
	if c.QKNorm {
		kept += s.q + s.kv
	}
	if c.SandwichNorm {
		kept += 2 * s.hidden
	}
	if dora {
		for _, t := range targetsOf(s) {
			kept += t[0]
		}
	}
	perToken := int64(c.Layers)*int64(s.hidden) + int64(6*s.hidden+3*s.ffn+wide+2*s.q+2*s.kv+3*rank)
	if dropout {
		perToken += int64(wide)
	}
	if o.Checkpoint {
		perToken += int64(kept)
	} else {
		perToken += int64(c.Layers) * int64(kept)
	}
	perToken += 2 * int64(use.EmbedRank)
	rows, perRow := int64(rowsAtOnce(c, o.Yield != nil)), int64(c.Vocab+4*s.hidden+1+use.HeadRank)
	if dora && use.HeadRank > 0 {
		perRow += int64(c.Vocab) + int64(rank)*int64(c.Vocab)/rows // z, and A Wᵀ
	}
	ropes := 0
	for i := range c.Ropes {
		ropes += 2 * c.Ropes[i].Rot
	}
	return 4 * (int64(o.MaxTokens)*perToken + rows*perRow + int64(o.MaxSample*ropes))
}

// rowsAtOnce returns the number of rows whose logits are computed at once.
func rowsAtOnce(c *model.Config, shared bool) int {
	if shared {
		return 8
	}
	return max(8, min(256, logitBytes/(4*c.Vocab)))
}
