-- Failing: a failed job is retried after its backoff, and is dead when its retries are used up.
BEGIN;
SELECT plan(51);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

SELECT is(pgq_backoff(attempt), expected, format('the delay after attempt %s is %s by default', attempt, expected))
FROM (VALUES (1, interval '1 minute'), (2, '2 minutes'), (3, '4 minutes'), (6, '32 minutes'), (7, '1 hour'), (100, '1 hour'),
             (2147483647, '1 hour'), (0, '1 minute'), (-2147483648, '1 minute')) AS t (attempt, expected);
SELECT is(pgq_backoff(attempt, base, cap), expected, format('the delay after attempt %s with backoff %s and cap %s is %s', attempt, base, cap, expected))
FROM (VALUES (3, interval '15 s', interval '1 day', interval '1 minute'), (9, '15 s', '1 hour', '1 hour'), (5, '0', '1 hour', '0'),
             (2, '1 hour', '10 min', '10 min'), (4, '1 s', '0', '0'), (2147483647, '100 years', '100 years', '876600 hours'),
             (3, '-1 s', '1 hour', '0'), (2147483647, '1 us', '100 years', '876600 hours'), (NULL, '7 s', '1 hour', '7 s'),
             (3, NULL, '5 min', '5 min'), (3, '1 min', NULL, '4 min'),
             (100, '1 min', NULL, '876600 hours'), (1, '100000000 years', '100000000 years', '876600 hours')) AS t (attempt, base, cap, expected);

-- Claim and fail the only job of a queue at the time when it is ripe.
CREATE FUNCTION pg_temp.attempt(queue text, retry_in interval DEFAULT NULL, OUT attempt integer, OUT outcome text, OUT delay interval)
    LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    PERFORM set_config('pgq.now', (SELECT j.ripe_at::text FROM pgq_jobs AS j WHERE j.queue = $1), true);
    SELECT * INTO STRICT c FROM pgq_claim(ARRAY[queue], worker => 'w' || queue);
    SELECT c.attempt, f.outcome, f.ripe_at - pgq_now() INTO $3, $4, $5
    FROM pgq_fail(c.id, c.token, format('error %s', c.attempt), retry_in) AS f;
END
$$;

SELECT pgq_enqueue('default', queue => 'default');
SELECT results_eq(
    'SELECT a.* FROM generate_series(1, 11) AS n CROSS JOIN LATERAL pg_temp.attempt(left(''default'', 7 + n)) AS a',
    $$ VALUES (1, 'retry', interval '1 min'), (2, 'retry', '2 min'), (3, 'retry', '4 min'), (4, 'retry', '8 min'),
              (5, 'retry', '16 min'), (6, 'retry', '32 min'), (7, 'retry', '1 hour'), (8, 'retry', '1 hour'),
              (9, 'retry', '1 hour'), (10, 'retry', '1 hour'), (11, 'dead', NULL) $$,
    'by default a job has ten retries, a minute to an hour apart');

SELECT results_eq(
    $$ SELECT state, attempt, worker, ended_at = pgq_now() FROM pgq_jobs WHERE kind = 'default' $$,
    $$ VALUES ('dead', 11, 'wdefault', true) $$, 'a job that has used up its retries is kept as dead');
SELECT results_eq(
    $$ SELECT e ->> 'error', (e ->> 'attempt')::integer, e ->> 'worker'
       FROM pgq_jobs, jsonb_array_elements(errors) WITH ORDINALITY AS x (e, n) WHERE kind = 'default' ORDER BY n $$,
    $$ SELECT format('error %s', n), n, 'wdefault' FROM generate_series(11, 2, -1) AS n $$,
    'the newest ten errors are kept, the newest first');
SELECT is((errors -> 0 ->> 'at')::timestamptz, pgq_now(), 'an error has the time of the failure') FROM pgq_jobs WHERE kind = 'default';

SELECT pgq_enqueue('custom', queue => 'custom', max_retries => 2, backoff => '15 s', backoff_cap => '20 s');
SELECT results_eq(
    'SELECT a.* FROM generate_series(1, 3) AS n CROSS JOIN LATERAL pg_temp.attempt(left(''custom'', 6 + n)) AS a',
    $$ VALUES (1, 'retry', interval '15 s'), (2, 'retry', '20 s'), (3, 'dead', NULL) $$, 'a job can have its own max_retries, backoff and backoff_cap');

SELECT pgq_enqueue('zero', queue => 'zero', max_retries => 0);
SELECT results_eq($$ SELECT * FROM pg_temp.attempt('zero') $$, $$ VALUES (1, 'dead', NULL::interval) $$,
                  'a job with max_retries 0 has one attempt');

SELECT pgq_enqueue('told', queue => 'told');
SELECT results_eq($$ SELECT * FROM pg_temp.attempt('told', '5 days') $$, $$ VALUES (1, 'retry', interval '5 days') $$,
                  'retry_in decides when a failed job is retried');
SELECT results_eq($$ SELECT * FROM pg_temp.attempt('told', '0') $$, $$ VALUES (2, 'retry', interval '0') $$, 'retry_in 0 makes the job ripe at once');

-- One failure, then success.
SELECT pgq_enqueue('once', queue => 'once');
SELECT is(outcome, 'retry', 'a job that fails once is retried') FROM pg_temp.attempt('once');
SELECT is_empty($$ SELECT * FROM pgq_claim('{once}') $$, 'a failed job is not ripe before its backoff is over');
SELECT set_config('pgq.now', (SELECT ripe_at::text FROM pgq_jobs WHERE kind = 'once'), true);
SELECT * FROM pgq_claim('{once}') AS c \gset c_
SELECT is(:c_attempt, 2, 'the next claim counts the second attempt');
SELECT pgq_complete(:c_id, :c_token);
SELECT is_empty($$ SELECT FROM pgq_jobs WHERE kind = 'once' $$, 'a job that is completed at last is deleted');

-- Errors.
SELECT pgq_enqueue('wordy', queue => 'wordy');
SELECT * FROM pgq_claim('{wordy}') AS c \gset c_
SELECT pgq_fail(:c_id, :c_token, repeat('x', 5000));
SELECT is(length(errors -> 0 ->> 'error'), 4000, 'the first 4000 characters of an error are kept') FROM pgq_jobs WHERE kind = 'wordy';
SELECT pgq_enqueue('silent', queue => 'silent');
SELECT * FROM pgq_claim('{silent}') AS c \gset c_
SELECT pgq_fail(:c_id, :c_token);
SELECT is(errors, jsonb_build_array(jsonb_build_object('attempt', 1, 'at', pgq_now(), 'error', NULL, 'worker', NULL)),
          'a failure without an error is recorded without text') FROM pgq_jobs WHERE kind = 'silent';

-- Jitter: 300 failures of the same kind, with jitter on, off, and set to garbage.
CREATE FUNCTION pg_temp.delays(setting text) RETURNS SETOF double precision LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('pgq.jitter', setting, true);
    PERFORM pgq_enqueue('jittery', to_jsonb(n), left(md5(setting), 8), backoff => '100 s') FROM generate_series(1, 300) AS n;
    RETURN QUERY
    SELECT extract(epoch FROM f.ripe_at - pgq_now())::double precision
    FROM pgq_claim(ARRAY[left(md5(setting), 8)], 300) AS c CROSS JOIN LATERAL pgq_fail(c.id, c.token) AS f;
END
$$;
SELECT ok(min(r) >= 90 AND max(r) <= 110 AND min(r) < 95 AND max(r) > 105,
          format('with pgq.jitter %s the delays vary by 10 %% to either side', left(quote_literal(setting), 20)))
FROM (VALUES (''), ('1'), ('garbage'), ('-0'), (repeat('9', 1000))) AS s (setting), pg_temp.delays(setting) AS r
GROUP BY setting;
SELECT ok(min(r) = 100 AND max(r) = 100, 'with pgq.jitter 0 each delay is the backoff') FROM pg_temp.delays('0') AS r;

SELECT set_config('pgq.jitter', '', true), pgq_enqueue('exact', queue => 'exact');
SELECT is(f.ripe_at - pgq_now(), interval '1 day', 'retry_in has no jitter')
FROM pgq_claim('{exact}') AS c, pgq_fail(c.id, c.token, retry_in => '1 day') AS f;

-- Retrying by hand.
SELECT id AS id FROM pgq_jobs WHERE kind = 'custom' \gset
SELECT is(pgq_retry(:id), 'retry', 'a dead job can be put back');
SELECT results_eq(
    format('SELECT state, attempt, max_retries, ripe_at, jsonb_array_length(errors) FROM pgq_jobs WHERE id = %s', :id),
    $$ VALUES ('waiting', 0, 2, pgq_now(), 3) $$, 'a job that was put back is ripe now, has all its retries, and keeps its errors');
SELECT results_eq($$ SELECT outcome FROM pg_temp.attempt('custom') $$, $$ VALUES ('retry') $$, 'a job that was put back counts its attempts from the start');

-- Jobs that are not worth another attempt.
SELECT pgq_enqueue('hopeless', queue => 'hopeless');
SELECT * FROM pgq_claim('{hopeless}') AS c \gset c_
SELECT results_eq(format($$ SELECT outcome, ripe_at FROM pgq_fail(%s, %s, 'no use', '1 hour', false) $$, :c_id, :c_token),
                  $$ VALUES ('dead', NULL::timestamptz) $$, 'a failure with retry false ends the job as dead');
SELECT is(errors #>> '{0,error}', 'no use', 'a job that is dead after one failure keeps its error') FROM pgq_jobs WHERE id = :c_id;
SELECT pgq_enqueue('null', queue => 'hopeless');
SELECT is((SELECT outcome FROM pgq_fail(c.id, c.token, retry => NULL)), 'retry', 'NULL for retry means true')
FROM pgq_claim('{hopeless}') AS c;

SELECT pgq_enqueue('pointless', '{"n": 1}', queue => 'pointless');
SELECT * FROM pgq_claim('{pointless}', worker => 'w') AS c \gset c_
SELECT lives_ok(format('SELECT pgq_cancel_claimed(%s, %s, %L)', :c_id, :c_token, repeat('x', 5000)), 'a worker can cancel the job that it holds');
SELECT results_eq(
    format($$ SELECT state, args, worker, ended_at, errors #>> '{0,error}', (errors #>> '{0,attempt}')::integer, result FROM pgq_jobs WHERE id = %s $$, :c_id),
    $$ VALUES ('cancelled', '{"n": 1}'::jsonb, 'w', pgq_now(), repeat('x', 4000), 1, NULL::jsonb) $$,
    'a job that its worker has cancelled is kept, with the reason as its newest error');

SELECT * FROM finish();
ROLLBACK;
