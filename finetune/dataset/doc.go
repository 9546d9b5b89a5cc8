// Package dataset makes data sets of files of samples: it converts them (convert.go, parquet.go), shows what is in them
// (inspect.go, page.go), splits them into a training set and held-out sets without leaks and without duplicates
// (split.go, near.go), mixes a general set into them (mix.go), and shows what would be redacted in them (redact.go).
// Package data reads the files; everything here streams and gives the same output for the same input and options on any
// machine.
package dataset
