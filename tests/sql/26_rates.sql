-- Rates: how many jobs of a queue, and of each group, start in an interval.
BEGIN;
SELECT plan(22);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

CREATE FUNCTION pg_temp.taken(max_jobs bigint) RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(coalesce(group_key, '-'), '' ORDER BY group_key) FROM pgq_claim('{q}', max_jobs)$$;

SELECT pgq_configure('q', '{"rate": 6, "per": "1 minute", "burst": 3}');
SELECT pgq_enqueue('k', to_jsonb(n), 'q') FROM generate_series(1, 100) AS n;
SELECT is(pg_temp.taken(100), '---', 'as many jobs as burst start at once');
SELECT is(pg_temp.taken(100), NULL, 'and then none');
SELECT is(pgq_ripe_in('{q}'), interval '10 s', 'until a step of the rate is over');
SELECT is(next_start_at, timestamptz '2030-01-01 12:00:10Z', 'the view shows when that is') FROM pgq_queues WHERE queue = 'q';
SET LOCAL pgq.now = '2030-01-01 12:00:09.999999Z';
SELECT is(pg_temp.taken(100), NULL, 'not before');
SET LOCAL pgq.now = '2030-01-01 12:00:10Z';
SELECT is(next_start_at, NULL, 'the view shows no time when one may start') FROM pgq_queues WHERE queue = 'q';
SELECT is(pg_temp.taken(100), '-', 'then one starts');
SET LOCAL pgq.now = '2030-01-01 12:00:31Z';
SELECT is(pg_temp.taken(1), '-', 'after two steps one starts');
SELECT is(pg_temp.taken(100), '-', 'and another one');
SELECT is(pgq_ripe_in('{q}'), interval '9 s', 'the part of a step that is over counts');
SAVEPOINT before;
SET LOCAL pgq.now = '2030-01-01 13:00Z';
SELECT is(pg_temp.taken(100), '---', 'after a pause no more than burst start');
ROLLBACK TO before;
SET LOCAL pgq.now = '2030-01-01 13:00Z';
SELECT is(pg_temp.taken(100), '---', 'a claim that is rolled back has not used the rate');
SELECT is(count(*), 1::bigint, 'there is one row for the queue') FROM pgq_rate;
SET LOCAL pgq.now = '2030-01-01 11:00Z';
SELECT is(pgq_ripe_in('{q}') > interval '1 h', true, 'the clock is set back');
SELECT pgq_configure('q', '{"rate": 3, "per": "1 s", "burst": null}');
SET LOCAL pgq.now = '2030-01-01 14:00Z';
SELECT is(pg_temp.taken(100), '-', 'without burst, one starts at a time');
SELECT is(pgq_ripe_in('{q}'), interval '333334 microseconds', 'steps are rounded up');
DELETE FROM pgq_waiting;
DELETE FROM pgq_running;

-- Each group.
SELECT pgq_configure('q', '{"rate": null, "rate_per_group": 1, "per": "1 minute", "burst": 2}');
SELECT pgq_enqueue('k', to_jsonb(n), 'q', group_key => CASE WHEN n <= 5 THEN 'a' WHEN n <= 10 THEN 'b' END)
FROM generate_series(1, 13) AS n;
SELECT is(pg_temp.taken(100), 'aabb---', 'each group has a rate of its own, and jobs without a group have none');
SELECT is(pgq_ripe_in('{q}'), interval '1 minute', 'the next one may start after a step');
SET LOCAL pgq.now = '2030-01-01 14:01Z';
SELECT is(pg_temp.taken(100), 'ab', 'then one of each group starts');
SELECT is(count(*), 2::bigint, 'each group has a row') FROM pgq_rate WHERE group_id <> 0;
SET LOCAL pgq.now = '2030-01-01 15:00Z';
DELETE FROM pgq_running;
SELECT is(pg_temp.taken(1) IN ('a', 'b'), true, 'later');
SELECT cmp_ok(count(*), '<=', 2::bigint, 'rows that say nothing are removed') FROM pgq_rate WHERE group_id <> 0;

SELECT * FROM finish();
ROLLBACK;
