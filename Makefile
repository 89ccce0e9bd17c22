# Targets for people and for .ci/run; `make` alone lists them.

# Go from the official tarball is often not in root's PATH. Debian pins
# GOTOOLCHAIN to "local"; auto fetches the version that go.mod asks for.
export PATH := $(PATH):/usr/local/go/bin
export GOTOOLCHAIN ?= auto

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Packages whose tests are quick enough for the race detector.
RACE = ./pkg/bulk/... ./pkg/mplane/... ./pkg/store/... ./pkg/tstat/...

.PHONY: help demo test bench soak lint generate build install-tools

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 12

build: ## build bin/tstatrepo
	CGO_ENABLED=0 go build -trimpath -buildvcs=auto -o bin/tstatrepo ./cmd/tstatrepo

demo: ## import sample logs, query them, show what to do next (3 minutes at most)
	@sh pkg/demo/demo.sh

test: install-tools ## run all tests
	go vet ./...
	@$(MAKE) --no-print-directory gofmt
	go test -timeout 6m ./...
	go test -race -timeout 6m $(RACE)
	go -C pkg/duckdb vet ./...
	go -C pkg/duckdb test ./...

bench: install-tools ## measure against DuckDB and cp; BENCH='-case copy -pairs 3' sets flags
	go run ./pkg/bench $(BENCH)

soak: ## kill imports at random, 50 rounds for each store
	go test ./cmd/tstatrepo -run TestKill -soak -timeout 60m -v

lint: ## staticcheck, go vet, gofmt, shellcheck where it is installed
	go vet ./...
	@$(MAKE) --no-print-directory gofmt
	go run $(STATICCHECK) ./...
	cd pkg/duckdb && go vet ./... && go run $(STATICCHECK) ./...
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run pkg/demo/*.sh; fi

.PHONY: gofmt
gofmt:
	@files=$$(gofmt -l cmd pkg); if [ -n "$$files" ]; then echo "not formatted with gofmt:"; echo "$$files"; exit 1; fi

generate: ## write man pages and completions anew
	go run ./cmd/tstatrepo generate .

install-tools:
	@sh pkg/demo/install.sh
