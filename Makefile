# Everything that a newcomer or a developer runs. Each target sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# What builds is pinned as well; the pip that a new environment begins with cannot.
INSTALL := $(PIP) --build-constraint constraints.txt

.PHONY: help demo test test-slow test-runtimes test-transformers test-encoders test-lightning test-triton test-jax test-ray test-stores test-serve test-extras test-floors lint docs try bench bench-engines gpu gpu-wheels study mini reports clauses mutants vectors schemas fuzz clean

help:
	@echo "make demo     the demonstration on real data (about half a minute after set-up)"
	@echo "make test     the tests (about ten minutes on two cores)"
	@echo "make test-slow  what takes minutes: when benchmarks or the learning of heads have changed"
	@echo "make test-runtimes  exported graphs in OpenVINO, Node, a browser, C++ (needs npm)"
	@echo "make test-transformers  schedulers in ten multimodal models, in two lines of transformers"
	@echo "make test-encoders  dms embed with every library of encoders that it knows"
	@echo "make test-triton  the GPU kernels, interpreted on the CPU (five minutes; 700 MB)"
	@echo "make test-jax  the example backend on JAX, and the conformance suite on it (slow: JAX compiles)"
	@echo "make test-ray  a dataset scored by Ray, Dask and Daft, each in two processes (two minutes)"
	@echo "make test-stores  dms predict and dms watch in an S3 store, with kills (a minute)"
	@echo "make test-lightning  the example in Lightning's loop"
	@echo "make test-serve  the example server, over loopback (half a minute)"
	@echo "make test-extras  each extra alone, from the wheel, in a clean environment (ten minutes)"
	@echo "make test-floors  everything at the lowest versions that pyproject.toml states"
	@echo "make lint     formatting, lint and types"
	@echo "make docs     the documentation, into docs/_build/html"
	@echo "make try      a page where the exported graph runs in a browser (needs npm)"
	@echo "make gpu-wheels  fetch what a machine with a GPU may lack, into .gpu (needs a registry)"
	@echo "make gpu      tests, conformance and speed on a GPU; nothing is installed (eight minutes)"
	@echo "make bench    speed, as ratios to limits and baselines, for the page on it (ten minutes)"
	@echo "make bench-engines  rows per second of dms predict, Ray, Dask, Daft and Spark, side by side"
	@echo "make study DATA=FOLDER  robustness of every method on the tables of a folder (about 25 minutes)"
	@echo "make study DATA=FOLDER SEEDS=1 SETS=pie  a part of it, into study-out, to see that it runs"
	@echo "make mini     the paper's experiments in two tiny multimodal models (about ten minutes)"
	@echo "make mini SEEDS=1  a part of it, into mini-out (about three minutes)"
	@echo "make reports  the conformance suite on every backend, and the matrix of the documentation"
	@echo "make clauses  refresh the machine copy of the specification's clauses"
	@echo "make mutants  run the suite on every wrong backend, and refresh that page"
	@echo "make schemas  refresh the JSON schemas that ship with the package"
	@echo "make fuzz     ten thousand changed files and sixty kills (about five minutes)"
	@echo "make vectors  refresh the golden vectors that ship with the package"

$(VENV)/pip: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@touch $@

$(VENV)/demo: $(VENV)/pip pyproject.toml
	@echo "installing dms-spec with its extra [demo] into $(VENV): about a minute, once"
	$(INSTALL) --editable ".[demo]"
	@touch $@

# The example backend goes in as a stranger's would: built, then installed.
$(VENV)/test: $(VENV)/pip pyproject.toml $(wildcard examples/dms-strict/*.toml examples/dms-strict/*/*.py)
	$(INSTALL) --editable ".[completion,conformance,demo,embed,numba,hub,onnxruntime,tables,torch]" --group test
	$(INSTALL) --no-deps --force-reinstall ./examples/dms-strict
	@touch $@

# Of tritonclient, one file is read; what it depends on would change the versions of others.
$(VENV)/runtimes: $(VENV)/test
	$(INSTALL) --group runtimes
	$(INSTALL) --no-deps --group triton
	@touch $@

tests/runtimes/node_modules: tests/runtimes/package-lock.json
	cd tests/runtimes && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# The line before the pinned one lies in a folder of its own, ahead on the path.
$(VENV)/transformers-4.57: $(VENV)/test
	$(BIN)/python -m pip install --quiet --no-deps --target $@ transformers==4.57.6 \
		"tokenizers>=0.22,<0.23" "huggingface_hub>=0.34,<1" \
		requests urllib3 charset-normalizer idna certifi
	@touch $@

# timm needs torchvision, which changes how transformers prepares images: each lies in a folder of its
# own. A build of torchvision that does not fit torch leaves timm out, and the test says so.
$(VENV)/encoders: $(VENV)/test
	$(PIP) --no-deps --target $@/sentences sentence-transformers
	$(PIP) --no-deps --target $@/timm timm torchvision
	@touch $@

# Lightning is not pinned either, and lies in a folder of its own: torch stays the one that it is.
$(VENV)/lightning: $(VENV)/test
	$(BIN)/python -m pip install --quiet --no-deps --target $@ \
		"lightning>=2.5" torchmetrics lightning-utilities
	@touch $@

# The version that PyTorch's CUDA build of the pinned version asks for. In a folder of its own,
# because PyTorch behaves differently where it finds one.
$(VENV)/triton: $(VENV)/test
	$(PIP) --no-deps --target $@ triton==3.7.1
	@touch $@

# JAX is not pinned: a stranger's backend has to do with the one that there is.
$(VENV)/jax: $(VENV)/test $(wildcard examples/dms-jax/*.toml examples/dms-jax/*/*.py)
	$(INSTALL) "jax>=0.10"
	$(INSTALL) --no-deps --force-reinstall ./examples/dms-jax
	@touch $@

$(VENV)/lint: $(VENV)/test
	$(INSTALL) --group lint
	@touch $@

$(VENV)/docs: $(VENV)/pip pyproject.toml
	$(INSTALL) --editable ".[conformance,demo,hub,onnxruntime,tables,torch]" --group docs
	@touch $@

$(VENV)/try: $(VENV)/pip pyproject.toml
	$(INSTALL) --editable ".[demo,onnxruntime,torch]"
	@touch $@

docs/try/node_modules: docs/try/package-lock.json
	cd docs/try && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

demo: $(VENV)/demo
	$(BIN)/dms demo -o demo-out

test: $(VENV)/test
	$(BIN)/python -m pytest --numprocesses auto

# Before a release, and when benchmarks or the learning of heads have changed.
test-slow: $(VENV)/test
	$(BIN)/python -m pytest -m slow --numprocesses auto

# With MEASURED=docs/reference/runtimes.csv it writes the table of that page.
test-runtimes: $(VENV)/runtimes tests/runtimes/node_modules
	$(BIN)/python -m pytest tests/runtimes tests/test_triton.py

# When an adapter or the version of transformers has changed: every family, every property.
# MEASURED=docs/reference writes the tables of the page on multimodal models.
test-transformers: $(VENV)/transformers-4.57
	MLLM=all $(BIN)/python -m pytest tests/mllm
	MLLM=all PYTHONPATH=$(VENV)/transformers-4.57 $(BIN)/python -m pytest tests/mllm

# When an encoder, or the version of a library of encoders, has changed.
test-encoders: $(VENV)/encoders $(VENV)/transformers-4.57
	PYTHONPATH=$(VENV)/encoders/sentences $(BIN)/python -m pytest tests/test_encoders.py
	PYTHONPATH=$(VENV)/encoders/timm $(BIN)/python -m pytest tests/test_encoders.py -k timm_gives
	PYTHONPATH=$(VENV)/transformers-4.57 $(BIN)/python -m pytest tests/test_encoders.py

# When a kernel has changed. An interpreter runs them on the CPU, which certifies their logic alone;
# then they are compiled for a GPU that is not there.
test-triton: $(VENV)/triton
	TRITON_INTERPRET=1 PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest tests/test_kernels.py
	PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest tests/test_kernel_builds.py
	TRITON_INTERPRET=1 DMS_TORCH_PATH=triton PYTHONPATH=$(VENV)/triton \
		$(BIN)/dms check torch --examples 3

# One case for each property, in four minutes: JAX compiles for every new shape.
test-jax: $(VENV)/jax
	$(BIN)/python -m pytest tests/test_jax.py
	JAX_ENABLE_X64=1 $(BIN)/dms check jax --examples 1 \
		--report benchmarks/results/conformance/jax.json

# When examples/serve.py has changed.
test-serve: $(VENV)/test
	$(INSTALL) fastapi uvicorn
	$(BIN)/python -m pytest tests/test_serve.py

# When `Scorer` or the page on engines has changed. They have an environment of their own, without
# torch, and are not pinned: each brings its own bounds. Spark runs as well where it is installed.
test-ray: $(VENV)-engines/pip
	$(VENV)-engines/bin/python -m pytest tests/engines

$(VENV)-engines/pip: pyproject.toml
	$(PYTHON) -m venv $(VENV)-engines
	$(VENV)-engines/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-engines/bin/python -m pip install --quiet --editable ".[tables]" \
		"ray[data]" "dask[dataframe]" distributed daft pandas pytest
	@touch $@

# When what reads or writes a store has changed. The server has an environment of its own.
test-stores: $(VENV)/test $(VENV)-stores/pip
	MOTO_SERVER=$(VENV)-stores/bin/moto_server $(BIN)/python -m pytest tests/test_stores.py

$(VENV)-stores/pip:
	$(PYTHON) -m venv $(VENV)-stores
	$(VENV)-stores/bin/python -m pip install --quiet "moto[server]"
	@touch $@

test-lightning: $(VENV)/lightning
	PYTHONPATH=$(VENV)/lightning $(BIN)/python -m pytest tests/test_logging.py

# When an extra, a dependency or an import has changed. EXTRAS="plot demo" tries these alone.
test-extras: $(VENV)/test
	$(BIN)/python tests/packaging/extras.py $(EXTRAS)

# When a lower bound has changed, or code that leans on a dependency.
test-floors: $(VENV)/test
	$(BIN)/python tests/packaging/floors.py

lint: $(VENV)/lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q -b html docs docs/_build/html
	$(BIN)/python docs/check_pages.py docs/_build/html
	@echo "open docs/_build/html/index.html"

try: $(VENV)/try docs/try/node_modules
	$(BIN)/python docs/try/build.py -o docs/_build/html/try
	@echo "serve docs/_build/html (python -m http.server), and open try/ there"

# On a machine that does nothing else. It writes the tables and pictures of the page on speed.
bench: $(VENV)/test
	$(BIN)/python benchmarks/speed.py -o docs/reference/speed
	$(BIN)/python benchmarks/end_to_end.py -o docs/reference/speed
	$(BIN)/python benchmarks/predict.py -o docs/reference/speed
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/exports.py
	$(BIN)/python benchmarks/bench_import.py

# On a machine that does nothing else. It prints the table of the page on scale (twenty minutes).
# Spark takes part where it is installed: $(VENV)-engines/bin/pip install pyspark, with a Java.
bench-engines: $(VENV)/test $(VENV)-engines/pip
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_engines.py 2000000 --prepare
	OMP_NUM_THREADS=1 $(VENV)-engines/bin/python benchmarks/bench_engines.py 2000000 --rounds 3

# A machine with a GPU may reach no registry: it gets the tree with .gpu in it. Our own entry points
# come as metadata alone, so that the code that runs is the tree's.
gpu-wheels: $(VENV)/pip
	rm -rf .gpu
	$(PIP) --no-deps --target .gpu array-api-compat tqdm .
	find .gpu -maxdepth 1 -name "dms_*" ! -name "*.dist-info" -exec rm -r {} +
	for version in 3.11 3.12 3.13 3.14; do \
		$(PIP) --no-deps --only-binary :all: --python-version $$version \
			--target .gpu/$$version ml_dtypes || exit 1; \
	done
	git describe --always --dirty > .gpu/commit

# The first thing to run where there is a GPU; commit benchmarks/results/gpu afterwards.
gpu:
	PYTHONPATH=.:backends:exporters:.gpu:.gpu/$$($(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])") \
		$(PYTHON) benchmarks/gpu.py

# Goes on where it was interrupted. SETS is a list of names, SEEDS how many of the seeds.
study: $(VENV)/test
	$(BIN)/python benchmarks/robustness/study.py "$(DATA)" $(if $(SETS),--sets $(SETS)) \
		$(if $(SEEDS),--seeds $(SEEDS))

# Goes on where it was interrupted. SEEDS is how many of the seeds.
mini: $(VENV)/test
	$(BIN)/python benchmarks/mllm/study.py $(if $(SEEDS),--seeds $(SEEDS))

# Every backend that is installed; the page is drawn from the reports. ONNX Runtime traces a graph
# for every spec, so fewer are drawn for it; the page says how many.
reports: $(VENV)/test
	for name in numpy numba torch onnxruntime strict; do \
		examples=100; if [ $$name = onnxruntime ]; then examples=3; fi; \
		$(BIN)/dms check $$name --examples $$examples \
			--report benchmarks/results/conformance/$$name.json || exit 1; \
	done
	$(BIN)/dms report benchmarks/results/conformance/*.json -o docs/reference/matrix.md

schemas: $(VENV)/test
	$(BIN)/python docs/spec/build_schemas.py

# When a reader or a format has changed: ten thousand changed files, and sixty kills.
fuzz: $(VENV)/test
	$(BIN)/python tests/fuzzing.py 10000 --seed $(or $(SEED),0)
	$(BIN)/python tests/kills.py 60 --seed $(or $(SEED),0)

clauses: $(VENV)/pip
	$(BIN)/python docs/spec/build_clauses.py

mutants: $(VENV)/test
	$(BIN)/python docs/spec/build_mutants.py

vectors: $(VENV)/test
	$(BIN)/python docs/spec/build_vectors.py

clean:
	rm -rf $(VENV) $(VENV)-engines $(VENV)-stores docs/_build docs/gallery demo-out study-out mini-out dist
