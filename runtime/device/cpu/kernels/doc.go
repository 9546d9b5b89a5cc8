// Package kernels compiles the C kernels that package cpu calls; kernels.h declares them. It imports nothing and has no
// tests of its own, so that one compilation, which takes minutes, serves the program and the tests of every package,
// with any build tags.
package kernels
