// Package model turns configurations and weight files into decoders over device operations: the configuration in both
// spellings, an explicit list of architectures, one readable file each.
package model
