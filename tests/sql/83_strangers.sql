-- Two applications in one database: to each, the jobs of the other do not exist.
BEGIN;
SELECT plan(117);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT format('CREATE ROLE tap_%s', role) FROM unnest('{producer,worker,admin,reader,mixed}'::text[]) AS r (role) \gexec
SELECT pgq_grant('tap_' || privilege, privilege, '{mine}') FROM unnest('{producer,worker,admin,reader}'::text[]) AS p (privilege);
SELECT pgq_grant('tap_mixed', 'admin', '{mine}'), pgq_grant('tap_mixed', 'reader', '{theirs}');

-- In either queue a job in each state, with ids that occur nowhere else in a result.
SELECT setval('pgq_job_id', 3000000000);
SELECT pgq_enqueue(kind, to_jsonb(q), q, dedup_key => 'k', max_retries => 0, context => '{"trace": 1}')
FROM unnest('{mine,theirs}'::text[]) AS q CROSS JOIN (VALUES ('running'), ('dead'), ('cancelled'), ('done')) AS k (kind);
SELECT pgq_fail(c.id, c.token, 'why') FROM pgq_claim('{mine,theirs}', 8, worker => 'w') AS c WHERE c.kind = 'dead';
SELECT pgq_complete(id, token, '"r"') FROM pgq_running WHERE kind = 'done';
SELECT pgq_cancel_claimed(id, token) FROM pgq_running WHERE kind = 'cancelled';
SELECT pgq_cancel(id) FROM pgq_running;
SELECT pgq_enqueue('waiting', to_jsonb(q), q) FROM unnest('{mine,theirs}'::text[]) AS q;
UPDATE pgq_running SET worker = 'w-' || queue;
SELECT pgq_register('w-theirs', '{theirs}', 'their host', 1);
SELECT pgq_register('w-shared', '{mine,theirs}', 'our host', 2, '{secret}');
SELECT pgq_register('w-ours', '{mine}', kinds => '{ours}');
SELECT id AS theirs, token FROM pgq_running WHERE queue = 'theirs' \gset
SELECT id AS waiting FROM pgq_waiting WHERE queue = 'theirs' \gset
SELECT id AS dead FROM pgq_ended WHERE queue = 'theirs' AND outcome = 'dead' \gset
CREATE TEMP TABLE before AS SELECT * FROM pgq_jobs;

-- Return all that a call returns or raises, with * for the given name. The exception undoes what the call does.
CREATE FUNCTION pg_temp.result(role text, call text, named text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_result text;
    v_message text;
    v_hint text;
    v_detail text;
    v_context text;
BEGIN
    PERFORM set_config('role', role, true);
    EXECUTE call INTO v_result;
    RAISE EXCEPTION USING ERRCODE = 'TAP01', MESSAGE = coalesce(v_result, 'null');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_hint = PG_EXCEPTION_HINT, v_detail = PG_EXCEPTION_DETAIL, v_context = PG_EXCEPTION_CONTEXT;
    -- Whether the context has such a line depends on how often the session has run the function.
    v_context := regexp_replace(replace(v_context, call, ''), '^(PL/pgSQL|SQL) (assignment|expression) .*$', '', 'gn');
    RETURN replace(concat_ws(E'\n', SQLSTATE, v_message, v_hint, v_detail, regexp_replace(v_context, E'\n+', E'\n', 'g')), named, '*');
END
$$;
CREATE FUNCTION pg_temp.same(role text, call text, there text, absent text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT is(pg_temp.result(role, format(call, there), there), pg_temp.result(role, format(call, absent), absent),
              format('to %s, %s is the same as for a thing that does not exist', role, format(call, there)))
$$;
-- The control: if the two did not differ for the owner, the comparison would prove nothing.
CREATE FUNCTION pg_temp.differ(role text, call text, there text, absent text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT isnt(pg_temp.result(role, format(call, there), there), pg_temp.result(role, format(call, absent), absent),
                format('to the owner, %s is not the same', format(call, there)))
$$;

-- A job in a queue of the other application, and in a queue without jobs, settings, pauses and schedules.
SELECT pgq_configure('theirs', '{"lease": "1 hour"}'), pgq_pause('theirs', group_key => 'g'), pgq_schedule('theirs', '@daily', 'k', queue => 'theirs');
CREATE TEMP TABLE call (role text, call text, there text, absent text);
INSERT INTO call
SELECT 'tap_producer', format('SELECT e FROM pgq_enqueue(''waiting'', ''"theirs"'', ''%%s'', on_duplicate => %L) AS e', policy), 'theirs', 'nowhere'
FROM unnest('{keep,replace,soonest,error}'::text[]) AS policy;
INSERT INTO call VALUES
    ('tap_producer', 'SELECT created FROM pgq_enqueue_many(''[{"kind": "waiting", "args": "theirs", "queue": "%s"}]'')', 'theirs', 'nowhere'),
    ('tap_worker', 'SELECT kind FROM pgq_claim(''{%s}'')', 'theirs', 'nowhere'),
    ('tap_worker', 'SELECT c FROM pgq_claim_batch(''{%s}'') AS c', 'theirs', 'nowhere'),
    ('tap_worker', 'SELECT p FROM pgq_remaining(''{%s}'') AS p', 'theirs', 'nowhere'),
    ('tap_worker', 'SELECT pgq_ripe_in(''{%s}'')', 'theirs', 'nowhere'),
    ('tap_worker', 'SELECT count(*) FROM pgq_queues_to_serve(''{%s}'')', 'theirs', 'nowhere'),
    ('tap_admin', 'SELECT pgq_configure(''%s'')', 'theirs', 'nowhere'),
    ('tap_admin', 'SELECT pgq_resume(''%s'', ''g'')', 'theirs', 'nowhere'),
    ('tap_admin', 'SELECT pgq_unschedule(''%s'')', 'theirs', 'nowhere'),
    ('tap_admin', 'SELECT pgq_pause_schedule(''%s'')', 'theirs', 'nowhere'),
    ('tap_admin', 'SELECT pgq_resume_schedule(''%s'')', 'theirs', 'nowhere'),
    ('tap_admin', 'SELECT pgq_run_schedule(''%s'')', 'theirs', 'nowhere'),
    ('tap_admin', 'SELECT pgq_purge(''0'', queue => ''%s'')', 'theirs', 'nowhere');
-- A token under which a job of the other application is held, and one that does not exist.
INSERT INTO call
SELECT 'tap_worker', format('SELECT %s(%s, %%s%s)', function, :theirs, rest), :token::text, (:token + 1)::text
FROM (VALUES ('pgq_hold', ''), ('pgq_complete', ''), ('pgq_complete', ', ''1'''), ('pgq_complete', ', note => ''n'''), ('pgq_fail', ''), ('pgq_cancel_claimed', ''), ('pgq_extend', ''),
             ('pgq_snooze', ', delay => ''1 s'''), ('pgq_release', ''), ('pgq_save', ', ''1'''), ('pgq_wait_signal', ', ''s''')) AS f (function, rest);
INSERT INTO call VALUES
    ('tap_worker', format('SELECT count(*) FROM pgq_hold_many(ARRAY[%s], ARRAY[%%s])', :theirs), :'token', (:token + 1)::text),
    ('tap_worker', format('SELECT count(*) FROM pgq_complete_many(ARRAY[%s], ARRAY[%%s])', :theirs), :'token', (:token + 1)::text),
    ('tap_worker', format('SELECT lost FROM pgq_claim_batch(''{mine}'', 0, done_ids => ARRAY[%s], done_tokens => ARRAY[%%s])', :theirs), :'token', (:token + 1)::text);
-- A job of the other application, and one that does not exist.
INSERT INTO call
SELECT 'tap_admin', format('SELECT %s(%%s)', function), id, '4000000000'
FROM (VALUES ('pgq_cancel'), ('pgq_retry'), ('pgq_update')) AS f (function) CROSS JOIN (VALUES (:'waiting'), (:'theirs'), (:'dead')) AS i (id);
INSERT INTO pgq_batch VALUES (:theirs, 'theirs', 2, '{}', 0, pgq_now());
INSERT INTO call
SELECT role, 'SELECT r FROM pgq_batch_progress(%s) AS r', :'theirs', '4000000000' FROM unnest('{tap_producer,tap_worker,tap_admin}'::text[]) AS role;
INSERT INTO call
SELECT 'tap_worker', format('SELECT pgq_add_to_batch(%s, %%s, ''[]'')', :theirs), :'token', (:token + 1)::text;
INSERT INTO call
SELECT 'tap_producer', 'SELECT r FROM pgq_result(%s) AS r', id, '2999999999' FROM (VALUES (:'waiting'), (:'theirs'), (:'dead')) AS i (id);
INSERT INTO call
SELECT 'tap_worker', format('SELECT count(*) FROM pgq_cancel_requested(ARRAY[%s], ARRAY[%%s])', :theirs), :token::text, (:token + 1)::text;
INSERT INTO call
SELECT role, 'SELECT count(*) FROM pgq_jobs WHERE id = %s', :'theirs', '4000000000' FROM (VALUES ('tap_admin'), ('tap_reader')) AS r (role);

SELECT pg_temp.same(role, call, there, absent) FROM call;
SELECT pg_temp.differ('none', call, there, absent) FROM call;

-- What calls and views count.
CREATE FUNCTION pg_temp.seen(role text, call text) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(split_part(pg_temp.result(role, call, ''), E'\n', 2), E'\n.*', '') $$;
SELECT is(pg_temp.seen(role, call), seen, what) FROM (VALUES
    ('tap_admin', 'SELECT pgq_purge(''0'')', '3', 'an admin purges the jobs of its queues'),
    ('none', 'SELECT pgq_purge(''0'')', '6', 'the owner purges the jobs of all queues'),
    ('tap_reader', 'SELECT string_agg(queue, '' '') FROM pgq_stats WHERE kind = ''waiting''', 'mine', 'a reader counts the jobs of its queues'),
    ('tap_reader', 'SELECT string_agg(DISTINCT queue, '' '') FROM pgq_jobs', 'mine', 'a reader sees the jobs of its queues only'),
    ('tap_reader', 'SELECT string_agg(concat_ws('' '', name, host, queues, running), '', '' ORDER BY name COLLATE "C") FROM pgq_workers',
     'w-mine 1, w-ours {mine} 0, w-shared our host {mine} 0', 'a reader sees the workers of its queues only'),
    ('tap_reader', 'SELECT string_agg(concat_ws('' '', name, handles), '', '' ORDER BY name COLLATE "C") FROM pgq_workers',
     'w-mine, w-ours {ours}, w-shared', 'a reader sees the kinds of workers all of whose queues it sees'),
    ('tap_mixed', 'SELECT string_agg(concat_ws('' '', queue, args, dedup_key, errors -> 0 ->> ''error'', context), '', '' ORDER BY queue) FROM pgq_jobs WHERE state = ''dead''',
     'mine "mine" k why {"trace": 1}, theirs', 'an admin of one queue and reader of another sees args, key, error and context in the first only'),
    ('tap_mixed', 'SELECT string_agg(concat_ws('' '', queue, result), '', '' ORDER BY queue) FROM pgq_jobs WHERE state = ''done''', 'mine "r", theirs', 'an admin of one queue and reader of another sees a result in the first only')
) AS t (role, call, seen, what);

-- A reader's condition is never evaluated on hidden rows. The low cost makes PostgreSQL evaluate it first; STRICT lets
-- it be pushed below an outer join.
CREATE FUNCTION pg_temp.peek(value text) RETURNS boolean LANGUAGE plpgsql STRICT COST 0.0000000001 AS $$
BEGIN
    PERFORM set_config('tap.peeked', current_setting('tap.peeked') || ' ' || value, true);
    RETURN true;
END
$$;
CREATE FUNCTION pg_temp.peeked(expression text, view text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('tap.peeked', '', true), set_config('role', 'tap_reader', true);
    EXECUTE format('SELECT count(*) FROM %s WHERE pg_temp.peek(%s)', view, expression);
    PERFORM set_config('role', 'none', true);
    RETURN current_setting('tap.peeked');
END
$$;
SELECT format('GRANT USAGE ON SCHEMA %s TO tap_reader', pg_my_temp_schema()::regnamespace) \gexec
SELECT is(pg_temp.peeked('queue', 'pgq_jobs'), ' mine mine mine mine mine', 'a condition on pgq_jobs is evaluated on the reader''s queues only');
SELECT is(pg_temp.peeked('queue', 'pgq_stats'), ' mine mine mine mine mine', 'a condition on pgq_stats is evaluated on the reader''s queues only');
SELECT pgq_schedule('ours', '@daily', 'k', queue => 'mine');
SELECT is(pg_temp.peeked('name', 'pgq_schedules'), ' ours', 'a condition on pgq_schedules is evaluated on the reader''s queues only');
SELECT is(pg_temp.peeked('host', 'pgq_workers'), ' our host', 'a condition on pgq_workers is evaluated on the reader''s queues only');

-- The name of a schedule cannot be taken over.
SELECT throws_ok($$ SET LOCAL ROLE tap_admin; SELECT pgq_schedule('theirs', '@hourly', 'k', queue => 'mine') $$, '42501',
                 'role "tap_admin" may not replace schedule "theirs"', 'a role cannot replace the schedule of another queue');
RESET ROLE;

-- The jobs of a worker are held under its name.
UPDATE pgq_running SET worker = 'w-lone';
SELECT throws_ok($$ SET LOCAL ROLE tap_worker; SELECT pgq_register('w-theirs', '{mine}') $$, 'PGQ03', NULL, 'a role cannot register the name of a worker of other queues');
RESET ROLE;
SELECT results_eq($$ SELECT host, queues FROM pgq_worker_session WHERE name = 'w-theirs' $$, $$ VALUES ('their host', '{theirs}'::text[]) $$, 'the worker of other queues stays as it is');
SET LOCAL ROLE tap_worker;
SELECT pgq_register('w-lone', '{mine}');
RESET ROLE;
-- As if that session had ended. In the first five seconds after the start of the server no worker counts as gone.
SELECT pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number) FROM pgq_worker_session WHERE name = 'w-lone';
SELECT pg_sleep(greatest(0, extract(epoch FROM pg_postmaster_start_time() + interval '5.1 seconds' - clock_timestamp())));
SELECT _pgq_sweep_workers(pgq_now(), false);
SELECT results_eq('SELECT queue, lease_until > claimed_at FROM pgq_running ORDER BY queue', $$ VALUES ('mine', false), ('theirs', true) $$,
                  'a worker that is gone loses the leases under its name in the queues of its role only');
SELECT results_eq('SELECT * FROM pgq_jobs WHERE queue = ''theirs'' AND state <> ''running'' ORDER BY id',
                  'SELECT * FROM before WHERE queue = ''theirs'' AND state <> ''running'' ORDER BY id', 'no call has changed a job of the other application');

SELECT * FROM finish();
ROLLBACK;
