# weft: `make` alone lists the targets.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# without -trimpath, with which go vet looks for cgo's sources in the folder of whichever checkout filled the build cache
export GOFLAGS := -buildvcs=false
CACHE    := .cache
LINT     := $(CACHE)/golangci-lint-v2.15.0
LINTPKG  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
TAGS     := invariants
# a git tag, if there is one, replaces the version in cmd/weft
VERSION  := $(patsubst v%,%,$(shell git describe --tags --match 'v*' --dirty 2>/dev/null))
MODEL    ?=
LISTEN   ?= 127.0.0.1:8000
BASELINE ?= $(PEER)
BASELINE_AVX2 ?= $(PEER_AVX2)
FUZZTIME ?= 5s
CODE     := adapters cmd docs finetune internal quant runtime scripts server
# what the race detector checks: packages without cgo, but for those that compute in one goroutine, and of two others that
# compute for minutes only the tests that share work between goroutines
CONCURRENT = $(shell go list ./... | grep -v -e /device/ -e /runtime/model$$ -e /finetune/grad$$ -e /adapters/peft$$ \
  -e /finetune/retrain/)

.PHONY: help setup model build serve test test-race test-asan test-isa test-nocgo test-stores test-clients \
  test-openapi test-attack test-guides test-python mutants soak fuzz bench bench-training bench-metrics bench-data \
  bench-methods microbench lint \
  fmt docker-steps vulncheck check-deploy release ci clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: ## install what is missing (a C compiler, python3 with pip for the model download)
	@scripts/setup

model: setup ## fetch the default model into the user's cache and check its hash
	@scripts/fetch-model >/dev/null

build: setup ## build bin/weft
	go build $(if $(VERSION),-ldflags "-X main.version=$(VERSION)") -o bin/weft ./cmd/weft

serve: build model ## serve the default model (or MODEL=REF) on LISTEN=127.0.0.1:8000
	exec bin/weft serve $(if $(MODEL),--model $(MODEL)) --listen $(LISTEN)

test: model ## all tests with invariants checked; the engine's also without, to count allocations
	go test -tags $(TAGS) -timeout 20m ./...
	go test -timeout 5m ./runtime/engine

test-race: setup ## tests of the packages that use goroutines under the race detector
	go test -race -short -timeout 25m $(CONCURRENT)
	go test -race -short -timeout 10m -run 'Fused|Yield|DoRA|Initial' ./finetune/grad ./adapters/peft

test-asan: setup ## C kernels and their callers under the address sanitizer
	go test -asan -short -timeout 15m ./runtime/device/cpu

test-isa: setup ## the program with each instruction set of this machine: the same text bit for bit
	for isa in scalar avx2 avx512; do \
	  case $$isa in avx2) flag=avx2;; avx512) flag=avx512_vnni;; *) flag=;; esac; \
	  grep -qw "$$flag" /proc/cpuinfo || { echo "WEFT_ISA=$$isa: not on this machine"; continue; }; \
	  echo "WEFT_ISA=$$isa"; WEFT_ISA=$$isa go test -count=1 -timeout 10m -run 'TestGenerate|TestDrain' ./cmd/weft; done

test-nocgo: ## build and test without cgo, with the ref device, on which whole comparisons of methods take minutes
	CGO_ENABLED=0 go build ./...
	CGO_ENABLED=0 go test -short -timeout 15m -skip 'TestCompare(Methods|Continues)' ./runtime/device/... ./cmd/weft

test-stores: setup ## registry, tenants and quotas on a real Postgres and S3-compatible server, started for the test
	scripts/test-stores

test-clients: build model ## official and generated clients and the endpoint picker against the real server
	scripts/clients/run

test-openapi: build ## schemathesis looks for differences between the server and its OpenAPI document
	scripts/schemathesis/run

test-attack: build ## what attackers and mishaps did to weft, against the built program: 20 seconds
	go run ./scripts/attack bin/weft

test-guides: build model ## run the examples of README and the guides
	scripts/guides/run

test-python: build model ## read weft's files with PEFT, transformers, TensorBoard, bitsandbytes (first run: 3 GB)
	scripts/python/run

mutants: setup ## break one line at a time and list the faults that no test finds (an hour)
	go run ./scripts/mutants

soak: build model ## load for SOAK=60s; memory must stay constant and no page may leak
	scripts/soak "$${SOAK:-60s}"

fuzz: setup ## every fuzz target for FUZZTIME=5s
	scripts/fuzz $(FUZZTIME)

bench: build model ## compare with llama.cpp (BASELINE=folder of its programs) and PEFT, write docs/benchmarks
	go run ./scripts/bench $(if $(BASELINE),-baseline $(BASELINE)) \
	  $(if $(BASELINE_AVX2),-baseline-avx2 $(BASELINE_AVX2)) $(if $(TRACE),-trace $(TRACE)) \
	  $(if $(MODELS),-models $(MODELS)) -out docs/benchmarks/cpu.md
	go run ./scripts/bench -part adapters $(if $(BASELINE),-baseline $(BASELINE)) $(if $(MODELS),-models $(MODELS)) \
	  $(if $(LORAS),-loras $(LORAS)) -out docs/benchmarks/adapters.md
	$(MAKE) bench-training
	$(MAKE) bench-metrics
	$(MAKE) bench-data

bench-training: build model ## only the comparison of training with PEFT and PyTorch (PEFT=script that trains with PEFT)
	go run ./scripts/bench -part training -python "$$(scripts/python/environment)" \
	  $(if $(PEFT),-peft-script $(PEFT)) $(if $(MODELS),-models $(MODELS)) -out docs/benchmarks/training.md

bench-metrics: build ## only the metrics beside sacrebleu, rouge-score, rouge_chinese and SQuAD's rule
	"$$(scripts/python/environment data)" -B scripts/python/metric_speed.py --weft bin/weft --out docs/benchmarks/metrics.md

bench-data: build ## only the figures of data sets, beside datasketch and rensa (SIZE=5 for the goals' 5 GB)
	go run ./scripts/bench -part data $(if $(SIZE),-size $(SIZE)) -python "$$(scripts/python/environment data)" \
	  -out docs/benchmarks/data.md

bench-methods: build model ## full, LoRA and QLoRA on the default model (GENERAL=file of general chats): half an hour
	bin/weft compare methods --out $(CACHE)/methods $(if $(GENERAL),--general $(GENERAL))
	cp $(CACHE)/methods/methods.md $(CACHE)/methods/methods-*.svg docs/benchmarks/

microbench: setup ## Go benchmarks of the hot paths
	go test -run '^$$' -bench . -benchmem ./runtime/... ./quant

$(LINT):
	mkdir -p $(CACHE)
	GOBIN=$(CURDIR)/$(CACHE)/bin go install $(LINTPKG)
	mv $(CACHE)/bin/golangci-lint $@

lint: $(LINT) ## gofmt, go.mod tidy, go vet, golangci-lint
	@test -z "$$(gofmt -l $(CODE))" || { gofmt -l $(CODE); echo "run make fmt"; exit 1; }
	go mod tidy -diff
	go vet ./...
	go vet -tags invariants ./...
	$(LINT) run ./...

fmt: ## format the Go code
	gofmt -w $(CODE)

docker-steps: ## run the Dockerfile's steps as a script (no container tool needed)
	scripts/docker-steps

vulncheck: setup ## look for known vulnerabilities, if the Go vulnerability database can be reached
	scripts/vulncheck

check-deploy: ## check docs/deploy with promtool and systemd-analyze, where available
	scripts/check-deploy

release: setup ## binaries, checksums and SBOMs of this version in dist/
	scripts/release

ci: ## everything that CI runs, each step with its seconds; the tests come last
	@for step in lint build vulncheck check-deploy test-nocgo test-race test-asan test-isa fuzz docker-steps release \
	  test-stores test-clients test-openapi test-attack test-guides test-python; do \
	  start=$$SECONDS; $(MAKE) --no-print-directory $$step; echo "ci: $$step took $$((SECONDS - start)) s"; done; \
	  echo "ci: $$SECONDS s before the tests"
	@$(MAKE) --no-print-directory test

clean: ## remove built files
	rm -rf bin dist $(CACHE)
