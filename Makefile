# The whole set-up: `make demo` or `make test` on a machine with Python 3.11 or later.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test check faults fuzz load clean

demo: $(READY)
	$(BIN)/python models/lenet5.py demo 2>$(VENV)/lenet5.log || (cat $(VENV)/lenet5.log; exit 1)
	$(BIN)/onnxgraft deploy models/lenet5.toml -o demo/lenet5

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

# The long tests; each writes its figures into docs/security-figures.md.
fuzz: $(READY)
	PYTHONPATH=src $(BIN)/python -m tests.fuzz.long --seconds 600
	PYTHONPATH=src $(BIN)/python -m tests.fuzz.mutants onnx 2000
	PYTHONPATH=src $(BIN)/python -m tests.fuzz.mutants tensorflow 500
	PYTHONPATH=src $(BIN)/python -m tests.faults --kills 200

faults: $(READY)
	PYTHONPATH=src $(BIN)/python -m tests.faults --kills 200

load: $(READY)
	PYTHONPATH=src $(BIN)/python -m benchmarks.load > benchmarks/load.md

clean:
	rm -rf $(VENV) demo build
