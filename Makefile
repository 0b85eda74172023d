# `make demo` and `make test` do all the set-up on a machine with Python 3.10+ and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-quick test-faults lint audit docs bench

help:     ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(BIN)/.installed  ## virtual environment in .venv with everything

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install  ## class-balanced self-training on drawn streets: a table and pictures in three minutes
	$(BIN)/python -m da_lightning.run

test: install lint  ## lint and the whole test suite
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-quick: install  ## the tests of a second, while you edit
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal -m "not slow"

test-faults: install  ## real kills, full disks, signals: half an hour on two cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal tests/faults

lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: install  ## known holes in the installed packages, by pip-audit (needs network)
	@$(BIN)/python -m pip install --quiet "pip-audit>=2.9" \
		|| { echo "make audit: pip-audit could not be installed; that needs network."; exit 1; }
	@mkdir -p build
	@$(BIN)/python -m pip_audit --skip-editable --progress-spinner off > build/audit.txt 2>&1; found=$$?; \
		cat build/audit.txt; unknown=$$(grep -c "not found on PyPI" build/audit.txt); \
		if [ "$$unknown" -gt 0 ]; then \
			echo "make audit: $$unknown packages could not be looked up from here; the above says nothing about them."; exit 1; \
		fi; exit $$found

docs: install  ## the documentation as a site, build/docs/index.html
	$(BIN)/python -m sphinx -W --keep-going --quiet docs build/docs

bench: install  ## speed ratios, side by side in one run
	$(BIN)/python -m benchmarks.pseudo_labels
	$(BIN)/python -m benchmarks.channels_last
	$(BIN)/python -m benchmarks.networks
	$(BIN)/python -m benchmarks.munit_step
	$(BIN)/python -m benchmarks.ranking
	$(BIN)/python -m benchmarks.exemplar_memory
	$(BIN)/python -m benchmarks.gradient_reduction
	$(BIN)/python -m benchmarks.start_up
