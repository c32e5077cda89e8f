-- Leases: they end, are extended, and are given back.
BEGIN;
SELECT plan(36);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT pgq_enqueue('crash', max_retries => 3, backoff => '10 min', backoff_cap => '15 min');
CREATE FUNCTION pg_temp.loses(at timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('pgq.now', at::text, true);
    RETURN (SELECT c.attempt FROM pgq_claim(lease => '1 minute', worker => 'w') AS c);
END
$$;
-- Claim the job, and never end the attempt.
SELECT is(pg_temp.loses(at), attempt, what)
FROM (VALUES
    (timestamptz '2030-01-01 12:00Z', 1, 'the first claim gets the job'),
    ('2030-01-01 12:01:00Z', NULL, 'a second claim does not get the job while the lease lasts'),
    ('2030-01-01 12:01:01Z', 2, 'a job is ripe at once after its first lease has ended'),
    ('2030-01-01 12:02:02Z', NULL, 'a job is delayed after its second lease has ended'),
    ('2030-01-01 12:12:01Z', NULL, 'the delay is the backoff after one attempt'),
    ('2030-01-01 12:12:02Z', 3, 'the job is ripe when this delay is over'),
    ('2030-01-01 12:13:03Z', NULL, 'a job is delayed longer after its third lease has ended'),
    ('2030-01-01 12:28:02Z', NULL, 'this delay is limited by backoff_cap'),
    ('2030-01-01 12:28:03Z', 4, 'the job gets its last attempt when this delay is over'),
    ('2030-01-01 12:29:04Z', NULL, 'a job that has used up its retries is not claimed again')
) AS t (at, attempt, what);
SELECT results_eq('SELECT state, attempt, worker FROM pgq_jobs', $$ VALUES ('dead', 4, 'w') $$,
                  'a job is dead after max_retries + 1 leases have ended');
SELECT results_eq(
    $$ SELECT e ->> 'error', (e ->> 'attempt')::integer, e ->> 'worker' FROM pgq_jobs, jsonb_array_elements(errors) AS e $$,
    $$ VALUES ('the lease ran out', 4, 'w'), ('the lease ran out', 3, 'w'), ('the lease ran out', 2, 'w'), ('the lease ran out', 1, 'w') $$,
    'each lease that ended is recorded as an error');
SELECT pgq_purge('0');

-- Any claim rescues jobs of all queues, at most 50.
SELECT pgq_enqueue('bulk', to_jsonb(n), 'bulk') FROM generate_series(1, 120) AS n;
SELECT count(*) FROM pgq_claim('{bulk}', 120, '1 minute');
SELECT pgq_enqueue('alive', queue => 'alive');
SELECT count(*) FROM pgq_claim('{alive}', 1, '1 hour');
SET LOCAL pgq.now = '2030-01-01 13:00Z';
CREATE FUNCTION pg_temp.left_after_claim() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgq_claim('{elsewhere}');
    RETURN (SELECT count(*) FROM pgq_running WHERE queue = 'bulk');
END
$$;
SELECT is(pg_temp.left_after_claim(), expected, format('after claim %s there are %s jobs left to rescue', n, expected))
FROM (VALUES (1, 70::bigint), (2, 20), (3, 0)) AS t (n, expected);
SELECT is(count(*), 120::bigint, 'every job waits again, and the attempt does not count') FROM pgq_waiting WHERE queue = 'bulk' AND attempt = 0;
SELECT is(state, 'running', 'a job whose lease has not ended still runs') FROM pgq_jobs WHERE queue = 'alive';

-- One job more than a claim rescues; the lease that ended first is that of the highest id.
SELECT pgq_enqueue('aged', to_jsonb(n), 'aged') FROM generate_series(1, 51) AS n;
SELECT c.id, c.token FROM pgq_claim('{aged}', 51, '1 hour') AS c;
UPDATE pgq_running SET lease_until = pgq_now() + (60 - (args)::integer) * interval '1 minute' WHERE queue = 'aged';
SELECT set_config('pgq.now', (pgq_now() + interval '1 hour')::text, true), pgq_extend(id, (SELECT token FROM pgq_running AS r WHERE r.id = j.id), '3 hours')
FROM pgq_jobs AS j WHERE queue = 'alive';
SELECT count(*) FROM pgq_claim('{elsewhere}');
SELECT results_eq($$ SELECT args FROM pgq_running WHERE queue = 'aged' $$, $$ VALUES ('1'::jsonb) $$, 'the jobs whose leases ended first are rescued first');
DELETE FROM pgq_running WHERE queue = 'aged';
SET LOCAL pgq.now = '2030-01-01 13:00Z';

-- Extend, snooze, release.
SELECT pgq_enqueue('long', queue => 'long', priority => 2);
SELECT * FROM pgq_claim('{long}', lease => '10 minutes') AS c \gset c_
SELECT is(pgq_extend(:c_id, :c_token, '20 minutes'), pgq_now() + '20 minutes', 'a lease can be extended');
SELECT is(pgq_extend(:c_id, :c_token, '5 minutes'), pgq_now() + '20 minutes', 'pgq_extend never shortens a lease');
SELECT is(lease_until, pgq_now() + '20 minutes', 'pgq_jobs shows the end of the extended lease') FROM pgq_jobs WHERE id = :c_id;
SET LOCAL pgq.now = '2030-01-01 13:16Z';
SELECT is(pgq_extend(:c_id, :c_token), timestamptz '2030-01-01 13:21Z', 'pgq_extend extends a lease to five minutes from now by default');
SET LOCAL pgq.now = '2030-01-01 13:15Z';
SELECT is_empty($$ SELECT FROM pgq_claim('{long}') $$, 'a job with an extended lease is not claimed again');
SELECT is(pgq_snooze(:c_id, :c_token, '2030-01-01 14:00Z'), 'snoozed', 'a job can be snoozed until a time');
SELECT results_eq(format('SELECT state, attempt, ripe_at, errors FROM pgq_jobs WHERE id = %s', :c_id),
                  $$ VALUES ('waiting', 0, timestamptz '2030-01-01 14:00Z', '[]'::jsonb) $$, 'a snoozed job waits until that time, without the attempt');
SET LOCAL pgq.now = '2030-01-01 13:59:59Z';
SELECT is_empty($$ SELECT FROM pgq_claim('{long}') $$, 'a snoozed job is not ripe before its time');
SET LOCAL pgq.now = '2030-01-01 14:00Z';
SELECT * FROM pgq_claim('{long}') AS c \gset c_
SELECT is(:c_attempt, 1, 'a snoozed job is ripe at its time, for its first attempt');
SET LOCAL pgq.now = '2030-01-01 14:03Z';
SELECT is(pgq_snooze(:c_id, :c_token, delay => '2 minutes'), 'snoozed', 'a job can be snoozed for a delay');
SELECT is(ripe_at, timestamptz '2030-01-01 14:05Z', 'the delay of a snooze begins now') FROM pgq_jobs WHERE id = :c_id;
UPDATE pgq_waiting SET ripe_at = '2030-01-01 14:00Z' WHERE id = :c_id;
SELECT * FROM pgq_claim('{long}') AS c \gset c_
SELECT is(pgq_release(:c_id, :c_token), 'released', 'a job can be released');
SELECT results_eq(format('SELECT attempt, ripe_at, priority FROM pgq_jobs WHERE id = %s', :c_id),
                  $$ VALUES (0, timestamptz '2030-01-01 14:00Z', 2) $$, 'a released job has its old ripe_at and priority, without the attempt');
SELECT is(attempt, 1, 'a released job is ripe at once') FROM pgq_claim('{long}');

-- The session has looked for expired leases by a clock that is then set back.
SELECT pgq_enqueue('back', queue => 'back', ripe_at => '2029-12-31 12:00Z');
SET LOCAL pgq.now = '2030-01-02 12:10Z';
SELECT count(*) FROM pgq_claim('{elsewhere}');
SET LOCAL pgq.now = '2030-01-02 12:01Z';
SELECT count(*) FROM pgq_claim('{back}', lease => '1 minute');
SET LOCAL pgq.now = '2030-01-02 12:03Z';
SELECT is((SELECT c.attempt FROM pgq_claim('{back}') AS c), 2, 'leases are settled after the clock was set back by some minutes');

-- A look takes fifty back, and the next one comes soon.
SELECT count(pgq_enqueue('k', to_jsonb(n), 'many')) FROM generate_series(1, 60) AS n;
SELECT count(*) FROM pgq_claim('{many}', 60, lease => '1 minute');
SET LOCAL pgq.now = '2030-01-02 12:30Z';
SELECT is(pgq_ripe_in('{other}'), interval '10 ms', 'where more jobs are to be rescued, a worker of another queue soon looks again');
SELECT is(count(*), 10::bigint, 'of more than fifty') FROM pgq_running WHERE queue = 'many';
SELECT is(pgq_ripe_in('{other}'), NULL, 'and then as ever');

SELECT * FROM finish();
ROLLBACK;
