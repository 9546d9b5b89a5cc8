//go:build asan

package cpu

const sanitized = true
