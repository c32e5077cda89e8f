-- Requests to cancel running jobs: what each way back makes of them, and how they lapse.
BEGIN;
SELECT plan(33);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

CREATE FUNCTION pg_temp.requests() RETURNS bigint[] LANGUAGE sql AS $$ SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM pgq_cancel_request $$;

-- A job with two failed attempts is claimed, is to be cancelled, and goes the given way. Return what is left of it.
CREATE FUNCTION pg_temp.goes(way text, retries integer DEFAULT 9) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_asked text;
    v_answer text := '';
    c record;
BEGIN
    DELETE FROM pgq_waiting;
    DELETE FROM pgq_running;
    DELETE FROM pgq_ended;
    PERFORM set_config('pgq.now', '2030-01-01 12:00Z', true);
    PERFORM pgq_enqueue('k', max_retries => retries);
    FOR v_n IN 1..3 LOOP
        SELECT * INTO STRICT c FROM pgq_claim(worker => 'tap');
        PERFORM pgq_fail(c.id, c.token, 'e' || v_n, '0') WHERE v_n < 3;
        PERFORM set_config('pgq.now', (pgq_now() + interval '1 second')::text, true);
    END LOOP;
    v_asked := pgq_cancel(c.id);
    -- A twin, into which the job must not merge.
    PERFORM pgq_enqueue('k', delay => '1 hour');
    CASE way
        WHEN 'complete' THEN PERFORM pgq_complete(c.id, c.token, '7');
        WHEN 'fail', 'fail the last attempt' THEN v_answer := (SELECT f.outcome || coalesce(f.ripe_at::text, '') FROM pgq_fail(c.id, c.token, 'e3') AS f);
        WHEN 'fail for good' THEN v_answer := (SELECT f.outcome FROM pgq_fail(c.id, c.token, 'e3', retry => false) AS f);
        WHEN 'snooze' THEN v_answer := pgq_snooze(c.id, c.token, delay => '1 hour');
        WHEN 'release' THEN v_answer := pgq_release(c.id, c.token);
        WHEN 'reconcile' THEN v_answer := pgq_reconcile('tap', '{}', '{}');
        WHEN 'cancel_claimed' THEN PERFORM pgq_cancel_claimed(c.id, c.token, 'e3');
        WHEN 'expired lease' THEN
            UPDATE pgq_running SET lease_until = pgq_now() - interval '1 microsecond';
            PERFORM pgq_claim('{somewhere else}');
        WHEN 'lease over at the second call' THEN
            UPDATE pgq_running SET lease_until = pgq_now() - interval '1 microsecond';
            v_answer := pgq_cancel(c.id);
    END CASE;
    RETURN (SELECT format('%s, %s: %s, attempt %s, [%s], %s left', v_asked, v_answer, j.state, j.attempt,
                          (SELECT string_agg(e.value ->> 'error', ', ' ORDER BY e.ordinality) FROM jsonb_array_elements(j.errors) WITH ORDINALITY AS e),
                          cardinality(pg_temp.requests()))
            FROM pgq_jobs AS j WHERE j.id = c.id);
END
$$;
SELECT pgq_register('tap');

SELECT is(pg_temp.goes(way, retries), 'requested, ' || what, format('after %s a job that was asked for is %s', way, what))
FROM (VALUES
    ('fail', 9, 'cancelled: cancelled, attempt 3, [e3, e2, e1], 0 left'),
    ('fail the last attempt', 2, 'cancelled: cancelled, attempt 3, [e3, e2, e1], 0 left'),
    ('fail for good', 9, 'cancelled: cancelled, attempt 3, [e3, e2, e1], 0 left'),
    ('snooze', 9, 'cancelled: cancelled, attempt 2, [e2, e1], 0 left'),
    ('release', 9, 'cancelled: cancelled, attempt 2, [e2, e1], 0 left'),
    ('reconcile', 9, '1: cancelled, attempt 2, [e2, e1], 0 left'),
    ('cancel_claimed', 9, ': cancelled, attempt 3, [e3, e2, e1], 0 left'),
    ('expired lease', 9, ': cancelled, attempt 3, [the lease ran out, e2, e1], 0 left'),
    ('expired lease', 2, ': cancelled, attempt 3, [the lease ran out, e2, e1], 0 left'),
    ('lease over at the second call', 9, 'cancelled: cancelled, attempt 3, [the lease ran out, e2, e1], 0 left'),
    ('complete', 9, ': done, attempt 3, [e2, e1], 1 left')
) AS t (way, retries, what);
SELECT results_eq('SELECT state, attempt FROM pgq_jobs WHERE state = ''waiting''', 'VALUES (''waiting'', 0)', 'the twin has learned nothing from it');
SELECT pgq_claim('{somewhere else}');
SELECT is(pg_temp.requests(), '{}', 'the next claim removes a request that has lapsed');

-- Which callers learn of a request.
SELECT set_config('pgq.now', '2030-01-01 13:00Z', true);
DELETE FROM pgq_waiting;
SELECT pgq_enqueue(k, dedup => false) FROM unnest('{a,b,c}'::text[]) AS k;
SELECT array_agg(c.id ORDER BY c.id) AS ids, array_agg(c.token ORDER BY c.id) AS tokens, min(c.id) AS a, max(c.token) AS token FROM pgq_claim(max_jobs => 3) AS c \gset
SELECT is(ARRAY(SELECT pgq_cancel_requested(:'ids', :'tokens')), '{}', 'no job is asked for at first');
SELECT is(pgq_cancel(:a), 'requested', 'a job is asked for');
SELECT is(pgq_cancel(:a), 'requested', 'a job is asked for again');
SELECT is(ARRAY(SELECT pgq_cancel_requested(:'ids', :'tokens')), ARRAY[:a]::bigint[], 'the worker is told which job was asked for');
SELECT is(ARRAY(SELECT pgq_cancel_requested(:'ids', ARRAY[1, 1, 1])), '{}', 'a worker with another token is told nothing');
SELECT is(ARRAY(SELECT pgq_cancel_requested(ARRAY[:a, NULL], ARRAY[NULL, :token])), '{}', 'a pair with a NULL is told nothing');
SELECT throws_ok($$ SELECT pgq_cancel_requested(NULL, '{}') $$, '22004', NULL, 'NULL for ids is refused');
SELECT throws_ok($$ SELECT pgq_cancel_requested('{1}', '{}') $$, '2202E', NULL, 'arrays of different lengths are refused');
SELECT results_eq('SELECT kind, state, cancel_requested_at FROM pgq_jobs WHERE cancel_requested_at IS NOT NULL',
                  $$ VALUES ('a', 'running', timestamptz '2030-01-01 13:00Z') $$, 'pgq_jobs shows when it was asked for');
SELECT is(pgq_extend(:a, :token, '1 hour'), pgq_now() + interval '1 hour', 'its lease can be extended');
SELECT pgq_complete(:a, :token);
SELECT is(ARRAY(SELECT pgq_cancel_requested(:'ids', :'tokens')), '{}', 'nothing is told of a job that has ended');

-- A way back that did not see the request, because it was not committed yet.
DELETE FROM pgq_running;
SELECT id AS late FROM pgq_enqueue('late') \gset
INSERT INTO pgq_cancel_request VALUES (:late, pgq_now());
SELECT pgq_claim('{somewhere else}');
SELECT is(state, 'cancelled', 'maintenance ends a waiting job whose request was missed') FROM pgq_jobs WHERE id = :late;
SELECT is(pg_temp.requests(), '{}', 'the request goes with the job');

-- What a job that has ended leaves behind does not hold for its next life.
INSERT INTO pgq_cancel_request VALUES (:late, pgq_now());
SELECT pgq_retry(:late);
SELECT is(pg_temp.requests(), '{}', 'a retry removes a request from before');

-- Two jobs that were lost together: the one that is left is not taken for lost alone.
DELETE FROM pgq_waiting;
DELETE FROM pgq_running;
SELECT pgq_enqueue(k, queue => 'together') FROM unnest('{a,b}'::text[]) AS k;
SELECT count(*) FROM pgq_claim('{together}', 2);
SELECT set_config('pgq.now', (pgq_now() + interval '1 hour')::text, true);
SELECT is(pgq_cancel(id), 'cancelled', 'a job whose lease is over is cancelled at once') FROM pgq_running WHERE kind = 'a';
SELECT pgq_claim('{somewhere else}');
SELECT results_eq($$ SELECT kind, state, attempt, losses FROM pgq_jobs WHERE queue = 'together' ORDER BY kind $$,
                  $$ VALUES ('a', 'cancelled', 1, 1), ('b', 'waiting', 0, 1) $$, 'the attempt of the other one does not count');

-- More than fifty requests: those of running jobs do not hide one that has lapsed.
DELETE FROM pgq_waiting;
SELECT pgq_enqueue('many', to_jsonb(n)) FROM generate_series(1, 60) AS n;
SELECT pgq_cancel(c.id) FROM pgq_claim(max_jobs => 60) AS c;
INSERT INTO pgq_cancel_request SELECT max(id) + 5, pgq_now() FROM pgq_running;
SELECT pgq_claim('{somewhere else}') FROM generate_series(1, 500);
SELECT is(pg_temp.requests(), ARRAY(SELECT id FROM pgq_running ORDER BY id), 'of more than fifty requests those that have lapsed are removed');

-- A retry keeps a time that lies ahead.
SELECT id AS later FROM pgq_enqueue('later', delay => '3 hours') \gset
SELECT is(pgq_cancel(:later), 'cancelled', 'a waiting job is ended');
SELECT pgq_retry(:later);
SELECT is(ripe_at, pgq_now() + interval '3 hours', 'a retry keeps a ripe_at that lies ahead') FROM pgq_jobs WHERE id = :later;
SELECT pgq_cancel(:later);
SELECT set_config('pgq.now', '2030-01-01 17:00Z', true);
SELECT pgq_retry(:later);
SELECT is(ripe_at, pgq_now(), 'a retry makes a job ripe now whose time has passed') FROM pgq_jobs WHERE id = :later;

SELECT * FROM finish();
ROLLBACK;
