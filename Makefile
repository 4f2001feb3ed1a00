# Two commands for a newcomer: `make quickstart` and `make test`. Neither needs root, a cluster or an accelerator.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The environment is made again when what it is made from has changed.
STAMP := $(VENV)/.made-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
# make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the small CPU build of torch.
TORCH_INDEX ?=
WORKERS ?= 2

.PHONY: help
help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "archsearch needs Python 3.11 or later; this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/.made-*
	touch $@

.PHONY: venv
venv: $(STAMP) ## Make .venv with every extra that the tests need

.PHONY: quickstart
quickstart: $(STAMP) ## Search examples/digits.yaml, export the best model, load it and predict
	$(BIN)/archsearch run examples/digits.yaml
	$(BIN)/python examples/predict_digits.py archsearch-runs/digits

.PHONY: test
test: $(STAMP) lint unit ## Everything that needs no cluster

.PHONY: lint
lint: $(STAMP) ## ruff, mypy --strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: unit
unit: $(STAMP)
	$(BIN)/python -m pytest tests/unit -q -n $(WORKERS) --dist loadgroup

.PHONY: integration
integration: $(STAMP) ## Tests against an API server: KUBEBUILDER_ASSETS or KUBECONFIG
	$(BIN)/python -m pytest tests/integration -q

.PHONY: gpu
gpu: $(STAMP) ## Tests on a CUDA device; skipped, with the reason, where there is none
	$(BIN)/python -m pytest tests/gpu -q

.PHONY: e2e
e2e: $(STAMP) ## Tests in real pods: KUBECONFIG and ARCHSEARCH_E2E_IMAGE_COMMAND
	$(BIN)/python -m pytest tests/e2e -q

.PHONY: crds
crds: $(STAMP) ## Generate the CRD and docs/manifest.md from archsearch.spec
	$(BIN)/python -m archsearch.spec.crd
	$(BIN)/python -m archsearch.spec.reference

.PHONY: format
format: $(STAMP) ## Format and fix what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: constraints
constraints: ## Write constraints.txt anew from the newest releases that pyproject.toml admits
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/pip install -q --upgrade pip
	.venv-constraints/bin/pip install -q -e '.[dev]'
	{ sed -n '/^#/p' constraints.txt; .venv-constraints/bin/pip freeze --exclude-editable | sed 's/+cpu//' | sort -f; } > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf .venv-constraints

.PHONY: clean
clean: ## Remove the environment and the caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

-include kind.mk
