# `make help` lists the targets. Every target sets up .venv first, unless it is up to date.
.DEFAULT_GOAL := help
PAPER := zero-shot-2b zero-shot-7b mine-2b train-2b train-7b train-2b-one-gpu train-7b-one-gpu evaluate-2b evaluate-7b
.PHONY: help setup demo test test-slow test-faults test-lowest coverage lint typecheck docs bench dist reproduce-dry $(PAPER:%=reproduce-%) tiny clean

PYTHON ?= python3
TORCH ?= torch==2.13.0
# CONSTRAINTS may be several files: of two lines for one name the first counts.
VENV := .venv
RUN := $(VENV)/bin/python
CONSTRAINTS := constraints.txt

# The checkout's own code runs, whatever the environment has installed.
export PYTHONPATH := $(CURDIR)

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z0-9-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 34

setup: ## make .venv from constraints.txt; TORCH="torch --index-url ..." chooses a CUDA build (remove .venv first)
	@wanted=$$(cat pyproject.toml $(CONSTRAINTS) | sha256sum | cut -d' ' -f1); \
	if [ "$$(cat $(VENV)/setup.sha256 2>/dev/null)" = "$$wanted" ]; then exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say PYTHON=python3.11")' && \
	echo "setting up $(VENV) (about two minutes)" && \
	$(PYTHON) -m venv $(VENV) && \
	$(RUN) -m pip install --quiet $(TORCH) && \
	awk -F== '!seen[$$1]++' $(CONSTRAINTS) > $(VENV)/constraints.txt && \
	$(RUN) -m pip install --quiet --constraint $(VENV)/constraints.txt --editable ".[dev]" && \
	echo "$$wanted" > $(VENV)/setup.sha256

demo: setup ## zero-shot by every prompt, then fine-tuned, on the embedded world: a table and outputs/demo/demo.png
	$(RUN) eval.py experiment=demo
	$(RUN) train.py experiment=demo_finetuned
	$(RUN) -m examples.demo outputs/demo

test: setup ## the default tests: offline, on a CPU, minutes
	HF_HUB_OFFLINE=1 $(RUN) -m pytest -m "not slow and not gpu" --numprocesses auto --dist loadgroup --no-loadscope-reorder

test-slow: setup ## the tests marked slow, but for those of test-faults
	HF_HUB_OFFLINE=1 $(RUN) -m pytest -m slow --ignore tests/faults

test-faults: setup ## kill mine, train and eval at random moments, 200 times, and compare what they come to (half an hour)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN) -m pytest tests/faults -m slow -s

test-lowest: ## the default tests in .venv-lowest, with the lowest transformers, peft and lightning of pyproject.toml
	@$(MAKE) --no-print-directory test VENV=.venv-lowest CONSTRAINTS="constraints-lowest.txt constraints.txt"

coverage: setup ## the default tests, and which lines they run: half as long again
	HF_HUB_OFFLINE=1 $(RUN) -m pytest -m "not slow and not gpu" --numprocesses auto --dist loadgroup --no-loadscope-reorder --cov

lint: setup ## ruff: rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

typecheck: setup ## mypy
	$(RUN) -m mypy

docs: setup ## the documentation as a site, outputs/docs/index.html; a warning is an error
	$(RUN) docs/configuration.py
	$(RUN) -m sphinx --quiet --fresh-env --fail-on-warning --keep-going docs outputs/docs

bench: setup ## short forms of the benchmarks, on one CPU thread; outputs/bench/speed.json against the others
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN) benchmarks/encode.py --short --output outputs/bench
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN) benchmarks/train_step.py --short --output outputs/bench
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN) benchmarks/memory.py --pairs 16 64 --output outputs/bench
	OMP_NUM_THREADS=1 $(RUN) benchmarks/mining.py --parts compare --rows 2000 --output outputs/bench

reproduce-zero-shot-2b: setup ## the paper: every prompt on the three benchmarks, Qwen2-VL-2B; ARGS="KEY=VALUE ..." adds overrides
reproduce-zero-shot-7b: setup ## the paper: every prompt on the three benchmarks, Qwen2-VL-7B
reproduce-mine-2b: setup ## the paper: SaHa's clusters of MMEB-train, by Qwen2-VL-2B
reproduce-train-2b: setup ## the paper: fine-tuning on the clusters, Qwen2-VL-2B, eight GPUs
reproduce-train-7b: setup ## the paper: fine-tuning on the clusters, Qwen2-VL-7B, eight GPUs
reproduce-train-2b-one-gpu: setup ## the paper: the same steps as reproduce-train-2b, one GPU
reproduce-train-7b-one-gpu: setup ## the paper: the same steps as reproduce-train-7b, one GPU
reproduce-evaluate-2b: setup ## the paper: the fine-tuned Qwen2-VL-2B on the three benchmarks
reproduce-evaluate-7b: setup ## the paper: the fine-tuned Qwen2-VL-7B on the three benchmarks

# An experiment's second line is its command.
$(PAPER:%=reproduce-%): reproduce-%:
	$(RUN) $$(sed -n '2s/^# python //p' conf/experiment/paper_$(subst -,_,$*).yaml) $(ARGS)

reproduce-dry: setup ## the paper's experiments, a few steps of each, on the embedded model and stand-ins for the data
	$(RUN) -m examples.rehearsal.rehearse outputs/dry

tiny: setup ## make the embedded checkpoint again from seed (about 25 CPU minutes) in outputs/tiny
	$(RUN) -m examples.tiny.train outputs/tiny

dist: ## build wheel and sdist in dist/, install the wheel in a new environment, and run it there (minutes)
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" .ci/dist

clean: ## remove caches and builds of the tools; outputs and data stay, as they may hold what is yours
	rm -rf build dist .coverage .mypy_cache .pytest_cache .ruff_cache
