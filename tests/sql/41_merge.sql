-- Merging: on every way back to waiting, a job merges into a twin that waits.
BEGIN;
SELECT plan(40);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

-- Bring a claimed or dead job back to waiting in the given way, while a twin waits or not.
CREATE FUNCTION pg_temp.comes_back(way text, twin boolean, dedup boolean DEFAULT true, OUT result text, OUT waiting bigint, OUT jobs bigint)
    LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    DELETE FROM pgq_waiting;
    DELETE FROM pgq_running;
    DELETE FROM pgq_ended;
    PERFORM set_config('pgq.now', '2030-01-01 12:00Z', true);
    PERFORM pgq_enqueue('m', max_retries => CASE way WHEN 'retry by hand' THEN 0 ELSE 10 END, dedup => dedup);
    SELECT * INTO c FROM pgq_claim();
    IF way = 'retry by hand' THEN
        PERFORM pgq_fail(c.id, c.token);
    END IF;
    IF twin THEN
        PERFORM pgq_enqueue('m', delay => '1 day', dedup => dedup);
    END IF;
    CASE way
        WHEN 'fail' THEN result := (SELECT concat_ws(' at ', f.outcome, to_char(f.ripe_at - pgq_now(), 'HH24:MI')) FROM pgq_fail(c.id, c.token) AS f);
        WHEN 'release' THEN result := pgq_release(c.id, c.token);
        WHEN 'snooze' THEN result := pgq_snooze(c.id, c.token, pgq_now() + interval '1 hour');
        WHEN 'retry by hand' THEN result := pgq_retry(c.id);
        WHEN 'expired lease' THEN
            PERFORM set_config('pgq.now', '2030-01-01 13:00Z', true);
            PERFORM pgq_claim('{somewhere else}');
    END CASE;
    SELECT count(*) FILTER (WHERE state = 'waiting'), count(*) INTO waiting, jobs FROM pgq_jobs;
END
$$;

SELECT is(b::text, (t.result, t.waiting, t.waiting)::text, format('after %s, %s, the number of waiting jobs is %s', way, what, t.waiting))
FROM (VALUES
    ('fail', 'with a twin', true, true, 'merged', 1), ('fail', 'without one', false, true, 'retry at 00:01', 1),
    ('release', 'with a twin', true, true, 'merged', 1), ('release', 'without one', false, true, 'released', 1),
    ('snooze', 'with a twin', true, true, 'merged', 1), ('snooze', 'without one', false, true, 'snoozed', 1),
    ('expired lease', 'with a twin', true, true, NULL, 1), ('expired lease', 'without one', false, true, NULL, 1),
    ('retry by hand', 'with a twin', true, true, 'merged', 1), ('retry by hand', 'without one', false, true, 'retry', 1),
    ('fail', 'without dedup', true, false, 'retry at 00:01', 2), ('expired lease', 'without dedup', true, false, NULL, 2)
) AS t (way, what, twin, dedup, result, waiting)
CROSS JOIN LATERAL pg_temp.comes_back(way, twin, dedup) AS b;

-- What the survivor has. The job has failed twice and is claimed a third time when its twin is enqueued: with other
-- settings, and ripe after a delay.
CREATE FUNCTION pg_temp.survivor(way text, delay interval) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c record;
    v_twin bigint;
    v_result text;
BEGIN
    DELETE FROM pgq_waiting;
    DELETE FROM pgq_running;
    DELETE FROM pgq_ended;
    PERFORM set_config('pgq.now', '2030-02-01 12:00Z', true);
    PERFORM pgq_enqueue('m', priority => 5);
    FOR v_n IN 1..3 LOOP
        SELECT * INTO c FROM pgq_claim(worker => 'tap');
        IF v_n < 3 THEN
            PERFORM pgq_fail(c.id, c.token, 'e' || v_n, '0');
        END IF;
        PERFORM set_config('pgq.now', (pgq_now() + interval '1 second')::text, true);
    END LOOP;
    IF way = 'retry by hand' THEN
        PERFORM pgq_cancel(c.id);
        PERFORM pgq_release(c.id, c.token);
    END IF;
    v_twin := (SELECT e.id FROM pgq_enqueue('m', delay => survivor.delay, priority => 2, max_retries => 7, backoff => '9 min') AS e);
    CASE way
        WHEN 'fail' THEN PERFORM pgq_fail(c.id, c.token, 'e3');
        WHEN 'retry_in' THEN PERFORM pgq_fail(c.id, c.token, 'e3', '3 hours');
        WHEN 'release' THEN PERFORM pgq_release(c.id, c.token);
        WHEN 'snooze' THEN PERFORM pgq_snooze(c.id, c.token, delay => '3 hours');
        WHEN 'snooze until the past' THEN PERFORM pgq_snooze(c.id, c.token, pgq_now() - interval '3 hours');
        WHEN 'retry by hand' THEN PERFORM pgq_retry(c.id);
        WHEN 'reconcile' THEN PERFORM pgq_reconcile('tap', '{}', '{}');
        WHEN 'expired lease' THEN
            UPDATE pgq_running SET lease_until = pgq_now() - interval '1 microsecond';
            PERFORM pgq_claim('{somewhere else}');
        WHEN 'sweep' THEN
            UPDATE pgq_running SET lease_until = claimed_at;
            PERFORM pgq_claim('{somewhere else}');
    END CASE;
    SELECT format('attempt %s of %s, [%s], in %s, priority %s%s', attempt, max_retries + 1,
                  (SELECT string_agg(e.value ->> 'error', ', ' ORDER BY e.ordinality) FROM jsonb_array_elements(errors) WITH ORDINALITY AS e),
                  ripe_at - pgq_now(), priority, CASE WHEN id = v_twin THEN '' ELSE ', not the twin' END)
    INTO STRICT v_result
    FROM pgq_jobs;
    RETURN v_result;
END
$$;
SELECT pgq_register('tap');

SELECT is(pg_temp.survivor(way, delay::interval), survivor || ', priority 2', format('after %s into a twin ripe in %s the survivor has %s', way, delay, survivor))
FROM (VALUES
    ('fail', '0', 'attempt 3 of 8, [e3, e2, e1], in 00:04:00'),
    ('fail', '1 min', 'attempt 3 of 8, [e3, e2, e1], in 00:04:00'),
    ('fail', '1 day', 'attempt 3 of 8, [e3, e2, e1], in 1 day'),
    ('retry_in', '1 min', 'attempt 3 of 8, [e3, e2, e1], in 03:00:00'),
    ('retry_in', '1 day', 'attempt 3 of 8, [e3, e2, e1], in 1 day'),
    ('snooze', '1 min', 'attempt 2 of 8, [e2, e1], in 03:00:00'),
    ('snooze', '1 day', 'attempt 2 of 8, [e2, e1], in 1 day'),
    ('snooze until the past', '1 min', 'attempt 2 of 8, [e2, e1], in 00:01:00'),
    ('snooze until the past', '0', 'attempt 2 of 8, [e2, e1], in 00:00:00'),
    ('release', '0', 'attempt 2 of 8, [e2, e1], in 00:00:00'),
    ('release', '1 day', 'attempt 2 of 8, [e2, e1], in 1 day'),
    ('reconcile', '0', 'attempt 2 of 8, [e2, e1], in 00:00:00'),
    ('reconcile', '1 day', 'attempt 2 of 8, [e2, e1], in 1 day'),
    ('expired lease', '0', 'attempt 3 of 8, [the lease ran out, e2, e1], in 00:02:00'),
    ('expired lease', '1 day', 'attempt 3 of 8, [the lease ran out, e2, e1], in 1 day'),
    ('sweep', '0', 'attempt 3 of 8, [the worker is gone, e2, e1], in 00:02:00'),
    ('sweep', '1 day', 'attempt 3 of 8, [the worker is gone, e2, e1], in 1 day'),
    ('retry by hand', '0', 'attempt 0 of 8, [e2, e1], in 00:00:00'),
    ('retry by hand', '1 day', 'attempt 0 of 8, [e2, e1], in 1 day')
) AS t (way, delay, survivor);

-- Where both have failed, each keeps what it had more of.
CREATE FUNCTION pg_temp.fails(id bigint, error text) RETURNS text LANGUAGE sql AS $$
    SELECT set_config('pgq.now', (pgq_now() + interval '1 second')::text, true);
    SELECT f.outcome FROM pgq_running AS r, pgq_fail(r.id, r.token, error, '0') AS f WHERE r.id = fails.id
$$;
DELETE FROM pgq_waiting;
SELECT pgq_enqueue('m');
SELECT id AS job FROM pgq_claim() \gset
SELECT id AS twin FROM pgq_enqueue('m') \gset
SELECT pgq_claim();
SELECT pg_temp.fails(:twin, 'twin 1');
SELECT pgq_claim();
SELECT pg_temp.fails(:job, 'job 1');
SELECT pgq_claim();
SELECT pg_temp.fails(:twin, 'twin 2');
SELECT pgq_claim();
SELECT pg_temp.fails(:twin, 'twin 3');
SELECT is(pg_temp.fails(:job, 'job 2'), 'merged', 'a job that fails while its twin waits after failures merges');
SELECT is(
    (SELECT format('%s: %s', attempt, (SELECT string_agg(e ->> 'error', ', ') FROM jsonb_array_elements(errors) AS e)) FROM pgq_jobs WHERE state = 'waiting'),
    '3: job 2, twin 3, twin 2, job 1, twin 1', 'the survivor has the larger number of attempts, and the errors of both in the order of time');

-- The event that recurs: the retries end, and the next event has all of its own.
CREATE FUNCTION pg_temp.recurs(rounds integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c record;
    v_outcomes text[] := '{}';
BEGIN
    DELETE FROM pgq_waiting;
    FOR v_round IN 1..rounds LOOP
        PERFORM pgq_enqueue('m', max_retries => 2);
        SELECT * INTO STRICT c FROM pgq_claim();
        PERFORM pgq_enqueue('m', max_retries => 2);
        v_outcomes := v_outcomes || (c.attempt || ' ' || pg_temp.fails(c.id, 'round ' || v_round));
    END LOOP;
    RETURN array_to_string(v_outcomes, ', ');
END
$$;
SELECT is(pg_temp.recurs(10),
    '1 merged, 2 merged, 3 dead, 1 merged, 2 merged, 3 dead, 1 merged, 2 merged, 3 dead, 1 merged',
    'a job that fails each time while its twin is enqueued is dead when its retries are used up');
SELECT results_eq(
    $$ SELECT (SELECT string_agg(e ->> 'error', ', ') FROM jsonb_array_elements(errors) AS e) FROM pgq_jobs WHERE state = 'dead' ORDER BY id $$,
    $$ VALUES ('round 3, round 2, round 1'), ('round 6, round 5, round 4'), ('round 9, round 8, round 7') $$,
    'each of the dead jobs has the errors of all attempts that were merged into it');

-- A job that is dead tells its twin nothing.
DELETE FROM pgq_waiting;
SELECT id AS job FROM pgq_enqueue('m', max_retries => 0) \gset
SELECT pgq_claim();
SELECT pgq_enqueue('m', delay => '1 minute');
SELECT is(pg_temp.fails(:job, 'last'), 'dead', 'a job without retries is dead although its twin waits');
SELECT is((SELECT (attempt, errors, ripe_at - pgq_now())::text FROM pgq_jobs WHERE state = 'waiting'), '(0,[],00:00:59)', 'the twin of a dead job is a new event');

-- An event that is enqueued while its twin is in backoff.
CREATE FUNCTION pg_temp.in_backoff(policy text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    DELETE FROM pgq_waiting;
    PERFORM pgq_enqueue('m');
    SELECT * INTO c FROM pgq_claim();
    PERFORM pgq_enqueue('m');
    PERFORM pgq_fail(c.id, c.token, 'e', '1 hour');
    PERFORM pgq_enqueue('m', on_duplicate => policy);
    RETURN (SELECT format('in %s, attempt %s, %s error', ripe_at - pgq_now(), attempt, jsonb_array_length(errors)) FROM pgq_jobs WHERE state = 'waiting');
END
$$;
SELECT is(pg_temp.in_backoff(policy), state, format('a duplicate with %s of a job in backoff: %s', policy, state))
FROM (VALUES ('keep', 'in 01:00:00, attempt 1, 1 error'), ('soonest', 'in 00:00:00, attempt 1, 1 error'), ('replace', 'in 00:00:00, attempt 1, 1 error')) AS t (policy, state);

SELECT * FROM finish();
ROLLBACK;
