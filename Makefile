# Every target works from a fresh clone: the virtual environment is made when it is missing or old.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

IMAGE ?=
PROMPTS ?=

.PHONY: help install demo serve test lint format bench openapi starter starter-eval clean

help:
	@echo "make demo          start a server, explain a picture, write overlays to demo/"
	@echo "                   (IMAGE=picture.jpg PROMPTS='a cat, a dog' to choose your own)"
	@echo "make serve         start the server on port 8000"
	@echo "make test          run all tests"
	@echo "make lint          formatting, typing, imports, contract"
	@echo "make bench         measure speed against the reference and plain forward passes"
	@echo "make starter-eval  measure the built-in model's heatmaps against exact ground truth"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install
	$(BIN)/python examples/demo.py $(if $(IMAGE),--image '$(IMAGE)') $(if $(PROMPTS),--prompts '$(PROMPTS)')

serve: install
	$(BIN)/legrad serve

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/legrad openapi | diff - openapi.yaml

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: install
	$(BIN)/legrad openapi --output openapi.yaml

bench: install
	$(BIN)/python -m benchmarks

$(VENV)/.starter-installed: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,starter]'
	touch $@

starter-eval: $(VENV)/.starter-installed
	$(BIN)/python -m legrad_engine.starter evaluate

clean:
	rm -rf $(VENV) demo build *.egg-info
