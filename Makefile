# SPDX-License-Identifier: Apache-2.0
#
# What developers of hpcnet do. Each target first installs what it needs (Debian 12, as root) and makes .venv.

BIN = .venv/bin
# Files that are shell scripts; spank_hooks/hook is one before "make install" fills in its two names.
SCRIPTS = tools/bootstrap tools/debian tools/demo tools/ipoib-vm tools/test-pythons tests/ipoib_vm/init tests/ipoib_vm/guest .ci/run hpcnet/lab/host.sh spank_hooks/hook $(wildcard examples/*.sh)
LUA = $(wildcard spank_hooks/*.lua)

# More words for pytest, or for the benchmark:  make test ARGS='-k lease -x'
ARGS =

# Which release "make test-debian" takes.
SUITE = trixie

# Where "make bench" puts its figures.
BENCH = bench-results

# What "make lab" starts, and whose shell it gives:  make lab NODES=8 AS=root
NODES = 3
AS = alice

.DEFAULT_GOAL := help
.PHONY: help bootstrap demo lab lab-down test test-unit test-pythons test-debian test-faults test-ipoib ipoib-shell lint format bench bench-quick

help: ## what there is to make
	@echo "usage: make TARGET [ARGS=...]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

bootstrap: ## install what is missing, make .venv with the hpcnet command; quick when all is there
	@tools/bootstrap

demo: bootstrap ## a cluster on this machine, a job with a network of its own, what it saw; nothing stays (root)
	@tools/demo

lab: bootstrap ## a cluster on this machine and a shell on its login node: NODES=3 AS=alice (root)
	@$(BIN)/hpcnet lab up --nodes $(NODES)
	@echo 'lab: you are $(AS) on the login node; try: srun -N2 --network=ib ip -br addr'
	@echo 'lab: "exit" leaves and lets it run; end it with: make lab-down'
	-@$(BIN)/hpcnet lab shell --user $(AS)

lab-down: bootstrap ## end the cluster that "make lab" started (root)
	@$(BIN)/hpcnet lab down

test: bootstrap ## all tests; those that need namespaces or Slurm are skipped for who is not root
	$(BIN)/pytest -n 2 $(ARGS)

test-unit: ## the tests that need neither root nor Slurm
	@tools/bootstrap --venv
	$(BIN)/pytest -m 'not kernel and not cluster and not faults and not ipoib_vm' $(ARGS)

test-pythons: bootstrap ## the unit tests with each Python from 3.9 on that is found, in .venv-3.*
	@tools/test-pythons $(ARGS)

test-debian: ## the tests with another Debian's Slurm, Docker and Python: SUITE=trixie ARGS=tests/cluster/test_job.py (root)
	@tools/bootstrap --debian
	@tools/debian $(SUITE) make test ARGS='$(ARGS)'

test-faults: bootstrap ## hooks broken at every step, with every recovery; 300 jobs in a row: about half an hour (root)
	HPCNET_FAULTS=all $(BIN)/pytest tests/faults tests/cluster/test_faults.py $(ARGS)

test-ipoib: ## the tests on InfiniBand made of software, in virtual machines; ARGS='-k pkey' (root)
	@tools/bootstrap --ipoib-vm
	@tools/ipoib-vm test $(ARGS)

ipoib-shell: ## a root shell in such a virtual machine (root)
	@tools/bootstrap --ipoib-vm
	@tools/ipoib-vm shell

lint: bootstrap ## ruff, mypy, import-linter, shellcheck, luac, the C plugin with every warning an error
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	shellcheck --severity=warning $(SCRIPTS)
	luac5.1 -p $(LUA)
	@build=$$(mktemp -d) && trap 'rm -rf "$$build"' EXIT && $(MAKE) --no-print-directory -C spank_hooks BUILD="$$build"

format: bootstrap ## rewrite the Python files as "make lint" wants them
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

bench: bootstrap ## all figures of docs/performance.md, into BENCH=bench-results: 20 minutes on an idle machine (root)
	mkdir -p $(BENCH)
	$(BIN)/python -m tests.bench.table --json $(BENCH)/table.json --svg $(BENCH)/table.svg
	$(BIN)/python -m tests.bench.hooks --runs 11 --json >$(BENCH)/hooks.json
	$(BIN)/python -m tests.bench.launch --json >$(BENCH)/launch.json
	$(BIN)/python -m tests.bench.scale --json >$(BENCH)/scale.json
	$(BIN)/python -m tests.bench.start --json >$(BENCH)/start.json
	$(BIN)/python -m tests.bench.tuning --rounds 5 --json >$(BENCH)/tuning.json
	$(BIN)/python -m tests.bench.tuning --rounds 5 --offloads off --json >$(BENCH)/tuning-off.json
	$(BIN)/python -m tests.bench.report $(BENCH)

bench-quick: bootstrap ## its headline ratios, two minutes on an idle machine (root)
	$(BIN)/python -m tests.bench.table --quick
	$(BIN)/python -m tests.bench.hooks --runs 5
	$(BIN)/python -m tests.bench.launch --runs 5
	$(BIN)/python -m tests.bench.scale --runs 1 --sizes 2,1000,10000 --leases 1000 --live 1000 --on-disk 50 --jobs 0
	$(BIN)/python -m tests.bench.start
