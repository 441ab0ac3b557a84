PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Many processes import the same: what the first of them compiles is kept, wherever this runs.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test test-all test-lowest bench bench-gpu faults docs zoo lint

install: $(BIN)/.installed

# A virtual environment with ttame and its tools; made again when the dependencies change. All cores
# compile what is installed, where pip has one only; a third of it is left out, which next to nothing
# imports. What is no Python in packages does not matter.
$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --no-compile --editable . --group dev
	$(BIN)/python -m compileall -q -j 0 -x '/(tests?|ray|databricks|transformers/models)/' $(VENV)/lib \
	  > /dev/null 2>&1 || true
	touch $@

$(BIN)/.clusters: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --group clusters
	touch $@

demo: install ## audit the embedded data set with the classifiers in examples/zoo
	$(BIN)/ttame audit examples/shapes.yaml

test: install
	$(BIN)/python -m pytest -m "not long"
	@echo "make test-all runs the tests marked long as well (CONTRIBUTING.md)."

test-all: $(BIN)/.clusters ## all tests, also those that take minutes each
	$(BIN)/python -m pytest

# An environment of its own, which needs uv's resolver: pip takes the newest versions alone.
test-lowest: ## the fast tests with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install --quiet uv
	build/lowest/bin/uv pip install --quiet --python build/lowest/bin/python \
	  --resolution lowest-direct --requirements pyproject.toml --all-extras --group dev --editable .
	build/lowest/bin/python -m pytest -m "not slow and not long"

bench: $(BIN)/.clusters ## what an explanation costs beside plain inference
	$(BIN)/python -m benchmarks

bench-gpu: install ## the same on a GPU, and the tests that need one, in ten minutes at most
	$(BIN)/python -m benchmarks.gpu

faults: install ## kill -9 at random moments, a server that goes away, broken inputs (docs/reliability.md)
	$(BIN)/python -m benchmarks.faults

docs: install ## the documentation as a site in build/site, to be read from the disk
	$(BIN)/mkdocs build --strict

lint: install ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two hours on two CPU cores. The second spec starts from what the first one makes.
zoo: install ## train the classifiers in examples/zoo again
	for spec in shapes-zoo shapes-zoo-vit; do \
	  $(BIN)/ttame shard examples/$$spec.yaml --workspace zoo-workspace && \
	  $(BIN)/ttame fit-backbone examples/$$spec.yaml --workspace zoo-workspace && \
	  for folder in zoo-workspace/backbones/dataset=$$spec/backbone=*; do \
	    cp $$folder/weights.safetensors examples/zoo/$${folder##*=}.safetensors || exit 1; \
	  done || exit 1; \
	done
