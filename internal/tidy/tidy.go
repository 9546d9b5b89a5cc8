// Package tidy holds the rules of the repository as tests: which folder may import which, package comments, file names,
// words, links and the table of packages in the docs.
package tidy
