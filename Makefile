# `make help` lists the targets. Every target sets up .venv first, unless it is up to date.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint typecheck tiny clean

PYTHON ?= python3
TORCH ?= torch==2.13.0
RUN := .venv/bin/python

# The checkout's own code runs, whatever the environment has installed.
export PYTHONPATH := $(CURDIR)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## make .venv from constraints.txt; TORCH="torch --index-url ..." chooses a CUDA build (remove .venv first)
	@wanted=$$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1); \
	if [ "$$(cat .venv/setup.sha256 2>/dev/null)" = "$$wanted" ]; then exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say PYTHON=python3.11")' && \
	echo "setting up .venv (about two minutes)" && \
	$(PYTHON) -m venv .venv && \
	$(RUN) -m pip install --quiet $(TORCH) && \
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[dev]" && \
	echo "$$wanted" > .venv/setup.sha256

demo: setup ## zero-shot by every prompt, then fine-tuned, on the embedded world: a table and outputs/demo/demo.png
	$(RUN) eval.py experiment=demo
	$(RUN) train.py experiment=demo_finetuned
	$(RUN) -m gen2embed.demo outputs/demo

test: setup ## the default tests: offline, on a CPU, minutes
	HF_HUB_OFFLINE=1 $(RUN) -m pytest -m "not slow and not gpu" --cov

test-slow: setup ## the tests marked slow
	HF_HUB_OFFLINE=1 $(RUN) -m pytest -m slow

lint: setup ## ruff: rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

typecheck: setup ## mypy
	$(RUN) -m mypy

tiny: setup ## make the embedded checkpoint again from seed (about 25 CPU minutes) in outputs/tiny
	$(RUN) -m gen2embed.tiny.train outputs/tiny

clean: ## remove what runs left: outputs and data
	rm -rf outputs data
