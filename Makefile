# Everything a developer, CI or a first visitor runs. `make help` lists it.
#
# Needs GNU make, Python 3.11 and a Python package index; pip's own configuration (mirror, proxy,
# certificates) is respected. Everything is installed into .venv.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Further arguments for run, test and bench: make run ARGS="--source=CS2_33.zip"
ARGS ?=
# The warehouse that `models` builds on.
WAREHOUSE ?= duckdb:data/warehouse.duckdb

# A deployment on Google Cloud: PROJECT and BUCKET (an existing bucket for Terraform's state and the
# templates) have to be given, the rest has defaults.
REGION ?= us-central1
NAME ?= battery
TAG ?= $(shell git describe --always --dirty)
IMAGE ?= $(REGION)-docker.pkg.dev/$(PROJECT)/$(NAME)/pipeline:$(TAG)
TEMPLATE ?= gs://$(BUCKET)/templates/$(NAME)-$(TAG).json
# What the image is built on, other than deploy/template/Dockerfile says: by digest, for example, as
# `docker buildx imagetools inspect` shows it. BEAM=apache/beam_python3.11_sdk@sha256:…
BEAM ?=
LAUNCHER ?=
BASES = $(foreach base,BEAM LAUNCHER,$(if $($(base)),$(base)=$($(base))))
comma := ,
space := $(subst ,, )
TERRAFORM = terraform -chdir=deploy/terraform
TERRAFORM_VARS = -var=project=$(PROJECT) -var=region=$(REGION) -var=name=$(NAME)

# $(call need,NAMES): stops with the name of the first that is missing.
need = $(foreach name,$(1),$(if $($(name)),,$(error $(name) is not set; such as: make $@ PROJECT=my-project REGION=us-central1 BUCKET=my-bucket)))

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
STAMP := $(VENV)/.installed

# The lock files' compiler, pinned so that everybody compiles the same.
PIP_TOOLS := pip-tools==7.6.2
LOCK_VENV := .venv-lock
# Asks which locked packages have known vulnerabilities; in an environment of its own.
PIP_AUDIT := pip-audit==2.10.1
AUDIT_VENV := .venv-audit

# The files of tests are shared out among up to four processes (ARGS="-n 0": one process, for pdb),
# in the order that tests/conftest.py gives them.
PYTEST = $(PYTHON) -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# Prints the first Python 3.11 at hand. A name may exist without working (version managers put
# such shims on the path), so each is tried.
FIND_PYTHON = for candidate in python3.11 python3 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	  then command -v "$$candidate"; exit 0; fi; \
	done; \
	echo "Python 3.11 was not found as python3.11, python3 or python. Install it and run this again." >&2; \
	exit 1

.PHONY: help install run models test test-long proofs lint format bench chaos soak fuzz fuzz-doors template deploy lock audit clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## Create .venv with the locked dependencies and this project

# Runs again only when the dependencies changed. The stamp is written last, so an interrupted
# install is repeated. --no-deps: the lock is complete, `pip check` proves it. Bytecode is written
# here, by all cores: where Python may not write it later, every start of Beam would take 4 s more.
$(STAMP): requirements-dev.txt setup.py
	@python="$$($(FIND_PYTHON))"; \
	if ! $(PYTHON) -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	  echo "Creating $(VENV) with $$python"; \
	  "$$python" -m venv --clear $(VENV) || { \
	    echo "This Python can't create environments; on Debian and Ubuntu: apt-get install python3.11-venv" >&2; \
	    exit 1; }; \
	fi
	@echo "Installing $$(grep -c '^[a-z0-9].*==' requirements-dev.txt) packages (a few minutes the first time)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements-dev.txt
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(PYTHON) -m compileall -q -j 0 -x '/(tests?|testing)/' $(VENV)/lib > /dev/null || true
	@$(PYTHON) -m pip check
	@touch $@

run: install ## Run the pipeline locally, build the models, write data/report.html (ARGS: the pipeline's flags)
	@$(PYTHON) -m pipeline --runner=DirectRunner $(ARGS)
	@$(MAKE) models WAREHOUSE=duckdb:data/warehouse.duckdb
	@$(PYTHON) -m pipeline.report --warehouse=duckdb:data/warehouse.duckdb --out=data/report.html

models: install ## Build and test the dbt models (WAREHOUSE=duckdb:PATH or another warehouse)
	@$(PYTHON) -m pipeline.models --warehouse=$(WAREHOUSE)

# Some tests alone can't reach the coverage of all: with ARGS it is shown, not demanded. Measured is what
# the tests named in tests/conftest.py cover; tracing the others too takes a third more time.
test: install ## Run the tests and demand 95 % branch coverage of transforms and schemas (ARGS: pytest's)
	@$(PYTEST) -m 'not long' --cov --cov-branch --cov-report=term $(if $(strip $(ARGS)),--cov-fail-under=0) $(ARGS)

# Minutes of a live job under fire, and the job on other engines.
test-long: install ## Run the short forms of chaos and soak, and the tests on Prism (ARGS: pytest's)
	@$(PYTEST) -m 'long and not proof' $(ARGS)

proofs: install ## Run the tests that wait for minutes, which test-long leaves out (ARGS: pytest's)
	@$(PYTEST) -m proof $(ARGS)

# Every check runs, whichever fails first.
lint: install ## Check style, format, types and SQL
	@status=0; \
	echo "ruff check"; $(PYTHON) -m ruff check . || status=1; \
	echo "ruff format"; $(PYTHON) -m ruff format --check . || status=1; \
	echo "mypy"; $(PYTHON) -m mypy || status=1; \
	echo "sqlfluff"; (cd dbt_project && ../$(PYTHON) -m sqlfluff lint models macros tests analyses) || status=1; \
	exit $$status

format: install ## Rewrite the Python code in the format that lint demands
	@$(PYTHON) -m ruff check --fix-only --quiet .
	@$(PYTHON) -m ruff format .

bench: install ## Measure throughput and latency (ARGS: the benchmarks' flags)
	@$(PYTHON) -m tests.benchmarks $(ARGS)

# Both start a real Kafka and a steady producer of their own; they print what they saw and fail if
# anything was lost or doubled.
chaos: install ## Kill the live job and the broker again and again; nothing may be lost or doubled (ARGS: --help)
	@$(PYTHON) -m tests.endurance chaos $(ARGS)

soak: install ## Run the live job for half an hour at a steady rate; shows memory, lag, latency (ARGS: --help)
	@$(PYTHON) -m tests.endurance soak $(ARGS)

# Inputs that are changed by chance, through every way in; none may break one (FUZZ_INPUTS: how many).
FUZZ_INPUTS ?= 1000000
fuzz-doors: install ## Give a million changed inputs to every reader of bytes from outside (ARGS: --help)
	@$(PYTHON) -m tests.fuzz.doors --inputs=$(FUZZ_INPUTS) $(ARGS)

# Exports of a dozen cyclers' brands, drawn with a seed; none may be wrong without a word.
fuzz: install ## Make 500 cyclers' exports with known truth and judge what comes of them (ARGS: --help)
	@$(PYTHON) -m tests.fuzz $(ARGS)

# With DOCKER=1 the image is built on this machine, otherwise by Cloud Build.
template: install ## Build the image and write the Flex Template to BUCKET (PROJECT, BUCKET, REGION; DOCKER=1 builds here)
	$(call need,PROJECT BUCKET)
	@$(if $(DOCKER),docker buildx build --platform=linux/amd64 --push --file=deploy/template/Dockerfile $(BASES:%=--build-arg=%) --tag=$(IMAGE) .,\
	  gcloud builds submit --project=$(PROJECT) --region=$(REGION) \
	  --config=deploy/template/cloudbuild.yaml --substitutions=_IMAGE=$(IMAGE)$(subst $(space),,$(BASES:%=$(comma)_%)) .)
	@$(PYTHON) deploy/template/spec.py --image=$(IMAGE) --out=$(TEMPLATE)

# The image needs its repository first; then everything else. Terraform shows each plan and asks
# (ARGS=-auto-approve: it does not).
deploy: install ## Create or update everything on Google Cloud, the job too (PROJECT, BUCKET, REGION)
	$(call need,PROJECT BUCKET)
	@$(TERRAFORM) init -reconfigure -backend-config=bucket=$(BUCKET) -backend-config=prefix=terraform/$(NAME)
	@$(TERRAFORM) apply -target=google_artifact_registry_repository.images $(TERRAFORM_VARS) $(ARGS)
	@$(MAKE) template
	@$(TERRAFORM) apply $(TERRAFORM_VARS) -var=template=$(TEMPLATE) -var=image=$(IMAGE) $(ARGS)

# Versions already locked stay unless setup.py rules them out; UPGRADE=1 takes the newest allowed.
# The runtime lock comes first and binds the other one.
lock: ## Compile setup.py into the lock files (UPGRADE=1: take newer versions)
	@python="$$($(FIND_PYTHON))"; \
	test -x $(LOCK_VENV)/bin/pip-compile || "$$python" -m venv --clear $(LOCK_VENV)
	@$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(PIP_TOOLS)'
	@$(call COMPILE,requirements.txt)
	@$(call COMPILE,requirements-dev.txt,--extra=dev --constraint=requirements.txt)

# $(1): the lock file, $(2): further arguments. Nothing of the compiling machine may get into it.
COMPILE = echo "Compiling $(1) (minutes, where the index serves no hashes)"; \
	CUSTOM_COMPILE_COMMAND="make lock" $(LOCK_VENV)/bin/python -m piptools compile --quiet \
	  --strip-extras --allow-unsafe --generate-hashes \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  $(if $(UPGRADE),--upgrade) $(2) --output-file=$(1) setup.py

audit: ## Look up known vulnerabilities of the locked packages (skipped where there is no data)
	@python="$$($(FIND_PYTHON))"; \
	test -x $(AUDIT_VENV)/bin/pip-audit || "$$python" -m venv --clear $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(PIP_AUDIT)'
	@$(AUDIT_VENV)/bin/python deploy/audit.py $(AUDIT_VENV)/bin/pip-audit requirements-dev.txt

clean: ## Remove the environments, caches and build results; data/ stays
	@rm -rf $(VENV) $(LOCK_VENV) $(AUDIT_VENV) build dist ./*.egg-info htmlcov .coverage .coverage.* \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis dbt_project/target dbt_project/logs
	@find . -type d -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
