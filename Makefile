# Short names for what the project does; each is one command that also works by itself. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
SOURCES := src lab/src tests hack benchmarks

# The first Python that is there, runs and is new enough: some on the PATH are only shims that end with an error.
PYTHON ?= $(shell for each in python3.13 python3.12 python3.11 python3; do \
	if $$each -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	echo $$each; break; fi; done)

.PHONY: help demo test lint contracts unit integration chaos e2e fmt pins clean \
	image test-kind chains orders mutants audit test-kstatus bench bench-gas bench-ledger bench-signatures bench-member bench-placement bench-e2e \
	bench-month bench-watches soak chaos-settlement
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | column -t -s @ 2>/dev/null \
	|| sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1: \2/p' $(MAKEFILE_LIST)

# Installed again only when what is to be installed has changed.
$(VENV)/.installed: pyproject.toml lab/pyproject.toml hack/constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with venv found; set PYTHON=/path/to/it" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c hack/constraints.txt -e '.[dev]' -e lab
	@touch $@

demo: $(VENV)/.installed ## from kubectl apply to paid, on this machine; needs about 4 GB of memory
	$(BIN)/fedgpu demo

test: lint contracts unit integration chaos e2e ## everything that must hold before a change is merged

lint: $(VENV)/.installed ## style, types, layers, and generated files
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python hack/generate.py --check

contracts: $(VENV)/.installed ## the contracts' own tests, and that the packaged ones come from these sources
	$(BIN)/python hack/build_contracts.py --check --test

unit: $(VENV)/.installed ## the pure core; seconds
	$(BIN)/python -m pytest -n auto --dist worksteal --timeout 300 tests/unit

# A worker that a hanging test has ended is not started again: with loadfile, that test would hang it each time.
integration: $(VENV)/.installed ## real API servers, a real chain, a real database; two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 -p no:randomly tests/contract tests/integration

chaos: $(VENV)/.installed ## settlement, killed at every write and lied to by its chain
	$(BIN)/python -m pytest -p no:randomly tests/chaos

e2e: $(VENV)/.installed ## the demo, checked field by field
	$(BIN)/python -m pytest -p no:randomly tests/e2e

chaos-settlement: $(VENV)/.installed ## the same with 20 seeds of many kills each, and behind a gateway; minutes
	$(BIN)/python -m tests.chaos.seeds
	$(BIN)/python -m tests.chaos.seeds --gateway

test-kstatus: $(VENV)/.installed ## what kstatus reads from every kind in every state; builds a Go program first
	$(BIN)/python -m pytest tests/kstatus

image: $(VENV)/.installed ## the operator's image without a container registry, as build/fedgpu-operator.tar; needs root on Debian
	$(BIN)/python -m hack.image build/fedgpu-operator.tar

test-kind: $(VENV)/.installed ## the image, the chart and a job on real kubelets; needs root on Debian, 15 GB of disk; minutes
	$(BIN)/python -m pytest tests/kind

chains: $(VENV)/.installed ## the chain adapter on a real geth, which is built first; minutes
	TEST_CHAINS=geth $(BIN)/python -m pytest tests/contract/chain

orders: $(VENV)/.installed ## what may happen to an attempt, in every order of three events; minutes
	TEST_LONGEST_ORDER=3 $(BIN)/python -m pytest tests/unit/hub/test_orders.py

mutants: $(VENV)/.installed ## whether tests notice mutants of metering and settlement, half an hour; or of FILE, by TESTS
	$(if $(FILE),$(BIN)/python -m hack.mutants $(FILE) $(TESTS),$(BIN)/python -m mutmut run && $(BIN)/python -m hack.mutants)

audit: $(VENV)/.installed ## slither, halmos, coverage, deep states and mutants of the contracts; long
	$(BIN)/python -m hack.audit_contracts all

bench: bench-gas bench-ledger bench-signatures bench-member bench-placement bench-e2e bench-month bench-watches ## all benchmarks, into benchmarks/results

bench-gas: $(VENV)/.installed ## what settlement costs on chain, beside its rivals and the floor
	$(BIN)/python -m benchmarks.gas

bench-ledger: $(VENV)/.installed ## a million usage records, one root
	$(BIN)/python -m benchmarks.ledger.million --write

bench-signatures: $(VENV)/.installed ## signed records that a core makes and verifies in a second
	$(BIN)/python -m benchmarks.signatures.verify

bench-member: $(VENV)/.installed ## what large, endless and idle members cost the operator in memory
	$(BIN)/python -m benchmarks.member

bench-placement: $(VENV)/.installed ## the placement engine beside other schedulers, from ungrouped jobs
	$(BIN)/python -m benchmarks.placement

bench-e2e: $(VENV)/.installed ## create to workload on real API servers
	$(BIN)/python -m benchmarks.e2e

bench-watches: $(VENV)/.installed ## following jobs by our own watch and by Kopf's; three minutes
	$(BIN)/python -m benchmarks.watches

bench-month: $(VENV)/.installed ## a month in the books beside the same of 32e03ab; up to 10 minutes
	$(BIN)/python -m benchmarks.month

MINUTES := 60
soak: $(VENV)/.installed ## MINUTES of real time in the lab with settlement on, and whether anything grows; an hour
	$(BIN)/python -m tests.soak $(MINUTES)

fmt: $(VENV)/.installed ## format, and write the generated files
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/python hack/generate.py

pins: $(VENV)/.installed ## write the versions installed now into hack/constraints.txt
	@{ head -n 1 hack/constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > $(VENV)/pins
	@mv $(VENV)/pins hack/constraints.txt

clean: ## remove what was built here; the lab's programs stay in your cache directory
	rm -rf $(VENV) build dist mutants contracts/out contracts/cache contracts/node_modules
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
