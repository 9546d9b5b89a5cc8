// Command bench measures weft beside llama.cpp on the same weights and the same cores, in turn, and writes the tables of docs/benchmarks.
// `make bench` runs it. Nothing else may run on the machine meanwhile.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
)

// suite is what every measurement needs.
type suite struct {
	weft, peer string // our binary; the folder of llama-bench, llama-server and llama-quantize, "" where there is none
	peerAVX2   string // the same, built without AVX-512
	models     string // folder of the models
	loras      string // folder of the peer's adapters
	trace      string
	part       string // of parts
	threads    int
	rounds     int
	only       *regexp.Regexp
	rows       []row
}

// parts are the tables: what measures them, and how their page begins.
var parts = map[string]struct {
	measure []func(*suite, context.Context) error
	title   string
}{
	"cpu":      {[]func(*suite, context.Context) error{(*suite).kernels, (*suite).ownKernels, (*suite).servers, (*suite).prefix}, "On the CPU, beside llama.cpp"},
	"adapters": {[]func(*suite, context.Context) error{(*suite).adapters}, "Many adapters, beside llama.cpp"},
}

func main() {
	log.SetFlags(log.Ltime)
	log.SetPrefix("bench: ")
	s := &suite{}
	cache, _ := os.UserCacheDir()
	var only, out string
	flag.StringVar(&s.weft, "weft", "bin/weft", "our binary")
	flag.StringVar(&s.peer, "peer", "", "folder of llama-bench, llama-server and llama-quantize")
	flag.StringVar(&s.peerAVX2, "peer-avx2", "", "the same, built for AVX2 alone")
	flag.StringVar(&s.models, "models", filepath.Join(cache, "weft", "bench"), "folder of the models; what is missing is made there")
	flag.StringVar(&s.loras, "loras", filepath.Join(cache, "weft-peer", "loras"), "folder of 16 adapters for each model as llama-server wants them: MODEL-r16-00.gguf, …")
	flag.StringVar(&s.part, "part", "cpu", "cpu or adapters: which table")
	flag.StringVar(&s.trace, "trace", "", "AzureLLMInferenceTrace_code.csv")
	flag.IntVar(&s.threads, "threads", runtime.NumCPU(), "threads of both")
	flag.IntVar(&s.rounds, "rounds", 3, "how often each pair is measured in turn")
	flag.StringVar(&only, "only", "", "measure only the rows that match")
	flag.StringVar(&out, "out", "", "file to write, else standard output")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if s.only, err = regexp.Compile(only); err != nil {
		log.Fatalf("-only: %v", err)
	}
	if parts[s.part].measure == nil {
		log.Fatalf("-part %q: cpu or adapters", s.part)
	}
	if err := s.makeModels(ctx); err != nil {
		log.Fatal(err)
	}
	failed := false
	for _, measure := range parts[s.part].measure {
		if err := measure(s, ctx); err != nil {
			log.Print(err) // the table has what was measured
			failed = true
		}
	}
	w := os.Stdout
	if out != "" {
		if w, err = os.Create(out); err != nil {
			log.Fatal(err)
		}
	}
	if err := s.write(ctx, w); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	if failed {
		os.Exit(1)
	}
}

// wants says whether a row was asked for.
func (s *suite) wants(format string, args ...any) bool {
	return s.only.MatchString(fmt.Sprintf(format, args...))
}
