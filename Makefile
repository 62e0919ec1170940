# Everything a fresh machine needs: `make demo` and `make test` make a virtual environment and do all the set-up.
PYTHON ?= python3
VENV   ?= .venv
# The torch that is tested; any >= 2.4 works. On a machine without a GPU the CPU wheels of pytorch.org are far smaller:
#   make TORCH="torch --index-url https://download.pytorch.org/whl/cpu" demo
TORCH  ?= torch==2.13.0
DATA   ?= data
BIN     = $(VENV)/bin
NATIVE  = pyproject.toml setup.py $(wildcard csrc/*.cpp csrc/*.hpp csrc/cuda/*)

.PHONY: demo test lint format bench bench-gpu sanitize study reproduce-gpu clean

demo: $(VENV)/.all
	$(BIN)/pcl train

test: $(VENV)/.dev
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal \
	    --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench
	$(BIN)/python -m bench

bench-gpu: $(VENV)/.dev
	$(BIN)/python -m bench.gpu

# The C++ core under AddressSanitizer, UndefinedBehaviorSanitizer (g++) and ThreadSanitizer (clang++); no Python.
sanitize:
	csrc/sanitize/run.sh

study: $(VENV)/.all
	$(BIN)/python -m studies.toy_problem
	$(BIN)/python -m studies.cagrad_toy
	$(BIN)/python -m studies.famo_toy
	$(BIN)/python -m studies.tiny_shakespeare --data-root $(DATA)
	$(BIN)/pcl compare --scenario ps-emnist --methods all emgd-gmc+me emgd-gs+me --rates 7 --data-root $(DATA) \
	    --comparisons studies/results --name weightings
	$(BIN)/pcl compare --scenario ps-emnist --rates 5 --data-root $(DATA) --comparisons studies/results \
	    --name where_to_start --methods mean sum er er+gmed der++ er+der++ pcgrad+der++ emgd-gmc-code+der++
	$(BIN)/python -m studies.edit_objective --data-root $(DATA)
	$(BIN)/python -m studies.multi_fashion_mnist --data-root $(DATA)
	$(BIN)/python -m studies.gmed_table --dataset all --data-root $(DATA)
	$(BIN)/python -m studies.emgd_tables --figure alpha --situations 4 --data-root $(DATA)
	$(BIN)/python -m studies.emgd_tables --table I II --scenario ps-emnist --full --data-root $(DATA)
	$(BIN)/python -m studies.emgd_tables --table switches --figure 5 7 8 --situations 5 --data-root $(DATA)
	$(BIN)/python -m studies.firefly_rbf --full
	$(BIN)/python -m studies.firefly_width --data-root $(DATA)
	$(BIN)/python -m studies.firefly_continual --data-root $(DATA)
	$(BIN)/python -m studies.mqar
	$(BIN)/python -m studies.sequential_mnist --data-root $(DATA)

# Tables I to VI of the EMGD paper with the whole ResNet-18; tables of image sets that are not in DATA are left out.
#   make reproduce-gpu REPRODUCE="--device cpu --share 0.02 --situations 2"     # the same way in miniature
REPRODUCE ?= --device cuda --width 64 --full
reproduce-gpu: $(VENV)/.all
	$(BIN)/python -m studies.emgd_tables --figure alpha --scenario ps-emnist ps-cifar100 --data-root $(DATA) $(REPRODUCE)
	$(BIN)/python -m studies.emgd_tables --table all --data-root $(DATA) $(REPRODUCE)

clean:
	rm -rf $(VENV) build *.egg-info pcl_kernels/*.so

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	touch $@

$(VENV)/.all $(VENV)/.dev $(VENV)/.bench: $(VENV)/.%: $(VENV)/.torch $(NATIVE)
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@
