# A fresh machine needs Python 3.11 or newer, make, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := cluster,convert,flows,hub,images,ncnn,signing,spandrel,training,video,openvino,development
# TensorRT-RTX builds engines, atheris guides fuzzing by coverage, realesrgan-ncnn-py is the consumer of ncnn files. None is there for every machine.
OPTIONAL := tensorrt-rtx atheris realesrgan-ncnn-py
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
STAMP := $(VENV)/.installed

.PHONY: help packages setup release test test-fast test-all test-long test-cluster lint types workflows benchmark clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages: ## Install what tests need from Debian or Ubuntu, where that can be done
	@.ci/packages

setup: $(STAMP) ## Make .venv with everything this machine can have, pinned by constraints.txt

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "aethernet needs Python 3.11 or newer, found $$($(PYTHON) --version); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "setting up $(VENV) (PyTorch and its libraries are several gigabytes; once only)" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# In the Python registry the name aethernet is another project, which would overwrite files of this one.
	$(BIN)/python -m pip uninstall -qq --yes aethernet
	$(BIN)/python -m pip install -qq --editable '.[$(EXTRAS)]' --constraint constraints.txt
	@for package in $(OPTIONAL); do \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt $$package || \
		echo "$$package has no package for this machine; what needs it is left out" >&2; \
	done
	@touch $@

release: $(STAMP) ## Release the sample network that comes with the repository into out/ and publish it to hub/
	$(BIN)/python -m flows release releases/aether_tiny_2x --output out --hub "file://$(CURDIR)/hub"

test: $(STAMP) ## Run all tests but the long set
	$(PYTEST) -m "not long and not cluster"

test-fast: $(STAMP) ## Run the fast tests only
	$(PYTEST)

test-all: test ## Run every test, and note which code the long set passed with
	$(PYTEST) --randomly-dont-reorganize -m "long or cluster" --junit-xml=.pytest_cache/long.xml
	$(BIN)/python -m tests.support.long_set --record .pytest_cache/long.xml

test-long: $(STAMP) ## Run those files of the long set that did not pass with the code as it is (.ci/long_set.json)
	@due=$$($(BIN)/python -m tests.support.long_set) || exit 1; \
	if [ -z "$$due" ]; then echo "the long set has passed with this code"; \
	else echo "long set, because code has changed: $$due"; \
		$(PYTEST) --randomly-dont-reorganize -m "long or cluster" $$due; fi

test-cluster: $(STAMP) ## Run releases on a cluster of its own: Prefect on PostgreSQL, S3, three workers, faults
	$(BIN)/python -m pytest -q --randomly-dont-reorganize -m cluster tests/flows/test_cluster.py

workflows: $(STAMP) ## Check the GitHub Actions workflows: schema and security
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	$(BIN)/zizmor --offline --no-progress --quiet .github

lint: $(STAMP) workflows ## Check style, and the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check types
	$(BIN)/mypy

benchmark: $(STAMP) ## The tables of docs/benchmarks.md for this machine, as Markdown (ten minutes)
	$(BIN)/python benchmarks/tables.py

clean: ## Remove what releases and tests made here (not .venv, not the store)
	rm -rf out hub .pytest_cache .mypy_cache .ruff_cache
