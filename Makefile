# The commands of the README. `make setup` runs by itself where it is needed; after the first time it costs nothing.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.filled
# The first interpreter the project supports; `make setup PYTHON=...` picks another.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help setup demo test check bench soak sample lock clean

help:
	@echo 'make setup   fill .venv from requirements/lock.txt (hash-checked; about 6 GB of disk)'
	@echo 'make demo    the main job from a routed study to the graded report, about a minute'
	@echo 'make test    every test'
	@echo 'make check   ruff, ruff format, mypy, import-linter: what CI and pre-commit run'
	@echo 'make bench   speed and memory, side by side with other software'
	@echo 'make soak    the long crash and fault suite, hours; SOAK="--kills 200" for less (docs/soak.md)'
	@echo 'make sample  draw sample_series/ again'
	@echo 'make lock    renew the pins of requirements/'
	@echo 'make clean   remove .venv, caches and demo_output/'

setup: $(STAMP)

$(STAMP): requirements/bootstrap.txt requirements/lock.txt pyproject.toml
	@test -n '$(PYTHON)' && $(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
		echo 'make setup: Python 3.11, 3.12 or 3.13 is needed and none was found: apt install python3 python3-venv,' \
			'or name one: make setup PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo 'make setup: this Python has no venv module: apt install python3-venv' >&2; exit 1; }
	@$(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo 'make setup: filling $(VENV) (the first time this downloads about 3 GB)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements/bootstrap.txt requirements/lock.txt
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/python -m deploy.demo

# Two workers, a file at a time, in the order of the folders: the long acceptance tests come first.
test: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	@set -e; for part in benchmarks/bench_*.py; do $(BIN)/python -m "$$(echo $${part%.py} | tr / .)"; done

soak: $(STAMP)
	@$(BIN)/python -m tests.soak $(SOAK)

sample: $(STAMP)
	$(BIN)/stenosis-train phantom --sample sample_series

lock: $(STAMP)
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--no-emit-find-links --upgrade --group dev --quiet --output-file requirements/lock.txt pyproject.toml
	echo uv | $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--no-emit-find-links --no-annotate --upgrade --quiet --output-file requirements/bootstrap.txt -

clean:
	rm -rf $(VENV) demo_output build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
