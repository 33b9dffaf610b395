# bpfckpt: `make demo` shows it, `make test` proves it. Everything a target needs it sets up itself (Debian 12, root),
# Go included.

# Where the go command is: in PATH if it is new enough for go.mod, else where scripts/toolchain has put one. It is looked
# for when it is first needed.
toolchain = $(eval toolchain := $(shell scripts/toolchain))$(or $(toolchain),$(error there is no Go to build with))
GO       ?= $(toolchain)/go
# For scripts that call it.
WITH_GO   = PATH="$(patsubst %/,%,$(dir $(shell command -v $(GO)))):$$PATH"
PART     := scripts/part
BIN      := bin/bpfckpt
# The unit tests are every package but the integration tests, which drive the built binary.
UNIT      = $$($(GO) list ./... | grep -v /integration)
FUZZTIME ?= 10s
RANDOM_SEEDS ?= 1-2000

.DEFAULT_GOAL := build
.PHONY: build demo test test-kernels test-kernels-core unit integration random real lint fmt generate fresh one-table mutations fuzz-short setup clean

build: ## the command, in bin/
	$(GO) build -o $(BIN) ./cmd/bpfckpt

demo: build ## a counter and a Python computation survive their own death
	@scripts/demo

test: setup lint fresh build ## everything CI runs
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory integration
	@$(MAKE) --no-print-directory test-kernels-core

unit: ## tests of the packages, without the integration tests
	@$(PART) "unit tests" $(GO) test -vet=off -timeout 10m $(UNIT)

integration: build ## tests that drive bin/bpfckpt on real processes
	@$(PART) "integration tests" $(GO) test -vet=off -count=1 -timeout 30m -parallel 3 ./integration/...

random: build ## 2,000 random programs through check, snap --kill and restore (RANDOM_SEEDS=first-last), and a table of their features
	BPFCKPT_SEEDS=$(RANDOM_SEEDS) $(GO) test -vet=off -count=1 -timeout 5h -parallel 4 -v -run 'TestRandom$$' ./integration/

test-kernels: ## the tests of every package on Debian's 6.1 kernel, emulated
	@$(WITH_GO) $(PART) "tests on Debian's 6.1 kernel" scripts/kernels

test-kernels-core: ## the part of it that CI runs, in about three minutes
	@$(WITH_GO) $(PART) "core tests on Debian's 6.1 kernel" scripts/kernels -core

real: ## real programs of Debian, saved in mid-run and brought back; installs many packages, takes an hour (RUN picks programs)
	$(GO) run ./integration/real -o docs/real-programs.md -run '$(RUN)'

lint: ## go vet (for arm64 too: docs/architectures.md), staticcheck, gofumpt
	@$(PART) "go vet" $(GO) vet ./...
	@$(PART) "go vet for arm64" env GOARCH=arm64 $(GO) vet ./...
	@$(PART) "staticcheck" $(GO) tool staticcheck ./...
	@$(WITH_GO) $(PART) "gofumpt" scripts/gofumpt-check

fmt: ## format every Go file
	$(GO) tool gofumpt -w .

generate: ## bindings, BPF objects and generated documentation (needs clang and llvm-strip)
	$(GO) generate ./...

fresh: ## fails if a generated file is not what `make generate` writes
	@$(WITH_GO) $(PART) "generated files" scripts/fresh

one-table: ## each entry of the tables of flags and kinds is removed in turn, and a test must break; some ten minutes
	@$(WITH_GO) scripts/one-table

mutations: ## repairs are undone one by one, and the test of each must fail (RUN picks rows); the table goes to docs/mutations.md if all are run
	@$(WITH_GO) scripts/mutations $(if $(RUN),'$(RUN)',--docs)

fuzz-short: ## every fuzz target for FUZZTIME
	@$(WITH_GO) FUZZTIME=$(FUZZTIME) scripts/fuzz-short

setup: ## the Debian packages the tests need
	@$(PART) "Debian packages" scripts/setup

clean:
	rm -rf bin
