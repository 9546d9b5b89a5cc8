//go:build !linux

package adapters

func lowerPriority() {}
