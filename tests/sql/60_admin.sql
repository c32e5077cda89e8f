-- The operator's calls: cancel, retry and purge.
BEGIN;
SELECT plan(38);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

-- A job in each state, with the name of the state as its kind.
SELECT pgq_enqueue(kind, queue => kind, max_retries => 0) FROM (VALUES ('waiting'), ('running'), ('dead'), ('cancelled'), ('done')) AS t (kind);
SELECT c.token AS token FROM pgq_claim('{running}') AS c \gset
SELECT pgq_fail(c.id, c.token, 'no') FROM pgq_claim('{dead}') AS c;
SELECT pgq_complete(c.id, c.token, '1') FROM pgq_claim('{done}') AS c;
CREATE TEMP TABLE job AS SELECT kind, id FROM pgq_jobs;
CREATE FUNCTION pg_temp.job(kind text) RETURNS bigint LANGUAGE sql AS $$ SELECT id FROM job WHERE job.kind = $1 $$;
SELECT pgq_cancel(pg_temp.job('cancelled'));
SELECT results_eq('SELECT kind, state FROM pgq_jobs ORDER BY kind', 'SELECT kind, kind FROM job ORDER BY kind',
                  'a waiting job that is cancelled is kept as cancelled');

SELECT throws_ok(format('SELECT pgq_cancel(%s)', pg_temp.job(kind)), 'PGQ03', format('job %s is %s and cannot be cancelled', pg_temp.job(kind), kind),
                 format('a %s job cannot be cancelled', kind)) FROM (VALUES ('dead'), ('cancelled'), ('done')) AS t (kind);
SELECT throws_ok(format('SELECT pgq_retry(%s)', pg_temp.job(kind)), 'PGQ03', format('job %s is %s and cannot be retried', pg_temp.job(kind), kind),
                 format('a %s job cannot be retried', kind)) FROM (VALUES ('waiting'), ('running'), ('done')) AS t (kind);
SELECT throws_ok(format('SELECT %s(%s)', verb, id), 'PGQ01', format('there is no job %s', id), format('%s(%s) finds no job', verb, id))
FROM (VALUES ('pgq_cancel'), ('pgq_retry')) AS v (verb) CROSS JOIN (VALUES ('0'), ('-1'), ('9223372036854775807'), ('null')) AS i (id);
SELECT results_eq('SELECT kind, state FROM pgq_jobs ORDER BY kind', 'SELECT kind, kind FROM job ORDER BY kind', 'the refused calls have changed no job');

SELECT is(pgq_cancel(pg_temp.job('running')), 'requested', 'a running job is asked for');
SELECT pgq_cancel_claimed(pg_temp.job('running'), :token);
SELECT results_eq($$ SELECT state, attempt, ended_at FROM pgq_jobs WHERE kind = 'running' $$, $$ VALUES ('cancelled', 1, pgq_now()) $$,
                  'its worker cancels it');
SELECT throws_ok(format('SELECT pgq_complete(%s, %s)', pg_temp.job('running'), :token), 'PGQ02', NULL, 'the worker of a cancelled job has lost its lease');
SELECT is(pgq_retry(pg_temp.job(kind)), 'retry', format('a job that is %s can be retried', what))
FROM (VALUES ('running', 'cancelled while it ran'), ('cancelled', 'cancelled'), ('dead', 'dead')) AS t (kind, what);
SELECT results_eq($$ SELECT state, attempt, ripe_at, jsonb_array_length(errors) FROM pgq_jobs WHERE kind = 'dead' $$,
                  $$ VALUES ('waiting', 0, pgq_now(), 1) $$, 'a job that is retried is ripe now, counts its attempts from the start, and keeps its errors');

-- Purging jobs that ended 1 to 6 days ago.
DELETE FROM pgq_ended;
SELECT set_config('pgq.now', (timestamptz '2030-02-07 00:00Z' - n * interval '1 day')::text, true),
       pgq_cancel((SELECT e.id FROM pgq_enqueue('old', to_jsonb(n), CASE n % 2 WHEN 0 THEN 'even' ELSE 'odd' END) AS e))
FROM generate_series(1, 6) AS n;
UPDATE pgq_ended SET outcome = 'dead' WHERE args IN ('5', '6');
SET LOCAL pgq.now = '2030-02-07 00:00Z';
SELECT pgq_enqueue('month', queue => 'month');
SELECT set_config('pgq.now', '2030-01-08 00:00Z', true), pgq_cancel(id) FROM pgq_jobs WHERE kind = 'month';
SET LOCAL pgq.now = '2030-02-06 23:59:59Z';
SELECT is(pgq_purge(queue => 'month'), 0::bigint, 'pgq_purge keeps a job for thirty days by default');
SET LOCAL pgq.now = '2030-02-07 00:00Z';
SELECT is(pgq_purge(queue => 'month'), 1::bigint, 'pgq_purge deletes a job after thirty days');
SELECT pgq_cancel((SELECT e.id FROM pgq_enqueue('other') AS e));
CREATE FUNCTION pg_temp.kept() RETURNS text LANGUAGE sql AS $$ SELECT string_agg(args::text, '' ORDER BY args) FROM pgq_ended WHERE kind = 'old' $$;
CREATE FUNCTION pg_temp.purge(call text, OUT n bigint, OUT kept text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE call INTO n;
    kept := pg_temp.kept();
END
$$;
SELECT is(p::text, (t.n, t.kept)::text, format('%s leaves %s', call, coalesce(t.kept, 'none')))
FROM (VALUES
    ('SELECT pgq_purge()', 0, '123456'),
    ('SELECT pgq_purge(''3 days'', ''cancelled'', ''odd'')', 1, '12456'),
    ('SELECT pgq_purge(''4 days'', max_jobs => 1)', 1, '1245'),
    ('SELECT pgq_purge(''4 days'', ''dead'')', 1, '124'),
    ('SELECT pgq_purge(''0'', max_jobs => 0)', 0, '124'),
    ('SELECT pgq_purge(''0'', kind => ''other'')', 1, '124'),
    ('SELECT pgq_purge(''0'', kind => ''no such kind'')', 0, '124'),
    ('SELECT pgq_purge(''0'')', 3, NULL)
) AS t (call, n, kept) CROSS JOIN LATERAL pg_temp.purge(call) AS p;

-- Purging by number.
SELECT pgq_enqueue('kept', queue => 'kept') FROM generate_series(1, 2);
SELECT e.id AS dead FROM pgq_enqueue('p', queue => 'p', max_retries => 0) AS e \gset
SELECT pgq_fail(c.id, c.token, 'why') FROM pgq_claim('{p}') AS c;
SELECT e.id AS waiting FROM pgq_enqueue('p', queue => 'p') AS e \gset
SELECT e.id AS blocked FROM pgq_enqueue('b', queue => 'p', after => ARRAY[:dead], after_failed => 'wait') AS e \gset
SELECT is(pgq_purge_jobs(ARRAY[:dead, :dead, :waiting, 0, NULL]::bigint[]), 1::bigint, 'pgq_purge_jobs deletes those of the jobs that have ended');
SELECT is_empty(format('SELECT FROM pgq_error WHERE id = %s', :dead), 'with their errors');
SELECT results_eq(format('SELECT state FROM pgq_jobs WHERE id IN (%s, %s) ORDER BY 1', :waiting, :blocked), $$ VALUES ('cancelled'), ('waiting') $$,
                  'a job that waits for one that nothing can retry any more is cancelled');
SELECT is(pgq_purge_jobs('{}'), 0::bigint, 'without numbers it deletes nothing');
SELECT throws_ok('SELECT pgq_purge_jobs(NULL)', '22004', 'ids is null', 'it takes an array');

SELECT * FROM finish();
ROLLBACK;
