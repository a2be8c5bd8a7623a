# `make test` is everything: it installs what it needs, checks the sources, and
# runs the unit tests and then real clients against real registries.

GO      ?= go
CHECK   := $(GO) tool -modfile=tools/go.mod
FUZZ    ?= 60s
FUZZERS ?= $(shell nproc)

.PHONY: test packages check audit gosec vulncheck unit e2e fuzz bench benchmarks build

test: packages check unit e2e

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/trustgate ./cmd/trustgate

# Debian packages: the race detector's compiler, and the clients of the tests.
packages:
	./e2e/install.sh

check:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'gofmt has something to say about:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(CHECK) staticcheck ./...
	for module in e2e bench; do (cd $$module && $(GO) vet ./... && $(GO) tool -modfile=../tools/go.mod staticcheck ./...) || exit 1; done

# What takes minutes or the network, before a release.
audit: gosec vulncheck

# Left out, since each is right nowhere here:
#   G104        errors of Close and Remove on the way out of a failure
#   G301 G302   the cache is a registry's folder, in a data folder of mode 0700
#   G304        paths are the configuration's
#   G306        the public half of a key
# What else it says is right, or is answered where it stands.
gosec:
	$(CHECK) gosec -quiet -exclude-generated -exclude-dir=e2e -exclude-dir=bench -exclude-dir=tools -exclude=G104,G301,G302,G304,G306 ./...

# Needs the network: https://vuln.go.dev, or what GOVULNDB names.
vulncheck:
	$(CHECK) govulncheck ./...

# The scripts of the command line start the program some two hundred times, which
# the race detector makes slow and none of which shares memory; what runs in one
# process is tested with it.
unit:
	$(GO) test -race -timeout 15m $$($(GO) list ./... | grep -v '/cmd/trustgate$$')
	$(GO) test -timeout 15m ./cmd/trustgate
	$(GO) test -race -run 'TestReload|TestCertificates|TestDemo|TestPolicyFromAServer' ./cmd/trustgate

e2e:
	./e2e/tools.sh
	./e2e/debian.sh
	cd e2e && $(GO) test -count=1 -timeout 20m ./...

# Every fuzz target for FUZZ each, FUZZERS of them at a time.
fuzz:
	./tools/fuzz.sh $(FUZZ) $(FUZZERS)

# Beside other servers, into bench/RESULTS.md. Takes 20 minutes; nothing else should run.
bench:
	./bench/install.sh
	./e2e/tools.sh
	cd bench && $(GO) run .

# Of single paths of the program.
benchmarks:
	$(GO) test -run '^$$' -bench . -benchmem ./gate ./proxy ./policy ./cache ./ledger
