# The whole set-up: `make demo` or `make test` on a machine with Python 3.11 or later.
# Where it is set, every process of the tests compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
READY = $(VENV)/.ready

# What looks at the supply chain; an environment of its own, for it is no part of the product.
TOOLS = .venv-tools
AUDIT = cyclonedx-bom==7.5.0 pip-audit==2.10.1 uv==0.13.8

# What builds the site, likewise; mkdocs reads the docstrings and imports nothing of ours.
SITE = .venv-docs

.PHONY: demo test deep check docs site wheel audit sbom licences constraints constraints-docs faults fuzz load runtime \
	broken-promises clean

demo: $(READY)
	$(BIN)/python models/lenet5.py demo 2>$(VENV)/lenet5.log || (cat $(VENV)/lenet5.log; exit 1)
	$(BIN)/onnxgraft deploy models/lenet5.toml -o demo/lenet5

# In so many processes; one that is idle takes tests from another.
WORKERS ?= 2
test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# What takes minutes too: rare events, files of hundreds of megabytes. Before a release.
deep: $(READY)
	CI=1 ONNXGRAFT_DEEP=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tables in docs/ that follow from the code.
docs: $(READY)
	$(BIN)/python -m docs.tables

# The site, from docs/: a page in build/site for each, every link and anchor within it checked.
site: $(SITE)/.ready
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict

# The wheel of the last commit, in build/wheel: the same bytes wherever it is built.
wheel: $(READY)
	rm -rf build/wheel && mkdir -p build/wheel/source
	git archive HEAD | tar -xp -C build/wheel/source
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet --no-deps --no-index \
		--no-build-isolation --wheel-dir build/wheel build/wheel/source
	rm -r build/wheel/source
	sha256sum build/wheel/*.whl

# Asks the advisory service, so it needs the network; fails where that does not know a package.
audit: $(TOOLS)/.ready
	$(TOOLS)/bin/pip-audit --requirement constraints.txt --disable-pip --require-hashes \
		--strict

# The software bill of materials of what is installed, as CycloneDX 1.6.
sbom: $(READY) $(TOOLS)/.ready
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --spec-version 1.6 \
		--output-reproducible --output-file build/sbom.json $(BIN)/python

# The licence of each package that is installed, into docs/licences.md.
licences: $(READY)
	$(BIN)/python -m docs.licences

# After new versions were installed and tested.
constraints: $(TOOLS)/.ready
	head -2 constraints.txt > build.lock
	$(BIN)/pip freeze --all --exclude pip --exclude torch --exclude-editable | $(TOOLS)/bin/uv pip compile --quiet \
		--no-deps --no-annotate --no-header --generate-hashes --python-version 3.11 - >> build.lock
	mv build.lock constraints.txt

# The newest that fit, with all that they need.
constraints-docs: $(TOOLS)/.ready
	head -2 constraints-docs.txt > build.lock
	printf 'mkdocs<2\nmkdocs-material>=9.6\nmkdocstrings-python>=2\nruff\n' | $(TOOLS)/bin/uv pip compile --quiet \
		--no-annotate --no-header --generate-hashes --python-version 3.11 - >> build.lock
	mv build.lock constraints-docs.txt

$(SITE)/.ready: constraints-docs.txt
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install --quiet --no-compile --require-hashes --no-deps --requirement constraints-docs.txt
	touch $@

$(TOOLS)/.ready: Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet $(AUDIT)
	touch $@

# Bytecode is written for what is imported, when it first is: for all that is installed it takes as
# long as the installation.
$(READY): pyproject.toml constraints-pip.txt constraints.txt constraints-torch.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps --requirement constraints-pip.txt
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps --requirement constraints-torch.txt \
		|| echo "PyTorch's build for the CPU is not to be had here: its tests are skipped"
	$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $@

# The long tests; each writes its figures into docs/security-figures.md.
fuzz: $(READY)
	PYTHONPATH=src $(BIN)/python -m tests.fuzz.long --seconds 600
	PYTHONPATH=src $(BIN)/python -m tests.fuzz.mutants onnx 2000
	PYTHONPATH=src $(BIN)/python -m tests.fuzz.mutants tensorflow 500
	PYTHONPATH=src $(BIN)/python -m tests.fuzz.mutants caffe 2000
	PYTHONPATH=src $(BIN)/python -m tests.fuzz.whole 5000
	PYTHONPATH=src $(BIN)/python -m tests.faults --kills 200

faults: $(READY)
	PYTHONPATH=src $(BIN)/python -m tests.faults --kills 200

# Breaks each promise of docs/threat-model.md in a copy; its test has to see that.
broken-promises: $(READY)
	PYTHONPATH=src $(BIN)/python -m tests.broken_promises

load: $(READY)
	PYTHONPATH=src $(BIN)/python -m benchmarks.load > benchmarks/load.md

# The wheel with numpy and one runtime alone, in fresh environments; needs the network. Other
# interpreters are tried too: make runtime PYTHONS="python3.12 python3.13"
PYTHONS ?= $(BIN)/python
runtime: $(READY)
	mkdir -p build
	PYTHONPATH=src $(BIN)/python -m benchmarks.runtime_only $(PYTHONS) > build/runtime_only.md
	mv build/runtime_only.md benchmarks/runtime_only.md

clean:
	rm -rf $(VENV) $(TOOLS) $(SITE) demo build
