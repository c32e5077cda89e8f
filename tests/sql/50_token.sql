-- Fencing: a worker that does not hold a job cannot change it.
BEGIN;
SELECT plan(46);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT pgq_enqueue('fenced', '{"x": 1}');
SELECT c.id AS id, c.token AS lost FROM pgq_claim(worker => 'first') AS c \gset
-- The lease ends and the job is claimed again.
SET LOCAL pgq.now = '2030-01-01 12:06Z';
SELECT c.token AS token FROM pgq_claim(worker => 'second') AS c \gset
SELECT isnt(:token::bigint, :lost::bigint, 'the second claim has another token');

CREATE TEMP TABLE before AS SELECT * FROM pgq_running;
SELECT throws_ok(
    format('SELECT %s(%s, %s%s)', verb, coalesce(id::text, 'NULL'), coalesce(token::text, 'NULL'), more), 'PGQ02', NULL,
    format('%s with %s is refused', verb, what))
FROM (VALUES ('pgq_hold', ''), ('pgq_complete', ''), ('pgq_complete', ', ''1'''), ('pgq_fail', ''), ('pgq_cancel_claimed', ''), ('pgq_extend', ''),
             ('pgq_snooze', ', pgq_now()'), ('pgq_release', '')) AS verb (verb, more)
CROSS JOIN (VALUES (:id::bigint, :lost::bigint, 'the token of an earlier claim'), (:id, 0, 'a token that does not exist'),
                   (:id + 1, :token, 'the id of another job'), (:id, NULL, 'NULL')) AS given (id, token, what);
SELECT is_empty(
    format('SELECT * FROM pgq_complete_many(ARRAY[%1$s, %1$s, %1$s + 1, %1$s, NULL], ARRAY[%2$s, 0, %3$s, NULL, %3$s])', :id, :lost, :token),
    'pgq_complete_many returns none of these ids');
SELECT results_eq('SELECT * FROM pgq_running', 'SELECT * FROM before', 'the refused calls have not changed the running job');
SELECT is_empty('SELECT FROM pgq_waiting UNION ALL SELECT FROM pgq_ended', 'the refused calls have not moved the job to another table');

SELECT throws_ok(format('SELECT pgq_hold(%s, %s)', :id, :lost), 'PGQ02', format('job %s is not held under token %s', :id, :lost),
                 'the error has the id and the token');
SELECT lives_ok(format('SELECT pgq_hold(%s, %s)', :id, :token), 'pgq_hold succeeds with the token of the last claim');
SELECT pgq_complete(:id, :token);
SELECT is_empty('SELECT FROM pgq_jobs', 'pgq_complete without a result deletes the job');
SELECT throws_ok(format('SELECT pgq_complete(%s, %s)', :id, :token), 'PGQ02', NULL, 'a job cannot be completed twice');

SELECT pgq_enqueue('kept');
SELECT c.id AS id, c.token AS token FROM pgq_claim(worker => 'w') AS c \gset
SELECT pgq_complete(:id, :token, '{"sum": 7}');
SELECT results_eq('SELECT id, state, result, worker, ended_at FROM pgq_jobs',
                  format($$ VALUES (%s::bigint, 'done', '{"sum": 7}'::jsonb, 'w', pgq_now()) $$, :id),
                  'pgq_complete with a result keeps the job as done');
SELECT pgq_purge('0');
SELECT pgq_enqueue('kept');
SELECT pgq_complete(c.id, c.token, 'null') FROM pgq_claim() AS c;
SELECT is(result, 'null', 'the JSON null is a result, too') FROM pgq_jobs WHERE state = 'done';
SELECT pgq_purge('0');

SELECT pgq_enqueue('many', to_jsonb(n)) FROM generate_series(1, 4) AS n;
SELECT array_agg(c.id ORDER BY c.id) AS ids, array_agg(c.token ORDER BY c.id) AS tokens FROM pgq_claim(max_jobs => 4) AS c \gset
SELECT set_eq(
    format('SELECT pgq_complete_many(%L, %L)', (:'ids'::bigint[])[2:4], (:'tokens'::bigint[])[2:3] || 0::bigint),
    (:'ids'::bigint[])[2:3], 'pgq_complete_many returns the ids of the jobs that it has ended');
SELECT set_eq('SELECT id FROM pgq_jobs', ARRAY[(:'ids'::bigint[])[1], (:'ids'::bigint[])[4]], 'pgq_complete_many leaves the other jobs as they are');
SELECT is(
    ARRAY(SELECT pgq_complete_many(ARRAY[(:'ids'::bigint[])[1], (:'ids'::bigint[])[1]], ARRAY[(:'tokens'::bigint[])[1], (:'tokens'::bigint[])[1]])),
    ARRAY[(:'ids'::bigint[])[1]], 'a job that is named twice is ended once, and its id returned once');
SELECT is_empty($$ SELECT pgq_complete_many('{}', '{}') $$, 'pgq_complete_many of empty arrays returns no id');

SELECT * FROM finish();
ROLLBACK;
