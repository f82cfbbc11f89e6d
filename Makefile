# What there is to do with this repository. `make run` needs Go alone; `make test` says what else it needs.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOTOOL  := go tool -modfile=tools/go.mod

.PHONY: build run test lint fmt fuzz bench soak clean

build: ## bin/threadhub and bin/simulator
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/threadhub ./cmd/simulator

run: build ## the demo: embedded parts, simulated providers
	bin/threadhub demo

test: ## everything, with the race detector, against real Postgres and Redis
	@sh tools/test.sh

lint: ## gofumpt, vet, golangci-lint; the first run builds the linter and takes minutes
	@odd=$$($(GOTOOL) gofumpt -l .) && if [ -n "$$odd" ]; then echo "make fmt would change:"; echo "$$odd"; exit 1; fi
	go vet ./...
	$(GOTOOL) golangci-lint run ./...

fmt: ## write all Go files as gofumpt would
	$(GOTOOL) gofumpt -w .

fuzz: ## every fuzz target, FUZZTIME (5s) each
	@sh tools/fuzz.sh

bench: ## every benchmark, with allocations
	@sh tools/bench.sh

soak: ## the long form of the fault, kill and fuzz tests
	@THREADHUB_SOAK=1 sh tools/test.sh

clean:
	rm -rf bin
