-- The settings and objects of a session must not change what pgq does.
BEGIN;
SELECT plan(26);

-- Objects of the caller with the names of objects of pgq.
CREATE TEMP TABLE pgq_waiting (id bigint, queue text, kind text);
CREATE TEMP TABLE pgq_running (id bigint);
CREATE FUNCTION pg_temp.pgq_now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2999-01-01 00:00Z' $$;
CREATE FUNCTION pg_temp._pgq_signature(text, text, jsonb, text) RETURNS uuid LANGUAGE sql AS $$ SELECT NULL::uuid $$;
SELECT set_config('pgq.now', '2030-01-01 12:00Z', true);

SELECT pgq_enqueue('mine');
SELECT pgq_enqueue('later', delay => '1 year');
SELECT is(count(*), 0::bigint, 'a temporary table does not stand in for a table of pgq') FROM pg_temp.pgq_waiting;
SELECT results_eq('SELECT kind FROM pgq_claim(max_jobs => 10)', $$ VALUES ('mine') $$,
                  'a temporary function does not stand in for the clock of pgq');
SELECT is(created, true, 'a job is created beside a temporary function for signatures') FROM pgq_enqueue('mine');
SELECT is(created, false, 'a temporary function for signatures does not let a duplicate in') FROM pgq_enqueue('mine');
DROP TABLE pg_temp.pgq_waiting, pg_temp.pgq_running;
DROP FUNCTION pg_temp.pgq_now(), pg_temp._pgq_signature(text, text, jsonb, text);

-- The same with objects in a schema that the caller puts first in search_path, one of them an operator of PostgreSQL.
SELECT current_schema() AS home \gset
CREATE SCHEMA tap_hostile;
CREATE FUNCTION tap_hostile.pgq_now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2999-01-01 00:00Z' $$;
CREATE FUNCTION tap_hostile.octet_length(text) RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION tap_hostile.same(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE OPERATOR tap_hostile.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = tap_hostile.same);
CREATE FUNCTION pg_temp.under(path text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_path text := current_setting('search_path');
    v_home text := quote_ident(current_schema());
    v_result text;
BEGIN
    PERFORM set_config('search_path', path, true);
    BEGIN
        EXECUTE format(call, v_home) INTO v_result;
    EXCEPTION WHEN OTHERS THEN
        v_result := SQLSTATE;
    END;
    PERFORM set_config('search_path', v_path, true);
    RETURN v_result;
END
$$;
SELECT c.id AS id, c.token AS token FROM pgq_claim() AS c \gset
SELECT is(pg_temp.under(path, call), result, format('with search_path "%s", %s', path, what))
FROM (VALUES ('tap_hostile, pg_catalog'), (''), ('pg_temp')) AS p (path)
CROSS JOIN (VALUES ('SELECT count(*) FROM %s.pgq_claim(max_jobs => 10)', '0', 'no job is ripe before its time'),
                   ('SELECT %s.pgq_enqueue(repeat(''x'', 201))', '22023', 'a bad name is refused'),
                   (format('SELECT %%s.pgq_hold(%s, %s)', :id, :token + 1), 'PGQ02', 'a wrong token is refused'),
                   ('SELECT created FROM %s.pgq_enqueue(''later'', delay => ''1 year'')', 'false', 'a duplicate is found')) AS c (call, result, what);

-- Unusual but legal settings.
CREATE FUNCTION pg_temp.life(n integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c record;
    f record;
    v_id bigint;
BEGIN
    SELECT e.id INTO v_id FROM pgq_enqueue('life', jsonb_build_object('n', n, 'x', 1.5), delay => '1 hour', backoff => '90 s', queue => 'life') AS e;
    PERFORM pgq_enqueue_many(jsonb_build_array(jsonb_build_object(
        'kind', 'life', 'queue', 'life', 'args', jsonb_build_object('x', 1.5, 'n', n), 'ripe_at', '2030-01-01T12:00:00Z', 'on_duplicate', 'soonest')));
    SELECT * INTO c FROM pgq_claim('{life}', lease => '90 s');
    SELECT * INTO f FROM pgq_fail(c.id, c.token, 'e');
    PERFORM pgq_cancel(v_id);
    RETURN format('%s %s %s %s', c.id = v_id, extract(epoch FROM c.lease_until), f.outcome, extract(epoch FROM f.ripe_at));
END
$$;
SET LOCAL pgq.jitter = '0';
SELECT pg_temp.life(0) AS plain \gset
CREATE FUNCTION pg_temp.life_with(name text, value text, n bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_before text := current_setting(name);
    v_life text;
BEGIN
    PERFORM set_config(name, value, true);
    v_life := pg_temp.life(n::integer);
    PERFORM set_config(name, v_before, true);
    RETURN v_life;
END
$$;
SELECT is(pg_temp.life_with(name, value, n), :'plain'::text, format('%s = %s changes nothing', name, value))
FROM (VALUES (1, 'DateStyle', 'SQL, DMY'), (2, 'IntervalStyle', 'sql_standard'), (3, 'TimeZone', 'Australia/Lord_Howe'),
             (4, 'extra_float_digits', '-15'), (5, 'enable_indexscan', 'off'), (6, 'plan_cache_mode', 'force_generic_plan'),
             (7, 'check_function_bodies', 'off'), (8, 'bytea_output', 'escape')) AS s (n, name, value);

-- Valid for jsonb, but too large for many JSON decoders.
SELECT pgq_enqueue('bomb', '1e131071', 'bomb', max_retries => 0);
SELECT c.id, c.token, length(c.args::text) AS length FROM pgq_claim('{bomb}') AS c \gset
SELECT is(:length, 131072, 'a number of 131072 digits can be enqueued and claimed');
SELECT is(outcome, 'dead', 'a job with a number of 131072 digits can be failed') FROM pgq_fail(:id, :token, 'cannot be decoded');

SELECT * FROM finish();
ROLLBACK;
