package capture

// fault is called at each border of a write with its name. Tests set it, to kill the process there or to fail.
var fault = func(point string) error { return nil }

// Borders of writes.
const (
	atMade      = "segment made"
	atWriting   = "half of a batch written"
	atWritten   = "batch written"
	atSynced    = "batch synced"
	atIndexing  = "index about to be committed"
	atIndexed   = "index committed"
	atForgotten = "deletion about to be committed"
	atDeleted   = "deletion committed"
	atCopied    = "live records copied"
	atMoving    = "copy about to be committed"
	atMoved     = "copy committed"
	atRemoved   = "old segment removed"
	atCutting   = "end about to be cut"
	atCut       = "end cut"
)
