-- Schedules: when their slots are fired, and what becomes of slots that are late, fail or overlap.
BEGIN;
SELECT plan(124);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL TimeZone = 'America/New_York';

-- Look as a worker does, at a time of that day in UTC, or any.
CREATE FUNCTION pg_temp.look(at text, queues text[] DEFAULT '{other}') RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('pgq.now', CASE WHEN at ~ '-' THEN at ELSE '2030-01-01 ' || at END || 'Z', true);
    RETURN (SELECT pgq_ripe_in(queues));
END
$$;
CREATE FUNCTION pg_temp.slots(schedule text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(j.context ->> 'slot', ' ' ORDER BY j.id) FROM pgq_jobs AS j WHERE j.context ->> 'schedule' = schedule
$$;
CREATE FUNCTION pg_temp.state(schedule text) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', to_char(s.next_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI'), to_char(s.last_at AT TIME ZONE 'UTC', 'HH24:MI'), s.missed)
    FROM pgq_schedules AS s WHERE s.name = schedule
$$;
CREATE FUNCTION pg_temp.clear() RETURNS void LANGUAGE sql AS $$ DELETE FROM pgq_waiting; DELETE FROM pgq_running; DELETE FROM pgq_schedule_entry $$;

-- A slot is fired by whatever session looks, once.
SELECT is(pgq_schedule('s', '30 * * * *', 'k', '{"n": 1}', 'q'), '2030-01-01 12:30Z'::timestamptz, 'a schedule is made, and its next slot returned');
SELECT is(pg_temp.look('12:00', '{q}'), interval '30 minutes', 'a worker of its queue sleeps until then');
SELECT is(pg_temp.look('12:00', '{q,other}'), interval '30 minutes', 'also with other queues');
SELECT is(pg_temp.look('12:00'), NULL, 'a worker of another queue does not');
SELECT pg_temp.look('12:29:59.999999') \g /dev/null
SELECT is(pg_temp.slots('s'), NULL, 'the slot is not fired before its time');
SELECT is(pg_temp.look('12:30', '{q}'), interval '0', 'at its time the job is ripe');
SELECT results_eq(
    'SELECT kind, args, queue, priority, max_retries, dedup, ripe_at, enqueued_at, context FROM pgq_jobs',
    $$VALUES ('k', '{"n": 1}'::jsonb, 'q', 5, 10, false, '2030-01-01 12:30Z'::timestamptz, '2030-01-01 12:30Z'::timestamptz,
              '{"schedule": "s", "slot": "2030-01-01T12:30:00.000000Z"}'::jsonb)$$, 'its context tells schedule and slot');
SELECT is(pg_temp.state('s'), '01-01 13:30 12:30 0', 'the next slot is an hour later');
SELECT is(last_job, id, 'the view tells the job') FROM pgq_schedules, pgq_waiting;
SELECT pg_temp.look('12:30'), pg_temp.look('12:31') \g /dev/null
SELECT is(pg_temp.slots('s'), '2030-01-01T12:30:00.000000Z', 'the slot is not fired twice');
SELECT is(kind, 'k', 'a claim finds the job') FROM pgq_claim('{q}');
SELECT pg_temp.clear();
SELECT pgq_schedule('mine', '0 13 * * *', 'mine', queue => 'q', priority => 2, max_retries => 3, backoff => '2 s', backoff_cap => '3 s');
SET LOCAL pgq.now = '2030-01-01 13:00Z';
SELECT is(concat_ws(' ', kind, priority, max_retries), 'mine 2 3', 'the claim that comes to a slot takes its job, which has the options of the schedule')
FROM pgq_claim('{q}');
SELECT results_eq('SELECT backoff, backoff_cap FROM pgq_running WHERE kind = ''mine''', $$VALUES (interval '2 s', interval '3 s')$$, 'all of them');
SELECT pg_temp.clear();

-- Groups: a job that is to be ripe later waits in the waiting room, and one of an ordered queue in its place.
SET LOCAL pgq.now = '2030-01-01 11:00Z';
SELECT pgq_configure('o', '{"ordered": true}') \g /dev/null
SELECT pgq_schedule(q || g, '0 12 * * *', 'k', to_jsonb(g), q, group_key => g, jitter => CASE g WHEN 'late' THEN '1 year'::interval END)
FROM unnest('{r,o}'::text[]) AS q CROSS JOIN unnest('{now,late}'::text[]) AS g \g /dev/null
SELECT is(_pgq_marks() & _pgq_mark_of('r'), _pgq_mark_of('r'), 'a queue is marked when it gets a schedule with a group, so that no claim has to');
SELECT pg_temp.look('12:00') \g /dev/null
SELECT results_eq(
    $$SELECT queue, group_key, group_id = _pgq_group_id(group_key), group_id = _pgq_room() FROM pgq_waiting ORDER BY queue, group_key$$,
    $$VALUES ('o', 'late', true, false), ('o', 'now', true, false), ('r', 'late', false, true), ('r', 'now', true, false)$$,
    'the jobs of schedules wait where jobs with a group do');
SELECT is(count(*), 2::bigint, 'their ids are drawn under the locks of the groups of an ordered queue')
FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND classid = 'pgq_queue_setting'::regclass;
SELECT set_eq('SELECT queue, group_key FROM pgq_claim(''{r,o}'', 10)', $$VALUES ('r', 'now'), ('o', 'now')$$, 'a claim takes those that are ripe');
SELECT pgq_configure('o', '{"ordered": null}') \g /dev/null
SELECT pg_temp.clear();
SET LOCAL pgq.now = '2030-01-01 13:00Z';

-- The clock is set back, a little and a lot.
SELECT pgq_schedule('s', '* * * * *', 'k', overlap => 'allow') \g /dev/null
SELECT pg_temp.look('13:01'), pg_temp.look('13:02'), pg_temp.look('12:00:30'), pg_temp.look('12:01'), pg_temp.look('13:02') \g /dev/null
SELECT is(pg_temp.slots('s'), '2030-01-01T13:01:00.000000Z 2030-01-01T13:02:00.000000Z', 'after a step back of the clock no slot is fired again');
SELECT pg_temp.look('13:03') \g /dev/null
SELECT is(pg_temp.state('s'), '01-01 13:04 13:03 0', 'the slots after them are');
SELECT pg_temp.clear();
SELECT pg_temp.look('2031-05-05 05:05'), pgq_schedule('s', '0 * * * *', 'k'), pg_temp.look('2031-05-05 06:00') \g /dev/null
SELECT pgq_schedule('still', '0 * * * *', 'k'), pgq_pause_schedule('still') \g /dev/null
SELECT pg_temp.look('12:10') \g /dev/null
SELECT is(pg_temp.state('s'), '01-01 13:00 06:00 0', 'after a clock that was wrong by a year a schedule goes on from the present');
SELECT is(due_at, 'infinity', 'but not one that is paused') FROM pgq_schedule_entry WHERE name = 'still';
SELECT pg_temp.clear();
SELECT pg_temp.look('12:10'), pgq_schedule('s', '0 * * * *', 'k') \g /dev/null
UPDATE pgq_schedule_entry SET timezone = 'Europe/Atlantis';
SELECT pg_temp.look('2031-05-05 06:00') \g /dev/null
UPDATE pgq_schedule_entry SET timezone = 'UTC';
SELECT pg_temp.look('12:10') \g /dev/null
SELECT is(pg_temp.state('s'), '01-01 13:00 0', 'so does one that could not be fired then');
SELECT is(due_at, next_at, 'which is not left until that clock is right') FROM pgq_schedule_entry;
SELECT pg_temp.clear();

-- Nobody claims for hours.
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_schedule(c, '0 * * * *', 'k', catch_up => c) FROM unnest('{one,all,none}'::text[]) AS c \g /dev/null
SELECT pg_temp.look('17:00:59') \g /dev/null
SELECT is(pg_temp.slots('one'), '2030-01-01T17:00:00.000000Z', 'catch_up one fires the newest slot');
SELECT is(pg_temp.state('one'), '01-01 18:00 17:00 4', 'and counts the others as missed');
SELECT is(pg_temp.slots('all'), (SELECT string_agg(format('2030-01-01T%s:00:00.000000Z', h), ' ') FROM generate_series(13, 17) AS h), 'all fires each, oldest first');
SELECT is(pg_temp.state('all'), '01-01 18:00 17:00 0', 'and misses none');
SELECT is(pg_temp.slots('none'), '2030-01-01T17:00:00.000000Z', 'none fires a slot that is not a minute late');
SELECT is(pg_temp.state('none'), '01-01 18:00 17:00 4', 'and counts those before');
DELETE FROM pgq_waiting;
SELECT pg_temp.look('18:01:01') \g /dev/null
SELECT is(pg_temp.slots('none'), NULL, 'but no later one');
SELECT is(pg_temp.state('none'), '01-01 19:00 17:00 5', 'which counts, too');
SELECT results_eq('SELECT DISTINCT ripe_at FROM pgq_waiting', $$VALUES ('2030-01-01 18:01:01Z'::timestamptz)$$,
                  'jobs of late slots are ripe now and not in the past, where a head may have passed');
SELECT pg_temp.clear();
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_schedule('one', '* * * * *', 'k'), pgq_schedule('all', '* * * * *', 'k', catch_up => 'all') \g /dev/null
SELECT pg_temp.look('2030-01-04 12:00:30') \g /dev/null
SELECT is(pg_temp.slots('one'), '2030-01-04T12:00:00.000000Z', 'the newest of thousands of slots is found');
SELECT is(pg_temp.state('one'), '01-04 12:01 12:00 99', 'those that are counted are limited');
SELECT is(pg_temp.state('all'), '01-01 13:41 13:40 0', 'and so are those that are fired at once');
SELECT pg_temp.look('2030-01-04 12:00:31') \g /dev/null
SELECT is(pg_temp.state('all'), '01-01 15:21 15:20 0', 'the next look fires others');
SELECT pg_temp.clear();

-- The job of the slot before still lives.
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_schedule('skip', '* * * * *', 'k', queue => 'skip'), pgq_schedule('allow', '* * * * *', 'k', queue => 'allow', overlap => 'allow') \g /dev/null
SELECT pg_temp.look('12:01'), pg_temp.look('12:02') \g /dev/null
SELECT is(pg_temp.state('skip'), '01-01 12:03 12:01 1', 'a slot is skipped while the last job waits');
SELECT is(pg_temp.state('allow'), '01-01 12:03 12:02 0', 'or not, as overlap says');
SELECT id, token FROM pgq_claim('{skip}') \gset
SELECT pg_temp.look('12:03') \g /dev/null
SELECT is(pg_temp.state('skip'), '01-01 12:04 12:01 2', 'it is skipped while that job runs');
SELECT pgq_fail(:id, :token, 'e', '10 minutes') \g /dev/null
SELECT pg_temp.look('12:04') \g /dev/null
SELECT is(pg_temp.state('skip'), '01-01 12:05 12:01 3', 'and while it is to be retried');
SELECT pgq_cancel(:id) \g /dev/null
SELECT pg_temp.look('12:05') \g /dev/null
SELECT is(pg_temp.state('skip'), '01-01 12:06 12:05 3', 'a slot is fired when that job has ended');
SELECT pgq_enqueue('k', queue => 'skip', dedup => false) FROM generate_series(1, 20) \g /dev/null
SELECT is(cardinality(ids), 21, 'the job is packed with others') FROM pgq_claim_batch('{skip}');
SELECT pg_temp.look('12:06') \g /dev/null
SELECT is(pg_temp.state('skip'), '01-01 12:07 12:05 4', 'a packed job runs, too');
UPDATE pgq_running_batch SET gone = ARRAY[(SELECT last_job FROM pgq_schedules WHERE name = 'skip')];
SELECT pg_temp.look('12:07') \g /dev/null
SELECT is(pg_temp.state('skip'), '01-01 12:08 12:07 4', 'until it is gone');
SELECT pgq_configure('skip', '{"keep_done": "1 day"}') \g /dev/null
SELECT pgq_complete(c.id, c.token) FROM pgq_claim('{skip}') AS c JOIN pgq_schedules AS s ON s.name = 'skip' AND s.last_job = c.id \gset done_
SELECT is(outcome, 'done', 'a job that is done may be kept') FROM pgq_ended AS e JOIN pgq_schedules AS s ON s.name = 'skip' AND s.last_job = e.id;
SELECT pg_temp.look('12:08') \g /dev/null
SELECT is(pg_temp.state('skip'), '01-01 12:09 12:08 4', 'but does not live');
SELECT results_eq('SELECT queue, enqueued FROM pgq_counters WHERE queue IN (''allow'', ''skip'') ORDER BY queue', $$VALUES ('allow', 8::bigint), ('skip', 24)$$, 'jobs of schedules are counted as others are');
SELECT pgq_configure('skip', '{"keep_done": null}') \g /dev/null
SELECT pg_temp.clear();

-- Jitter delays the job, and not the slot.
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_schedule('j', '* * * * *', 'k', overlap => 'allow', jitter => '40 s') \g /dev/null
SELECT pg_temp.look('12:01'), pg_temp.look('12:02'), pg_temp.look('12:03'), pg_temp.look('12:04') \g /dev/null
SELECT ok(bool_and(ripe_at BETWEEN slot AND slot + interval '40 s') AND count(DISTINCT ripe_at - slot) > 1, 'each job has a delay of its own')
FROM (SELECT ripe_at, (context ->> 'slot')::timestamptz AS slot FROM pgq_waiting) AS w;
SELECT is(count(*), 4::bigint, 'and each slot its job') FROM pgq_waiting;
SELECT max(id) AS jittered FROM pgq_waiting \gset
SELECT pgq_run_schedule('j') FROM generate_series(1, 5) \g /dev/null
SELECT is(count(*), 5::bigint, 'but a job that is run by hand has no delay') FROM pgq_waiting WHERE ripe_at = pgq_now() AND id > :jittered;
SELECT pg_temp.clear();

-- Queues that are paused or have limits, and a role that has lost its privilege.
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_schedule(q, '30 * * * *', 'k', queue => q), pgq_pause('paused'), pgq_configure('limited', '{"max_running": 1}') FROM unnest('{paused,limited}'::text[]) AS q \g /dev/null
SELECT is(pg_temp.look('12:00', '{paused}'), interval '30 minutes', 'a worker of a queue that is paused wakes for a slot');
SELECT is(pg_temp.look('12:00', '{limited}'), interval '30 minutes', 'and so does one of a queue with limits');
SELECT pg_temp.look('12:30', '{paused}') \g /dev/null
SELECT is(pg_temp.look('12:31', '{paused}'), interval '59 minutes', 'then it sleeps until the next one');
SELECT is(pg_temp.look('13:30', '{limited}'), interval '0', 'the other claims');
SELECT is(pg_temp.state('paused'), '01-01 14:30 12:30 1', 'jobs for a queue that is paused do not pile up');
SELECT is_empty('SELECT FROM pgq_claim(''{paused}'')', 'none of them is claimed');
SELECT pgq_resume('paused') \g /dev/null
SELECT is(context ->> 'slot', '2030-01-01T12:30:00.000000Z', 'until the queue is resumed') FROM pgq_claim('{paused}');
SELECT pg_temp.clear();
SET LOCAL pgq.now = '2030-01-01 12:00Z';
CREATE ROLE tap_gone;
SELECT pgq_grant('tap_gone', 'admin', '{q}') \g /dev/null
SET LOCAL ROLE tap_gone;
SELECT pgq_schedule('s', '45 * * * *', 'k', queue => 'q') \g /dev/null
RESET ROLE;
SELECT pgq_revoke('tap_gone', 'admin') \g /dev/null
SELECT pg_temp.look('12:45') \g /dev/null
SELECT is(count(*), 1::bigint, 'a schedule goes on when the role that has made it loses its privilege') FROM pgq_waiting;
SELECT pg_temp.clear();

-- What a change keeps.
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_schedule('s', '0 13 * * *', 'k') \g /dev/null
SET LOCAL pgq.now = '2030-01-01 13:00:10Z';
SELECT is(pgq_schedule('s', '0 13 * * *', 'new'), '2030-01-01 13:00Z'::timestamptz, 'a slot that is due stays where the expression does');
SELECT is(pgq_resume_schedule('s'), '2030-01-01 13:00Z'::timestamptz, 'also when a schedule that is not paused is resumed');
SELECT pg_temp.look('13:00:10') \g /dev/null
SELECT is(kind, 'new', 'and is fired as the schedule is now') FROM pgq_waiting;
SELECT is(pgq_schedule('s', '0 15 * * *', 'k'), '2030-01-01 15:00Z'::timestamptz, 'another expression has other slots');
SELECT is(pgq_schedule('s', '0 15 * * *', 'k', timezone => 'Europe/Berlin'), '2030-01-01 14:00Z'::timestamptz, 'and so has another time zone');
SELECT is(pg_temp.state('s'), '01-01 14:00 13:00 0', 'the last slot stays');
SELECT is(pgq_pause_schedule('s'), true, 'a schedule is paused');
SELECT is(pgq_pause_schedule('s'), false, 'once');
SELECT pgq_schedule('s', '* * * * *', 'k', timezone => 'Europe/Berlin') \g /dev/null
SELECT is(paused, true, 'it stays so when it is replaced') FROM pgq_schedules;
SELECT pg_temp.look('14:30:20') \g /dev/null
SELECT is(pg_temp.state('s'), '13:00 0', 'no slot is fired');
SELECT pgq_run_schedule('s') AS ran \gset
SELECT is(last_job, :ran::bigint, 'but an operator may run it') FROM pgq_schedules;
SELECT is(count(*), 1::bigint, 'which enqueues a job now') FROM pgq_waiting WHERE id = :ran AND context = '{"schedule": "s", "slot": "2030-01-01T14:30:20.000000Z"}' AND ripe_at = '2030-01-01 14:30:20Z';
SELECT is(pgq_resume_schedule('s'), '2030-01-01 14:31Z'::timestamptz, 'it is resumed');
SELECT is(pgq_resume_schedule('s'), '2030-01-01 14:31Z'::timestamptz, 'once');
SELECT is(pg_temp.state('s'), '01-01 14:31 14:30 0', 'the slots of the pause are left out');
SELECT is(pgq_unschedule('s'), true, 'it is removed');
SELECT is(pgq_unschedule('s'), false, 'once');
SELECT is(count(*), 2::bigint, 'its jobs stay') FROM pgq_waiting;
SELECT pg_temp.clear();

-- A broken schedule stops no other, and its slot is not lost.
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_schedule(n, '0 13 * * *', n) FROM unnest('{a,b,c,d}'::text[]) AS n \g /dev/null
UPDATE pgq_schedule_entry SET timezone = 'Europe/Atlantis' WHERE name = 'a';
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk % is full', NEW.kind; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON pgq_waiting FOR EACH ROW WHEN (NEW.kind = 'c') EXECUTE FUNCTION pg_temp.refuse();
SELECT pg_temp.look('13:00') \g /dev/null
SELECT results_eq('SELECT kind FROM pgq_waiting ORDER BY kind', $$VALUES ('b'), ('d')$$, 'schedules beside broken ones are fired');
SELECT results_eq(
    'SELECT name, next_at, last_error, last_error_at, last_job FROM pgq_schedules WHERE last_error IS NOT NULL ORDER BY name',
    $$VALUES ('a', '2030-01-01 13:00Z'::timestamptz, 'timezone "Europe/Atlantis" is unknown', '2030-01-01 13:00Z'::timestamptz, NULL::bigint),
             ('c', '2030-01-01 13:00Z', 'disk c is full', '2030-01-01 13:00Z', NULL)$$, 'their errors are kept, and their slots');
DROP TRIGGER refuse ON pgq_waiting;
SELECT pg_temp.look('13:00:59') \g /dev/null
SELECT is(pg_temp.slots('c'), NULL, 'they are not tried at each look');
SELECT pg_temp.look('13:01') \g /dev/null
SELECT is(pg_temp.slots('c'), '2030-01-01T13:00:00.000000Z', 'but a minute later, with the slot that failed');
SELECT is(pg_temp.state('c') || coalesce(last_error, ''), '01-02 13:00 13:00 0', 'and the error is gone') FROM pgq_schedules WHERE name = 'c';
SELECT is(pgq_schedule('a', '0 13 * * *', 'a', timezone => 'Europe/Berlin'), '2030-01-02 12:00Z'::timestamptz, 'a schedule is mended');
SELECT is(last_error, NULL, 'so its error is gone') FROM pgq_schedules WHERE name = 'a';
SELECT pg_temp.clear();

-- Many at once: ten at a look, and the next look is due at once.
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT pgq_schedule('s' || n, '0 13 * * *', 'k', to_jsonb(n), queue => 'q') FROM generate_series(1, 500) AS n \g /dev/null
SELECT pg_temp.look('13:00') \g /dev/null
SELECT is(count(*), 10::bigint, 'a look fires ten') FROM pgq_waiting;
SELECT is(pg_temp.look('13:00'), '10 ms'::interval, 'a worker of another queue soon looks again');
SELECT pg_temp.look('13:00', '{other}') FROM generate_series(1, 47) \g /dev/null
SELECT is(pg_temp.look('13:00'), '10 ms'::interval, 'for as long as there may be more');
SELECT is(count(DISTINCT args), 500::bigint, 'fifty looks fire five hundred') FROM pgq_waiting;
SELECT is(count(*), 500::bigint, 'and none twice') FROM pgq_waiting;
SELECT is(pg_temp.look('13:00'), NULL, 'then it looks as ever');
SELECT pgq_pause('other');
UPDATE pgq_schedule_entry SET next_at = '2030-01-01 13:00Z', due_at = '2030-01-01 13:00Z', overlap = 'allow';
SELECT is(pg_temp.look('13:00:02'), '10 ms'::interval, 'also where its queues are paused');
SELECT pgq_resume('other');
SELECT pgq_enqueue('k', queue => 'grouped', group_key => 'g');
SELECT set_config('pgq.now', '2030-01-01 13:00:04Z', true);
SELECT is(count(*), 1::bigint, 'or where a claim takes jobs in turn') FROM pgq_claim('{grouped}');
SELECT is(count(*), 20::bigint, 'which fires ten more') FROM pgq_schedules WHERE next_at > '2030-01-01 13:00:04Z';
SELECT pg_temp.clear();

-- What a session keeps is not trusted.
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT 'pgq.schedules_' || 'pgq_schedule_entry'::regclass::oid AS setting \gset
CREATE FUNCTION pg_temp.after(setting text, forged text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.clear(), set_config('pgq.now', '2030-01-01 12:00Z', true);
    PERFORM pgq_schedule('s', '* * * * *', 'k');
    PERFORM set_config(setting, forged, true);
    PERFORM pg_temp.look('12:01');
    RETURN pg_temp.slots('s');
END
$$;
SELECT is(pg_temp.after(:'setting', forged), '2030-01-01T12:01:00.000000Z', format('the forged setting "%s" keeps no slot from being fired', forged))
FROM (VALUES ('x'), ('9999999999999999 1 9999999999999999'), ('99999999999999999 99999999999999999 99999999999999999'), ('1 1893499300000000 1893499301000000'), ('1 1893499260000000 9999999999999999')) AS f (forged);
SELECT pg_temp.clear();
SELECT set_config(:'setting', '', true) \g /dev/null

-- What is refused.
SELECT throws_ok(format('SELECT pgq_schedule(%s)', call), state, message, message) FROM (VALUES
    ('NULL, ''* * * * *'', ''k''', '22004', 'name is null'),
    ('''s'', NULL, ''k''', '22004', 'cron is null'),
    ('''s'', ''* * * * *'', NULL', '22004', 'kind is null'),
    ('''s'', ''* * * * *'', ''k'', NULL', '22004', 'args is null'),
    ('''s'', ''* * * * *'', ''k'', queue => NULL', '22004', 'queue is null'),
    ('''s'', ''* * * * *'', ''k'', queue => ''''', '22023', 'queue "" is not a name'),
    (''''', ''* * * * *'', ''k''', '22023', 'name or source "" is not a name'),
    ('''s'', ''* * * * *'', ''k'', source => repeat(''x'', 201)', '22023', format('name or source "%s" is not a name', repeat('x', 200))),
    ('''s'', ''* * * *'', ''k''', '22023', 'cron "* * * *" is not an expression of five fields'),
    ('''s'', ''0 0 30 2 *'', ''k''', '22023', 'cron "0 0 30 2 *" never fires'),
    ('''s'', ''* * * * *'', ''k'', timezone => ''CET''', '22023', 'timezone "CET" is unknown'),
    ('''s'', ''* * * * *'', ''k'', priority => 10', '22023', 'priority 10 is out of range'),
    ('''s'', ''* * * * *'', ''k'', group_key => ''''', '22023', 'group_key "" is not a name'),
    ('''s'', ''* * * * *'', ''k'', catch_up => ''some''', '22023', 'catch_up "some" is unknown'),
    ('''s'', ''* * * * *'', ''k'', overlap => ''maybe''', '22023', 'overlap "maybe" is unknown'),
    ('''s'', ''* * * * *'', ''k'', catch_up => ''all'', overlap => ''skip''', '22023', 'catch_up is all, but overlap is skip'),
    ('''s'', ''* * * * *'', ''k'', jitter => ''-1 s''', '22023', 'jitter -00:00:01 is out of range')
) AS bad (call, state, message);
SELECT is_empty('SELECT FROM pgq_schedules', 'what is refused leaves nothing behind');
SELECT throws_ok(format('SELECT %s(%L)', call, name), '42704', format('there is no schedule "%s"', coalesce(name, '<NULL>')), format('%s refuses an unknown name', call))
FROM unnest('{pgq_pause_schedule,pgq_resume_schedule,pgq_run_schedule}'::text[]) AS call CROSS JOIN (VALUES ('nothing'), (NULL)) AS n (name);
SELECT is(pgq_unschedule(NULL), false, 'NULL is no schedule');
SELECT is(pgq_schedule('s', '* * * * *', 'k', timezone => NULL, catch_up => NULL, overlap => NULL, jitter => NULL, priority => NULL), '2030-01-01 12:02Z'::timestamptz, 'NULL means the default');
SELECT results_eq('SELECT timezone, catch_up, overlap, jitter, priority FROM pgq_schedules', $$VALUES ('UTC', 'one', 'skip', interval '0', 5)$$, 'which is this');

SELECT * FROM finish();
ROLLBACK;
