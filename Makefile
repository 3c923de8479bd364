# Everything from a clean clone: each target sets up what it needs in .venv first.
PYTHON ?= python3
# Test processes that run side by side.  Three suit two CPUs, as some tests mostly wait.
WORKERS ?= 3
# How long `make soak` runs.
HOURS ?= 8
# More for pytest, for instance ARGS="tests/test_leaks.py -k actor".  Parts of the suite are not held to the coverage gates.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow soak lint format bench clean

help:  ## list the targets
	@echo "Targets (make sets up .venv by itself; choose another Python with PYTHON=...):"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY)  ## make .venv with pfs and all that its tests, linters, demo and benchmarks need
	@echo "pfs: ready in $(VENV)"

$(READY): setup.cfg pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "make: there is no '$(PYTHON)'. Install Python 3.11 or newer (Debian, Ubuntu: apt install python3 python3-venv)," \
	         "or name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: pfs needs Python 3.11 or newer, but '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)." \
	         "Install a newer one and name it: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: '$(PYTHON)' has no venv module." \
	         "Install it (Debian, Ubuntu: apt install python3-venv) and call make again." >&2; exit 1; }
	@echo "pfs: installing into $(VENV) (the first time it takes a minute or two)..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --editable '.[test,lint,demo,bench]'
	@touch $@

demo: $(READY)  ## run the main job: real triples, many client actors, fair turns
	@$(BIN)/python examples/demo.py

# Without ARGS the whole suite runs, held to the coverage gates of setup.cfg; pytest's summary is the last output.
test: $(READY)  ## run the tests (part of them: ARGS="tests/... -k ...")
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term --cov-report=json:build/coverage.json \
	    --coverage-gates=build/coverage.json
else
	@$(BIN)/python -m pytest $(ARGS)
endif

test-slow: $(READY)  ## run the tests that take minutes or much disk
	@$(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

soak: $(READY)  ## run the fault levers with new seeds for hours (HOURS=8)
	@$(BIN)/python -m tests.soak --hours $(HOURS) $(ARGS)

lint: $(READY)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## lay the code out as lint wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## measure, side by side (more: ARGS="--help")
	@$(BIN)/python -m benchmarks $(ARGS)

clean:  ## remove all that was made here, .venv too
	rm -rf $(VENV) build dist bench-results demo-data *.egg-info .coverage .coverage.* .hypothesis \
	    .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
