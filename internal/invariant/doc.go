// Package invariant has assertions that run under the build tags invariants and race and cost nothing otherwise.
package invariant
