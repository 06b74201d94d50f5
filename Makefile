# Everything runs from .venv, which is made on demand. Another Python: make PYTHON=python3.13 test

PYTHON ?= python3
RUN = .venv/bin/python -m

.PHONY: demo test test-slow check bench bench-recipes clean

demo: .venv/installed
	$(RUN) vitkit demo

test: .venv/installed-dev
	$(RUN) pytest -m "not slow" --numprocesses auto

test-slow: .venv/installed-dev
	$(RUN) pytest -m slow

check: .venv/installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

bench: .venv/installed-dev
	$(RUN) benchmarks.attention
	$(RUN) benchmarks.train
	$(RUN) benchmarks.loop
	$(RUN) benchmarks.loading
	$(RUN) benchmarks.saving
	$(RUN) benchmarks.serving
	$(RUN) benchmarks.page

bench-recipes: .venv/installed-dev
	$(RUN) benchmarks.recipes cifar10
	$(RUN) benchmarks.recipes flowers
	$(RUN) benchmarks.recipes distillation
	$(RUN) benchmarks.labels

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) pip install --quiet --editable ".[dev]"
	touch $@ .venv/installed

clean:
	rm -rf .venv dist
