# Two commands do all the set-up: `make demo` and `make test`. Both skip what is already done.
PYTHON ?= python3
BIN := .venv/bin
RESULTS := runs/demo/evaluations/demo-test
FORCED := runs/two_class/evaluations/demo-test

.PHONY: demo test

demo: .venv/installed
	$(BIN)/python scripts/prepare_data.py demo --output-dir data/demo
	$(BIN)/python scripts/train.py configs/demo.yaml
	@$(MAKE) --no-print-directory $(RESULTS)/metrics.json
	@echo
	@echo "And now with two outputs only, which must choose:"
	$(BIN)/python scripts/train.py configs/two_class.yaml
	@$(MAKE) --no-print-directory $(FORCED)/metrics.json
	@echo
	@$(BIN)/python docs/forced_choice.py
	@echo
	@echo "See the curves:        $(BIN)/tensorboard --logdir runs"
	@echo "See the results:       $(RESULTS)/report.html in a browser"
	@echo "Ask in a browser:      $(BIN)/python scripts/serve.py runs/demo"
	@echo "Train on your photos:  $(BIN)/python scripts/train.py configs/photos_quick.yaml data.root=FOLDER"

$(RESULTS)/metrics.json: runs/demo/checkpoints/best.pt
	$(BIN)/python scripts/evaluate.py runs/demo data/demo --unseen data/demo/unseen

$(FORCED)/metrics.json: runs/two_class/checkpoints/best.pt
	$(BIN)/python scripts/evaluate.py runs/two_class data/demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[pretrained,serve,dev]'
	touch $@
