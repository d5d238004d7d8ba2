# Everything is done in .venv, which `make setup` makes from requirements.lock. See `make help`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(wildcard revoker consumers tests benchmarks examples)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP) ## make .venv from the lock file (quick when nothing changed)

# One recipe, one stamp: interrupted half-way, the stamp is missing and the next `make` does it again.
$(STAMP): requirements.lock pyproject.toml
	@python=$$(.ci/find-python); \
	if [[ -e $(VENV) ]] && ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "setup: $(VENV) does not run any more: making it anew"; rm -rf $(VENV); \
	fi; \
	if [[ ! -e $(BIN)/pip ]]; then echo "setup: $(VENV) from $$python"; $$python -m venv $(VENV); fi
	@rm -f $@
	@echo "setup: installing what requirements.lock pins"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@$(BIN)/python -m pip check
	@touch $@

.PHONY: demo
demo: $(STAMP) ## one user, one logout, three nodes, no Docker and no JVM
	@$(BIN)/revoker demo

.PHONY: test
test: lint broker ## everything: lint, types, and all tests with coverage
	@$(BIN)/python -m pytest --cov --cov-report=term

.PHONY: unit
unit: $(STAMP) ## the tests that need no broker
	@$(BIN)/python -m pytest tests/unit tests/property

.PHONY: broker
broker: $(STAMP) ## fetch what the tests' Apache Kafka needs (JDK, Maven, jars); nothing if REVOKER_TEST_BOOTSTRAP is set
	@if [[ -z "$${REVOKER_TEST_BOOTSTRAP:-}" ]]; then $(BIN)/python -m tests.brokers.apache --fetch; fi

.PHONY: lint
# basedpyright looks for the packages of the `python` on the PATH; --pythonpath has no effect on --verifytypes.
lint: $(STAMP) ## ruff, mypy --strict, and completeness of the public types
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy $(SOURCES)
	@for package in revoker consumers; do \
	    report=$$(PATH="$$PWD/$(BIN):$$PATH" basedpyright --verifytypes $$package --ignoreexternal 2>&1) \
	        && grep -E 'completeness score' <<<"$$report" | sed "s/^ */$$package: /" \
	        || { echo "$$report"; exit 1; }; \
	done

.PHONY: format
format: $(STAMP) ## let ruff format and mend what it can
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

.PHONY: lock
lock: ## pin everything anew: runtime, demo, dev, for every platform, with hashes, without an index address
	@[[ -x $(BIN)/uv ]] || $(MAKE) setup
	@$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --all-extras --group dev \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	    -o requirements.lock $(LOCK_ARGS)
	@$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --group build -c requirements.lock \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o deploy/requirements.lock
	@if grep -nE '://|^-' requirements.lock deploy/requirements.lock; then \
	    echo "lock: a lock file holds an address or an option (above); it must not"; exit 1; fi
	@echo "lock: $$(grep -c '==' requirements.lock) packages (LOCK_ARGS=--upgrade for newer ones)"

.PHONY: bench
bench: $(STAMP) broker ## all figures of docs/performance.md anew, beside what they are compared with; at most 15 minutes
	@$(BIN)/python -m benchmarks.suite $(BENCH_ARGS)

BASE ?= HEAD
.PHONY: bench-compare
bench-compare: $(STAMP) broker ## which ratios became worse since revision BASE=HEAD
	@$(BIN)/python -m benchmarks.compare --base $(BASE) $(BENCH_ARGS)

.PHONY: bench-propagation
bench-propagation: $(STAMP) broker ## from revoke() to the refusal of the last of 1, 4 and 16 nodes, beside bare Kafka
	@$(BIN)/python -m benchmarks.propagation

FAULTS ?= 200
SEED ?= 7
.PHONY: chaos
chaos: $(STAMP) broker ## FAULTS=200 faults by the schedule of SEED=7 on three brokers, a service and five nodes; judged
	@$(BIN)/python -m tests.chaos --faults $(FAULTS) --seed $(SEED) $(CHAOS_ARGS)

.PHONY: bench-outbox
bench-outbox: $(STAMP) ## revocations a second that 256 callers get on disk, beside one fsync per call
	@$(BIN)/python -m benchmarks.outbox

.PHONY: bench-signatures
bench-signatures: $(STAMP) ## what reading a signed record costs, beside an unsigned one
	@$(BIN)/python -m benchmarks.signatures

.PHONY: clean
clean: ## remove .venv and every cache in this directory
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
