# `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
MODEL ?= u2netp
# Each test process has its own databases and bucket. A file's tests run in one process, and so do all files
# that share the running service; they begin (tests/conftest.py).
# One process more than two cores, as the tests mostly wait.
TEST_PROCESSES ?= 3
SLOW_PROCESSES ?= 2
# Tests are collected by several processes and start more than a hundred, which read compiled modules.
unexport PYTHONDONTWRITEBYTECODE
# Else pip refuses to install where a user's pip.conf says `user = true`.
export PIP_USER := 0

.DEFAULT_GOAL := help
.PHONY: FORCE help install clients up test coverage test-slow test-faults test-hostile lint fmt docs lock audit sbom bench bench-hostile clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

# The project's folders as seen from the file that names them, which Python before 3.13 reads in the locale's charset: it
# does not start where a path has characters beyond that.
NAME_FOLDERS_RELATIVELY = for each in $(VENV)/lib/python3*/site-packages/*rmbg_queue.pth; do \
	[ ! -e "$$each" ] || printf '%s\n' ../../../.. ../../../../clients/python >"$$each"; done

# An environment works in its own folder and with its own Python alone, which its stamp says: in a copy of this folder it
# would run the other one's code. Where either is another, as after an upgrade of the system, it is made anew; so is what
# another Python has left half made.
STAMP := $(VENV)/.service
PRINT_VERSION := -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>&1
PRINT_BINDING := pwd -P; $(BIN)/python $(PRINT_VERSION)
STALE := $(shell if [ -e $(STAMP) ]; then [ ! -s $(STAMP) ] || [ "$$($(PRINT_BINDING))" = "$$(cat $(STAMP))" ]; \
	elif [ -L $(BIN)/python ]; then [ "$$($(BIN)/python $(PRINT_VERSION))" = "$$($(PYTHON) $(PRINT_VERSION))" ]; fi || echo stale)

$(STAMP): pyproject.toml constraints.txt $(if $(STALE),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This needs Python 3.11 or later, and $(PYTHON) is \
	%d.%d. Name another: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(if $(STALE),--clear) $(VENV)
	@$(BIN)/pip --version >/dev/null || { rm -rf $(VENV); echo 'Programs in $(VENV) do not run: the disk forbids it (noexec), or'; \
	echo 'the path of this folder has both a space and a ", $$ or `. Take another folder.'; exit 1; }
	$(PIP) install -q -c constraints.txt -e '.[embedded]'
	$(NAME_FOLDERS_RELATIVELY)
	@{ $(PRINT_BINDING); } >$@

$(VENV)/.development: $(VENV)/.service
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	$(NAME_FOLDERS_RELATIVELY)
	touch $@

# JavaScript clients that tests run; without npm those tests are skipped.
CLIENTS := $(patsubst %/package-lock.json,%/node_modules/.installed,$(wildcard tests/clients/*/package-lock.json))

clients: $(CLIENTS) ## Fetch the JavaScript clients that tests run, if npm is installed

tests/clients/%/node_modules/.installed: tests/clients/%/package-lock.json
	@if command -v npm >/dev/null; then cd $(dir $<) && npm ci --no-audit --no-fund --silent && touch node_modules/.installed; \
	else echo "no npm here: tests with the clients in $(dir $<) are skipped"; fi

install: $(VENV)/.development clients ## Create .venv with all that the service and its tests need

# PyTorch, for all models but those of ONNX files; and what reads a GPU's memory.
$(VENV)/.torch: $(VENV)/.service
	$(PIP) install -q -c constraints.txt -e '.[embedded,torch]' nvidia-ml-py
	$(NAME_FOLDERS_RELATIVELY)
	touch $@

ONNX_MODELS := u2netp isnet-general-use

up: $(VENV)/.service $(if $(filter-out $(ONNX_MODELS),$(MODEL)),$(VENV)/.torch) ## Run the whole service on this machine, on 127.0.0.1:8000
	$(BIN)/rmbg models fetch $(MODEL)
	exec $(BIN)/rmbg up --model $(MODEL) $(ARGS)

test: lint ## Check style, types and import rules, and run all tests but the full-size ones
	$(BIN)/rmbg models fetch u2netp
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu' $(ARGS)

coverage: install ## Run the tests of `make test` with their coverage, processes included; least covered first
	$(BIN)/rmbg models fetch u2netp
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu' $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

test-slow: install ## Run the full-size tests
	$(BIN)/rmbg models fetch u2netp
	$(BIN)/pytest -n $(SLOW_PROCESSES) --dist loadfile --no-loadscope-reorder -m 'slow and not faults and not hostile' $(ARGS)

test-faults: install ## Run the whole fault suite: kill, stop and cut off real processes
	$(BIN)/rmbg models fetch u2netp
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(SLOW_PROCESSES) --dist loadfile --no-loadscope-reorder -m faults tests/acceptance/faults $(ARGS)

test-hostile: install ## Run the attacks of hostile clients at full size, on loopback only
	$(BIN)/pytest -m hostile tests $(ARGS)

lint: install ## Check style, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: install ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: install ## Build the docs as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The programs that make, audit and list the lock files; the service needs none.
$(VENV)/.tools: Makefile
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip --disable-pip-version-check install -q 'uv==0.13.9' 'pip-audit==2.10.1' 'cyclonedx-bom==7.5.0'
	touch $@

LOCKS := deploy/docker/locks
# For the images' Python, with the versions of constraints.txt; without the address of the index.
COMPILE = $(VENV)/tools/bin/uv pip compile -q --generate-hashes --python-version 3.12 --python-platform linux \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' -c constraints.txt

lock: $(VENV)/.tools ## Write the lock files of the images, with hashes, from pyproject.toml and constraints.txt
	mkdir -p $(LOCKS)
	echo 'hatchling>=1.27' | $(COMPILE) - -o $(LOCKS)/build.txt
	$(COMPILE) pyproject.toml --extra flower --extra hub -o $(LOCKS)/api.txt
	echo nvidia-ml-py | $(COMPILE) pyproject.toml - --extra cpu -o $(LOCKS)/cpu.txt
	echo nvidia-ml-py | $(COMPILE) pyproject.toml - --extra torch -o $(LOCKS)/torch.txt

audit: $(VENV)/.tools ## Ask the index for known vulnerabilities of what the images install
	for lock in $(LOCKS)/*.txt; do $(VENV)/tools/bin/pip-audit --strict --disable-pip --progress-spinner off -r $$lock || exit 1; done

sbom: $(VENV)/.tools ## Write a bill of materials (CycloneDX) of what each image installs, in build/sbom
	mkdir -p build/sbom
	for lock in api cpu torch; do $(VENV)/tools/bin/cyclonedx-py requirements $(LOCKS)/$$lock.txt \
		--pyproject pyproject.toml --output-reproducible -o build/sbom/$$lock.cdx.json || exit 1; done

bench: install ## Run the benchmarks on this machine, and print their tables
	$(BIN)/rmbg models fetch u2netp
	$(BIN)/python -m benchmarks
	$(BIN)/rmbg bench service --quick

bench-hostile: install ## Attack a service of its own for up to 8 minutes, and print what others notice
	$(BIN)/rmbg models fetch u2netp
	$(BIN)/python -m benchmarks.hostile $(ARGS)

clean: ## Remove what was installed, built and cached here (but not ./data)
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
