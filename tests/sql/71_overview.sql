-- The bounded readings of pgq_overview_…: exact in small tables, estimates that say so in large ones.
BEGIN;
-- Tests before have drawn numbers.
ALTER SEQUENCE pgq_job_id RESTART;
SELECT plan(31);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

CREATE FUNCTION pg_temp.numbers() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', queue, kind, waiting, ripe, blocked, running, dead, cancelled, done, oldest_ripe_age, estimated) FROM pgq_overview_kinds()
$$;
SELECT is_empty('SELECT FROM pgq_overview_kinds()', 'without jobs there are no numbers');
SELECT is_empty('SELECT FROM pgq_overview_counters()', 'nor counters');
SELECT is_empty('SELECT FROM pgq_overview_waits()', 'and nothing waits');
SELECT is_empty('SELECT FROM pgq_overview_deaths()', 'nothing has died');
SELECT is_empty('SELECT FROM pgq_overview_queues()', 'and no queue has settings or is paused');
SELECT pgq_overview_ids() AS before \gset

-- A job in each state.
SELECT pgq_enqueue('a', to_jsonb(n), ripe_at => pgq_now() + n * interval '1 hour') FROM generate_series(-3, 2) AS n;
SELECT pgq_enqueue('b', to_jsonb(n), 'other', max_retries => 0, dedup_key => 'k' || n) FROM generate_series(1, 4) AS n;
SELECT pgq_fail(c.id, c.token, E'\n out of paper \nTraceback') FROM pgq_claim('{other}', 2, worker => 'w') AS c;
SELECT pgq_complete(c.id, c.token, '"r"') FROM pgq_claim('{other}') AS c;
SELECT pgq_cancel(id) FROM pgq_jobs WHERE kind = 'b' AND state = 'waiting';
SELECT id AS running FROM pgq_claim(worker => 'w') \gset
SELECT pgq_enqueue('after', after => ARRAY[:running]);
SELECT results_eq(
    'SELECT * FROM pg_temp.numbers()',
    $$ VALUES ('default a 5 3 0 1 0 0 0 02:00:00 f'), ('default after 0 0 1 0 0 0 0 f'), ('other b 0 0 0 0 2 1 1 f') $$,
    'pgq_overview_kinds counts the jobs of each queue and kind');
SELECT results_eq(
    'SELECT queue, kind, waiting, ripe, running, dead, cancelled, done, oldest_ripe_age, handled, blocked FROM pgq_overview_kinds()',
    'SELECT * FROM pgq_stats ORDER BY queue, kind', 'as pgq_stats does');
SELECT results_eq(
    'SELECT * FROM pgq_overview_counters()',
    $$ SELECT queue, kind, claimed, done, failed, dead, cancelled, merged, retried, waited_seconds, timed, ran_seconds
       FROM pgq_counters WHERE claimed + cancelled > 0 ORDER BY queue, kind $$,
    'pgq_overview_counters has the counters of what was claimed or cancelled');
SELECT is(pgq_overview_ids(), max(id), 'pgq_overview_ids is the number of the newest job') FROM pgq_jobs;
SELECT ok(pgq_overview_ids() >= :before + 11, 'which grows with each job');

SELECT pgq_register('present', '{default}', kinds => '{a}');
SELECT results_eq('SELECT kind, handled FROM pgq_overview_kinds()', $$ VALUES ('a', true), ('after', false), ('b', false) $$,
                  'kinds are handled, or no present worker handles them');
SELECT pgq_unregister('present');

-- What has waited longest, over priorities and groups.
SELECT pgq_enqueue('low', queue => 'mixed', priority => 9, ripe_at => pgq_now() - interval '4 hours');
SELECT pgq_enqueue('high', queue => 'mixed', priority => 0, ripe_at => pgq_now() - interval '1 hour');
SELECT pgq_enqueue('later', queue => 'later', delay => '1 hour');
SELECT pgq_enqueue('grouped', to_jsonb(n), queue => 'groups', group_key => n::text, ripe_at => pgq_now() - (n - 1) * interval '3 hours')
FROM generate_series(1, 3) AS n;
SELECT results_eq('SELECT queue, kind, age, priority FROM pgq_overview_waits()',
                  $$ VALUES ('groups', 'grouped', interval '6 hours', 5), ('mixed', 'low', interval '4 hours', 9), ('default', 'a', interval '2 hours', 5) $$,
                  'pgq_overview_waits has the job of each queue that has been ripe for longest, the longest first');

-- What died and why.
SELECT pgq_enqueue('b', to_jsonb(n), 'other', max_retries => 0) FROM generate_series(10, 12) AS n;
SET LOCAL pgq.now = '2030-01-01 14:00Z';
SELECT pgq_fail(c.id, c.token, 'out of ink') FROM pgq_claim('{other}', 3) AS c;
SELECT results_eq(
    'SELECT queue, kind, error, jobs, newest_at - oldest_at FROM pgq_overview_deaths()',
    $$ VALUES ('other', 'b', 'out of ink', 3::bigint, interval '0'), ('other', 'b', 'out of paper ', 2, '0') $$,
    'pgq_overview_deaths groups dead jobs by the first line of their newest error');
SELECT results_eq('SELECT error, jobs FROM pgq_overview_deaths(''1 hour'')', $$ VALUES ('out of ink', 3::bigint) $$,
                  'and has only those that ended within the time that is given');
SELECT is(newest_job, (SELECT max(id) FROM pgq_jobs WHERE state = 'dead'), 'with the number of the newest job') FROM pgq_overview_deaths() LIMIT 1;
SELECT pgq_configure('other', '{"sensitive": true}');
SELECT results_eq('SELECT error, jobs FROM pgq_overview_deaths()', 'VALUES (NULL, 5::bigint)', 'the errors of a sensitive queue are not told');
SELECT pgq_configure('other', '{"sensitive": null}');

-- What is paused or full.
SELECT pgq_pause('stopped');
SELECT pgq_pause('later', '2030-01-01 15:00Z');
SELECT pgq_configure('full', '{"max_running": 1}'), pgq_configure('line', '{"ordered": true}');
SELECT pgq_configure('rated', '{"rate": 1, "per": "1 minute"}');
SELECT pgq_enqueue('k', to_jsonb(n), q, group_key => 'g') FROM generate_series(1, 2) AS n, unnest('{full,line,rated}'::text[]) AS q;
SELECT pgq_claim('{full}'), pgq_claim('{line}'), pgq_claim('{rated}');
SELECT results_eq(
    'SELECT queue, paused, paused_until, paused_groups, running, max_running, at_limit, groups_at_limit FROM pgq_overview_queues()',
    $$ VALUES ('full', false, NULL::timestamptz, 0::bigint, 1::bigint, 1, true, 0::bigint), ('later', true, '2030-01-01 15:00Z', 0, NULL, NULL, false, 0),
              ('line', false, NULL, 0, 1, NULL, false, 1), ('rated', false, NULL, 0, NULL, NULL, false, 0), ('stopped', true, NULL, 0, NULL, NULL, false, 0) $$,
    'pgq_overview_queues has the queues that have settings or are paused');
SELECT pgq_pause('line', group_key => 'other');
SELECT results_eq(
    'SELECT queue, paused, paused_until, paused_groups, coalesce(running, 0), max_running, at_limit, groups_at_limit, next_start_at FROM pgq_overview_queues()',
    $$ SELECT queue, paused, paused_until, paused_groups, CASE WHEN queue = 'rated' THEN 0 ELSE running END, max_running, at_limit, groups_at_limit, next_start_at
       FROM pgq_queues WHERE queue IN ('full', 'later', 'line', 'rated', 'stopped') ORDER BY queue $$, 'as pgq_queues says');
SELECT is(next_start_at, '2030-01-01 14:01Z', 'the next job may start when the rate lets it') FROM pgq_overview_queues() WHERE queue = 'rated';
SELECT pgq_resume('line', 'other');
SELECT pgq_resume('stopped'), pgq_resume('later'), pgq_configure('full', '{"max_running": null}');

-- Admin and reader of one queue, and nobody.
CREATE ROLE tap_reader;
CREATE ROLE tap_admin;
CREATE ROLE tap_nobody;
SELECT pgq_grant('tap_reader', 'reader', '{other,mixed}'), pgq_grant('tap_admin', 'admin', '{other}');
CREATE FUNCTION pg_temp.seen(role text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    seen text;
BEGIN
    PERFORM set_config('role', role, true);
    seen := concat_ws(' ',
        (SELECT array_agg(DISTINCT queue ORDER BY queue) FROM pgq_overview_kinds()), (SELECT array_agg(DISTINCT queue) FROM pgq_overview_counters()),
        (SELECT array_agg(queue) FROM pgq_overview_waits()), (SELECT array_agg(DISTINCT queue) FROM pgq_overview_deaths()),
        coalesce((SELECT max(error) FROM pgq_overview_deaths()), 'secret'), (SELECT array_agg(queue) FROM pgq_overview_queues()), coalesce(pgq_overview_ids()::text, 'secret'));
    PERFORM set_config('role', 'none', true);
    RETURN seen;
END
$$;
SELECT is(pg_temp.seen('tap_reader'), '{mixed,other} {other} {mixed} {other} secret secret', 'a reader sees its queues, without errors');
SELECT is(pg_temp.seen('tap_admin'), '{other} {other} {other} out of paper  secret', 'an admin sees its queue, with errors');
SELECT throws_ok($$ SELECT pg_temp.seen('tap_nobody') $$, '42501', 'permission denied for function pgq_overview_kinds', 'a role that was granted nothing may not call them');

-- More than 1,000 pages: a row of 1.8 kB shares a page with three others. The number is estimated, and near; a small queue is counted.
SELECT is(count(*), 5000::bigint, 'five thousand jobs of 1.8 kB')
FROM pgq_enqueue_many((SELECT jsonb_agg(jsonb_build_object('kind', 'k' || n % 2, 'queue', 'big', 'args', repeat('x', 1800) || n)) FROM generate_series(1, 5000) AS n));
SELECT results_eq($$ SELECT kind, waiting, ripe, oldest_ripe_age, estimated FROM pgq_overview_kinds() WHERE queue = 'big' $$,
                  $$ VALUES ('k0', 2500::bigint, 2500::bigint, interval '0', false), ('k1', 2500, 2500, '0', false) $$,
                  'up to ten thousand jobs of a queue are counted in a large table, too');
SELECT results_eq($$ SELECT queue, kind, waiting FROM pgq_overview_kinds() WHERE waiting > 0 AND queue <> 'big' $$,
                  $$ SELECT queue, kind, waiting FROM pgq_stats WHERE waiting > 0 AND queue <> 'big' ORDER BY queue, kind $$, 'and those of small queues');
INSERT INTO pgq_waiting (queue, kind, args, priority, ripe_at, attempt, dedup, enqueued_at)
SELECT 'big', 'k' || n % 2, to_jsonb(repeat('x', 1800)), 5, pgq_now() + n % 3 * interval '1 s', 0, false, pgq_now() FROM generate_series(1, 20000) AS n;
SELECT is(count(*), 2::bigint, 'more are estimated, within a quarter of the truth')
FROM pgq_overview_kinds() WHERE queue = 'big' AND estimated AND waiting BETWEEN 9375 AND 15625 AND ripe BETWEEN 4375 AND 7291 AND oldest_ripe_age = '0';
SELECT results_eq($$ SELECT queue, kind, waiting, estimated FROM pgq_overview_kinds() WHERE waiting > 0 AND queue <> 'big' $$,
                  $$ SELECT queue, kind, waiting, false FROM pgq_stats WHERE waiting > 0 AND queue <> 'big' ORDER BY queue, kind $$, 'the others are still counted');
SELECT is((SELECT array_agg(queue) FROM pgq_overview_waits()), '{groups,mixed,default,later,full,line,rated,big}', 'the longest waiting are found');
-- A head is a hint: what is behind it is not read.
INSERT INTO pgq_head SELECT 'mixed', pgq_now() + interval '1 s', '1 s', ARRAY[ROW(9, h.us, 0, h.us, 0)::_pgq_lane_head] FROM (SELECT _pgq_microseconds(pgq_now()) AS us) AS h;
SELECT results_eq($$ SELECT kind, waiting, estimated FROM pgq_overview_kinds() WHERE queue = 'mixed' $$, $$ VALUES ('high', 1::bigint, true) $$,
                  'a queue with heads is counted from there, and that is an estimate');
SELECT is(pg_temp.seen('tap_reader'), '{mixed,other} {other} {mixed} {other} secret secret', 'a reader sees only its queues in a large table');

-- Of ended jobs, those that are done are estimated, and those that are dead are counted.
INSERT INTO pgq_ended (id, queue, kind, args, priority, ripe_at, attempt, max_retries, dedup, enqueued_at, outcome, ended_at)
SELECT 1000000 + n, 'other', CASE WHEN n = 7 THEN 'rare' ELSE 'b' END, to_jsonb(repeat('x', 1800)), 5, pgq_now(), 0, 0, false, pgq_now(),
       CASE WHEN n = 7 THEN 'dead' ELSE 'done' END, pgq_now()
FROM generate_series(1, 8000) AS n;
SELECT results_eq($$ SELECT kind, dead, done BETWEEN 6000 AND 10000, estimated FROM pgq_overview_kinds() WHERE queue = 'other' $$,
                  $$ VALUES ('b', 5::bigint, true, true), ('rare', 1, false, false) $$, 'one that is dead is found among thousands that are done');

SELECT * FROM finish();
ROLLBACK;
