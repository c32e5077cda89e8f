-- What has become of a job: which role may ask, and what remains of a job that has left nothing.
BEGIN;
SELECT plan(51);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';
SELECT setval('pgq_job_id', 100);

CREATE FUNCTION pg_temp.seen(id bigint) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' | ', r.state, coalesce(r.result::text, '-'), coalesce(r.error, '-'), coalesce(to_char(r.ended_at AT TIME ZONE 'UTC', 'HH24:MI'), '-'))
    FROM pgq_result(id) AS r
$$;

SELECT throws_ok(format('SELECT * FROM pgq_result(%s)', id), 'PGQ01', message, message)
FROM (VALUES ('101', 'there has been no job 101'), ('0', 'there has been no job 0'), ('-1', 'there has been no job -1'),
             ('9223372036854775807', 'there has been no job 9223372036854775807'), ('NULL', 'there has been no job null')) AS t (id, message);
SELECT is(pg_temp.seen(100), 'gone | - | - | -', 'a number below the last may be that of a job that has left nothing');

SELECT id AS job FROM pgq_enqueue('k', max_retries => 1, backoff => '1 minute') \gset
SELECT is(pg_temp.seen(:job), 'waiting | - | - | -', 'a waiting job has nothing yet');
SELECT token FROM pgq_claim() \gset
SELECT is(pg_temp.seen(:job), 'running | - | - | -', 'nor has a running one');
SELECT pgq_fail(:job, :token, E'first\nline');
SELECT is(pg_temp.seen(:job), E'waiting | - | first\nline | -', 'a job that waits for its retry has its error');
SET LOCAL pgq.now = '2030-01-01 12:02Z';
SELECT token FROM pgq_claim() \gset
SELECT is(pg_temp.seen(:job), E'running | - | first\nline | -', 'and keeps it while it runs again');
SELECT pgq_fail(:job, :token, 'second');
SELECT is(pg_temp.seen(:job), 'dead | - | second | 12:02', 'a dead job has the newest error, and the time of its end');
SELECT pgq_retry(:job);
SELECT is(pg_temp.seen(:job), 'waiting | - | second | -', 'a job that is retried waits again');
SELECT pgq_cancel(:job);
SELECT is(pg_temp.seen(:job), 'cancelled | - | second | 12:02', 'a cancelled job has ended');
SELECT pgq_purge('0');
SELECT is(pg_temp.seen(:job), 'gone | - | - | -', 'a purged job is gone');

-- Each way to be done.
CREATE FUNCTION pg_temp.completed(result jsonb, note text) RETURNS text LANGUAGE sql AS $$
    SELECT pgq_enqueue('k', dedup => false);
    SELECT pgq_complete(id, token, result, note) FROM pgq_claim();
    SELECT pg_temp.seen((SELECT last_value FROM pgq_job_id));
$$;
SELECT is(pg_temp.completed('{"a": 1}', NULL), 'done | {"a": 1} | - | 12:02', 'a job is done with its result');
SELECT is(pg_temp.completed('null', NULL), 'done | null | - | 12:02', 'the JSON null is a result');
SELECT is(pg_temp.completed(NULL, 'too large'), 'done | - | too large | 12:02', 'a job that is done with a note has no result');
SELECT is(pg_temp.completed(NULL, NULL), 'gone | - | - | -', 'a job that is done with neither is gone');
SELECT id AS job FROM pgq_enqueue('k', max_retries => 9) \gset
SELECT pgq_fail(id, token, 'why', '0') FROM pgq_claim();
SELECT pgq_complete(id, token, '7') FROM pgq_claim();
SELECT is(pg_temp.seen(:job), 'done | 7 | why | 12:02', 'a job that is done keeps the error of an attempt before');

-- In a packed batch, and when it has left the batch before the others.
SELECT id AS first FROM pgq_enqueue_many((SELECT jsonb_agg(jsonb_build_object('kind', 'k', 'args', n)) FROM generate_series(1, 10) AS n)) WHERE n = 1 \gset
SELECT token, ids[2] AS second FROM pgq_claim_batch() \gset
SELECT is(count(*), 1::bigint, 'ten jobs run in a batch') FROM pgq_running_batch;
SELECT is(pg_temp.seen(:first), 'running | - | - | -', 'a job of a batch runs');
SELECT pgq_complete_many(ARRAY[:first], ARRAY[:token::bigint]);
SELECT is(pg_temp.seen(:first), 'gone | - | - | -', 'a job of a batch that is done is gone');
SELECT is(pg_temp.seen(:second), 'running | - | - | -', 'while the others run');

-- Merged, and rolled back.
SELECT id AS merged FROM pgq_enqueue('m') \gset
SELECT token FROM pgq_claim() \gset
SELECT pgq_enqueue('m');
SELECT is(outcome, 'merged', 'a job merges into its twin') FROM pgq_fail(:merged, :token, 'e');
SELECT is(pg_temp.seen(:merged), 'gone | - | - | -', 'and is gone');
SAVEPOINT s;
SELECT id AS undone FROM pgq_enqueue('undone') \gset
ROLLBACK TO s;
SELECT is(pg_temp.seen(:undone), 'gone | - | - | -', 'a job whose enqueue was rolled back is gone');

-- Which role sees which job.
SELECT format('CREATE ROLE tap_%s', role) FROM unnest('{a,b,both,all_admin,worker,reader}'::text[]) AS r (role) \gexec
SELECT pgq_grant('tap_a', 'producer', '{a}'), pgq_grant('tap_b', 'admin', '{b}'), pgq_grant('tap_both', 'producer', '{a}'), pgq_grant('tap_both', 'admin', '{b}'),
       pgq_grant('tap_all_admin', 'producer', '{a}'), pgq_grant('tap_all_admin', 'admin'), pgq_grant('tap_worker', 'worker'), pgq_grant('tap_reader', 'reader');
SELECT (pgq_enqueue('k', '1', queue)).id AS in_a FROM unnest('{a}'::text[]) AS queue \gset
SELECT (pgq_enqueue('k', '1', queue)).id AS in_b FROM unnest('{b}'::text[]) AS queue \gset
\ir result.sql
SELECT is(pg_temp.result('tap_' || role, format('SELECT state FROM pgq_result(%s)', CASE queue WHEN 'a' THEN :in_a ELSE :in_b END)), seen,
          format('%s sees %s of a job in %s', role, seen, queue))
FROM (VALUES ('a', 'a', 'waiting'), ('a', 'b', 'gone'), ('b', 'a', 'gone'), ('b', 'b', 'waiting'), ('both', 'a', 'waiting'), ('both', 'b', 'waiting'),
             ('all_admin', 'a', 'waiting'), ('all_admin', 'b', 'waiting'), ('worker', 'a', 'denied'), ('reader', 'a', 'denied')) AS t (role, queue, seen);
SELECT is(pg_temp.result('tap_a', 'SELECT state FROM pgq_result(9000000000)'), 'PGQ01', 'a number that no job has had is refused to each role');

-- To wait: locks that are counted, and released.
CREATE FUNCTION pg_temp.locks() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND classid = 'pgq_ended'::regclass AND mode = 'ShareLock'
$$;
SELECT throws_ok('SELECT pgq_await(NULL)', '22004', 'id is null', 'an id is needed');
SELECT throws_ok('SELECT pgq_await(7, NULL)', '22004', 'waiting is null', 'and whether the session waits');
SELECT is(pg_temp.locks(), 0::bigint, 'what is refused takes no lock');
SELECT is(pgq_await(7), 'pgq_' || 'pgq_ended'::regclass::oid || '_7', 'a job has a channel');
SELECT is(pg_temp.locks(), 2::bigint, 'a session that waits holds two locks');
SELECT is(pgq_await(8), 'pgq_' || 'pgq_ended'::regclass::oid || '_8', 'each job has another one');
SELECT is(pg_temp.locks(), 3::bigint, 'for two jobs it holds three');
SELECT is(pgq_await(7, false), 'pgq_' || 'pgq_ended'::regclass::oid || '_7', 'the end of the wait returns the channel, too');
SELECT is(pg_temp.locks(), 2::bigint, 'the lock of the job is released, the common one is not');
SELECT is(pgq_await(8, false) IS NULL, false, 'the last wait ends');
SELECT is(pg_temp.locks(), 0::bigint, 'no lock is left');
SET LOCAL client_min_messages = 'error';
SELECT lives_ok('SELECT pgq_await(7, false)', 'to end a wait that has not begun does nothing');
SELECT is(pg_temp.locks(), 0::bigint, 'and takes no lock');
SELECT ok(_pgq_tell_end(7, NULL) IS NOT TRUE AND _pgq_tell_ends('{7,8}', NULL) IS NOT TRUE, 'where no session waits, none is notified');

SELECT * FROM finish();
ROLLBACK;
