// Package tidy holds the rules of the house as tests: which folder may import which, package comments, file names,
// words.
package tidy
