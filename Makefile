# Every target works from a fresh clone: the virtual environment is made when it is missing or old.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools

IMAGE ?=
PROMPTS ?=
MINUTES ?= 10
SECONDS ?= 60

.PHONY: help install demo serve test test-quick lint format bench soak audit audit-if-possible \
	fuzz lock openapi docs docs-pictures models-page screenshots starter-eval clean

help:
	@echo "make demo          start a server, explain a picture, write overlays to demo/"
	@echo "                   (IMAGE=picture.jpg PROMPTS='a cat, a dog' to choose your own)"
	@echo "make serve         start the server on port 8000"
	@echo "make test          run all tests (JOBS=2 at a time)"
	@echo "make test-quick    run those that take no patience"
	@echo "make lint          formatting, typing, imports, contract, security, known vulnerabilities"
	@echo "make audit         look the locked packages up among the known vulnerabilities"
	@echo "make fuzz          hostile pictures and bodies, guided by coverage, SECONDS=60 for each target"
	@echo "make lock          pin what pyproject.toml asks for, with hashes: requirements*.lock"
	@echo "make docs          build the documentation's site into build/site"
	@echo "make models-page   write docs/models.md: what is explained of every open_clip model"
	@echo "make screenshots   write pictures of the page to build/screenshots (needs Chromium)"
	@echo "make bench         measure speed against the reference and plain forward passes"
	@echo "make soak          mixed traffic for MINUTES=10: memory, threads, descriptors, latency;"
	@echo "                   then the same engine behind other servers (10 minutes)"
	@echo "make starter-eval  measure the built-in model's heatmaps against exact ground truth"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@echo "Installing into $(VENV): a few minutes, and up to 6 GB where torch brings CUDA."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(TOOLS): $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,starter,bench,telemetry]'
	touch $@

demo: install
	$(BIN)/python examples/demo.py $(if $(IMAGE),--image '$(IMAGE)') $(if $(PROMPTS),--prompts '$(PROMPTS)')

serve: install
	$(BIN)/legrad serve

# One thread for each of the jobs: more would only wait for each other.
# schemathesis gives all operations one id, and of several tests with one id pytest-xdist runs one:
# its tests have a process of their own.
CONTRACT_TESTS := tests/service/test_app_contract.py
test: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --ignore=$(CONTRACT_TESTS)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(CONTRACT_TESTS)

test-quick: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile -m 'not slow'

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive legrad_engine service
	$(BIN)/legrad openapi | diff - openapi.yaml
	$(MAKE) --no-print-directory audit-if-possible

format: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

LOCKS := requirements.lock requirements-dev.lock

audit: $(TOOLS)
	$(BIN)/python -m tools.audit $(LOCKS)

# Exit status 2 means that no vulnerability service was in reach, which says nothing of the code.
audit-if-possible:
	$(BIN)/python -m tools.audit $(LOCKS) || [ $$? -eq 2 ]

# Of each target; a find fails, and its bytes are in build/fuzz.
fuzz: $(TOOLS)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	for target in decode multipart json text; do \
		$(BIN)/python -m tests.fuzz $$target $(SECONDS) || exit 1; \
	done

# What is pinned stays so while pyproject.toml admits it; delete a lock to take what is new.
# For Linux on x86-64 with Python 3.11, as in the images. The lock for images that get torch from
# an index of its own, without CUDA, is the same less torch and what only torch needs.
IMAGE_EXTRAS := hf telemetry
COMPILE := CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet

lock: $(TOOLS)
	$(COMPILE) $(IMAGE_EXTRAS:%=--extra %) --output-file requirements.lock pyproject.toml
	awk '/^[a-z]/ { kept = !/^(torch|torchvision|triton|cuda-|nvidia-)/ } /^#/ || kept' \
		requirements.lock > requirements-cpu.lock
	$(COMPILE) --constraint requirements.lock --all-extras --output-file requirements-dev.lock pyproject.toml

openapi: install
	$(BIN)/legrad openapi --output openapi.yaml

docs: $(TOOLS)
	$(BIN)/zensical build --strict --clean --config-file mkdocs.yml

docs-pictures: install
	$(BIN)/python examples/option_pictures.py

models-page: install
	$(BIN)/python -m tools.models_page docs/models.md

screenshots: $(TOOLS)
	$(BIN)/python -m tests.service.web.screenshots build/screenshots

bench: $(TOOLS)
	$(BIN)/python -m benchmarks

soak: $(TOOLS)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

starter-eval: $(TOOLS)
	$(BIN)/python -m tools.starter evaluate

clean:
	rm -rf $(VENV) demo build *.egg-info
