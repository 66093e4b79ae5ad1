# MLX Knife's words for people and for CI. GNU make 3.81 (macOS) is enough.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=

# A fast BLAS for the real model in the tests, where the system has one; macOS brings its own.
OPENBLAS := $(firstword $(wildcard /usr/lib/*/openblas-pthread/libopenblas.so.0 /usr/lib/*/libopenblas.so.0 \
	/usr/lib64/libopenblas.so.0 /usr/lib/libopenblas.so.0))
ifneq ($(OPENBLAS),)
PYTEST_ENV := LD_PRELOAD=$(OPENBLAS) OPENBLAS_NUM_THREADS=1
endif

# A file's tests stay together, for what they share. PYTEST_ARGS="-n 0" runs all in one process.
PYTEST_WORKERS := -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo chat serve hub test check bench docs clean \
	check-format check-lint check-types check-layers check-startup check-sizes check-docs check-schema

help:
	@echo 'make demo    install into .venv, fetch a small real model, look at it and talk to it'
	@echo 'make chat    a chat with that model'
	@echo 'make serve   that model behind OpenAI and Anthropic APIs, and a page to chat on, at http://127.0.0.1:8000'
	@echo 'make hub     a Hub of your own on this machine, with the demo model: try pull and push without an account'
	@echo 'make test    the whole default test suite            (PYTEST_ARGS="-k list" for a part)'
	@echo 'make check   format, lint, types, layers, start-up, sizes, documents against code'
	@echo 'make bench   the benchmarks, as tables with ratios'
	@echo 'make docs    write the generated tables and the schema copy into docs/'
	@echo 'make clean   remove what these commands made (.venv, .demo, caches)'
	@echo
	@echo 'PYTHON=/path/to/python make test   chooses the interpreter of a new .venv (3.9 to 3.13)'

$(VENV)/.installed-%: pyproject.toml scripts/make_venv.sh scripts/find_python.sh
	@PYTHON='$(PYTHON)' sh scripts/make_venv.sh $(VENV) $*

demo: $(VENV)/.installed-demo
	@sh scripts/demo.sh

chat: $(VENV)/.installed-demo
	@sh scripts/demo.sh --quiet
	@MLXK2_WORKSPACE_HOME=.demo $(BIN)/mlxk2 run SmolLM2-135M-Instruct

serve: $(VENV)/.installed-demo
	@sh scripts/demo.sh --quiet
	@MLXK2_WORKSPACE_HOME=.demo $(BIN)/mlxk2 serve --model SmolLM2-135M-Instruct

hub: $(VENV)/.installed-demo
	@sh scripts/hub.sh

test: $(VENV)/.installed-test
	$(PYTEST_ENV) $(BIN)/python -m pytest $(PYTEST_WORKERS) $(PYTEST_ARGS)

check: check-format check-lint check-types check-layers check-startup check-sizes check-docs check-schema
	@echo 'make check: all sound'

check-format: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .

check-lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

check-types: $(VENV)/.installed-dev
	$(BIN)/mypy mlxk2

check-layers: $(VENV)/.installed-dev
	$(BIN)/lint-imports --no-cache

check-startup: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q tests_2.0/test_startup_modules.py

check-sizes: $(VENV)/.installed-dev
	$(BIN)/python scripts/check_sizes.py

check-docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/make_docs.py --check

check-schema: $(VENV)/.installed-dev
	$(BIN)/python scripts/compile_schema.py --check

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/run_all.py

docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/compile_schema.py
	$(BIN)/python scripts/make_docs.py

clean:
	rm -rf $(VENV) .venv-3_* .demo .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf build dist *.egg-info test_results_3_*.log
	find mlxk2 tests_2.0 scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
