-- Rates: how many jobs of a queue, and of each group, start in an interval.
BEGIN;
SELECT plan(41);
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
SET LOCAL pgq.now = '2030-01-01 12:59:50Z';
SELECT is(pgq_ripe_in('{q}'), interval '20 s', 'a clock that is set back by less than a minute lets none start earlier');
SET LOCAL pgq.now = '2030-01-01 12:10Z';
SELECT is(pgq_ripe_in('{q}'), interval '0', 'one that is set back further keeps no job waiting');
SELECT is(pg_temp.taken(100), '---', 'burst start');
SELECT is(pgq_ripe_in('{q}'), interval '10 s', 'and then the rate counts again');
SELECT pgq_configure('q', '{"rate": 1, "per": "1 hour", "burst": 4}');
SELECT is(pg_temp.taken(100), '---', 'of a rate that is changed, what has started is used');
SELECT pgq_configure('q', '{"rate": 6, "per": "1 minute", "burst": 1}');
SELECT is(pgq_ripe_in('{q}'), interval '10 s', 'a slow rate keeps no job waiting after it has become a fast one');
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
SELECT is(_pgq_room_of(0, s, 7, NULL, '{}', '{}', pgq_now()), 7::bigint, 'in a list of groups, too') FROM pgq_queue_setting AS s WHERE s.queue = 'q';
SELECT is(pgq_ripe_in('{q}'), interval '1 minute', 'the next one may start after a step');
SELECT is(count(*), 0::bigint, 'a queue with such a rate alone is claimed from under its lock') FROM pgq_running WHERE group_id IS NULL;
SET LOCAL pgq.now = '2030-01-01 14:01Z';
SELECT is(pg_temp.taken(100), 'ab', 'then one of each group starts');
SELECT is(count(*), 2::bigint, 'each group has a row') FROM pgq_rate WHERE group_id <> 0;
SET LOCAL pgq.now = '2030-01-01 15:00Z';
DELETE FROM pgq_running;
SELECT is(pg_temp.taken(1) IN ('a', 'b'), true, 'later');
SELECT cmp_ok(count(*), '<=', 2::bigint, 'rows that say nothing are removed') FROM pgq_rate WHERE group_id <> 0;

DELETE FROM pgq_waiting;
DELETE FROM pgq_running;

-- Both rates together.
SELECT pgq_configure('q', '{"rate": 60, "rate_per_group": 1, "per": "1 minute", "burst": 2}');
SELECT pgq_enqueue('k', to_jsonb(n), 'q', group_key => 'c') FROM generate_series(1, 5) AS n;
SELECT is(pg_temp.taken(1), 'c', 'one starts');
SET LOCAL pgq.now = '2030-01-01 15:00:30Z';
SELECT is(pg_temp.taken(100), 'c', 'the rate of the group counts steps of its own');
SELECT is(pg_temp.taken(100), NULL, 'which are longer than those of the queue');

-- Two queues in one claim.
SELECT pgq_configure(name, '{"rate": 1, "per": "1 minute"}') FROM unnest('{r,s}'::text[]) AS name;
SELECT pgq_enqueue('k', to_jsonb(n), name) FROM generate_series(1, 2) AS n, unnest('{r,s}'::text[]) AS name;
SELECT is(count(*), 2::bigint, 'each queue has a rate of its own') FROM pgq_claim('{r,s}', 10);
SELECT is(count(*), 0::bigint, 'and a claim from both uses both') FROM pgq_claim('{s,r}', 10);

SELECT pgq_configure(name, '{"burst": 3}') FROM unnest('{r,s}'::text[]) AS name;
SET LOCAL pgq.now = '2030-01-01 16:00Z';
DELETE FROM pgq_running;
SELECT pgq_enqueue('k', to_jsonb(n), 'free') FROM generate_series(1, 3) AS n;
SELECT is(count(*), 4::bigint, 'one starts beside jobs of a queue without a rate') FROM pgq_claim('{r,free}', 4);
SELECT pgq_enqueue('k', '3', 'r');
SELECT is(count(*), 1::bigint, 'and these do not count') FROM pgq_claim('{r,free}', 4);

-- Rows that say nothing.
SELECT pgq_configure('t', '{"rate_per_group": 1, "per": "1 minute"}');
INSERT INTO pgq_rate SELECT 't', _pgq_room() - n, pgq_now() + CASE n WHEN 40 THEN interval '1 s' ELSE '-1 s' END FROM generate_series(1, 40) AS n;
SELECT pgq_enqueue('k', queue => 't', group_key => 'a');
SELECT is(count(*), 1::bigint, 'a job starts') FROM pgq_claim('{t}');
SELECT results_eq(
    $$SELECT count(*), count(*) FILTER (WHERE all_spent > pgq_now()) FROM pgq_rate WHERE queue = 't'$$,
    'VALUES (22::bigint, 2::bigint)', 'with it, twenty rows are looked at, and those are removed whose time has passed');

-- A burst of so many steps takes longer than a timestamp can have.
SELECT pgq_configure('slow', '{"rate": 1, "per": "1 year", "burst": 2147483647}');
SELECT pgq_enqueue('k', to_jsonb(n), 'slow') FROM generate_series(1, 3) AS n;
SELECT is(count(*), 1::bigint, 'a job of a queue with a slow rate and the greatest burst starts') FROM pgq_claim('{slow}');
SELECT is(count(*), 2::bigint, 'and so do others') FROM pgq_claim('{slow}', 10);
SELECT is(next_start_at, NULL, 'the view shows that the next one may start now') FROM pgq_queues WHERE queue = 'slow';

SELECT * FROM finish();
ROLLBACK;
