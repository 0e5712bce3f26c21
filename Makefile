# Every target works in a fresh clone: the virtual environment is created or updated when needed.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools
JAVASCRIPT := tools/javascript
JAVASCRIPT_TOOLS := $(JAVASCRIPT)/node_modules/.installed

# Packages are installed without bytecode: Python writes it at the first import. An environment that
# forbids that would compile them again in every process, half of the processor time of the tests.
unexport PYTHONDONTWRITEBYTECODE

MODEL ?=
IMAGE ?=
PROMPTS ?=
GTSEGS ?=
IMAGENET ?=
MINUTES ?= 10
SECONDS ?= 60
ONLY ?=
SEED ?=

# `no` makes pip resolve pyproject.toml instead of installing a lock.
LOCKED ?= yes

LINTS := lint-style lint-format lint-types lint-imports lint-security lint-contract lint-javascript \
	audit-if-possible

.PHONY: help install demo serve test test-quick lint $(LINTS) format bench accelerator soak audit \
	attack chaos fuzz lock \
	openapi docs docs-pictures manifests methods-page models-page screenshots starter-eval \
	methods-eval methods-times paper-eval clean

help:
	@echo "make demo          start a server, explain a picture, write overlays to demo/"
	@echo "                   (IMAGE=picture.jpg PROMPTS='a cat, a dog' for your own picture,"
	@echo "                   MODEL=ViT-B-16/laion2b_s34b_b88k for published weights from the hub)"
	@echo "make serve         start the server on port 8000"
	@echo "make test          run all tests in JOBS=2 processes"
	@echo "make test-quick    run the tests that are not marked slow"
	@echo "make lint          check style, types, imports, security, contract, JavaScript (needs npm)"
	@echo "                   and known vulnerabilities"
	@echo "make format        fix style and formatting"
	@echo "make audit         check the locked packages for known vulnerabilities"
	@echo "make attack        attack a server on this machine: a table of cases, seconds, memory, verdict"
	@echo "make chaos         two replicas under faults for SECONDS=600, drawn by SEED: a table of faults"
	@echo "                   and promises (needs haproxy and faketime)"
	@echo "make fuzz          fuzz decoding and request bodies, SECONDS=60 for each target"
	@echo "make lock          pin the dependencies with hashes: requirements*.lock"
	@echo "make docs          build the documentation site in build/site"
	@echo "make manifests     render the Helm chart for Kustomize, and update its copies of other files"
	@echo "make methods-page  write docs/methods.md: the explanation methods"
	@echo "make methods-eval  measure all methods on the built-in model's scenes, SCENES=1000, for"
	@echo "                   docs/methods.md; an interrupted run goes on where it ended (needs npm)"
	@echo "make methods-times time all methods on ViT-B/16 beside their prices, for docs/methods.md"
	@echo "make models-page   write docs/models.md: support for every open_clip model"
	@echo "make screenshots   write screenshots of the page to build/screenshots (needs Chromium)"
	@echo "make bench         compare speed with the reference and with plain forward passes"
	@echo "make accelerator   on a machine with a GPU: compare, time and serve for MINUTES=8, and write"
	@echo "                   docs/figures-accelerator.md"
	@echo "make soak          mixed traffic for MINUTES=10: memory, threads, descriptors, latency;"
	@echo "                   then the same engine behind other servers (10 minutes)"
	@echo "make starter-eval  evaluate the built-in model's heatmaps against exact ground truth"
	@echo "make paper-eval    measure the figures of LeGrad's paper: GTSEGS=gtsegs_ijcv.mat,"
	@echo "                   IMAGENET=imagenet/val or both (METHODS=legrad,random)"
	@echo "make clean         delete the virtual environment and everything built"

install: $(INSTALLED)

DEVELOPMENT_PROJECTS := --editable '.[dev,bcos,starter,bench,evaluate,heif,ray,storage,telemetry]' --editable ./clients/python
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
IS_LOCK_PLATFORM := import platform, sys; sys.exit((platform.system(), platform.machine(), \
	platform.python_implementation(), *sys.version_info[:2]) != ("Linux", "x86_64", "CPython", 3, 11))

# $(call install_packages,LOCK,PROJECTS)
# The lock is complete, so pip resolves nothing. Only a fraction of the modules is ever imported, so
# that they are compiled then. On other platforms than the lock's, pip resolves the dependencies.
define install_packages
	@echo "Installing into $(VENV): a few minutes, and up to 6 GB if torch comes with CUDA."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if test $(LOCKED) != no && $(BIN)/python -c '$(IS_LOCK_PLATFORM)'; then \
		$(PIP_INSTALL) --no-compile --no-deps --require-hashes --requirement $(1) \
		&& $(PIP_INSTALL) --no-deps --no-build-isolation $(2); \
	else \
		$(PIP_INSTALL) $(2); \
	fi
endef

$(INSTALLED): pyproject.toml requirements.lock
	$(call install_packages,requirements.lock,--editable '.[heif]')
	touch $@

$(TOOLS): pyproject.toml clients/python/pyproject.toml requirements-dev.lock
	$(call install_packages,requirements-dev.lock,$(DEVELOPMENT_PROJECTS))
	touch $(INSTALLED) $@

demo: install
	$(BIN)/python examples/demo.py $(if $(MODEL),--model '$(MODEL)') $(if $(IMAGE),--image '$(IMAGE)') \
		$(if $(PROMPTS),--prompts '$(PROMPTS)')

serve: install
	$(BIN)/legrad serve

# One compute thread for each process: more would compete for the cores. A test that fails runs once
# more, because tests with real processes and clocks also meet what else the machine does.
RUN_TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile \
	--no-loadscope-reorder --reruns 1 -r fER

test: $(TOOLS)
	$(RUN_TESTS)

test-quick: $(TOOLS)
	$(RUN_TESTS) -m 'not slow'

# Each check is a target of its own, which .pre-commit-config.yaml runs as a hook.
lint: $(LINTS)

lint-style: $(TOOLS)
	$(BIN)/ruff check .

lint-format: $(TOOLS)
	$(BIN)/ruff format --check .

lint-types: $(TOOLS)
	$(BIN)/mypy

lint-imports: $(TOOLS)
	$(BIN)/lint-imports

lint-security: $(TOOLS)
	$(BIN)/bandit --quiet --recursive legrad_engine service clients

lint-contract: $(TOOLS)
	$(BIN)/legrad openapi | diff - openapi.yaml

lint-javascript: $(JAVASCRIPT_TOOLS)
	$(JAVASCRIPT)/node_modules/.bin/biome lint --config-path=$(JAVASCRIPT) --error-on-warnings \
		service/web/*.js examples/clients/*.mjs tests/service/generated/*.ts

$(JAVASCRIPT_TOOLS): $(JAVASCRIPT)/package.json $(JAVASCRIPT)/package-lock.json
	@command -v npm > /dev/null \
		|| { echo "The check of the page's JavaScript needs Node.js and npm: install both." >&2; exit 1; }
	npm ci --prefix $(JAVASCRIPT) --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

format: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

LOCKS := requirements.lock requirements-dev.lock requirements-ray.lock

audit: $(TOOLS)
	$(BIN)/python -m tools.audit $(LOCKS)

# Exit status 2 means that no vulnerability service could be reached.
audit-if-possible: $(TOOLS)
	$(BIN)/python -m tools.audit $(LOCKS) || [ $$? -eq 2 ]

# The exit status is 1 if a case does not hold. ONLY=multipart runs some of the cases;
# TABLE=docs/attacks.md writes the table as a page, with BEFORE=FILE beside those of another version.
attack: $(TOOLS)
	$(BIN)/python -m tests.attack $(if $(ONLY),--only '$(ONLY)') $(if $(TABLE),--table '$(TABLE)') \
		$(if $(BEFORE),--before '$(BEFORE)')

# The exit status is 1 if a promise does not hold. Without SEED one is drawn; the same one replays.
chaos: SECONDS = 600
chaos: $(TOOLS)
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# A finding ends the run, and its input is in build/fuzz. The lock has the fuzzer.
fuzz: $(TOOLS)
	$(BIN)/python -c 'import atheris' 2> /dev/null || $(PIP_INSTALL) --editable '.[fuzz]'
	for target in decode avif gif tiff bmp multipart json text; do \
		$(BIN)/python -m tests.fuzz $$target $(SECONDS) || exit 1; \
	done

# Pins stay as long as pyproject.toml allows them; delete a lock to get new versions.
# The locks are for Linux on x86-64 with Python 3.11, as in the images. requirements-cpu.lock leaves
# out torch and the packages that only torch needs, for images with torch from an index without CUDA.
# requirements-ray.lock is for the machines of a Ray cluster.
IMAGE_EXTRAS := heif hf storage telemetry
RAY_EXTRAS := $(IMAGE_EXTRAS) ray
COMPILE := CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet

lock: $(TOOLS)
	$(COMPILE) $(IMAGE_EXTRAS:%=--extra %) --output-file requirements.lock pyproject.toml
	awk '/^[a-z]/ { kept = !/^(torch|torchvision|triton|cuda-|nvidia-)/ } /^#/ || kept' \
		requirements.lock > requirements-cpu.lock
	$(COMPILE) --constraint requirements.lock $(RAY_EXTRAS:%=--extra %) \
		--output-file requirements-ray.lock pyproject.toml
	$(COMPILE) --constraint requirements.lock --all-extras --output-file requirements-dev.lock \
		pyproject.toml clients/python/pyproject.toml

openapi: install
	$(BIN)/legrad openapi --output openapi.yaml

docs: $(TOOLS)
	$(BIN)/zensical build --strict --clean --config-file mkdocs.yml

docs-pictures: $(TOOLS)
	$(BIN)/python examples/option_pictures.py

manifests: $(TOOLS)
	$(BIN)/python -m tools.manifests

methods-page: install
	$(BIN)/python -m tools.methods_page docs

models-page: install
	$(BIN)/python -m tools.models_page docs/models.md

screenshots: $(TOOLS)
	$(BIN)/python -m tests.service.web.screenshots build/screenshots

bench: $(TOOLS)
	$(BIN)/python -m benchmarks

accelerator: MINUTES = 8
accelerator: $(TOOLS)
	$(BIN)/python -m benchmarks.accelerator --minutes $(MINUTES)

soak: $(TOOLS)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)
	$(BIN)/python -m benchmarks --part peers --repeats 5

starter-eval: $(TOOLS)
	$(BIN)/python -m tools.starter evaluate

SCENES = 1000
methods-eval: $(TOOLS)
	$(BIN)/python -m tools.methods_eval --scenes $(SCENES)

methods-times: $(TOOLS)
	$(BIN)/python -m tools.methods_eval.prices

PAPER_MODEL = ViT-B-16/laion2b_s34b_b88k
METHODS = legrad,random

# $(call measure_paper,DATA,PROTOCOL)
# Exit status 1 means that samples failed, which the other data set does not depend on.
measure_paper = $(BIN)/legrad evaluate $(PAPER_MODEL) '$(1)' --protocol $(2) --method $(METHODS) \
	-o build/paper/$(2) || { status=$$?; test $$status -eq 1 || exit $$status; failed=1; };

paper-eval: $(TOOLS)
	@test -n '$(GTSEGS)$(IMAGENET)' || { echo "Give the data: GTSEGS=gtsegs_ijcv.mat," \
		"IMAGENET=imagenet/val or both." >&2; exit 2; }
	failed=0; \
	$(if $(GTSEGS),$(call measure_paper,gtsegs:$(GTSEGS),segmentation)) \
	$(if $(IMAGENET),$(call measure_paper,imagenet:$(IMAGENET),perturbation)) \
	exit $$failed

clean:
	rm -rf $(VENV) $(JAVASCRIPT)/node_modules demo build *.egg-info \
		clients/python/*.egg-info clients/python/build
