-- The matrix: each object, called by each role for each queue.
BEGIN;
SELECT plan(13);

-- "allowed" is what a call returns to one of its roles for a queue that the role may use, "elsewhere" what it returns for
-- a queue that the role may not use. Any other role is denied the call, whatever the queue. {q}, {waiting}, {running},
-- {token} and {dead} stand for the queue and its jobs.
CREATE TEMP TABLE matrix (object text, roles text[], call text, allowed text, elsewhere text);
INSERT INTO matrix VALUES
    ('pgq_enqueue', '{producer}', 'SELECT created FROM pgq_enqueue(''new'', queue => {q})', 'true', '42501'),
    ('pgq_enqueue', '{producer}', 'SELECT created FROM pgq_enqueue(''waiting'', queue => {q})', 'false', '42501'),
    ('pgq_enqueue', '{producer}', 'SELECT created FROM pgq_enqueue(''new'', queue => {q}, after => ARRAY[{waiting}])', 'true', '42501'),
    ('pgq_enqueue_many', '{producer}', 'SELECT created FROM pgq_enqueue_many(jsonb_build_array(''{"kind": "new", "queue": "mine"}''::jsonb, jsonb_build_object(''kind'', ''new'', ''queue'', {q}))) LIMIT 1', 'true', '42501'),
    ('pgq_enqueue_batch', '{producer}', 'SELECT cardinality(ids) FROM pgq_enqueue_batch(''new'', ''1'', ''[{"kind": "new", "queue": "mine"}]'', {q})', '1', '42501'),
    ('pgq_add_to_batch', '{worker}', 'SELECT pgq_add_to_batch({running}, {token}, ''[]'')', 'PGQ03', 'PGQ02'),
    ('pgq_batch_progress', '{producer,worker,admin}', 'SELECT jobs FROM pgq_batch_progress({waiting})', '2', 'PGQ01'),
    ('pgq_batches', '{admin,reader}', 'SELECT jobs FROM pgq_batches WHERE queue = {q}', '2', 'null'),
    ('pgq_claim', '{worker}', 'SELECT kind FROM pgq_claim(ARRAY[{q}])', 'waiting', '42501'),
    ('pgq_claim', '{worker}', 'SELECT count(*) FROM pgq_claim(ARRAY[''mine'', {q}], 0)', '0', '42501'),
    ('pgq_claim_batch', '{worker}', 'SELECT kinds[1] FROM pgq_claim_batch(ARRAY[{q}])', 'waiting', '42501'),
    ('pgq_claim_batch', '{worker}', 'SELECT cardinality(lost) FROM pgq_claim_batch(''{mine}'', 0, done_ids => ARRAY[{running}], done_tokens => ARRAY[{token}])', '0', '1'),
    ('pgq_register', '{worker}', 'SELECT pgq_register(''tap'', ARRAY[{q}])', '', '42501'),
    ('pgq_unregister', '{worker}', 'SELECT pgq_unregister(''tap'')', 'false', 'false'),
    ('pgq_reconcile', '{worker}', 'SELECT pgq_reconcile({q}, ''{}'', ''{}'') FROM pgq_register({q}, ''{mine}'')', '1', '0'),
    ('pgq_remaining', '{worker}', 'SELECT running FROM pgq_remaining(ARRAY[{q}])', 'true', '42501'),
    ('pgq_ripe_in', '{worker}', 'SELECT pgq_ripe_in(ARRAY[{q}]) <= interval ''0''', 'true', '42501'),
    ('pgq_queues_to_serve', '{worker}', 'SELECT count(*) FROM pgq_queues_to_serve(ARRAY[{q}])', '1', '0'),
    ('pgq_idle', '{worker}', 'SELECT count(*) FROM pgq_idle(ARRAY[{q}], false)', '0', '42501'),
    ('pgq_hold', '{worker}', 'SELECT pgq_hold({running}, {token})', '', 'PGQ02'),
    ('pgq_hold_many', '{worker}', 'SELECT count(*) FROM pgq_hold_many(ARRAY[{running}], ARRAY[{token}])', '1', '0'),
    ('pgq_complete', '{worker}', 'SELECT pgq_complete({running}, {token}, ''1'')', '', 'PGQ02'),
    ('pgq_complete', '{worker}', 'SELECT pgq_complete({running}, {token}, transaction => pg_current_xact_id()::text)', '', 'PGQ02'),
    ('pgq_complete', '{worker}', 'SELECT pgq_complete({running}, {token}, note => ''n'')', '', 'PGQ02'),
    ('pgq_complete_many', '{worker}', 'SELECT count(*) FROM pgq_complete_many(ARRAY[{running}], ARRAY[{token}])', '1', '0'),
    ('pgq_fail', '{worker}', 'SELECT outcome FROM pgq_fail({running}, {token})', 'cancelled', 'PGQ02'),
    ('pgq_cancel_requested', '{worker}', 'SELECT count(*) FROM pgq_cancel_requested(ARRAY[{running}], ARRAY[{token}])', '1', '0'),
    ('pgq_cancel_claimed', '{worker}', 'SELECT pgq_cancel_claimed({running}, {token})', '', 'PGQ02'),
    ('pgq_extend', '{worker}', 'SELECT pgq_extend({running}, {token}) IS NOT NULL', 'true', 'PGQ02'),
    ('pgq_snooze', '{worker}', 'SELECT pgq_snooze({running}, {token}, delay => ''1 s'')', 'cancelled', 'PGQ02'),
    ('pgq_save', '{worker}', 'SELECT pgq_save({running}, {token}, ''1'')', '', 'PGQ02'),
    ('pgq_wait_signal', '{worker}', 'SELECT outcome FROM pgq_wait_signal({running}, {token}, ''s'')', 'cancelled', 'PGQ02'),
    ('pgq_signal', '{producer,admin}', 'SELECT pgq_signal({waiting}, ''s'')', 'true', 'PGQ01'),
    ('pgq_signal_key', '{producer,admin}', 'SELECT pgq_signal_key({q}, ''k'', ''no such'', ''s'')', 'PGQ01', '42501'),
    ('pgq_signal', '{producer,admin}', 'SELECT pgq_signal({dead}, ''s'')', 'PGQ03', 'PGQ01'),
    ('pgq_decline', '{worker}', 'SELECT outcome FROM pgq_decline({running}, {token})', 'cancelled', 'PGQ02'),
    ('pgq_release', '{worker}', 'SELECT pgq_release({running}, {token})', 'cancelled', 'PGQ02'),
    ('pgq_cancel', '{admin}', 'SELECT pgq_cancel({waiting})', 'cancelled', 'PGQ01'),
    ('pgq_cancel', '{admin}', 'SELECT pgq_cancel({running})', 'requested', 'PGQ01'),
    ('pgq_cancel', '{admin}', 'SELECT pgq_cancel({dead})', 'PGQ03', 'PGQ01'),
    ('pgq_retry', '{admin}', 'SELECT pgq_retry({dead})', 'retry', 'PGQ01'),
    ('pgq_retry', '{admin}', 'SELECT pgq_retry({waiting})', 'PGQ03', 'PGQ01'),
    ('pgq_update', '{admin}', 'SELECT pgq_update({waiting}, ''7'') IS NOT NULL', 'true', 'PGQ01'),
    ('pgq_update', '{admin}', 'SELECT pgq_update({running}, ''7'')', 'PGQ03', 'PGQ01'),
    ('pgq_purge', '{admin}', 'SELECT pgq_purge(''0'', queue => {q})', '1', '42501'),
    ('pgq_purge_jobs', '{admin}', 'SELECT pgq_purge_jobs(ARRAY[{dead}])', '1', '0'),
    ('pgq_configure', '{admin}', 'SELECT pgq_configure({q}, ''{"max_retries": 3}'')', '{"max_retries": 3}', '42501'),
    ('pgq_pause', '{admin}', 'SELECT pgq_pause({q})', '', '42501'),
    ('pgq_schedule', '{admin}', 'SELECT pgq_schedule(''new'', ''@daily'', ''k'', queue => {q}) > ''2020-01-01''', 'true', '42501'),
    ('pgq_schedule', '{admin}', 'SELECT pgq_schedule({q}, ''@daily'', ''k'', queue => ''mine'') > ''2020-01-01''', 'true', '42501'),
    ('pgq_unschedule', '{admin}', 'SELECT pgq_unschedule({q})', 'true', 'false'),
    ('pgq_pause_schedule', '{admin}', 'SELECT pgq_pause_schedule({q})', 'true', '42704'),
    ('pgq_resume_schedule', '{admin}', 'SELECT pgq_resume_schedule({q}) > ''2020-01-01''', 'true', '42704'),
    ('pgq_run_schedule', '{admin}', 'SELECT pgq_run_schedule({q}) > 0', 'true', '42704'),
    ('pgq_schedules', '{admin,reader}', 'SELECT count(*) FROM pgq_schedules WHERE name = {q}', '1', '0'),
    ('pgq_resume', '{admin}', 'SELECT pgq_resume({q})', 'false', '42501'),
    ('pgq_result', '{producer,admin}', 'SELECT state FROM pgq_result({waiting})', 'waiting', 'gone'),
    ('pgq_result', '{producer,admin}', 'SELECT state FROM pgq_result({running})', 'running', 'gone'),
    ('pgq_result', '{producer,admin}', 'SELECT state || error FROM pgq_result({dead})', 'deadwhy', 'null'),
    ('pgq_await', '{producer,admin}', 'SELECT pgq_await({waiting}) || pgq_await({waiting}, false) <> ''''', 'true', 'true'),
    ('pgq_now', '{admin,reader}', 'SELECT pgq_now() IS NOT NULL', 'true', 'true'),
    ('pgq_backoff', '{producer,worker,admin,reader}', 'SELECT pgq_backoff(1)', '00:01:00', '00:01:00'),
    ('pgq_cron_next', '{producer,worker,admin,reader}', 'SELECT pgq_cron_next(''@daily'', ''2026-11-27Z'') AT TIME ZONE ''UTC''', '2026-11-28 00:00:00', '2026-11-28 00:00:00'),
    ('pgq_version', '{producer,worker,admin,reader}', 'SELECT pgq_version() <> ''''', 'true', 'true'),
    ('pgq_grant', '{}', 'SELECT pgq_grant(''tap_nobody'', ''reader'', ARRAY[{q}])', '', NULL),
    ('pgq_revoke', '{}', 'SELECT pgq_revoke(''tap_reader'', ''reader'')', '', NULL),
    ('pgq_jobs', '{admin,reader}', 'SELECT string_agg(state, '' '' ORDER BY state) FROM pgq_jobs WHERE queue = {q}', 'blocked dead running waiting', 'null'),
    ('pgq_jobs', '{admin,reader}', 'SELECT count(kind) FROM pgq_jobs WHERE id IN ({waiting}, {running}, {dead})', '3', '0'),
    ('pgq_jobs', '{admin}', 'SELECT sum(jsonb_array_length(errors) + (args ->> ''n'')::int) FROM pgq_jobs WHERE queue = {q}', '5', 'null'),
    ('pgq_stats', '{admin,reader}', 'SELECT sum(waiting + running + dead) FROM pgq_stats WHERE queue = {q}', '3', 'null'),
    ('pgq_counters', '{admin,reader}', 'SELECT sum(enqueued + claimed + failed) FROM pgq_counters WHERE queue = {q}', '7', 'null'),
    ('pgq_queues', '{admin,reader}', 'SELECT waiting + running FROM pgq_queues WHERE queue = {q}', '2', 'null'),
    ('pgq_overview_kinds', '{admin,reader}', 'SELECT sum(waiting + running + dead) FROM pgq_overview_kinds() WHERE queue = {q}', '3', 'null'),
    ('pgq_overview_counters', '{admin,reader}', 'SELECT sum(claimed + failed) FROM pgq_overview_counters() WHERE queue = {q}', '3', 'null'),
    ('pgq_overview_ids', '{admin,reader}', 'SELECT count(*) FROM pgq_overview_ids()', '1', '1'),
    ('pgq_overview_queues', '{admin,reader}', 'SELECT count(*) FROM pgq_overview_queues() WHERE queue = {q}', '1', '0'),
    ('pgq_overview_waits', '{admin,reader}', 'SELECT string_agg(kind, '' '') FROM pgq_overview_waits() WHERE queue = {q}', 'waiting', 'null'),
    ('pgq_overview_deaths', '{admin,reader}', 'SELECT sum(jobs) FROM pgq_overview_deaths() WHERE queue = {q}', '1', 'null'),
    ('pgq_find_jobs', '{admin,reader}', 'SELECT cardinality(ids) FROM pgq_find_jobs(queue => {q})', '4', '0'),
    ('pgq_needs', '{admin,reader}', 'SELECT count(*) FROM pgq_needs WHERE needs = {waiting}', '1', '0'),
    ('pgq_workers', '{admin,reader}', 'SELECT name || running FROM pgq_workers WHERE name = {q}', '{q}1', 'null');

-- Everything else is only for the owner.
INSERT INTO matrix
SELECT proname, '{}'::text[], format('SELECT CASE WHEN has_function_privilege(%s::oid, ''EXECUTE'') THEN ''may'' ELSE ''denied'' END', oid), 'may', NULL
FROM pg_proc WHERE pronamespace = quote_ident(current_schema())::regnamespace AND proname ~ '^_pgq_'
UNION ALL
SELECT relname, '{}', format('SELECT CASE WHEN %s THEN ''may'' ELSE ''denied'' END', CASE relkind
           WHEN 'S' THEN format('has_sequence_privilege(%s::oid, ''USAGE, SELECT, UPDATE'')', oid)
           WHEN 'c' THEN format('has_type_privilege(%s::oid, ''USAGE'')', reltype)
           ELSE format('has_any_column_privilege(%1$s::oid, ''SELECT, INSERT, UPDATE, REFERENCES'') OR has_table_privilege(%1$s::oid, ''DELETE, TRUNCATE, TRIGGER'')', oid)
       END), 'may', NULL
FROM pg_class
WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relname ~ '^_?pgq_' AND relkind IN ('r', 'v', 'S', 'c')
  AND (relkind <> 'v' OR relname ~ '^_');

SELECT results_eq(
    'SELECT DISTINCT object COLLATE "C" FROM matrix ORDER BY 1',
    $$ SELECT DISTINCT o.name::text COLLATE "C"
       FROM (SELECT proname AS name FROM pg_proc WHERE pronamespace = quote_ident(current_schema())::regnamespace
             UNION ALL
             SELECT relname FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind NOT IN ('i', 'I')) AS o
       WHERE o.name ~ '^_?pgq_' ORDER BY 1 $$,
    'every function, table, view, sequence and type has a row in the matrix');

-- In each queue, a job in each state, and a worker and a schedule with the name of the queue. It is asked to cancel the running job.
CREATE TEMP TABLE place AS SELECT q AS queue FROM unnest('{mine,theirs}'::text[]) AS q;
ALTER TABLE place ADD waiting bigint, ADD running bigint, ADD token bigint, ADD dead bigint;
SELECT pgq_enqueue(kind, jsonb_build_object('n', n), queue, max_retries => 1 - n / 3) FROM place CROSS JOIN (VALUES ('running', 1), ('dead', 3)) AS j (kind, n);
UPDATE place AS p SET running = c.id, token = c.token FROM pgq_claim('{mine,theirs}', 4) AS c WHERE c.kind = 'running' AND p.queue = c.queue;
UPDATE pgq_running SET worker = queue;
SELECT pgq_cancel(running) FROM place;
UPDATE place AS p SET dead = r.id FROM pgq_running AS r WHERE r.kind = 'dead' AND p.queue = r.queue;
SELECT pgq_fail(r.id, r.token, 'why') FROM pgq_running AS r WHERE r.kind = 'dead';
SELECT pgq_enqueue('waiting', queue => queue) FROM place;
UPDATE place AS p SET waiting = w.id FROM pgq_waiting AS w WHERE p.queue = w.queue;
SELECT pgq_enqueue('blocked', queue => queue, after => ARRAY[waiting]) FROM place;
INSERT INTO pgq_batch SELECT waiting, queue, 2, '{}', 0, pgq_now() FROM place;
SELECT pgq_schedule(queue, '@yearly', 'k', queue => queue), pgq_pause(queue, group_key => 'g') FROM place;

-- The roles: one without any grant, one for each privilege, and one for each privilege in one queue only.
CREATE TEMP TABLE actor (role text, privilege text, queues text[]);
INSERT INTO actor VALUES ('none', NULL, NULL), ('tap_nobody', NULL, NULL);
INSERT INTO actor SELECT 'tap_' || privilege, privilege, NULL FROM unnest('{producer,worker,admin,reader}'::text[]) AS privilege;
INSERT INTO actor SELECT 'tap_my_' || privilege, privilege, '{mine}' FROM unnest('{producer,worker,admin,reader}'::text[]) AS privilege;
SELECT format('CREATE ROLE %I', role) FROM actor WHERE role <> 'none' \gexec
SELECT pgq_grant(role, privilege, queues) FROM actor WHERE privilege IS NOT NULL;
-- Without USAGE on the schema, PostgreSQL would deny that first.
SELECT format('GRANT USAGE ON SCHEMA %I TO tap_nobody', current_schema()) \gexec

\ir result.sql

CREATE TEMP TABLE outcome AS
SELECT a.role, p.queue, m.object, m.call, pg_temp.result(a.role, filled.call) AS got,
       CASE WHEN a.role = 'none' OR a.privilege = ANY (m.roles) AND (a.queues IS NULL OR p.queue = ANY (a.queues)) THEN replace(m.allowed, '{q}', p.queue)
            WHEN a.privilege = ANY (m.roles) THEN m.elsewhere
            ELSE 'denied'
       END AS expected
FROM actor AS a CROSS JOIN place AS p CROSS JOIN matrix AS m
CROSS JOIN LATERAL (SELECT replace(replace(replace(replace(replace(m.call,
    '{q}', quote_literal(p.queue)), '{waiting}', p.waiting::text), '{running}', p.running::text), '{token}', p.token::text), '{dead}', p.dead::text)) AS filled (call);

SELECT is(count(*), 2 * 10 * (SELECT count(*) FROM matrix), 'every role makes every call for every queue') FROM outcome;
SELECT results_eq('SELECT count(DISTINCT got) > 10 FROM outcome', 'SELECT true', 'the calls have more than ten different results');
SELECT is_empty(format('SELECT queue, call, expected, got FROM outcome WHERE role = %L AND got IS DISTINCT FROM expected', role),
                format('%s gets the results in the matrix', CASE role WHEN 'none' THEN 'the owner' ELSE role END)) FROM actor;

SELECT * FROM finish();
ROLLBACK;
