-- Merging: on every way back to waiting, a job merges into a twin that waits.
BEGIN;
SELECT plan(12);
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

SELECT * FROM finish();
ROLLBACK;
