PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo test bench zoo lint

install: $(BIN)/.installed

# A virtual environment with ttame and its tools; made again when the dependencies change.
$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --editable . --group dev
	touch $@

demo: install ## audit the embedded data set with the classifiers in examples/zoo
	$(BIN)/ttame audit examples/shapes.yaml

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

zoo: install ## train the classifiers in examples/zoo again
	$(BIN)/python examples/make_zoo.py
