# bpfckpt: `make demo` shows it, `make test` proves it. Everything a target needs it sets up itself (Debian 12, root).

GO       ?= go
BIN      := bin/bpfckpt
# The unit tests are every package but the integration tests, which drive the built binary.
UNIT      = $$($(GO) list ./... | grep -v /integration)
FUZZTIME ?= 10s
RANDOM_SEEDS ?= 1-2000

.DEFAULT_GOAL := build
.PHONY: build demo test test-kernels test-kernels-core unit integration random real lint fmt generate fresh one-table fuzz-short setup clean

build: ## the command, in bin/
	$(GO) build -o $(BIN) ./cmd/bpfckpt

demo: build ## a counter and a Python computation survive their own death
	@scripts/demo

test: setup lint fresh build ## everything CI runs
	$(GO) test -vet=off -timeout 10m $(UNIT)
	$(MAKE) --no-print-directory integration
	$(MAKE) --no-print-directory test-kernels-core

unit: ## tests of the packages, without the integration tests
	$(GO) test -vet=off -timeout 10m $(UNIT)

integration: build ## tests that drive bin/bpfckpt on real processes
	$(GO) test -vet=off -count=1 -timeout 20m -parallel 3 ./integration/...

random: build ## 2,000 random programs through check, snap --kill and restore (RANDOM_SEEDS=first-last), and a table of their features
	BPFCKPT_SEEDS=$(RANDOM_SEEDS) $(GO) test -vet=off -count=1 -timeout 5h -parallel 4 -v -run 'TestRandom$$' ./integration/

test-kernels: ## the tests of every package on Debian's 6.1 kernel, emulated
	@scripts/kernels

test-kernels-core: ## the part of it that CI runs, in about three minutes
	@scripts/kernels -core

real: ## real programs of Debian, saved in mid-run and brought back; installs many packages, takes an hour (RUN picks programs)
	$(GO) run ./integration/real -o docs/real-programs.md -run '$(RUN)'

lint: ## go vet, staticcheck, gofumpt
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@scripts/gofumpt-check

fmt: ## format every Go file
	$(GO) tool gofumpt -w .

generate: ## bindings, BPF objects and generated documentation (needs clang and llvm-strip)
	$(GO) generate ./...

fresh: ## fails if a generated file is not what `make generate` writes
	@scripts/fresh

one-table: ## each entry of the tables of flags and kinds is removed in turn, and a test must break; some ten minutes
	@scripts/one-table

fuzz-short: ## every fuzz target for FUZZTIME
	@FUZZTIME=$(FUZZTIME) scripts/fuzz-short

setup: ## the Debian packages the tests need
	@scripts/setup

clean:
	rm -rf bin
