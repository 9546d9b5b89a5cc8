//go:build !linux

package priority

// Lower does nothing on this system.
func Lower() {}
