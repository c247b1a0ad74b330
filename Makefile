# efm on a machine with nothing but the packages that README.md names in line 1.
#   make demo    own environment, then the whole loop on a simulated fleet; ends with a report
#   make test    own environment, then linters, type checks and all tests
#   make venv    only the environment          make lint    only ruff and mypy
#   make clean   remove the environment
# PYTHON=python3.X chooses the interpreter, TORCH_ARGS= extra pip arguments for torch without GPU,
# DEMO_ARGS= options of `efm demo`.

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(or $(ROS_DISTRO),wheels)
SOURCES := setup.py setup.cfg pyproject.toml efm_bringup/executables.py scripts/install.sh \
	$(wildcard requirements/*.txt)

export OMP_NUM_THREADS ?= 1
export PYTHON TORCH_ARGS

.PHONY: demo test venv lint clean

demo: $(STAMP)
	@exec $(BIN)/efm demo $(DEMO_ARGS)

test: lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

venv: $(STAMP)

$(STAMP): $(SOURCES)
	@scripts/install.sh $(VENV) $@

clean:
	rm -rf $(VENV)
