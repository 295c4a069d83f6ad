# The one menu. Every target makes what it needs; a bare machine with Python >= 3.10 and pip is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MXNET_PYTHON ?= $(PYTHON)

.PHONY: help install quickstart test test-slow test-mxnet test-clients test-versions test-package fuzz faults mutants coverage check format bench \
	soak readme-figures docs constraints release clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   generated faces -> training -> ONNX -> verification -> one page, in minutes on a CPU"
	@echo "make test         the tests"
	@echo "make test-slow    the tests, the slow ones too"
	@echo "make test-mxnet   packs exchanged with mxnet 1.9.1 itself, in an environment of its own"
	@echo "make test-clients   exported files in onnxruntime, OpenCV, OpenVINO, insightface, ncnn, MNN, node and a browser: CLIENTS=\"opencv mnn\" for some"
	@echo "make test-versions  the tests under Python 3.10 to 3.14, with the lowest and the newest dependencies: PYTHONS=..., TESTS=..."
	@echo "make test-package   builds sdist and wheel, and uses the wheel in an environment of its own"
	@echo "make fuzz         the readers of foreign files against damaged ones: SECONDS=60 for each, UNTIL=10 minutes in all, TARGETS=\"rec idx\""
	@echo "make faults       every command killed, out of space and failing to read: KILLS=12 a command, VERBS=\"train pack\" for some"
	@echo "make mutants      small changes of the code, one at a time, which the tests must notice: SAMPLE=40 in each file, MODULES=\"margins head\" for some"
	@echo "make coverage     the tests, and the share of branches that they take in each package: PYTEST=--runslow for the slow ones too"
	@echo "make check        lint, format, types, and the share of public names that have one"
	@echo "make format       let ruff rewrite the sources"
	@echo "make bench        the benchmarks, in under 15 minutes on 2 quiet cores; writes the tables of docs/benchmarks.md"
	@echo "make readme-figures  the picture of README.md: generated faces, and the ROC of a model trained on them"
	@echo "make soak         an hour of training (MINUTES=60): does memory, files, threads or the time of an image grow?"
	@echo "make docs         the documentation as a site, in site/: a broken link is an error, and nothing is fetched"
	@echo "make constraints  constraints.txt anew: one version of everything that is needed"
	@echo "make release      sdist and wheel of this version, checked: is there a section of the changelog, do they install and run?"
	@echo "make clean        remove the environments (runs/ stays)"

install: $(VENV)/.installed

# The stamp makes a second call start at once; a change of the dependencies installs again.
$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "facekd needs Python >= 3.10, $(PYTHON) is older; name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@# Debian keeps ensurepip in a package of its own; pip can furnish an environment from outside.
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	@echo "installing facekd into $(VENV), a few minutes the first time (torch is large) ..."
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

quickstart: install
	$(BIN)/facekd quickstart

# One thread a worker: torch's own threads on top of the test workers only get in each other's way. And bytecode is
# written, whatever the environment says: some hundred processes that the tests start would each compile facekd anew.
FOR_TESTS := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
test: install
	$(FOR_TESTS) $(BIN)/pytest -n auto --dist worksteal

test-slow: install
	$(FOR_TESTS) $(BIN)/pytest -n auto --dist worksteal --runslow

# mxnet's last release needs numpy < 1.24, which has wheels up to Python 3.11: name one by MXNET_PYTHON if need be.
.venv-mxnet/.installed:
	$(MXNET_PYTHON) -m venv .venv-mxnet
	.venv-mxnet/bin/pip install -q --disable-pip-version-check mxnet==1.9.1 numpy==1.23.5 'opencv-python-headless<4.10'
	@touch $@

test-mxnet: install .venv-mxnet/.installed
	$(BIN)/pytest tests/interop --runslow

# uv installs from a shared cache by hard links: ten environments with a torch each take the space and time of a few.
$(BIN)/uv: | install
	$(BIN)/pip install -q --disable-pip-version-check uv

test-versions: install $(BIN)/uv
	$(BIN)/python -m tests.versions $(if $(PYTHONS),--pythons $(PYTHONS)) $(if $(SETS),--sets $(SETS)) -- $(TESTS)

test-package: install $(BIN)/uv
	$(BIN)/python -m tests.package

# node and npm for two of the clients, a C++ compiler and onnxruntime's headers for one: those that lack theirs are told.
test-clients: install $(BIN)/uv
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.clients.run --uv $(BIN)/uv $(if $(CLIENTS),--clients $(CLIENTS))

# atheris has no wheel for some platforms, so it is no part of the environment that everyone installs.
SECONDS ?= 60
UNTIL ?= 0
fuzz: install
	@$(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/pip install -q --disable-pip-version-check atheris
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) --until $(UNTIL) $(TARGETS)

# Outcomes are kept in FAULTS_FOLDER: a stopped run goes on, and a new one wants another folder.
KILLS ?= 12
FAULTS_FOLDER ?= /tmp/facekd-faults
faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.run --kills $(KILLS) --jobs 2 --folder $(FAULTS_FOLDER) $(VERBS)
	$(BIN)/python -m tests.faults.two_runs --work $(FAULTS_FOLDER)/runs $(VERBS)
	$(BIN)/python -m tests.faults.unreadable --work $(FAULTS_FOLDER)/runs $(VERBS)
	$(BIN)/python -m tests.faults.planted --work $(FAULTS_FOLDER)/runs $(VERBS)
	$(BIN)/python -m tests.faults.stopped --work $(FAULTS_FOLDER)/runs $(VERBS)

# mutmut copies the code and forks: like atheris, nothing that everyone needs. Its names of mutants are its version's.
MUTMUT := 3.8.1
SAMPLE ?= 40
mutants: install
	@$(BIN)/pip freeze | grep -qx 'mutmut==$(MUTMUT)' || \
		$(BIN)/pip install -q --disable-pip-version-check mutmut==$(MUTMUT)
	$(BIN)/python -m tests.mutation.run --sample $(SAMPLE) $(MODULES)

# Every package on its own, so that one cannot hide behind another. Twice the time of the tests alone.
coverage: install
	@$(BIN)/python -c "import coverage" 2>/dev/null || $(BIN)/pip install -q --disable-pip-version-check 'coverage>=7.10'
	@$(BIN)/coverage erase
	@# The shares are reported even if a test fails.
	@status=0; $(FOR_TESTS) $(BIN)/coverage run -m pytest -n auto --dist worksteal $(PYTEST) || status=1; \
	$(BIN)/coverage combine -q; for package in facekd evaluation data_prep; do \
		$(BIN)/coverage report --skip-covered --sort=cover --fail-under=90 --include="$$package/*" || status=1; \
	done; exit $$status

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m tests.public_types

format: install
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python benchmarks/run_all.py

# `--universal`: one file for all platforms and Pythons. torch is the one that the tests run with here.
constraints: install $(BIN)/uv
	@head -2 constraints.txt > constraints.txt.new
	@mkdir -p build && $(BIN)/pip freeze | grep -E '^(torch|torchvision)==' > build/torch.txt
	$(BIN)/uv pip compile setup.cfg --constraints build/torch.txt --extra dev --universal --python-version 3.10 --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url >> constraints.txt.new
	@mv constraints.txt.new constraints.txt

# What is published must be what was committed: the tag, the changelog's section and the version agree.
release: install test-package
	@test -z "$$(git status --porcelain)" || { echo "commit first: a release is built from what is committed"; exit 1; }
	@version=$$($(BIN)/python -c "import facekd; print(facekd.__version__)"); \
	grep -q "^## $$version" CHANGELOG.md || { echo "CHANGELOG.md has no section '## $$version': rename '## Unreleased'"; exit 1; }; \
	rm -rf dist && $(BIN)/pip install -q --disable-pip-version-check build twine && $(BIN)/python -m build -q . && \
	$(BIN)/twine check --strict dist/* && ls -l dist && \
	echo "next: git tag v$$version && git push --tags && $(BIN)/twine upload dist/*"

# Nothing is fetched: the faces are generated.
readme-figures: install
	$(BIN)/facekd data synthesize --output runs/readme/data --size 32 --identities 600 --images-per-identity 20
	$(BIN)/facekd train --output runs/readme/run --data.train runs/readme/data --data.image_size 32 --data.workers 1 \
		--backbone.name mobilefacenet --backbone.width 0.5 --backbone.embedding_size 128 --head.margin arcface \
		--head.margin_value 0.4 --head.scale 32 --schedule.lr 0.1 --schedule.warmup_images 1200 --images 24000 \
		--global_batch_size 64 --log_every_images 1200 --tensorboard false --seed 0
	$(BIN)/facekd evaluate folder --model runs/readme/run --images synthetic:100x10:7 --bootstrap 200 --output runs/readme/results
	$(BIN)/python benchmarks/readme_figures.py runs/readme docs/readme.png

MINUTES ?= 60
soak: install
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

# mkdocs builds it, for documents only: nothing that everyone needs. Its search wants a server, such as `python -m http.server -d site`.
docs: install
	@$(BIN)/python -c "import latex2mathml, material" 2>/dev/null || $(BIN)/pip install -q --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "site/index.html"

clean:
	rm -rf $(VENV) .venv-mxnet .venv-versions .venv-clients build dist site *.egg-info
