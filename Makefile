# The verbs of the house. Each does its own set-up in .venv first (house/install.py: at once when nothing changed).
# Variables: PYTHON=python3.12, ARGS="..." (handed to pytest, the demo or the benchmarks), and those of house/install.py.
.DEFAULT_GOAL := help
.PHONY: help ready setup demo test lint bench style format types imports
BIN := .venv/bin
# Processes that share the tests; those on vLLM stay in one.
WORKERS := 2

# The first Python that the lock was made for, else the first that is new enough.
PYTHON := $(or $(PYTHON),$(shell for wanted in '(3, 11) <= v < (3, 14)' '(3, 11) <= v'; do \
	for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python -c "import sys; v = sys.version_info; sys.exit(not $$wanted)" 2>/dev/null && echo $$python && exit; \
	done; done))

help:
	@echo 'make setup   install everything into .venv; on later calls, try again what failed'
	@echo 'make demo    record agents on a real engine, replay them token for token  ARGS="--runs 5"'
	@echo 'make test    every test, those on a real vLLM too; WORKERS=0 for one process ARGS="tests/tracer -k spool"'
	@echo 'make lint    ruff, mypy --strict on an installed copy, the import contracts'
	@echo 'make bench   the programs in benchmarks/                                  ARGS="" for the full size'

ready:
	@$(or $(PYTHON),python3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	'redecode needs Python 3.11 or newer: install one (say, apt install python3.11 python3.11-venv), or name it: make setup PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) house/install.py $(if $(filter setup,$(MAKECMDGOALS)),--again)

setup: ready

demo: ready
	@$(BIN)/redecode demo $(ARGS)

test: ready
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# All findings, then the verdict.
lint: ready
	@$(MAKE) --no-print-directory --keep-going style format types imports

style:
	$(BIN)/ruff check .

format:
	$(BIN)/ruff format --check .

# mypy and import-linter cannot see an editable install: they read a copy installed the normal way.
.venv/copy: FORCE
	@rm -rf build $@
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation --no-compile --disable-pip-version-check --target $@ . 2>.venv/copy.log || { cat .venv/copy.log; exit 1; }
	@rm -rf build
FORCE:

types: .venv/copy
	$(BIN)/mypy $</redecode house tests $(if $(wildcard benchmarks/*.py),benchmarks)

imports: .venv/copy
	PYTHONPATH=$< $(BIN)/lint-imports

bench: ready
	@ls benchmarks/*.py >/dev/null 2>&1 || echo 'no benchmarks yet'
	@for program in $$(ls benchmarks/*.py 2>/dev/null); do echo "== $$program"; $(BIN)/python $$program $(if $(filter undefined,$(origin ARGS)),--quick,$(ARGS)) || exit 1; done
