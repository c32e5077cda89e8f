-- A job keeps its values through all states.
BEGIN;
SELECT plan(25);
SET LOCAL pgq.jitter = '0';

CREATE TEMP TABLE missigned (way text, id bigint);

-- Make a job whose values all differ from the defaults and which has failed once, and two hours later let it go the given
-- way. Return its row in pgq_jobs.
CREATE FUNCTION pg_temp.goes(way text, dedup boolean) RETURNS SETOF pgq_jobs LANGUAGE plpgsql AS $$
DECLARE
    v_id bigint;
    c record;
BEGIN
    DELETE FROM pgq_waiting;
    DELETE FROM pgq_running;
    DELETE FROM pgq_ended;
    PERFORM set_config('pgq.now', '2030-01-01 12:00Z', true);
    v_id := (SELECT e.id FROM pgq_enqueue('odd', '[1]', 'road', delay => '1 hour', priority => 2, backoff => '3 min', backoff_cap => '4 min',
                                          max_retries => CASE way WHEN 'dies' THEN 1 ELSE 6 END, dedup => dedup, dedup_key => 'key', context => '{"t": 1}') AS e);
    PERFORM set_config('pgq.now', '2030-01-01 13:00Z', true);
    PERFORM pgq_fail(x.id, x.token, 'once', '30 min') FROM pgq_claim('{road}', worker => 'before') AS x;
    PERFORM set_config('pgq.now', '2030-01-01 14:00Z', true);
    IF way NOT IN ('waits', 'is cancelled while it waits') THEN
        SELECT * INTO STRICT c FROM pgq_claim('{road}', worker => 'w');
    END IF;
    PERFORM set_config('pgq.now', '2030-01-01 14:01Z', true);
    CASE way
        WHEN 'waits', 'runs' THEN NULL;
        WHEN 'fails', 'dies' THEN PERFORM pgq_fail(c.id, c.token, 'again');
        WHEN 'is released' THEN PERFORM pgq_release(c.id, c.token);
        WHEN 'is snoozed' THEN PERFORM pgq_snooze(c.id, c.token, '2030-01-01 18:00Z');
        WHEN 'is done' THEN PERFORM pgq_complete(c.id, c.token, '7');
        WHEN 'is cancelled while it waits' THEN PERFORM pgq_cancel(v_id);
        WHEN 'is cancelled while it runs' THEN
            PERFORM pgq_cancel(v_id);
            PERFORM pgq_fail(c.id, c.token, 'again');
        WHEN 'is rescued' THEN
            PERFORM set_config('pgq.now', '2030-01-01 14:06Z', true);
            PERFORM pgq_claim('{elsewhere}');
        WHEN 'is retried by hand' THEN
            PERFORM pgq_cancel(v_id);
            PERFORM pgq_release(c.id, c.token);
            PERFORM set_config('pgq.now', '2030-01-01 15:00Z', true);
            PERFORM pgq_retry(v_id);
        WHEN 'is enqueued again' THEN
            PERFORM pgq_release(c.id, c.token);
            PERFORM pgq_enqueue('odd', '[1]', 'road', dedup => false);
    END CASE;
    INSERT INTO missigned
    SELECT way, w.id FROM pgq_waiting AS w
    WHERE w.signature IS DISTINCT FROM CASE WHEN w.dedup THEN _pgq_signature(w.queue, w.kind, w.args, w.dedup_key) END;
    RETURN QUERY SELECT * FROM pgq_jobs AS j WHERE j.id = v_id;
END
$$;

SELECT is(
    (j.state, j.ripe_at, j.attempt, j.errors #>> '{0,error}', j.errors #>> '{1,error}', j.worker, j.ended_at,
     j.queue, j.kind, j.args, j.priority, j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.enqueued_at, j.context)::text,
    (t.state, t.ripe_at, t.attempt, coalesce(t.error, 'once'), CASE WHEN t.error IS NOT NULL THEN 'once' END, t.worker, t.ended_at,
     'road', 'odd', '[1]'::jsonb, 2, CASE way WHEN 'dies' THEN 1 ELSE 6 END, interval '3 min', interval '4 min', with_dedup, 'key',
     timestamptz '2030-01-01 12:00Z', '{"t": 1}'::jsonb)::text,
    format('a job that %s, %s dedup, keeps its other values', way, CASE WHEN with_dedup THEN 'with' ELSE 'without' END))
FROM (VALUES
    ('waits', 'waiting', timestamptz '2030-01-01 13:30Z', 1, NULL, NULL, NULL::timestamptz),
    ('runs', 'running', '2030-01-01 13:30Z', 2, NULL, 'w', NULL),
    ('fails', 'waiting', '2030-01-01 14:05Z', 2, 'again', NULL, NULL),
    ('dies', 'dead', '2030-01-01 13:30Z', 2, 'again', 'w', '2030-01-01 14:01Z'),
    ('is released', 'waiting', '2030-01-01 13:30Z', 1, NULL, NULL, NULL),
    ('is snoozed', 'waiting', '2030-01-01 18:00Z', 1, NULL, NULL, NULL),
    ('is done', 'done', '2030-01-01 13:30Z', 2, NULL, 'w', '2030-01-01 14:01Z'),
    ('is cancelled while it waits', 'cancelled', '2030-01-01 13:30Z', 1, NULL, NULL, '2030-01-01 14:01Z'),
    ('is cancelled while it runs', 'cancelled', '2030-01-01 13:30Z', 2, 'again', 'w', '2030-01-01 14:01Z'),
    ('is rescued', 'waiting', '2030-01-01 14:09Z', 2, 'the lease ran out', NULL, NULL),
    ('is retried by hand', 'waiting', '2030-01-01 15:00Z', 0, NULL, NULL, NULL),
    ('is enqueued again', 'waiting', '2030-01-01 13:30Z', 1, NULL, NULL, NULL)
) AS t (way, state, ripe_at, attempt, error, worker, ended_at)
CROSS JOIN (VALUES (true), (false)) AS d (with_dedup)
CROSS JOIN LATERAL pg_temp.goes(way, with_dedup) AS j;

SELECT is_empty('SELECT * FROM missigned', 'on no way a job waits with the signature of other values');

SELECT * FROM finish();
ROLLBACK;
