-- Two applications share a database: what one of them does is not there for the other.
BEGIN;
SELECT plan(64);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT format('CREATE ROLE tap_%s', role) FROM unnest('{producer,worker,admin,reader,mixed}'::text[]) AS r (role) \gexec
SELECT pgq_grant('tap_' || what, what, '{mine}') FROM unnest('{producer,worker,admin,reader}'::text[]) AS w (what);
SELECT pgq_grant('tap_mixed', 'admin', '{mine}'), pgq_grant('tap_mixed', 'reader', '{theirs}');

-- In either queue a job of each state, under a number that occurs nowhere else in an answer.
SELECT setval('pgq_job_id', 3000000000);
SELECT pgq_enqueue(kind, to_jsonb(q), q, dedup_key => 'k', max_retries => 0, context => '{"trace": 1}')
FROM unnest('{mine,theirs}'::text[]) AS q CROSS JOIN (VALUES ('running'), ('dead'), ('cancelled'), ('done')) AS k (kind);
SELECT pgq_fail(c.id, c.token, 'why') FROM pgq_claim('{mine,theirs}', 8, worker => 'w') AS c WHERE c.kind = 'dead';
SELECT pgq_complete(id, token, '"r"') FROM pgq_running WHERE kind = 'done';
SELECT pgq_cancel(id) FROM pgq_running WHERE kind = 'cancelled';
SELECT pgq_enqueue('waiting', to_jsonb(q), q) FROM unnest('{mine,theirs}'::text[]) AS q;
UPDATE pgq_running SET worker = 'w-' || queue;
SELECT pgq_register('w-theirs', '{theirs}', 'their host', 1);
SELECT pgq_register('w-shared', '{mine,theirs}', 'our host', 2);
SELECT id AS theirs, token FROM pgq_running WHERE queue = 'theirs' \gset
SELECT id AS waiting FROM pgq_waiting WHERE queue = 'theirs' \gset
SELECT id AS dead FROM pgq_ended WHERE queue = 'theirs' AND outcome = 'dead' \gset
CREATE TEMP TABLE before AS SELECT * FROM pgq_jobs;

-- All that an answer consists of, with what the call itself has named blotted out; whatever it has done is undone.
CREATE FUNCTION pg_temp.answer(role text, call text, named text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_answer text;
    v_message text;
    v_hint text;
    v_detail text;
    v_context text;
BEGIN
    PERFORM set_config('role', role, true);
    EXECUTE call INTO v_answer;
    RAISE EXCEPTION USING ERRCODE = 'TAP01', MESSAGE = coalesce(v_answer, 'null');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_hint = PG_EXCEPTION_HINT, v_detail = PG_EXCEPTION_DETAIL, v_context = PG_EXCEPTION_CONTEXT;
    -- Whether such a line is there depends on how often the session has come by.
    v_context := regexp_replace(replace(v_context, call, ''), '^(PL/pgSQL|SQL) (assignment|expression) .*$', '', 'gn');
    RETURN replace(concat_ws(E'\n', SQLSTATE, v_message, v_hint, v_detail, regexp_replace(v_context, E'\n+', E'\n', 'g')), named, '*');
END
$$;
CREATE FUNCTION pg_temp.same(role text, call text, there text, absent text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT is(pg_temp.answer(role, format(call, there), there), pg_temp.answer(role, format(call, absent), absent),
              format('to %s, %s is as if there were nothing', role, format(call, there)))
$$;
-- The other way round: where it may, the two differ, or the comparison would prove nothing.
CREATE FUNCTION pg_temp.differ(role text, call text, there text, absent text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT isnt(pg_temp.answer(role, format(call, there), there), pg_temp.answer(role, format(call, absent), absent),
                format('to the owner, %s is not', format(call, there)))
$$;

-- A twin in a queue of theirs, and in one of nobody's.
CREATE TEMP TABLE call (role text, call text, there text, absent text);
INSERT INTO call
SELECT 'tap_producer', format('SELECT e FROM pgq_enqueue(''waiting'', ''"theirs"'', ''%%s'', on_duplicate => %L) AS e', policy), 'theirs', 'nowhere'
FROM unnest('{keep,replace,soonest,error}'::text[]) AS policy;
INSERT INTO call VALUES
    ('tap_producer', 'SELECT created FROM pgq_enqueue_many(''[{"kind": "waiting", "args": "theirs", "queue": "%s"}]'')', 'theirs', 'nowhere'),
    ('tap_worker', 'SELECT kind FROM pgq_claim(''{%s}'')', 'theirs', 'nowhere'),
    ('tap_worker', 'SELECT p FROM pgq_remaining(''{%s}'') AS p', 'theirs', 'nowhere'),
    ('tap_admin', 'SELECT pgq_purge(''0'', queue => ''%s'')', 'theirs', 'nowhere');
-- A job that is held under this token, and one that is not.
INSERT INTO call
SELECT 'tap_worker', format('SELECT %s(%s, %%s%s)', function, :theirs, rest), :token::text, (:token + 1)::text
FROM (VALUES ('pgq_hold', ''), ('pgq_complete', ''), ('pgq_complete', ', ''1'''), ('pgq_fail', ''), ('pgq_cancel_claimed', ''), ('pgq_extend', ''),
             ('pgq_snooze', ', delay => ''1 s'''), ('pgq_release', '')) AS f (function, rest);
INSERT INTO call VALUES
    ('tap_worker', format('SELECT count(*) FROM pgq_complete_many(ARRAY[%s], ARRAY[%%s])', :theirs), :'token', (:token + 1)::text);
-- A job, and none.
INSERT INTO call
SELECT 'tap_admin', format('SELECT %s(%%s)', function), id, '4000000000'
FROM (VALUES ('pgq_cancel'), ('pgq_retry')) AS f (function) CROSS JOIN (VALUES (:'waiting'), (:'theirs'), (:'dead')) AS i (id);
INSERT INTO call
SELECT role, 'SELECT count(*) FROM pgq_jobs WHERE id = %s', :'theirs', '4000000000' FROM (VALUES ('tap_admin'), ('tap_reader')) AS r (role);

SELECT pg_temp.same(role, call, there, absent) FROM call;
SELECT pg_temp.differ('none', call, there, absent) FROM call;

-- What is counted.
CREATE FUNCTION pg_temp.seen(role text, call text) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(split_part(pg_temp.answer(role, call, ''), E'\n', 2), E'\n.*', '') $$;
SELECT is(pg_temp.seen(role, call), answer, what) FROM (VALUES
    ('tap_admin', 'SELECT pgq_purge(''0'')', '3', 'an administrator purges what he may'),
    ('none', 'SELECT pgq_purge(''0'')', '6', 'which is not all there is'),
    ('tap_reader', 'SELECT string_agg(queue, '' '') FROM pgq_stats WHERE kind = ''waiting''', 'mine', 'a reader counts the jobs of his queues'),
    ('tap_reader', 'SELECT string_agg(DISTINCT queue, '' '') FROM pgq_jobs', 'mine', 'and sees no others'),
    ('tap_reader', 'SELECT string_agg(concat_ws('' '', name, host, queues, running), '', '' ORDER BY name COLLATE "C") FROM pgq_workers',
     'w-mine 1, w-shared our host {mine} 0', 'he sees the workers of his queues, and no others'),
    ('tap_mixed', 'SELECT string_agg(concat_ws('' '', queue, args, dedup_key, errors -> 0 ->> ''error'', context), '', '' ORDER BY queue) FROM pgq_jobs WHERE state = ''dead''',
     'mine "mine" k why {"trace": 1}, theirs', 'who may only see the states of a queue is shown nothing more'),
    ('tap_mixed', 'SELECT string_agg(concat_ws('' '', queue, result), '', '' ORDER BY queue) FROM pgq_jobs WHERE state = ''done''', 'mine "r", theirs', 'nor a result')
) AS t (role, call, answer, what);

-- No condition of the reader's is shown what the views hide. Its cost makes it the first to be looked at; strict, it goes through an outer join.
CREATE FUNCTION pg_temp.peek(value text) RETURNS boolean LANGUAGE plpgsql STRICT COST 0.0000000001 AS $$
BEGIN
    PERFORM set_config('tap.peeked', current_setting('tap.peeked') || ' ' || value, true);
    RETURN true;
END
$$;
CREATE FUNCTION pg_temp.peeked(what text, view text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('tap.peeked', '', true), set_config('role', 'tap_reader', true);
    EXECUTE format('SELECT count(*) FROM %s WHERE pg_temp.peek(%s)', view, what);
    PERFORM set_config('role', 'none', true);
    RETURN current_setting('tap.peeked');
END
$$;
SELECT format('GRANT USAGE ON SCHEMA %s TO tap_reader', pg_my_temp_schema()::regnamespace) \gexec
SELECT is(pg_temp.peeked('queue', 'pgq_jobs'), ' mine mine mine mine mine', 'a condition on jobs sees those of its queues');
SELECT is(pg_temp.peeked('queue', 'pgq_stats'), ' mine mine mine mine mine', 'and so does one on numbers');
SELECT is(pg_temp.peeked('host', 'pgq_workers'), ' our host', 'and one on workers');

-- The name of a worker is what its jobs are held by.
UPDATE pgq_running SET worker = 'w-lone';
SELECT throws_ok($$ SET LOCAL ROLE tap_worker; SELECT pgq_register('w-theirs', '{mine}') $$, 'PGQ03', NULL, 'the name of a worker of theirs cannot be had');
RESET ROLE;
SELECT results_eq($$ SELECT host, queues FROM pgq_worker_session WHERE name = 'w-theirs' $$, $$ VALUES ('their host', '{theirs}'::text[]) $$, 'and stays as it is');
SET LOCAL ROLE tap_worker;
SELECT pgq_register('w-lone', '{mine}');
RESET ROLE;
-- As if that session had ended. The server of this test may be younger than five seconds, in which nobody counts as gone.
SELECT pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number) FROM pgq_worker_session WHERE name = 'w-lone';
SELECT pg_sleep(greatest(0, extract(epoch FROM pg_postmaster_start_time() + interval '5.1 seconds' - clock_timestamp())));
SELECT _pgq_sweep_workers(pgq_now());
SELECT results_eq('SELECT queue, lease_until > claimed_at FROM pgq_running ORDER BY queue', $$ VALUES ('mine', false), ('theirs', true) $$,
                  'who registers under a name and goes, ends the leases of that name in his queues only');
SELECT results_eq('SELECT * FROM pgq_jobs WHERE queue = ''theirs'' AND state <> ''running'' ORDER BY id',
                  'SELECT * FROM before WHERE queue = ''theirs'' AND state <> ''running'' ORDER BY id', 'of all this, nothing has changed a job of theirs');

SELECT * FROM finish();
ROLLBACK;
