# make demo    the main job on the embedded default: search, front, report, retrain, export
# make test    the default test suite
# make check   lint, format, types and layers (what `scripts/check` runs)
# make docs    the documentation site, into site/; any warning is an error
# Each sets up .venv first and uses it again later. PYTHON=/path/to/python picks the interpreter.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check docs clean

PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
FINDER := import sys; sys.exit(sys.version_info < (3, 11))

help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(FINDER)' 2>/dev/null; then \
	  for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	    if $$candidate -c '$(FINDER)' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "autoprune needs Python 3.11 or newer and found none · make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "setting up $(VENV) with $$($$found --version)"; \
	  $$found -m venv $(VENV) || exit 1; \
	fi
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,dev]"
	@touch $@

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo

# Two processes of one thread each; the tests of a file share a process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(STAMP)
	@$(PYTEST)

test-all: $(STAMP)
	@$(PYTEST) -m "not gpu"

check: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

docs: $(STAMP)
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) build dist site *.egg-info
