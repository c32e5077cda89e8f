-- Ordered queues: the jobs of a group run one after the other, in the order in which they were enqueued.
BEGIN;
SELECT plan(39);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

CREATE FUNCTION pg_temp.taken(max_jobs bigint DEFAULT 10) RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(args #>> '{}', ' ' ORDER BY args) FROM pgq_claim('{q}', max_jobs, '1 minute')$$;
CREATE FUNCTION pg_temp.done(name text) RETURNS void LANGUAGE sql AS
    $$SELECT pgq_complete(id, token) FROM pgq_running WHERE args = to_jsonb(name)$$;

SELECT pgq_configure('q', '{"ordered": true}');
SELECT pgq_enqueue('k', to_jsonb('a' || n), 'q', priority => 9 - n, group_key => 'a') FROM generate_series(1, 5) AS n;
SELECT pgq_enqueue('k', to_jsonb('b' || n), 'q', group_key => 'b') FROM generate_series(1, 2) AS n;
SELECT pgq_enqueue('k', to_jsonb('-' || n), 'q') FROM generate_series(1, 2) AS n;
SELECT is(pg_temp.taken(), '-1 -2 a1 b1', 'the first of each group is claimed, whatever its priority, and all without one');
SELECT is(pg_temp.taken(), NULL, 'while they run, no other is');
SELECT is(pgq_ripe_in('{q}'), NULL, 'and no time is known');
SELECT pg_temp.done('b1');
SELECT is(pg_temp.taken(), 'b2', 'after the end of one the next of its group is claimed');
SELECT pgq_fail(id, token, retry_in => '1 hour') FROM pgq_running WHERE args = '"a1"';
SELECT is(pg_temp.taken(), NULL, 'a first job that waits for its retry keeps its group waiting');
SELECT is(pgq_ripe_in('{q}'), interval '1 hour', 'until it is ripe');
SET LOCAL pgq.now = '2030-01-01 13:00Z';
DELETE FROM pgq_running WHERE args <> '"a1"';
SELECT is(pg_temp.taken(), 'a1', 'then it is claimed again');
SELECT pgq_snooze(id, token, delay => '10 minutes') FROM pgq_running WHERE args = '"a1"';
SELECT is(pg_temp.taken(), NULL, 'a snoozed one keeps its group waiting, too');
SET LOCAL pgq.now = '2030-01-01 13:10Z';
SELECT is(pg_temp.taken(), 'a1', 'and is claimed before the others');
SELECT pgq_fail(id, token, retry => false) FROM pgq_running WHERE args = '"a1"';
SELECT is(pg_temp.taken(), 'a2', 'a dead one lets the next one run');
SELECT pgq_release(id, token) FROM pgq_running WHERE args = '"a2"';
SELECT is(pg_temp.taken(), 'a2', 'one that is released is the first again');
SELECT pgq_cancel_claimed(id, token) FROM pgq_running WHERE args = '"a2"';
SELECT is(pg_temp.taken(), 'a3', 'a cancelled one lets the next one run');
SELECT pg_temp.done('a3');

-- A dead job may stop its group.
SELECT pgq_configure('q', '{"on_dead": "stop"}');
SELECT is(pg_temp.taken(), NULL, 'a dead job stops its group, if the queue says so');
SELECT pgq_retry(id) FROM pgq_ended WHERE args = '"a1"';
SELECT is(pg_temp.taken(), 'a1', 'an operator lets it run again');
SELECT pg_temp.done('a1');
SELECT is(pg_temp.taken(), 'a4', 'and then the others');
SELECT pg_temp.done('a4');

-- Delayed jobs.
SELECT is(pg_temp.taken(), 'a5', 'the last one');
SELECT pg_temp.done('a5');
SELECT pgq_enqueue('k', '"a6"', 'q', delay => '1 hour', group_key => 'a');
SELECT pgq_enqueue('k', '"a7"', 'q', group_key => 'a');
SELECT is(count(DISTINCT group_id), 1::bigint, 'in an ordered queue a delayed job waits in its group') FROM pgq_waiting;
SELECT is(pg_temp.taken(), NULL, 'and keeps those after it waiting');
SET LOCAL pgq.now = '2030-01-01 15:00Z';
SELECT is(pg_temp.taken(), 'a6', 'until its time has come');
SELECT pg_temp.done('a6');
SELECT pg_temp.taken();
DELETE FROM pgq_running;

-- Many at once, and a queue that becomes ordered.
SELECT pgq_configure('q', '{"ordered": null, "on_dead": null}');
SELECT pgq_enqueue_many('[{"kind": "k", "args": "c1", "queue": "q", "group_key": "c", "delay": "1 hour"}, {"kind": "k", "args": "c2", "queue": "q", "group_key": "c"}]');
SELECT results_eq('SELECT group_id = _pgq_room() FROM pgq_waiting ORDER BY id', 'VALUES (true), (false)', 'a job whose time is to come waits apart');
SELECT pgq_configure('q', '{"ordered": true}');
SELECT is(count(*), 0::bigint, 'in a queue that becomes ordered, none does') FROM pgq_waiting WHERE group_id = _pgq_room();
SELECT is(pg_temp.taken(), NULL, 'in a queue that becomes ordered, such jobs keep those after them waiting');
SELECT pgq_configure('q', '{"ordered": null}');
SELECT is(pg_temp.taken(), 'c2', 'no longer when it is not ordered any more');

DELETE FROM pgq_waiting;
DELETE FROM pgq_running;

-- Merging keeps the order: the twin takes the earlier place.
SELECT pgq_configure('q', '{"ordered": true}');
SELECT id AS first FROM pgq_enqueue('k', '"d1"', 'q', group_key => 'd') \gset
SELECT pg_temp.taken();
SELECT pgq_enqueue('k', '"d2"', 'q', group_key => 'd');
SELECT pgq_enqueue('k', '"d1"', 'q', group_key => 'd');
SELECT is((pgq_fail(id, token, 'broken', retry_in => '0')).outcome, 'retry', 'a job that meets its twin keeps its place') FROM pgq_running;
SELECT is(min(id), :first::bigint, 'the twin waits under its id') FROM pgq_waiting WHERE args = '"d1"';
SELECT is(pg_temp.taken(), 'd1', 'and is claimed before later jobs');
DELETE FROM pgq_running;
DELETE FROM pgq_waiting;

-- A twin that is earlier, or in another group, keeps its own place.
SELECT id AS first FROM pgq_enqueue('k', '"e1"', 'q', group_key => 'e', max_retries => 0) \gset
SELECT pg_temp.taken();
SELECT pgq_fail(id, token) FROM pgq_running;
SELECT pgq_enqueue('k', '"e1"', 'q', group_key => 'e');
SELECT is(pg_temp.taken(), 'e1', 'a later twin of a dead job runs');
SELECT pgq_retry(:first);
SELECT is((pgq_fail(id, token, retry_in => '0')).outcome, 'merged', 'and merges into that, which an operator has retried') FROM pgq_running;
SELECT is(id, :first::bigint, 'which keeps its place') FROM pgq_waiting;
DELETE FROM pgq_waiting;
SELECT pgq_enqueue('k', '"e2"', 'q', group_key => 'e');
SELECT pg_temp.taken();
SELECT id AS other FROM pgq_enqueue('k', '"e2"', 'q', group_key => 'f') \gset
SELECT is((pgq_fail(id, token, retry_in => '0')).outcome, 'merged', 'a job merges into a twin of another group') FROM pgq_running;
SELECT is(id, :other::bigint, 'which has its place there') FROM pgq_waiting;
DELETE FROM pgq_waiting;
DELETE FROM pgq_ended;

-- Of many groups, those are taken that have a job to begin, and no more than are wanted, in turn.
SELECT pgq_enqueue('k', to_jsonb('later' || n), 'q', delay => '1 hour', group_key => n::text) FROM generate_series(1, 9) AS n;
SELECT pgq_enqueue('k', to_jsonb(key || n), 'q', group_key => key) FROM generate_series(1, 3) AS n, unnest('{g,h}'::text[]) AS key;
SELECT array_agg(taken ORDER BY n) AS taken FROM (
    SELECT n, pg_temp.taken(1) AS taken, pg_temp.done('g' || (n + 1) / 2), pg_temp.done('h' || (n + 1) / 2) FROM generate_series(1, 4) AS n
) AS t \gset
SELECT ok(:'taken' IN ('{g1,h1,g2,h2}', '{h1,g1,h2,g2}'), 'groups take turns beside those that wait');
SELECT is(pg_temp.taken(0), NULL, 'no job is taken if none is wanted');
SELECT pgq_fail(id, token, retry_in => '1 hour') FROM (SELECT * FROM pgq_claim('{q}', 1)) AS c;
SELECT is(count(*), 0::bigint, 'a job that failed waits in its group') FROM pgq_waiting WHERE group_id = _pgq_room();
DELETE FROM pgq_waiting;

-- A dead job stops its own group only, and only those that come after it.
SELECT pgq_enqueue('k', to_jsonb(key || n), 'q', max_retries => 0, group_key => key) FROM generate_series(1, 3) AS n, unnest('{i,j}'::text[]) AS key;
SELECT is(pg_temp.taken(), 'i1 j1', 'two groups begin');
SELECT pgq_fail(id, token) FROM pgq_running WHERE args = '"i1"';
SELECT pgq_configure('q', '{"on_dead": "stop"}');
SELECT pg_temp.done('j1');
SELECT is(pg_temp.taken(), 'j2', 'the other one goes on');
SELECT pgq_configure('q', '{"on_dead": null}');
SELECT is(pg_temp.taken(), 'i2', 'without on_dead, both do');
SELECT pgq_fail(id, token) FROM pgq_running WHERE args = '"i2"';
SELECT pgq_configure('q', '{"on_dead": "stop"}');
SELECT pgq_retry(id) FROM pgq_ended WHERE args = '"i1"';
SELECT is(pg_temp.taken(), 'i1', 'a job before the dead one runs');
SELECT pg_temp.done('i1');
SELECT is(pg_temp.taken(), NULL, 'and those after it wait');

SELECT * FROM finish();
ROLLBACK;
