# The daily verbs. `make run` and `make test` set up what they need; nothing else has to be installed by hand.
PYTHON ?= python3
SERVICE := .venv
DEV := .venv-dev
CLUSTERS := .venv-clusters
INSTALL := bin/pip install --quiet --disable-pip-version-check
# Compiled modules are kept, whatever the shell says: the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test docs wheel faults fuzz clients redis java chromium nginx prometheus lint models footprint image bench bench-sessions bench-fair bench-forecast bench-million bench-page bench-ucr bench-texts bench-dates screenshots consistency soak rolling abuse clean

run: $(SERVICE)/installed
	@$(SERVICE)/bin/carry serve

test: redis java chromium nginx prometheus $(SERVICE)/installed
	@# Side by side: neither mypy nor an installation uses more than one core.
	$(MAKE) --no-print-directory --jobs=2 lint $(CLUSTERS)/packages
	$(MAKE) --no-print-directory $(CLUSTERS)/installed
	$(DEV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# The papers as a site, in site/. Their answers are written anew by `python -m tests.docs.write`.
docs: $(DEV)/installed
	NO_MKDOCS_2_WARNING=1 $(DEV)/bin/mkdocs build --strict

# What a person installs: dist/carry_rnn-*.whl, made from the source distribution beside it.
wheel: $(DEV)/installed
	$(DEV)/bin/python -m build --no-isolation

# The service is killed two hundred times, in about five minutes.
faults: redis $(DEV)/installed
	CARRY_KILLS=200 $(DEV)/bin/pytest -s tests/e2e/test_faults.py

# Every operation of the OpenAPI document is fuzzed, for an hour unless CARRY_FUZZ_SECONDS says otherwise.
fuzz: $(DEV)/installed
	CARRY_FUZZ_SECONDS=$${CARRY_FUZZ_SECONDS:-3600} CARRY_FUZZ_EXAMPLES=200 \
		$(DEV)/bin/pytest -s tests/e2e/test_schemathesis.py

# Clients are made from the OpenAPI document, for Python and TypeScript, and used; it needs Node.js. And the whole of
# lm-evaluation-harness runs a task.
clients: $(DEV)/installed
	$(DEV)/bin/python -m tests.clients.run

# The tests of sessions run against a real one; where nobody has installed it, root may.
redis:
	@command -v redis-server > /dev/null \
		|| { test "$$(id -u)" = 0 && { apt-get install -y redis-server || { apt-get update && apt-get install -y redis-server; }; }; } \
		|| { echo "the tests need redis-server (Redis or Valkey) on the PATH: install it, and try again" >&2; exit 1; }

# The rules and dashboards of deploy/ are tested with it; where nobody has installed it, root may.
prometheus:
	@{ command -v prometheus && command -v promtool; } > /dev/null \
		|| { test "$$(id -u)" = 0 && { apt-get install -y prometheus || { apt-get update && apt-get install -y prometheus; }; }; } \
		|| echo "no Prometheus on the PATH: THE RULES AND DASHBOARDS ARE NOT TESTED; install prometheus and promtool" >&2

# Replicas restart behind it, in tests and in `make rolling`; where nobody has installed it, root may.
nginx:
	@command -v nginx > /dev/null \
		|| { test "$$(id -u)" = 0 && { apt-get install -y nginx-light || { apt-get update && apt-get install -y nginx-light; }; }; } \
		|| echo "no nginx on the PATH: THE ROLLING RESTART BEHIND IT IS NOT TESTED; install nginx" >&2

# Spark runs on it, in the tests of docs/batch.md; where nobody has installed it, root may.
java:
	@command -v java > /dev/null \
		|| { test "$$(id -u)" = 0 && { apt-get install -y default-jre-headless || { apt-get update && apt-get install -y default-jre-headless; }; }; } \
		|| echo "no Java on the PATH: THE TEST WITH SPARK IS SKIPPED; install a Java of version 17 or newer" >&2

# The page is tested in it; where nobody has installed it, root may.
chromium:
	@for browser in chromium chromium-browser google-chrome; do command -v $$browser > /dev/null && exit; done; \
		{ test "$$(id -u)" = 0 && { apt-get install -y chromium || { apt-get update && apt-get install -y chromium; }; }; } \
		|| echo "no Chromium on the PATH: THE PAGE IS NOT TESTED; install chromium" >&2

lint: $(DEV)/installed
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

# The pictures of the page in README and docs, from a running service; four minutes, since one shows real traffic.
screenshots: chromium $(DEV)/installed
	$(DEV)/bin/python -m tests.page.screenshots

models: $(DEV)/installed
	PATH="$(CURDIR)/$(DEV)/bin:$$PATH" ./models/train.sh $(NAMES)

footprint: $(SERVICE)/installed
	$(PYTHON) -m benchmarks.footprint $(SERVICE)

# The image, built and run; about five minutes. It needs buildah and podman. Where no registry of images is in reach, run
# deploy/image/base.sh before, and say BUILD=--pull-never. PODMAN is podman with its global options.
image: $(DEV)/installed
	buildah build --layers --format docker $(BUILD) --tag carry .
	$(DEV)/bin/python -m benchmarks.image --podman "$${PODMAN:-podman}"

# About fifteen minutes on two idle cores; the peers' environments are made on the way.
bench: $(SERVICE)/installed $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.kernels
	$(DEV)/bin/python -m benchmarks.forecaster
	$(DEV)/bin/python -m benchmarks.bench

# About fourteen minutes.
bench-sessions: redis $(SERVICE)/installed $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.sessions

# Single requests of one key beside batches of another; about six minutes.
bench-fair: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.fair

# Under ten minutes, nearly all of them the peer's.
bench-forecast: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.forecast_files

# A million series of 120 values through `carry forecast`, killed once; five to ten minutes on two idle cores.
bench-million: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.million

# What Lighthouse says of the page, and the time from `make run` on a fresh clone to a forecast in the browser; about
# five minutes. It needs Node.js.
bench-page: chromium $(SERVICE)/installed $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.page

# Classifiers on the small sets of the UCR archive, beside MiniRocket and dynamic time warping; about half an hour. What
# was measured is kept when it is stopped, and the next call goes on.
bench-ucr: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.ucr

# Classifiers of sentences (MR, SUBJ, TREC) beside n-grams; about half an hour. TEXTS: a folder with these corpora of NLTK.
bench-texts: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.texts "$(TEXTS)"

# Dates as people write them, beside dateutil and dateparser; a minute.
bench-dates: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.dates

# An hour of mixed load at two thirds of the capacity: memory, descriptors and threads must stay flat, and every answer be right.
soak: $(SERVICE)/installed $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.soak

# Two replicas restart in turn under sixteen clients that never retry, 20,000 requests in each of three ways: none may
# fail. About fifteen minutes.
rolling: redis nginx $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.rolling

# What one caller can do to the others; about ten minutes.
abuse: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.abuse

# Ten thousand texts, and the classes of ten thousand sequences, alone and under load, must be the same; ten minutes.
consistency: $(SERVICE)/installed $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.consistency
	$(DEV)/bin/python -m benchmarks.classify

clean:
	rm -rf $(SERVICE) $(DEV) $(CLUSTERS) .venv-clients build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Editable, so that the code here is what runs; reinstalled when what it depends on changes.
$(SERVICE)/installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Carry needs Python 3.11 or newer; make PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(SERVICE)
	$(SERVICE)/$(INSTALL) --constraint constraints.txt --editable '.[redis]'
	touch $@

$(DEV)/installed: pyproject.toml setup.py constraints.txt constraints-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Carry needs Python 3.11 or newer; make PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(DEV)
	$(DEV)/$(INSTALL) --constraint constraints.txt --constraint constraints-dev.txt --editable '.[otel,redis,training,dev]'
	@# Its task files need data sets and metrics that do not go with ours; the tests give it tasks as data.
	$(DEV)/$(INSTALL) --no-deps lm-eval==0.4.13
	touch $@

# Two steps, since only one installation at a time can build what is here.
$(CLUSTERS)/packages: constraints.txt tests/clusters/requirements.txt
	$(PYTHON) -m venv $(CLUSTERS)
	$(CLUSTERS)/$(INSTALL) --constraint constraints.txt --requirement tests/clusters/requirements.txt
	touch $@

$(CLUSTERS)/installed: $(CLUSTERS)/packages pyproject.toml setup.py
	$(CLUSTERS)/$(INSTALL) --constraint constraints.txt --editable .
	touch $@
