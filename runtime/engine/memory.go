package engine

import (
	"fmt"

	"weft/runtime/device"
)

// PlanPages returns how many pages fit a budget of bytes, or a refusal with the numbers where not one sequence of a few
// pages would.
func PlanPages(budget int64, c device.KVConfig) (int, error) {
	const least = 4
	per := c.PageBytes()
	if per <= 0 || budget/per < least {
		return 0,
			fmt.Errorf(
				"%w: %d bytes are left for the KV cache, a page of %d tokens takes %d and at least %d pages are "+
					"needed: raise --memory or --kv-memory, or lower --max-context or --max-batch-tokens",
				ErrNoMemory, budget, c.PageLen, per, least)
	}
	return int(min(budget/per, 1<<24)), nil
}
