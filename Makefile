# make book    run every notebook on a profile and build _build/html/index.html
# make test    the whole test suite; FAST=1 leaves out what runs chapters, a browser or many processes
# make lab     JupyterLab on the notebooks
# make bench   measure how fast it is, into benchmarks/results.csv; BENCH="--only rollout" only some rows
# PROFILE=paper, PROFILE=atlas or PROFILE=my.yaml picks other images and models; RUN holds more options for mae_helpers.run.
# IMAGENET=/data/imagenet/val and the others below tell the profile `paper` where images and weights are.
PROFILE ?= demo
RUN ?=
BENCH ?=
FAST ?=
PYTHON ?= python3
BIN := .venv/bin

export IMAGENET IMAGENET_LABELS IMAGENET_C IMAGENET_R IMAGENET_A SAM WEIGHTS

.PHONY: book test bench lab lint format lock clean

book: .venv/ready
	$(BIN)/python -m mae_helpers.run --profile "$(PROFILE)" $(RUN)

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(if $(FAST),-m "not slow")

bench: .venv/ready
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c requirements.lock -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks $(BENCH)

lab: .venv/ready
	$(BIN)/jupyter lab --notebook-dir=notebooks

lint: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format . ; $(BIN)/nbstripout notebooks/*.ipynb

lock: .venv/ready
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --upgrade pyproject.toml -o requirements.lock

clean:
	rm -rf _build results

.venv/ready: requirements.lock pyproject.toml
	"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"error: $(PYTHON) is Python {v[0]}.{v[1]}; this project needs 3.11 to 3.13: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^uv==' requirements.lock || echo uv)"
	$(BIN)/uv pip sync -q --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@
