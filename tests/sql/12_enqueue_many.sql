-- pgq_enqueue_many: many jobs in one call, with the result of one pgq_enqueue for each in turn.
BEGIN;
SELECT plan(49);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

CREATE TEMP TABLE returned AS
SELECT * FROM pgq_enqueue_many('[{"kind": "b", "args": [1]}, {"kind": "a", "args": null, "priority": 0},
                                 {"kind": "b", "args": [1]}, {"kind": "c", "delay": "1 hour"}, {"kind": "a", "args": null}]');
SELECT results_eq(
    $$ SELECT a.n, j.kind, j.args, j.priority, j.ripe_at, a.created
       FROM returned AS a JOIN pgq_jobs AS j USING (id) ORDER BY a.n $$,
    $$ VALUES (1::bigint, 'b', '[1]'::jsonb, 5, pgq_now(), true),
              (2, 'a', 'null', 0, pgq_now(), true),
              (3, 'b', '[1]', 5, pgq_now(), false),
              (4, 'c', '{}', 5, pgq_now() + '1 hour', true),
              (5, 'a', 'null', 0, pgq_now(), false) $$,
    'the rows come in the order of the jobs, and a twin has the id of the first one');

SELECT is_empty($$ SELECT * FROM pgq_enqueue_many('[]') $$, 'an empty array returns no row');

TRUNCATE returned;
INSERT INTO returned
SELECT * FROM pgq_enqueue_many('[{"kind": "all", "args": {"x": 1}, "queue": "q", "priority": 1, "max_retries": 2,
                                "backoff": "3 s", "backoff_cap": "4 s", "dedup": false, "dedup_key": "d", "on_duplicate": "error",
                                "ripe_at": "2031-01-01T00:00Z", "context": {"t": 1}},
                               {"kind": "nulls", "queue": null, "ripe_at": null, "delay": null, "priority": null,
                                "max_retries": null, "backoff": null, "backoff_cap": null, "dedup": null, "dedup_key": null,
                                "on_duplicate": null, "context": null}]');
SELECT results_eq(
    $$ SELECT j.queue, j.kind, j.args, j.priority, j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.ripe_at, j.context
       FROM returned AS a JOIN pgq_jobs AS j USING (id) ORDER BY a.n $$,
    $$ VALUES ('q', 'all', '{"x": 1}'::jsonb, 1, 2, interval '3 s', interval '4 s', false, 'd', timestamptz '2031-01-01 00:00Z', '{"t": 1}'::jsonb),
              ('default', 'nulls', '{}', 5, 10, '1 min', '1 hour', true, NULL, pgq_now(), NULL) $$,
    'every key takes effect, and null means the default');

SELECT throws_ok(format('SELECT pgq_enqueue_many(%L)', jobs), state, message, coalesce(message, 'refused: ' || jobs))
FROM (VALUES
    (NULL, '22004', 'jobs is null'),
    ('{"kind": "a"}', '22023', 'jobs is not an array but of JSON type object'),
    ('[{"kind": "a"}, 7]', '22023', 'job 2 of the array is not an object'),
    ('[[{"kind": "a"}]]', '22023', 'job 1 of the array is not an object'),
    ('[{"kind": "a"}, {"kind": "b", "when": 1}]', '22023', 'job 2 of the array has an unknown key "when"'),
    ('[{"kind": 7}]', '22023', 'job 1 of the array: kind is not of JSON type string'),
    ('[{"kind": "a", "priority": "5"}]', '22023', 'job 1 of the array: priority is not of JSON type number'),
    ('[{"kind": "a", "dedup": "no"}]', '22023', 'job 1 of the array: dedup is not of JSON type boolean'),
    ('[{"kind": "a", "delay": 5}]', '22023', 'job 1 of the array: delay is not of JSON type string'),
    ('[{"kind": "a", "when": null}]', '22023', 'job 1 of the array has an unknown key "when"'),
    ('[{"kind": "a", "queue": 1}]', '22023', 'job 1 of the array: queue is not of JSON type string'),
    ('[{"kind": "a", "ripe_at": 1}]', '22023', 'job 1 of the array: ripe_at is not of JSON type string'),
    ('[{"kind": "a", "max_retries": "1"}]', '22023', 'job 1 of the array: max_retries is not of JSON type number'),
    ('[{"kind": "a", "backoff": 1}]', '22023', 'job 1 of the array: backoff is not of JSON type string'),
    ('[{"kind": "a", "backoff_cap": 1}]', '22023', 'job 1 of the array: backoff_cap is not of JSON type string'),
    ('[{"kind": "a", "dedup_key": 1}]', '22023', 'job 1 of the array: dedup_key is not of JSON type string'),
    ('[{"kind": "a", "on_duplicate": true}]', '22023', 'job 1 of the array: on_duplicate is not of JSON type string'),
    ('[{"kind": "a", "context": []}]', '22023', 'job 1 of the array: context is not of JSON type object'),
    ('[{"kind": "a", "priority": 10000000000}]', '22023', 'job 1 of the array: priority 10000000000 is out of range'),
    ('[{"kind": "a", "max_retries": 10000000000}]', '22023', 'job 1 of the array: max_retries 10000000000 is out of range'),
    ('[{"kind": "a", "priority": 10000000000000000000}]', '22003', NULL),
    ('[{"kind": "a", "ripe_at": "infinity"}]', '22008', 'job 1 of the array: ripe_at infinity is out of range'),
    ('[{"kind": "a", "delay": "soon"}]', '22007', NULL),
    ('[{"kind": "a", "priority": 1.5}]', '22P02', NULL),
    ('[{"kind": "a"}, {"args": 1}]', '22004', 'job 2 of the array: kind is null'),
    ('[{"kind": "a", "priority": 70000}]', '22023', 'job 1 of the array: priority 70000 is out of range'),
    ('[{"kind": "a", "delay": "-1 s"}]', '22023', 'job 1 of the array: delay -00:00:01 is out of range'),
    ('[{"kind": "a", "dedup": false}, {"kind": "a", "dedup": false, "delay": "-1 s"}]', '22023',
     'job 2 of the array: delay -00:00:01 is out of range'),
    ('[{"kind": "a"}, {"kind": "a", "dedup": false, "priority": 10000000000}]', '22023',
     'job 2 of the array: priority 10000000000 is out of range'),
    ('[{"kind": "a"}, {"kind": "a", "dedup": false, "priority": 10}, {"kind": "b", "priority": 11}]', '22023',
     'job 2 of the array: priority 10 is out of range'),
    ('[{"kind": "a", "on_duplicate": "x"}]', '22023', 'job 1 of the array: on_duplicate "x" is unknown')
) AS bad (jobs, state, message);
SELECT is_empty($$ SELECT FROM pgq_jobs WHERE kind = 'a' AND args = '{}' $$, 'no job of a refused array is enqueued');

SELECT throws_ok(
    $$ SELECT pgq_enqueue_many('[{"kind": "e"}, {"kind": "e", "on_duplicate": "error"}]') $$, 'PGQ04', NULL,
    'a twin within the array is a duplicate, too');

-- The invariant of pgq_enqueue_many: one call of pgq_enqueue for each job gives the same result.
CREATE FUNCTION pg_temp.one_by_one(jobs jsonb) RETURNS TABLE (n bigint, id bigint, created boolean) LANGUAGE sql AS $$
    SELECT j.n, e.id, e.created
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    CROSS JOIN LATERAL jsonb_to_record(j.item) AS r (
        kind text, queue text, delay interval, priority integer, dedup boolean, dedup_key text, on_duplicate text)
    CROSS JOIN LATERAL pgq_enqueue(
        r.kind, coalesce(j.item -> 'args', '{}'), coalesce(r.queue, 'default'), delay => r.delay, priority => r.priority,
        dedup => r.dedup, dedup_key => r.dedup_key, on_duplicate => r.on_duplicate) AS e
    ORDER BY j.n
$$;
CREATE FUNCTION pg_temp.outcome(way text, jobs jsonb) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    v_lines text[];
BEGIN
    -- Undone at the end, so that both ways start with the same jobs.
    BEGIN
        PERFORM pgq_enqueue('k', '"old"', delay => '10 min', priority => 7, dedup_key => 'old');
        TRUNCATE returned;
        IF way = 'many' THEN
            INSERT INTO returned SELECT * FROM pgq_enqueue_many(jobs);
        ELSE
            INSERT INTO returned SELECT * FROM pg_temp.one_by_one(jobs);
        END IF;
        v_lines := ARRAY(
            SELECT format('%s %s first at %s: %s %s %s %s %s', a.n, a.created, min(a.n) OVER (PARTITION BY a.id), j.kind, j.args,
                          j.priority, j.ripe_at, j.signature)
            FROM returned AS a LEFT JOIN pgq_waiting AS j USING (id) ORDER BY a.n);
        RAISE EXCEPTION USING ERRCODE = 'TTT00';
    EXCEPTION
        WHEN SQLSTATE 'TTT00' THEN RETURN QUERY SELECT unnest(v_lines);
        WHEN SQLSTATE 'PGQ04' THEN RETURN NEXT 'PGQ04';
    END;
END
$$;
SELECT results_eq(
    format('SELECT * FROM pg_temp.outcome(%L, %L)', 'many', jobs),
    format('SELECT * FROM pg_temp.outcome(%L, %L)', 'one by one', jobs), 'pgq_enqueue_many equals single calls: ' || what)
FROM (VALUES
    ('no twins', '[{"kind": "a"}, {"kind": "b", "priority": 1}, {"kind": "a", "queue": "other"}]'),
    ('keep', '[{"kind": "k", "dedup_key": "old", "args": 1}, {"kind": "k", "dedup_key": "new", "args": 2}, {"kind": "k", "dedup_key": "new", "args": 3}]'),
    ('replace', '[{"kind": "k", "dedup_key": "old", "args": 1, "on_duplicate": "replace", "priority": 1, "delay": "5 h"}]'),
    ('replace twice', '[{"kind": "k", "dedup_key": "old", "args": 1, "on_duplicate": "replace"}, {"kind": "k", "dedup_key": "old", "args": 2, "on_duplicate": "replace", "delay": "3 h"}]'),
    ('sooner', '[{"kind": "k", "dedup_key": "old", "args": 1, "on_duplicate": "soonest", "delay": "5 min"}]'),
    ('not sooner', '[{"kind": "k", "dedup_key": "old", "args": 1, "on_duplicate": "soonest", "delay": "5 h"}]'),
    ('soonest before replace', '[{"kind": "k", "dedup_key": "old", "args": 1, "on_duplicate": "soonest", "delay": "1 s"}, {"kind": "k", "dedup_key": "old", "args": 2, "on_duplicate": "replace", "delay": "3 h"}]'),
    ('soonest after replace', '[{"kind": "k", "dedup_key": "old", "args": 1, "on_duplicate": "replace", "delay": "3 h"}, {"kind": "k", "dedup_key": "old", "args": 2, "on_duplicate": "soonest", "delay": "2 h"}, {"kind": "k", "dedup_key": "old", "args": 3}]'),
    ('a new one that is replaced at once', '[{"kind": "k", "dedup_key": "new", "args": 1, "on_duplicate": "replace", "delay": "9 h"}, {"kind": "k", "dedup_key": "new", "args": 2, "on_duplicate": "replace", "priority": 0}, {"kind": "k", "dedup_key": "new", "args": 3, "on_duplicate": "keep"}]'),
    ('without dedup', '[{"kind": "k", "dedup": false}, {"kind": "k", "dedup": false}, {"kind": "k"}, {"kind": "k", "on_duplicate": "replace", "delay": "1 h"}]'),
    ('all policies at once', '[{"kind": "k", "dedup_key": "old", "args": 1}, {"kind": "z"}, {"kind": "k", "dedup_key": "old", "on_duplicate": "soonest"}, {"kind": "z", "on_duplicate": "replace", "priority": 2}, {"kind": "a"}, {"kind": "z", "dedup": false}, {"kind": "a", "on_duplicate": "soonest", "delay": "1 s"}]')
) AS scenario (what, jobs);

-- The same for arbitrary arrays, made from seeds so that every run has the same ones.
CREATE FUNCTION pg_temp.some_jobs(seed integer) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_agg(
        jsonb_strip_nulls(jsonb_build_object(
            'kind', (ARRAY['k', 'k', 'z'])[1 + d.roll[1] % 3], 'args', d.roll[2] % 3,
            'dedup_key', (ARRAY['old', 'new', NULL])[1 + d.roll[3] % 3],
            'on_duplicate', (ARRAY['keep', 'replace', 'soonest', CASE WHEN seed % 2 = 0 THEN 'error' END])[1 + d.roll[4] % 4],
            'delay', format('%s min', d.roll[5] % 7 * 3), 'priority', d.roll[6] % 10,
            'dedup', CASE WHEN d.roll[7] % 8 = 0 THEN false END)) ORDER BY i)
    FROM generate_series(1, 6) AS i
    CROSS JOIN LATERAL (SELECT ARRAY(
        SELECT get_byte(decode(md5(format('%s.%s', seed, i)), 'hex'), b) FROM generate_series(0, 6) AS b)) AS d (roll)
$$;
CREATE TEMP TABLE trial AS
SELECT pg_temp.some_jobs(seed) AS jobs,
       ARRAY(SELECT pg_temp.outcome('many', pg_temp.some_jobs(seed))) AS many,
       ARRAY(SELECT pg_temp.outcome('one by one', pg_temp.some_jobs(seed))) AS one_by_one
FROM generate_series(1, 100) AS seed;
SELECT is_empty('SELECT * FROM trial WHERE many <> one_by_one', 'pgq_enqueue_many equals single calls for 100 arbitrary arrays');
SELECT ok(bool_or(many = '{PGQ04}') AND bool_or(many <> '{PGQ04}'), 'some of these arrays are refused and some are not') FROM trial;

SELECT * FROM finish();
ROLLBACK;
