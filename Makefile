# kiln needs Go, a C compiler (for SQLite) and make; all else is fetched as Go
# modules at the versions that go.mod and tools/*/go.mod pin.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

FUZZTIME ?= 1m
RACECOUNT ?= 5
KILLS ?= 200
PAUSES ?= 20
SEED ?= 0
# A SEED without SEEDS is one world, with its whole history.
SEEDS ?= $(if $(filter-out 0,$(SEED)),1,2000)
ATTACK ?=
DURATION ?= 10s

.PHONY: help build test race soak syscalls sim lint fuzz bench planted demo docs clean attacks

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/kiln
	go build -trimpath -o bin/kiln ./cmd/kiln

test: lint ## everything: lint, all tests with the race detector, 2,000 simulated worlds without it
	go test -race -timeout 25m ./...
	go test -timeout 10m ./internal/sim

race: ## the tests that need no other program, RACECOUNT times (5), with the race detector
	go test -race -short -count=$(RACECOUNT) -timeout 60m $$(go list ./... | grep -v -e /internal/e2e -e /internal/attacks)

soak: ## kill -9 the process KILLS times (200) on each kind of storage, pause one of two PAUSES times (20); SEED repeats a run's moments
	go test -count=1 -timeout 2h -parallel 3 -v -run '^(TestKill|TestPause)$$' ./internal/e2e -soak.kills=$(KILLS) -soak.pauses=$(PAUSES) -soak.seed=$(SEED)

sim: ## SEEDS (2000) simulated worlds from SEED (1) on; SEED alone: that one, with its history
	go test -count=1 -timeout 0 ./internal/sim -run '^TestSim$$' -v -sim.seeds=$(SEEDS) -sim.seed=$(if $(filter-out 0,$(SEED)),$(SEED),1) $(if $(filter 1,$(SEEDS)),-sim.v)

syscalls: ## every system call of a round, and of a start after a kill, failing in every way (30 minutes), with a table
	go test -count=1 -timeout 3h -v -run '^(TestEachCall|TestFullDiskWhileCommitting)$$' ./internal/syscalls -syscalls.all

lint: bin/staticcheck bin/gofumpt ## go vet, formatting and staticcheck
	go vet ./...
	@unformatted=$$(bin/gofumpt -l .); \
	if [ -n "$$unformatted" ]; then echo "bin/gofumpt -w is due on:"; echo "$$unformatted"; exit 1; fi
	bin/staticcheck ./...

bin/staticcheck: tools/lint/go.mod tools/lint/go.sum
	go build -C tools/lint -o ../../$@ honnef.co/go/tools/cmd/staticcheck

bin/gofumpt: tools/lint/go.mod tools/lint/go.sum
	go build -C tools/lint -o ../../$@ mvdan.cc/gofumpt

fuzz: ## each fuzz target for FUZZTIME (1m); FUZZ=regex chooses, FUZZFLAGS=-parallel=1 spares cores
	@FUZZ='$(FUZZ)' FUZZTIME='$(FUZZTIME)' FUZZFLAGS='$(FUZZFLAGS)' tools/fuzz.sh

attacks: ## hostile load on a real server, DURATION (10s) for each attack that matches ATTACK (all)
	go test -count=1 -timeout 60m -v -run '^Test' ./internal/attacks -args -all -attack '$(ATTACK)' -duration $(DURATION)

bench: ## all benchmarks
	go test -run '^$$' -bench . -benchmem ./...

planted: ## have the simulation find each bug of a table, planted one at a time (takes an hour on two cores)
	go test -count=1 -timeout 6h ./internal/sim/planted -run 'TestPlanted|TestControl' -planted

demo: ## two test logs on this machine, in kiln-dev/
	go run ./cmd/kiln dev

docs: ## check the documents against the code: metrics, options, commands, comments
	go test -count=1 .

clean: ## remove what was built, but no log
	rm -rf bin
	go clean -testcache
