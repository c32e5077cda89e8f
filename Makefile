# make help lists what there is to make, and what narrows it.

EXTENSION := pgq
PGQ_VERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" pgq.control)
PARTS := $(sort $(wildcard sql/[0-9]*.sql))
TAP := $(sort $(wildcard tests/sql/[0-9]*.sql))
PLAIN := build/pgq.sql
SCRIPT := build/pgq--$(PGQ_VERSION).sql
STEPS := $(patsubst sql/upgrade/pgq--%.sql,%,$(sort $(wildcard sql/upgrade/pgq--*.sql)))
UPGRADES := $(STEPS:%=build/upgrades/%.sql)
RELEASED := $(patsubst sql/released/%,build/%,$(sort $(wildcard sql/released/pgq--*.sql)))
# All that the server must have for CREATE EXTENSION, and for ALTER EXTENSION UPDATE from any release.
FILES := $(sort $(SCRIPT) $(RELEASED) $(STEPS:%=build/pgq--%.sql))
PG_TLE := build/pgq.pg_tle.sql
# For tests of users.
KIT := python/src/pgq/testkit.sql python/src/pgq/pgq_tap.sql
CARRIED := python/src/pgq/schema/pgq.sql $(STEPS:%=python/src/pgq/schema/upgrades/%.sql) python/LICENSE
LINTED := python/src tests/conformance tests/django_project tests/examples tests/python tests/support tests/torture tools examples bench
# Each has modules of the same names.
APPLICATIONS := examples/deploy examples/django examples/flask examples/quart
PYTHON ?= python3
# PGXS sets PYTHON anew, to nothing where the server was built without it.
INTERPRETER := $(PYTHON)
VENV := .venv
BIN := $(VENV)/bin
VERSIONS ?= 14 15 16 17 18
PYTHONS ?= 3.11 3.12 3.13 3.14
PYTEST := $(BIN)/pytest -c python/pyproject.toml --rootdir=. --basetemp=build/pytest
# Without bytecode each of the processes below would rewrite the assertions of all tests anew, for 2 s of CPU time.
export PYTHONDONTWRITEBYTECODE :=
# So many processes, each with a server of its own; most tests wait more than they compute. Of the ways to distribute tests
# worksteal and load survive the crash of a process, and worksteal keeps the tests of a file together.
WORKERS ?= 4
PARALLEL := --numprocesses $(WORKERS) --dist worksteal
SELECTED := -m 'not slow'
DEVPG := $(BIN)/python tools/devpg.py run --
BENCH := build/venv-bench
MANUAL := build/venv-docs
SITE := build/site
PROVE := tools/pgtap.py --load $(PLAIN) --load python/src/pgq/testkit.sql

.PHONY: all help demo recording reference pictures test test-all test-sql test-python test-django test-matrix fuzz torture conformance test-examples lint
.PHONY: bench dist docs installcheck clean
.DELETE_ON_ERROR:
# Completed scripts are frozen, checked and read.
.PRECIOUS: build/complete/pgq--%.sql

all: $(PLAIN) $(FILES) $(UPGRADES) $(PG_TLE) $(CARRIED) ## the SQL in build/: plain, extension, upgrades, pg_tle; this is the default

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.* ## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r target text; do \
	    printf '%-14s%s\n' "$$target" "$$text"; done

WRAP := sql/wrap
$(PLAIN): $(WRAP)/plain_head.sql $(WRAP)/install_head.sql $(PARTS) $(WRAP)/plain_tail.sql
$(SCRIPT): $(WRAP)/extension_head.sql $(WRAP)/install_head.sql $(PARTS) $(WRAP)/extension_tail.sql
$(PLAIN) $(SCRIPT): pgq.control Makefile
	@mkdir -p build
	@sed 's/@VERSION@/$(PGQ_VERSION)/' $(filter %.sql,$^) > $@

# Scripts of releases are installed as they were.
build/pgq--%.sql: sql/released/pgq--%.sql
	@mkdir -p build
	@cp $< $@

# The script that leads to the version in work is completed from the SQL of both; those of releases are complete.
IN_WORK := $(if $(wildcard sql/released/pgq--$(PGQ_VERSION).sql),,$(filter %--$(PGQ_VERSION),$(STEPS)))
ifneq ($(IN_WORK),)
COMPLETED := build/complete/pgq--$(IN_WORK).sql
$(COMPLETED): tools/upgrade_script.py $(WRAP)/upgrade_privileges_save.sql $(WRAP)/upgrade_privileges_restore.sql Makefile
$(COMPLETED): sql/released/pgq--$(firstword $(subst --, ,$(IN_WORK))).sql $(SCRIPT) sql/upgrade/pgq--$(IN_WORK).sql
	@mkdir -p build/complete
	@$(INTERPRETER) tools/upgrade_script.py $(filter sql/released/% $(SCRIPT) sql/upgrade/%,$^) > $@
endif
build/complete/pgq--%.sql: sql/upgrade/pgq--%.sql
	@mkdir -p build/complete
	@cp $< $@

# Both forms of an upgrade hold the same script; only an extension can say what pg_dump shall save of it.
versions = s/@FROM@/$(firstword $(subst --, ,$*))/g; s/@TO@/$(lastword $(subst --, ,$*))/g
build/pgq--%.sql: $(WRAP)/upgrade_extension.sql $(WRAP)/upgrade_head.sql build/complete/pgq--%.sql $(WRAP)/upgrade_tail.sql Makefile
	@mkdir -p build
	@sed '$(versions)' $(filter %.sql,$^) > $@
build/upgrades/%.sql: $(WRAP)/plain_head.sql $(WRAP)/upgrade_head.sql $(WRAP)/upgrade_plain.sql build/complete/pgq--%.sql \
                      $(WRAP)/upgrade_tail.sql $(WRAP)/plain_tail.sql Makefile
	@mkdir -p build/upgrades
	@sed '$(versions); /^SELECT pg_extension_config_dump(/d' $(filter %.sql,$^) > $@

$(PG_TLE): tools/pg_tle.sh $(SCRIPT) $(STEPS:%=build/pgq--%.sql) pgq.control
	@sh $< '$(PGQ_VERSION)' $(filter %.sql,$^) > $@

python/src/pgq/schema/pgq.sql: $(PLAIN)
	@cp $< $@
python/src/pgq/schema/upgrades/%.sql: build/upgrades/%.sql
	@mkdir -p python/src/pgq/schema/upgrades
	@cp $< $@
python/LICENSE: LICENSE
	@cp $< $@

$(VENV)/ready: python/pyproject.toml pgq.control | $(CARRIED)
	@printf 'preparing $(VENV)\n'
	@$(INTERPRETER) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-cache-dir --editable 'python[dev]'
	@touch $@

demo: $(VENV)/ready all ## see the queue work, on PGQ_DSN's PostgreSQL or on one that is started and thrown away
	@if [ -n "$$PGQ_DSN" ]; then $(BIN)/python examples/demo/run.py; else $(DEVPG) $(BIN)/python examples/demo/run.py; fi

recording: $(VENV)/ready all ## docs/demo.svg anew, a recording of make demo
	@$(DEVPG) $(BIN)/python tools/manual/recording.py

test: test-sql test-python ## all tests but the slow ones, on servers that are started and thrown away; WORKERS=4

test-all: SELECTED :=
test-all: test-sql test-python test-django ## all tests, the slow ones, too

test-sql: $(VENV)/ready all ## pgTAP alone, through pg_prove
	@$(DEVPG) $(BIN)/python $(PROVE) $(TAP)

test-python: $(VENV)/ready all ## pytest alone, without the slow tests
	@$(PYTEST) $(PARALLEL) $(SELECTED) tests/python

test-django: $(VENV)/ready all ## the app for Django and Django's own tests, with Django 5 on Python 3.11 and Django 6 on a newer one
	@$(BIN)/python tools/django_matrix.py

fuzz: $(VENV)/ready all ## random calls and random lives of jobs; SECONDS=120 of each, SEED= to repeat
	@FUZZ_SECONDS=$(or $(SECONDS),120) FUZZ_SEED=$(SEED) $(PYTEST) -s tests/python/client/test_fuzz.py tests/python/client/test_model.py

test-matrix: $(VENV)/ready all ## make test-all on each PostgreSQL (fetched with npm) and Python; VERSIONS="14 18", PYTHONS=3.12
	@$(BIN)/python tools/matrix.py --servers $(VERSIONS) --pythons $(PYTHONS)

TORTURE := PYTHONPATH=tests:tools $(BIN)/python -m torture
torture: $(VENV)/ready all ## a minute of kills, crashes and cut connections, and one with four servers; SECONDS=60, SEED= to repeat
	@$(TORTURE) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))
	@$(TORTURE) --databases $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

# In single quotes, so that a command line may have double ones.
conformance: $(VENV)/ready all ## does a worker in any language keep docs/protocol.md? WORKER="node worker.mjs", PRODUCER=, ONLY=
	@PYTHONPATH=tests:tools $(BIN)/python -m conformance $(if $(PRODUCER),--producer '$(PRODUCER)') \
	    $(if $(ONLY),--only '$(ONLY)') $(if $(STRIDE),--stride $(STRIDE)) '$(or $(WORKER),$(error WORKER= is the command line of a worker))'

test-examples: $(VENV)/ready all ## the workers of examples/workers/ keep docs/protocol.md; as root, languages that are missing are installed
	@$(PYTEST) --numprocesses 3 --dist load -rP tests/examples

# The same pgTAP files, in a database of their own.
installcheck: all ## pgTAP on the server that PGHOST, PGPORT, PGUSER name
	@$(INTERPRETER) $(PROVE) $(TAP)

reference: $(VENV)/ready all ## the generated pages of docs/ anew: SQL, Python, command line, errors; and llms.txt
	@$(BIN)/python tools/sql_reference.py
	@PYTHONPATH=tools $(BIN)/python -m manual

pictures: $(VENV)/ready all ## those of docs/web.md anew, drawn by a browser
	@PGQ_PICTURES=docs/images $(PYTEST) tests/python/web/test_web_pictures.py

lint: $(VENV)/ready all ## ruff, mypy, vulture and the rules of the SQL
	@$(BIN)/ruff check --config python/pyproject.toml --no-cache $(LINTED)
	@$(BIN)/ruff format --config python/pyproject.toml --no-cache --check $(LINTED)
	@$(BIN)/mypy --strict --config-file python/pyproject.toml --cache-dir build/mypy $(APPLICATIONS:%=--exclude ^%/) \
	    $(filter-out bench,$(LINTED))
	@MYPYPATH=tools $(BIN)/mypy --strict --config-file python/pyproject.toml --cache-dir build/mypy bench
	@for application in $(APPLICATIONS); do \
	    MYPYPATH=$$application $(BIN)/mypy --strict --config-file python/pyproject.toml \
	        --cache-dir build/mypy/$$application $$application || exit; done
	@$(BIN)/vulture --config python/pyproject.toml $(LINTED)
	@$(BIN)/python tools/async_to_sync.py --check
	@PYTHONPATH=tools $(BIN)/python -m manual --check
	@$(BIN)/python tools/check_sql.py $(PLAIN)

$(BENCH)/ready: python/pyproject.toml pgq.control | $(CARRIED)
	@printf 'preparing $(BENCH)\n'
	@$(INTERPRETER) -m venv $(BENCH)
	@$(BENCH)/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --editable 'python[bench]'
	@touch $@

$(MANUAL)/ready: python/pyproject.toml pgq.control | $(CARRIED)
	@printf 'preparing $(MANUAL)\n'
	@$(INTERPRETER) -m venv $(MANUAL)
	@$(MANUAL)/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --editable 'python[docs]'
	@touch $@

# Once its environment is there, this needs no network. Every warning fails, such as that of a link that leads nowhere.
docs: $(MANUAL)/ready ## the documentation as a site, in build/site
	@rm -rf $(SITE)
	@$(MANUAL)/bin/sphinx-build -q -W -E --keep-going -c tools/manual -d build/doctrees . $(SITE)
	@cp $(SITE)/README.html $(SITE)/index.html
	@cp llms.txt $(SITE)

# The other queues of docs/moves/, which the tests of these pages run.
MOVES := build/venv-moves
$(MOVES)/ready: python/pyproject.toml pgq.control | $(CARRIED)
	@printf 'preparing $(MOVES)\n'
	@$(INTERPRETER) -m venv $(MOVES)
	@$(MOVES)/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --editable 'python[moves]'
	@touch $@

# Packages from PyPI's own tool, a source archive from git's; META.json, which PGXN wants, gets its version here.
DIST := build/dist
dist: $(VENV)/ready all ## what is published, in build/dist, of the committed sources
	@rm -rf $(DIST)
	@mkdir -p $(DIST)
	@cp $(PLAIN) $(PG_TLE) $(KIT) $(DIST)
	@sed 's/@VERSION@/$(PGQ_VERSION)/' META.json.in > build/META.json
	@git archive --format zip --output $(DIST)/pgq-$(PGQ_VERSION).zip --prefix pgq-$(PGQ_VERSION)/ \
	    --add-file build/META.json --add-file $(PLAIN) HEAD
	@cd python && $(abspath $(BIN))/python -m hatchling build -d $(abspath $(DIST)) 2>/dev/null
	@ls $(DIST)

bench: $(BENCH)/ready all ## the benchmarks, over an hour on durable servers; QUICK=1, ONLY="drain bulk", ROUNDS=5, UPDATE=1
	@PYTHONPATH=tools $(BENCH)/bin/python tools/devpg.py run --durable -- $(BENCH)/bin/python bench/run.py \
	    $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY)) \
	    $(if $(UPDATE),--update)

# The install targets are those of PGXS, which needs a PostgreSQL and has a clean of its own; nothing else does.
ifneq ($(filter install uninstall installdirs,$(MAKECMDGOALS)),)
DATA_built := $(FILES)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
install uninstall: refuse-foreign
include $(PGXS)

.PHONY: refuse-foreign
refuse-foreign: control = $(DESTDIR)$(datadir)/extension/pgq.control
refuse-foreign:
	@if [ -e '$(control)' ] && ! cmp -s pgq.control '$(control)' && ! grep -q 'comment = .job queue: ' '$(control)'; then \
	    printf '%s belongs to another pgq, such as that of Skytools; it stays as it is\n' '$(control)' >&2; exit 1; fi
else
clean: ## remove what make has made
	@rm -rf build $(VENV) python/src/pgq/schema/upgrades $(CARRIED)
endif
