# `make demo` and `make test` need Python 3.11 or newer, make and a package index; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
MODEL := sample_models/digits_cnn.onnx
INT8 := build/digits_cnn.int8.onnx

.PHONY: demo test test-all test-lowest check bench dist docs clean

demo: $(READY)
	@mkdir -p build
	$(BIN)/onnxq quantize $(MODEL) --calib calib_data/calib --method percentile -o $(INT8) --force
	@echo
	$(BIN)/onnxq eval $(MODEL) $(INT8) --data calib_data/eval --labels calib_data/eval/labels.csv --max-drop 0.5

test: $(READY)
	$(BIN)/pytest -n 2

test-all: $(READY)
	$(BIN)/pytest -n 2 -m ""

# the lowest declared versions: Python 3.11 or 3.12, for NumPy 1.26
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/pytest -n 2

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# sdist and wheel in dist/; `make test-all` installs the wheel into a fresh environment and runs the demo there
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist

# the documentation as a site in build/site; a warning, such as a broken link, fails
docs: $(VENV)/.docs
	rm -rf build/gallery
	$(BIN)/python docs/gallery.py build/gallery
	$(BIN)/mkdocs build --strict

# make bench CORPUS=path/to/corpus: the kernels of a CPU without VNNI, against the stored record
RECORD := benchmarks/records/avx2.json
bench: $(READY)
	@mkdir -p build
	$(BIN)/python benchmarks/older_cpu.py $(BIN)/python benchmarks/corpus.py $(or $(CORPUS),$(error say which: make bench CORPUS=path/to/corpus)) \
		--runtime build/runtime --record build/record.json
	$(BIN)/python benchmarks/compare.py $(RECORD) build/record.json

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e ".[all,cluster,test]"
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
