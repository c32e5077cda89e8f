-- Fencing: a worker that does not hold a job cannot change it.
BEGIN;
SELECT plan(69);
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
FROM (VALUES ('pgq_hold', ''), ('pgq_complete', ''), ('pgq_complete', ', ''1'''), ('pgq_complete', ', note => ''n'''), ('pgq_fail', ''), ('pgq_cancel_claimed', ''), ('pgq_extend', ''),
             ('pgq_snooze', ', pgq_now()'), ('pgq_release', '')) AS verb (verb, more)
CROSS JOIN (VALUES (:id::bigint, :lost::bigint, 'the token of an earlier claim'), (:id, 0, 'a token that does not exist'),
                   (:id + 1, :token, 'the id of another job'), (:id, NULL, 'NULL')) AS given (id, token, what);
SELECT is_empty(
    format('SELECT * FROM pgq_complete_many(ARRAY[%1$s, %1$s, %1$s + 1, %1$s, NULL], ARRAY[%2$s, 0, %3$s, NULL, %3$s])', :id, :lost, :token),
    'pgq_complete_many returns none of these ids');
SELECT is_empty(
    format('SELECT * FROM pgq_hold_many(ARRAY[%1$s, %1$s, %1$s + 1, %1$s, NULL], ARRAY[%2$s, 0, %3$s, NULL, %3$s])', :id, :lost, :token),
    'pgq_hold_many returns none of these ids');
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

SELECT pgq_enqueue('noted', backoff => '0');
SELECT pgq_fail(c.id, c.token, 'failed before') FROM pgq_claim() AS c;
SELECT pgq_complete(c.id, c.token, note => repeat('x', 4001)) FROM pgq_claim(worker => 'w') AS c;
SELECT results_eq($$ SELECT state, result, worker, attempt, jsonb_array_length(errors), ended_at FROM pgq_jobs $$,
                  $$ VALUES ('done', NULL::jsonb, 'w', 2, 2, pgq_now()) $$, 'pgq_complete with a note keeps the job as done, without a result');
SELECT is(errors -> 0, jsonb_build_object('attempt', 2, 'at', pgq_now(), 'worker', 'w', 'error', repeat('x', 4000)),
          'the note is the newest of the errors, with its attempt, time and worker, and cut to 4000 characters') FROM pgq_jobs;
SELECT is(errors -> 1 ->> 'error', 'failed before', 'the errors of earlier attempts stay') FROM pgq_jobs;
SELECT pgq_purge('0');
SELECT pgq_enqueue('noted');
SELECT pgq_complete(c.id, c.token, '7', 'a remark') FROM pgq_claim() AS c;
SELECT results_eq($$ SELECT result, errors -> 0 ->> 'error' FROM pgq_jobs $$, $$ VALUES ('7'::jsonb, 'a remark') $$,
                  'a note does not replace the result');
SELECT pgq_purge('0');


-- A job without errors, which pgq_complete deletes at once.
SELECT pgq_enqueue('brief');
SELECT c.id AS id, c.token AS lost FROM pgq_claim() AS c \gset
SELECT pgq_release(:id, :lost);
SELECT c.token AS token FROM pgq_claim() AS c \gset
SELECT throws_ok(format('SELECT pgq_complete(%s, %s)', :id, :lost), 'PGQ02', NULL,
                 'a job without errors is not completed with the token of an earlier claim');
SELECT pgq_complete(:id, :token, note => 'a remark');
SELECT results_eq($$ SELECT state, errors -> 0 ->> 'error' FROM pgq_jobs $$, $$ VALUES ('done', 'a remark') $$,
                  'a job without errors is kept with its note');
SELECT pgq_purge('0');

SELECT pgq_enqueue('within');
SELECT c.id AS id, c.token AS token FROM pgq_claim() AS c \gset
SELECT throws_ok(format('SELECT pgq_complete(%s, %s, transaction => %L)', :id, :token, '1'), '25000', 'transaction 1 has ended',
                 'a job is not completed in another transaction than the one that is given');
SELECT throws_ok(format('SELECT pgq_complete(%s, %s, transaction => %L)', :id, :token, ''), '25000', 'transaction  has ended',
                 'nor in one that does not exist');
SELECT pgq_complete(:id, :token, transaction => pg_current_xact_id()::text);
SELECT is_empty('SELECT FROM pgq_jobs', 'a job is completed in the transaction that is given');

SELECT pgq_enqueue('many', to_jsonb(n)) FROM generate_series(1, 4) AS n;
SELECT array_agg(c.id ORDER BY c.id) AS ids, array_agg(c.token ORDER BY c.id) AS tokens FROM pgq_claim(max_jobs => 4) AS c \gset
SELECT set_eq(
    format('SELECT pgq_hold_many(%L, %L)', (:'ids'::bigint[])[2:4], (:'tokens'::bigint[])[2:3] || 0::bigint),
    (:'ids'::bigint[])[2:3], 'pgq_hold_many returns the ids of the jobs that it has locked');
SELECT is_empty($$ SELECT pgq_hold_many('{}', '{}') $$, 'pgq_hold_many of empty arrays returns no id');
SELECT set_eq(
    format('SELECT pgq_complete_many(%L, %L)', (:'ids'::bigint[])[2:4], (:'tokens'::bigint[])[2:3] || 0::bigint),
    (:'ids'::bigint[])[2:3], 'pgq_complete_many returns the ids of the jobs that it has ended');
SELECT set_eq('SELECT id FROM pgq_jobs', ARRAY[(:'ids'::bigint[])[1], (:'ids'::bigint[])[4]], 'pgq_complete_many leaves the other jobs as they are');
SELECT is(
    ARRAY(SELECT pgq_complete_many(ARRAY[(:'ids'::bigint[])[1], (:'ids'::bigint[])[1]], ARRAY[(:'tokens'::bigint[])[1], (:'tokens'::bigint[])[1]])),
    ARRAY[(:'ids'::bigint[])[1]], 'a job that is named twice is ended once, and its id returned once');
SELECT is_empty($$ SELECT pgq_complete_many('{}', '{}') $$, 'pgq_complete_many of empty arrays returns no id');

-- Tokens are numbers of microseconds, but no two are equal: whatever the clock does, and after a crash.
SELECT ok(:token < 2::numeric ^ 53, 'a JSON parser reads a token exactly');
SELECT count(*) FROM pgq_enqueue_many('[{"kind": "x"}, {"kind": "y"}]');
SELECT is(ARRAY[count(*), count(DISTINCT token)], '{2,1}', 'jobs that are claimed together share a token') FROM pgq_claim(max_jobs => 2);
DELETE FROM pgq_running;
CREATE FUNCTION pg_temp.tokens(at timestamptz, n integer) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    v_job record;
BEGIN
    PERFORM set_config('pgq.now', at::text, true);
    FOR i IN 1..n LOOP
        SELECT c.id, c.token INTO v_job FROM pgq_claim('{tokens}') AS c;
        PERFORM pgq_release(v_job.id, v_job.token);
        RETURN NEXT v_job.token;
    END LOOP;
END
$$;
SELECT pgq_enqueue('k', queue => 'tokens');
CREATE TEMP TABLE drawn (n integer GENERATED ALWAYS AS IDENTITY, token bigint);
INSERT INTO drawn (token) SELECT pg_temp.tokens('2031-01-01 12:00Z', 2);
SELECT cmp_ok(max(token), '>=', _pgq_microseconds('2031-01-01 12:00Z'), 'a token is not behind the clock') FROM drawn;
INSERT INTO drawn (token) SELECT pg_temp.tokens('2031-01-01 12:00Z', 2000);
INSERT INTO drawn (token) SELECT pg_temp.tokens('2031-01-01 11:59:59.999999Z', 3);
INSERT INTO drawn (token) SELECT pg_temp.tokens('2031-01-01 11:55Z', 3);
INSERT INTO drawn (token) SELECT pg_temp.tokens('2031-01-01 12:10Z', 3);
SELECT is_empty(
    'SELECT FROM (SELECT token, lag(token) OVER (ORDER BY n) AS before FROM drawn) AS d WHERE token <= before',
    'each claim has a greater token than the one before, at the same time and after the clock was set back');
-- A crash sets the sequence back and empties unlogged tables, and all sessions are new. It undoes claims of a minute at most.
SELECT _pgq_microseconds('2031-01-01 12:10Z') AS crash \gset
SELECT setval('pgq_token', :crash);
DELETE FROM pgq_head;
SELECT set_config(_pgq_head_setting(''), '', true);
SELECT is_empty(
    format($$ SELECT FROM pg_temp.tokens('2031-01-01 12:10Z', 10) AS token WHERE token < %s + 50000000 $$, :crash),
    'a crash does not repeat tokens, even where the clock has stood still');
SELECT setval('pgq_token', :crash);
DELETE FROM pgq_head;
SELECT set_config(_pgq_head_setting(''), '', true);
SELECT is_empty(
    format($$ SELECT FROM pg_temp.tokens('2031-01-01 11:30Z', 10) AS token WHERE token < %s + 50000000 $$, :crash),
    'nor does a crash after which the clock is behind');
SELECT setval('pgq_token', 9007000000000000);
SELECT ok(pg_temp.tokens('2290-01-01 12:00Z', 1) < 2::numeric ^ 53, 'a clock that is far ahead does not use up the tokens');
-- No rollback undoes this.
SELECT setval('pgq_token', 1);

SELECT * FROM finish();
ROLLBACK;
