// Command bench measures weft beside llama.cpp, PEFT and PyTorch on the same weights and the same cores, in turn, and
// writes the tables of docs/benchmarks. `make bench` runs it. Nothing else may run on the machine at the same time.
package main

import (
	"cmp"
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
	weft         string // the binary
	baseline     string // folder of llama-bench, llama-server and llama-quantize; "": none
	baselineAVX2 string // the same, built without AVX-512
	models       string // folder of the models
	loras        string // folder of the baseline's adapters
	trace        string
	shared       string // folder of the test data
	python       string // a python with PEFT; "": none
	peftScript   string // trains with PEFT
	baselineName string // name and version that the baseline reported
	part         string // of parts
	threads      int
	rounds       int
	size         float64 // GB of the data set that is split
	only         *regexp.Regexp
	rows         []row
}

// part is a table: the functions that measure it, which run after its models are made, and the start of its page.
type part struct {
	measure []func(*suite, context.Context) error
	models  func(*suite, context.Context) error
	title   string
	command string
	how     string
}

const llamaHow = "Prefill and decode are `weft bench --prompt 512 --gen 128` against `llama-bench -p 512 -n 128 " +
	"-fa 1`;\n" +
	"streams are chat requests with 64 tokens in and 128 out, greedy, sent by the same load generator (`weft bench " +
	"serve`) to both servers."

var parts = map[string]part{
	"cpu": {[]func(*suite, context.Context) error{(*suite).kernels, (*suite).ownKernels, (*suite).servers,
		(*suite).prefix}, (*suite).makeModels,
		"On the CPU, beside llama.cpp", "make bench BASELINE=DIR", llamaHow},
	"adapters": {[]func(*suite, context.Context) error{(*suite).adapters}, (*suite).makeModels,
		"Many adapters, beside llama.cpp", "make bench BASELINE=DIR", llamaHow},
	"fairness": {[]func(*suite, context.Context) error{(*suite).fairness}, (*suite).makeSharedModels,
		"What tenants get beside each other", "go run ./scripts/bench -part fairness",
		"Chat requests are sent\nby `weft bench serve`'s load generator, each tenant with its own key."},
	"data": {[]func(*suite, context.Context) error{(*suite).dataSets},
		func(*suite, context.Context) error { return nil },
		"Data sets", "make bench-data",
		"`weft data split` reads JSON Lines of random\nconversations of about 2 kB, of the size in the note for its own " +
			"figures (-size) and 50 MB beside Python's tools, and writes\nthem to the sides, with the digests of " +
			"all. One conversation in twenty is a copy with up to six words changed. Peak memory\nis what the system " +
			"reports of the process; temporary files are those that have no name, seen every 50 ms. The tools get\n" +
			"the same rows and shingles; they propose pairs and verify none. The goals are for two free cores; where " +
			"other programs run,\nthe rate by CPU time says more."},
	"evaluation": {[]func(*suite, context.Context) error{(*suite).evaluation},
		func(s *suite, _ context.Context) error { return s.linkSmall() },
		"Evaluations", "go run ./scripts/bench -part evaluation",
		"SmolLM2-135M-Instruct (Q4_1). Requests have 64 tokens in and 64 out and come at random times, half or a " +
			"tenth as many in a second as\n16 streams reach; the evaluation, in the same process, has 16 streams of " +
			"64 tokens in and up to 64 out. Tokens per second count those of prompts too. Adapters are random ones " +
			"of rank 16 on all linear layers."},
	"training": {[]func(*suite, context.Context) error{(*suite).training}, (*suite).makeOwnModels,
		"Training, beside PEFT and PyTorch", "make bench-training",
		"LoRA is r = 8 on all linear layers of SmolLM2-135M-Instruct (Q4_1), `identity.json` (91 chats), batches of " +
			"8, 12 steps, AdamW, clipping. Tokens per second count tokens without padding over the time of forward,\n" +
			"backward and the optimizer, without the first step; weft draws the samples in its own order, PEFT " +
			"takes the file's, both see each once. Peak memory is the process's, loading included. The\n" +
			"figure of the baseline is that of one thread or of all, whichever is faster."},
}

func main() {
	log.SetFlags(log.Ltime)
	log.SetPrefix("bench: ")
	s := &suite{}
	cache, _ := os.UserCacheDir()
	var only, out string
	flag.StringVar(&s.weft, "weft", "bin/weft", "the weft binary")
	flag.StringVar(&s.baseline, "baseline", "", "folder of llama-bench, llama-server and llama-quantize")
	flag.StringVar(&s.baselineAVX2, "baseline-avx2", "", "the same, built for AVX2 alone")
	flag.StringVar(&s.models, "models", filepath.Join(cache, "weft", "bench"),
		"folder of the models; what is missing is made there")
	flag.StringVar(&s.loras, "loras", filepath.Join(cache, "weft-baseline", "loras"),
		"folder of 16 adapters for each model as llama-server wants them: MODEL-r16-00.gguf, …")
	flag.StringVar(&s.part, "part", "cpu", "cpu, adapters, fairness, data, evaluation or training: which table")
	flag.StringVar(&s.trace, "trace", "", "AzureLLMInferenceTrace_code.csv")
	flag.StringVar(&s.shared, "shared", cmp.Or(os.Getenv("WEFT_TESTDATA"), filepath.Join("..", "shared")),
		"folder of the test data, for training")
	flag.StringVar(&s.python, "python", "",
		"a python with PEFT, transformers and bitsandbytes, for training's baselines (scripts/python/environment "+
			"makes one)")
	flag.StringVar(&s.peftScript, "peft-script", "",
		"script that trains with PEFT (default: train_peft.py of the test data)")
	flag.IntVar(&s.threads, "threads", runtime.NumCPU(), "threads of weft and of the baseline")
	flag.IntVar(&s.rounds, "rounds", 3, "how often each pair is measured in turn")
	flag.Float64Var(&s.size, "size", 0.5, "GB of conversations that data sets are split of; the goals are for 5")
	flag.StringVar(&only, "only", "", "measure only the rows that match")
	flag.StringVar(&out, "out", "", "file to write (default: standard output)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if s.only, err = regexp.Compile(only); err != nil {
		log.Fatalf("-only: %v", err)
	}
	chosen, ok := parts[s.part]
	if !ok {
		log.Fatalf("-part %q: cpu, adapters, fairness, data, evaluation or training", s.part)
	}
	s.peftScript = cmp.Or(s.peftScript, filepath.Join(s.shared, "peer", "train_peft.py"))
	if err := chosen.models(s, ctx); err != nil {
		log.Fatal(err)
	}
	failed := false
	for _, measure := range chosen.measure {
		if err := measure(s, ctx); err != nil {
			log.Print(err) // the table contains the rows that were measured
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

// wants reports whether -only selects a row.
func (s *suite) wants(format string, args ...any) bool {
	return s.only.MatchString(fmt.Sprintf(format, args...))
}
