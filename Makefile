# Targets for people and for .ci/run; `make` alone lists them.

# Go from the official tarball is often not in root's PATH. Debian pins
# GOTOOLCHAIN to "local"; auto fetches the version that go.mod asks for.
export PATH := $(PATH):/usr/local/go/bin
export GOTOOLCHAIN ?= auto

# The binding of librrd passes const char ** for char **: an error for GCC 14.
export CGO_CFLAGS ?= -O2 -g -Wno-incompatible-pointer-types

GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

# Packages whose tests are quick enough for the race detector, and the tests
# of these that are not, or have nothing that runs at the same time.
RACE = ./pkg/internal/admin/... ./pkg/internal/bulk/... ./pkg/internal/mathproto/... ./pkg/mplane/... ./pkg/internal/mplane/... ./pkg/internal/exporter/... ./pkg/internal/repository/... ./pkg/internal/store/... ./pkg/internal/stream/... ./pkg/tstat/...
NORACE = Browser|PolicyWorks|FlowsPostgres|FlowsClickHouse|GraphiteBoard|CompactDied|CompactedGrows|CompactedName

.PHONY: help demo test e2e bench soak matrix vuln lint lines generate build dist dist-test install uninstall install-tools

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1	/p' Makefile | expand -t 12

# librrd is the second reader of RRDs. Empty where it cannot be built in:
# make build LIBRRD= leaves it out.
LIBRRD = $(shell command -v $${CC:-gcc} >/dev/null && pkg-config --exists librrd 2>/dev/null && echo librrd)

# Tags that leave out what nothing uses: 1.6 MB for Arrow's JSON and for manuals
# of the command-line library. With cgo, further ones keep what the static binary
# has: Go's resolver and users.
TAGS = arrow_json_stdlib urfave_cli_no_docs $(if $(LIBRRD),librrd netgo osusergo)

OUT = bin/tstatrepo

# The result depends on the source, the version of Go and these settings only.
build: ## build bin/tstatrepo: one static binary, or with librrd where pkg-config and gcc find it
	CGO_ENABLED=$(if $(LIBRRD),1,0) go build -trimpath -buildvcs=auto -tags '$(strip $(TAGS))' -ldflags '-s -w$(if $(VERSION), -X main.version=$(VERSION))' -o $(OUT) ./cmd/tstatrepo

demo: ## import sample logs, query them, show what to do next (3 minutes at most)
	@sh pkg/internal/tools/demo/demo.sh

test: install-tools ## run all tests
	go vet ./...
	@$(MAKE) --no-print-directory gofmt
	go test -timeout 24m ./...
	go vet -tags librrd ./pkg/rrdfile
	go test -tags librrd ./pkg/rrdfile
	go test -tags librrd ./pkg/command -run 'TestScript/(rrdreader|version)'
	go test -race -skip '$(NORACE)' -timeout 15m $(RACE)
	go -C pkg/internal/tools/duckdb vet ./...
	go -C pkg/internal/tools/duckdb test ./...

e2e: install-tools ## the loop of supervisor, repository and probe with real logs, also when each is killed; a part of test
	go test ./pkg/command -run 'TestE2E|TestKillSite|TestBuild' -count=1 -v

bench: install-tools ## measure against DuckDB, cp, socat and more; BASE=COMMIT: against an older tstatrepo; BENCH='-case copy -pairs 3' sets flags
	go run ./pkg/internal/tools/bench $(if $(BASE),-base $(BASE)) $(BENCH)

soak: ## kill everything at random, 50 rounds each (the loop 20); damage RRDs, cut transfers; the loop for an hour; a hostile peer for five minutes
	go test ./pkg/command -run TestKill -soak -timeout 240m -v
	go test ./pkg/rrdfile ./pkg/internal/rrdpush -run 'Mutants|Truncated|Concurrent|Paced' -soak -timeout 60m -v
	go test ./pkg/internal/mathproto -soak -timeout 60m
	go test ./pkg/internal/store/clickhouse -soak -timeout 60m
	go test ./pkg/internal/store/parquet -run TestTornManifest -soak -timeout 60m -v
	go test ./pkg/command -run TestSoakSite -soak -timeout 90m -v
	go test ./pkg/command -run TestHostilePeer -soak -timeout 20m -v

matrix: install-tools ## test against each version of the servers; SERVERS='postgresql nats-2.15' chooses some
	go run ./pkg/internal/tools/matrix $(SERVERS)

vuln: ## look for known vulnerabilities with govulncheck, where its database can be reached
	@text=$$(go run $(GOVULNCHECK) ./... 2>&1); status=$$?; echo "$$text"; \
	case "$$text" in *"fetching vulnerabilities"*) echo "not checked: the database cannot be reached"; exit 0;; esac; exit $$status

lint: ## staticcheck and more linters (pkg/internal/tools/lint), go vet, gofmt, shellcheck where it is installed
	go vet ./...
	@$(MAKE) --no-print-directory gofmt
	@mkdir -p bin && cd pkg/internal/tools/lint && go vet . && go build -o ../../../../bin/lint .
	bin/lint ./...
	cd pkg/internal/tools/duckdb && go vet ./... && ../../../../bin/lint ./...
	cd pkg/internal/tools/lint && ../../../../bin/lint ./...
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run conf/package/*.sh pkg/internal/tools/demo/*.sh; fi
	@$(MAKE) --no-print-directory spelling

.PHONY: spelling
spelling:
	@if command -v codespell >/dev/null; then git ls-files '*.md' conf completions '*/testdata/m*s.txt' | xargs codespell; \
	elif [ "$$CI" = true ]; then echo "no codespell: apt-get install codespell"; exit 1; \
	else echo "spelling of the documentation not checked: apt-get install codespell"; fi

.PHONY: gofmt
gofmt:
	@files=$$(gofmt -l cmd man pkg); if [ -n "$$files" ]; then echo "not formatted with gofmt:"; echo "$$files"; exit 1; fi

lines: ## count the product's lines of Go: without tests, test kits and tools
	@git ls-files '*.go' | grep -Ev '_test\.go$$|^(cmd/tstatgen|pkg/internal/(tools|testkit))/' | xargs cat | wc -l

dist: ## build packages, archives, bill of materials and checksums into dist/; VERSION=0.9.1 sets the version
	@sh conf/package/dist.sh

dist-test: ## install, use, upgrade, remove and purge the Debian package in a root of its own (as root, needs Debian's mirror)
	@sh conf/package/test.sh

PREFIX ?= /usr/local
# Where the installed files are; DESTDIR is a folder that stands for /.
bindir = $(DESTDIR)$(PREFIX)/bin
mandir = $(DESTDIR)$(PREFIX)/share/man
units = $(DESTDIR)$(PREFIX)/lib/systemd/system
bash = $(DESTDIR)$(PREFIX)/share/bash-completion/completions/tstatrepo
zsh = $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_tstatrepo
fish = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/tstatrepo.fish
etc = $(DESTDIR)/etc/tstatrepo

install: build ## install below PREFIX (/usr/local); DESTDIR stands for /. Configuration that is there stays
	install -D -m 755 bin/tstatrepo $(bindir)/tstatrepo
	for page in man/*.?; do install -D -m 644 $$page $(mandir)/man$${page##*.}/$${page#man/} || exit; done
	install -D -m 644 completions/tstatrepo.bash $(bash)
	install -D -m 644 completions/_tstatrepo $(zsh)
	install -D -m 644 completions/tstatrepo.fish $(fish)
	for unit in conf/systemd/*; do install -d $(units) && sed 's#/usr/bin/#$(PREFIX)/bin/#' $$unit >$(units)/$${unit##*/} || exit; done
	for file in tstatrepo.toml tstatrepo-probe.toml; do [ -e $(etc)/$$file ] || install -D -m 644 conf/$$file $(etc)/$$file || exit; done

uninstall: ## remove what install installed; configuration, state and stores stay
	rm -f $(bindir)/tstatrepo $(bash) $(zsh) $(fish)
	for page in man/*.?; do rm -f $(mandir)/man$${page##*.}/$${page#man/}; done
	for unit in conf/systemd/*; do rm -f $(units)/$${unit##*/}; done

generate: ## update man pages, completions and conf/tstatrepo.toml
	go test ./pkg/command -run 'TestGenerated$$' -update
	go test ./pkg/command -run 'TestGenerated$$' -update # completions list the new pages

install-tools:
	@sh pkg/internal/tools/demo/install.sh
