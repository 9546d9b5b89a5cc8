//go:build !linux

package adapters

func polite() {}
