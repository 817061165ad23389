# make demo                  the whole way on a generated set: files, shards, training, evaluation, embeddings, pictures
# make demo VIDEOS=folder    the same on a folder of classes of your own
# make test                  the tests
# make check                 lint, format, types of the public face, import directions
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
VIDEOS ?=
PYTEST_ARGS ?= -m "not slow"
# A worker a core; each test computes in one thread (tests/conftest.py).
WORKERS ?= -n logical --maxprocesses 8 --dist worksteal
# The tiny recipe learns motion on the generated set, whose classes differ in left and right; your own start gentler.
RECIPE ?= $(if $(VIDEOS),finetune-tiny,demo)
FILMS := \( -iname '*.mp4' -o -iname '*.webm' -o -iname '*.avi' -o -iname '*.mkv' -o -iname '*.mov' \)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test check clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	rm -rf '$(DEMO)'
	mkdir -p '$(DEMO)'
	$(if $(VIDEOS),,tubelet demo --out '$(DEMO)/videos')
	tubelet prepare --videos '$(or $(VIDEOS),$(DEMO)/videos)' --out '$(DEMO)/shards'
	deepspeed launch/train.py --recipe $(RECIPE) --data '$(DEMO)/shards' --out '$(DEMO)/run'
	tubelet evaluate --checkpoint '$(DEMO)/run' --data '$(DEMO)/shards'
	tubelet report '$(DEMO)/run'
	tubelet embed --checkpoint '$(DEMO)/run' --data '$(DEMO)/shards' --out '$(DEMO)/embeddings'
	tubelet explain --checkpoint '$(DEMO)/run' --video "$$(find '$(or $(VIDEOS),$(DEMO)/videos)' -type f $(FILMS) | sort | head -n 1)" --out '$(DEMO)/seen'
	@echo
	@echo "shards      $(DEMO)/shards       WebDataset tars, an index beside each, card.json"
	@echo "run         $(DEMO)/run          checkpoints, log.jsonl, TensorBoard"
	@echo "embeddings  $(DEMO)/embeddings   Parquet"
	@echo "clips as the model sees them:  $(DEMO)/run/clips.png"
	@echo "training curves:               $(DEMO)/run/curves.png"
	@echo "what the network saw in one:   $(DEMO)/seen/sheet.png"
	@echo "all of the run on one page:    $(DEMO)/run/report.html"

test: $(VENV)/installed
	pytest $(WORKERS) $(PYTEST_ARGS)

check: $(VENV)/installed
	ruff check .
	ruff format --check .
	tests/typecheck.sh

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
