-- Limits: how many jobs of a queue, and of each group, run at a time; and the turns of the groups.
BEGIN;
SELECT plan(44);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

CREATE FUNCTION pg_temp.add(jobs integer, key text DEFAULT NULL, named text DEFAULT 'q') RETURNS void LANGUAGE sql AS
    $$SELECT pgq_enqueue('k', to_jsonb(n), named, dedup => false, group_key => key) FROM generate_series(1, jobs) AS n$$;
CREATE FUNCTION pg_temp.taken(max_jobs bigint, queues text[] DEFAULT '{q}') RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(coalesce(group_key, '-'), '' ORDER BY group_key) FROM pgq_claim(queues, max_jobs, '1 minute')$$;

-- The queue.
SELECT pgq_configure('q', '{"max_running": 3}');
SELECT pg_temp.add(10);
SELECT is(pg_temp.taken(2), '--', 'a claim takes what it wants below the limit');
SELECT is(pg_temp.taken(5), '-', 'and no more than the limit allows');
SELECT is(pg_temp.taken(5), NULL, 'at the limit it takes none');
SELECT is(at_limit, true, 'the view shows that') FROM pgq_queues WHERE queue = 'q';
SELECT is(pgq_ripe_in('{q}'), NULL, 'and no time is known at which it may');
SELECT pgq_complete(id, token) FROM pgq_running LIMIT 1;
SELECT is(pgq_ripe_in('{q}'), interval '0', 'after the end of a job there is one to claim');
SELECT is(at_limit, false, 'and the view shows none') FROM pgq_queues WHERE queue = 'q';
SELECT is(pg_temp.taken(5), '-', 'a job that is done frees its place');
SELECT pgq_fail(id, token) FROM pgq_running LIMIT 1;
SELECT is(pg_temp.taken(5), '-', 'so does one that fails');
SELECT pgq_configure('q', '{"max_running": 1}');
SELECT is(count(*), 3::bigint, 'a limit that is lowered ends no job') FROM pgq_running;
SELECT pgq_release(id, token) FROM pgq_running LIMIT 2;
SELECT is(pg_temp.taken(5), NULL, 'but none is claimed while as many run');
SET LOCAL pgq.now = '2030-01-01 12:02Z';
SELECT is(pg_temp.taken(5), '-', 'a lease that has ended frees its place');
SELECT pgq_configure('q', '{"max_running": null}');
SELECT is(pg_temp.taken(2), '--', 'without the limit all may be claimed');
DELETE FROM pgq_running;
DELETE FROM pgq_waiting;

-- Each group. Jobs without a group have no such limit.
SELECT pgq_configure('q', '{"max_per_group": 2}');
SELECT pg_temp.add(5, 'a');
SELECT pg_temp.add(1, 'b');
SELECT pg_temp.add(3);
SELECT is(pg_temp.taken(100), 'aab---', 'of each group no more than its limit are taken');
SELECT is(pg_temp.taken(100), NULL, 'groups at their limit are passed over');
SELECT is(groups_at_limit, 1::bigint, 'the view counts them') FROM pgq_queues WHERE queue = 'q';
SELECT is(pgq_ripe_in('{q}'), NULL, 'no time is known for them either');
SELECT pg_temp.add(1, 'b');
SELECT is(pg_temp.taken(100), 'b', 'while others are claimed');
SELECT pgq_complete(id, token) FROM pgq_running WHERE group_key = 'a' LIMIT 1;
SELECT is(pg_temp.taken(100), 'a', 'a job that is done frees a place of its group');
SELECT pgq_pause('q', group_key => 'a');
SELECT pgq_complete(id, token) FROM pgq_running;
SELECT pg_temp.add(1, 'b');
SELECT is(pg_temp.taken(100), 'b', 'a group that is paused is passed over, too');
SELECT pgq_resume('q', 'a');
SELECT is(pg_temp.taken(100), 'aa', 'until it is resumed');
SELECT pgq_complete(id, token) FROM pgq_running;
SELECT pg_temp.add(3, 'c');
SELECT pgq_pause('q', '2030-01-01 12:03Z', 'c');
SELECT is(pg_temp.taken(100), NULL, 'or until the time of the pause');
SET LOCAL pgq.now = '2030-01-01 12:03Z';
SELECT is(pg_temp.taken(100), 'cc', 'when it is over, the limit of the group counts');
SELECT pg_temp.add(3);
SELECT is(pg_temp.taken(100), '---', 'jobs without a group begin');
SELECT pg_temp.add(1);
SELECT is(pg_temp.taken(100), '-', 'while others of them run');
SELECT is(capped, ARRAY[_pgq_group_id('c')], 'they are no group at its limit')
FROM pgq_queue_setting AS s, _pgq_caps('q', s, NULL, pgq_now()) WHERE s.queue = 'q';
DELETE FROM pgq_running;
DELETE FROM pgq_waiting;

-- A limit that is set while jobs run counts these.
SELECT pgq_configure('q', '{"max_per_group": null}');
SELECT pg_temp.add(20);
SELECT pgq_claim_batch('{q}', 20);
SELECT is(count(*), 1::bigint, 'jobs of a queue without limits are packed') FROM pgq_running_batch;
SELECT pgq_configure('q', '{"max_running": 21}');
SELECT results_eq(
    'SELECT count(*), count(group_id), (SELECT count(*) FROM pgq_running_batch) FROM pgq_running',
    'VALUES (20::bigint, 20::bigint, 0::bigint)', 'a limit unpacks what runs, and counts it');
SELECT pg_temp.add(20);
SELECT is(cardinality(ids), 1, 'pgq_claim_batch takes no more than the limit allows') FROM pgq_claim_batch('{q}', 20);
SELECT is(count(*), 0::bigint, 'a batch of a limited queue is not packed') FROM pgq_running_batch;
DELETE FROM pgq_running;
SELECT is(cardinality(ids), 19, 'it takes as many as wait') FROM pgq_claim_batch('{q}', 20);
SELECT is(count(*), 0::bigint, 'and packs none of them') FROM pgq_running_batch;
DELETE FROM pgq_running;
DELETE FROM pgq_waiting;

-- Jobs that run in groups, without counting, and what a limit of before has left.
SELECT pgq_configure('q', '{"max_running": null, "max_per_group": null}');
SELECT pg_temp.add(3, 'a');
SELECT pg_temp.add(2, 'b');
SELECT is(pg_temp.taken(2, '{q}'), 'ab', 'without limits, two run');
INSERT INTO pgq_turn (queue, token, group_id, oldest) SELECT 'q', token + 1, 0, token + 1 FROM pgq_running LIMIT 1;
SELECT pgq_configure('q', '{"max_per_group": 1}');
SELECT is(pg_temp.taken(5), NULL, 'the first limit counts each of them in its group, from the first token on');
SELECT pgq_complete(id, token) FROM pgq_running WHERE group_key = 'b';
SELECT is(pg_temp.taken(5), 'b', 'a place of a group is for that group');
DELETE FROM pgq_running;
DELETE FROM pgq_waiting;
SELECT pgq_configure('q', '{"max_per_group": null}');

-- Shares: no more of each group than it has room for, and no more of all than are wanted.
SELECT pgq_configure('q', '{"max_per_group": 3}');
SELECT pg_temp.add(2, 'a');
SELECT is(pg_temp.taken(5), 'aa', 'two of a group run');
SELECT pg_temp.add(5, 'a');
SELECT pg_temp.add(10, 'b');
SELECT is(pg_temp.taken(4), 'abbb', 'what a full group leaves of its share goes to another one');
DELETE FROM pgq_running;
SELECT pg_temp.add(5, 'c');
SELECT is(length(pg_temp.taken(4)), 4, 'shares that are rounded up are no more than are wanted');
SELECT pg_temp.taken(100);
SELECT results_eq(
    'SELECT count(*) FROM pgq_running GROUP BY group_key', 'VALUES (3::bigint), (3), (3)', 'and then each group has its limit');
DELETE FROM pgq_running;
DELETE FROM pgq_waiting;
SELECT pgq_configure('q', '{"max_per_group": null}');

-- Several queues.
SELECT pgq_configure('q', '{"max_running": 1}');
SELECT pg_temp.add(3);
SELECT pg_temp.add(3, NULL, 'free');
SELECT pg_temp.add(3, NULL, 'other');
SELECT is(string_agg(queue, ' '), 'free free free q other other other', 'queues are claimed from in the given order')
FROM pgq_claim('{free,q,other}', 100);
DELETE FROM pgq_running;
DELETE FROM pgq_waiting;
SELECT pgq_configure('q', '{"max_running": null}');

-- The turns.
SELECT pg_temp.add(100, 'big');
SELECT pg_temp.add(2, 'small' || n) FROM generate_series(1, 5) AS n;
SELECT is(count(DISTINCT group_key), 6::bigint, 'as many jobs as there are groups are one of each') FROM pgq_claim('{q}', 6);
SELECT is(count(*) FILTER (WHERE group_key = 'big'), 15::bigint, 'what small groups leave goes to the others')
FROM pgq_claim('{q}', 20);
SELECT is((array_agg(group_key))[1:2], '{big,big}', 'until there is only one') FROM pgq_claim('{q}', 2);
DELETE FROM pgq_running;
DELETE FROM pgq_waiting;
SELECT pg_temp.add(6, 'a');
SELECT pg_temp.add(2, 'b');
SELECT ok(array_agg(group_key) IN ('{a,b,a,b,a,a,a,a}', '{b,a,b,a,a,a,a,a}'), 'one job of each group is returned after the other')
FROM pgq_claim('{q}', 8);

SELECT * FROM finish();
ROLLBACK;
