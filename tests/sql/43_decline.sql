-- Declining: a job whose worker has no handler waits, longer each time, and uses up no attempt.
BEGIN;
SELECT plan(16);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = 0;

SELECT pgq_enqueue('k', max_retries => 0);
SELECT id, token FROM pgq_claim(worker => 'w') \gset
SELECT results_eq(
    format('SELECT outcome, ripe_at FROM pgq_decline(%s, %s)', :id, :token),
    $$ VALUES ('declined', timestamptz '2030-01-01 12:00:30Z') $$, 'a job that is declined waits for half a minute');
SELECT results_eq(
    'SELECT state, attempt, errors FROM pgq_jobs',
    $$ VALUES ('waiting', 0, jsonb_build_array(jsonb_build_object('attempt', 1, 'at', pgq_now(), 'worker', 'w',
               'error', 'the worker has no handler for kind "k"', 'declined', 1))) $$,
    'the attempt does not count, and a note says why the job waits');
SELECT is_empty('SELECT FROM pgq_claim()', 'the job is not ripe before');
SELECT throws_ok(format('SELECT pgq_decline(%s, %s)', :id, :token), 'PGQ02', NULL, 'a job is declined under its token only');

-- Each time under another worker; only the database knows how often.
CREATE FUNCTION pg_temp.decline_at(at timestamptz, worker text) RETURNS interval LANGUAGE sql AS $$
    SELECT set_config('pgq.now', at::text, true);
    SELECT d.ripe_at - at FROM pgq_claim(worker => worker) AS c CROSS JOIN LATERAL pgq_decline(c.id, c.token) AS d;
$$;
SELECT is(pg_temp.decline_at(at::timestamptz, worker), delay::interval, format('declined again, the job waits for %s', delay))
FROM (VALUES ('2030-01-01 12:01Z', 'v', '1 minute'), ('2030-01-01 12:10Z', 'u', '2 minutes'), ('2030-01-01 12:20Z', 'w', '4 minutes'),
             ('2030-01-01 12:30Z', 'w', '8 minutes'), ('2030-01-01 13:00Z', 'w', '10 minutes'), ('2031-01-01 00:00Z', 'w', '10 minutes'))
     AS t (at, worker, delay);
SELECT results_eq('SELECT attempt, jsonb_array_length(errors), errors -> 0 -> ''declined'' FROM pgq_jobs', $$ VALUES (0, 1, '7'::jsonb) $$,
                  'one note counts how often the job was declined');

-- A failure in between: the job had a handler, and the next delay is short again.
DELETE FROM pgq_waiting;
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_enqueue('k');
SELECT pgq_decline(c.id, c.token) FROM pgq_claim() AS c;
SET LOCAL pgq.now = '2030-01-01 13:00Z';
SELECT pgq_fail(c.id, c.token, 'failed') FROM pgq_claim() AS c;
SELECT is(pg_temp.decline_at('2030-01-01 14:00Z', 'w'), '30 seconds', 'after a failure the delay begins anew');
SELECT results_eq('SELECT attempt, ARRAY(SELECT e ->> ''declined'' FROM jsonb_array_elements(errors) AS e) FROM pgq_jobs',
                  $$ VALUES (1, '{1,NULL,1}'::text[]) $$, 'earlier errors and attempts stay');

-- A twin waits for as long, and knows how often the two were declined.
DELETE FROM pgq_waiting;
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_enqueue('k', max_retries => 0);
SELECT is(pg_temp.decline_at('2030-01-01 12:00Z', 'w'), '30 seconds', 'a job is declined');
SET LOCAL pgq.now = '2030-01-01 12:01Z';
SELECT id, token FROM pgq_claim() \gset
SELECT pgq_enqueue('k', max_retries => 0);
SELECT results_eq(format('SELECT outcome, ripe_at FROM pgq_decline(%s, %s)', :id, :token), $$ VALUES ('merged', NULL::timestamptz) $$,
                  'a job that is declined while its twin waits merges into it');
SELECT results_eq('SELECT ripe_at, attempt, errors -> 0 -> ''declined'' FROM pgq_jobs', $$ VALUES (timestamptz '2030-01-01 12:02Z', 0, '2'::jsonb) $$,
                  'the twin waits for as long, with no attempt counted');

SELECT * FROM finish();
ROLLBACK;
