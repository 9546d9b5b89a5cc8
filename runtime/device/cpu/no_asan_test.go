//go:build !asan

package cpu

const sanitized = false
