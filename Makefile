# `make demo` and `make test` set up all they need in $(VENV): Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
DEMO_SECONDS ?= 180

FUZZ_CANDIDATES ?= 20000
FIGURES := kernels operators winograd metaschedule search_efficiency model_quality objectives feature_groups simulation search_parts breeding transfer

.PHONY: demo figures fuzz test lint types imports check clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	mkdir -p $(DEMO)
	$(BIN)/python -m graph.examples open-nsfw --output $(DEMO)/open-nsfw.onnx
	$(BIN)/tilewright doctor
	$(BIN)/tilewright tasks $(DEMO)/open-nsfw.onnx
	$(BIN)/tilewright tune $(DEMO)/open-nsfw.onnx --records $(DEMO)/nsfw.db --max-trials 4000 --max-seconds $(DEMO_SECONDS)
	$(BIN)/tilewright best --records $(DEMO)/nsfw.db
	$(BIN)/tilewright plot --records $(DEMO)/nsfw.db -o $(DEMO)/report

# From the CSVs under experiments/results, without measuring anything; what made these stands in experiments/README.md.
figures: $(VENV)/installed
	for name in $(FIGURES); do $(BIN)/python -m experiments.$$name --plot-only || exit 1; done
	$(BIN)/python -m experiments.metaschedule --plot-only --output experiments/results/metaschedule_512

test: lint types imports check

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

imports: $(VENV)/installed
	$(BIN)/lint-imports

check: $(VENV)/installed
	$(BIN)/python -m pytest

fuzz: $(VENV)/installed
	$(BIN)/python tests/fuzz.py --candidates $(FUZZ_CANDIDATES)

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
