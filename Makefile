# Two commands do all the set-up: `make demo` and `make test`. Both skip what is already done.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test

demo: .venv/installed
	$(BIN)/python scripts/prepare_data.py demo --output-dir data/demo
	$(BIN)/python scripts/train.py configs/demo.yaml
	$(BIN)/python scripts/evaluate.py runs/demo data/demo --unseen data/demo/unseen
	@echo
	@echo "Look at the curves:     $(BIN)/tensorboard --logdir runs"
	@echo "Look at the results:    runs/demo/evaluations/demo-test"
	@echo "Train on your photos:   $(BIN)/python scripts/train.py configs/photos_quick.yaml data.root=FOLDER"

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@
