-- Change a waiting job.
BEGIN;
SELECT plan(37);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';
SELECT setval('pgq_mark', 0);

CREATE FUNCTION pg_temp.job(id bigint) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', w.args, to_char(w.ripe_at AT TIME ZONE 'UTC', 'HH24:MI'), w.priority, coalesce(w.group_key, '-'), w.group_id IS NOT DISTINCT FROM _pgq_place(w.queue, w.group_key, w.ripe_at <= pgq_now()))
    FROM pgq_waiting AS w WHERE w.id = job.id
$$;

SELECT id AS job FROM pgq_enqueue('k', '1', delay => '1 hour') \gset
SELECT is(pgq_update(:job), '2030-01-01 13:00Z', 'without a change the time is returned');
SELECT is(pg_temp.job(:job), '1 13:00 5 - t', 'and nothing changes');
SELECT is(pgq_update(:job, ripe_at => '2030-01-01 14:00Z'), '2030-01-01 14:00Z', 'a time may be later');
SELECT is(pgq_update(:job, ripe_at => '2030-01-01 12:30Z'), '2030-01-01 12:30Z', 'or earlier');
SELECT is(pgq_update(:job, '{"a": null}'), '2030-01-01 12:30Z', 'the args may change');
SELECT is(pg_temp.job(:job), '{"a": null} 12:30 5 - t', 'alone');
SELECT is(pgq_update(:job, 'null'), '2030-01-01 12:30Z', 'the JSON null is a value');
SELECT is(pgq_update(:job, priority => 0), '2030-01-01 12:30Z', 'the priority may change');
SELECT is(_pgq_marks(), 0::bigint, 'no queue is marked');
SELECT is(pgq_update(:job, group_key => 'g'), '2030-01-01 12:30Z', 'a job may get a group');
SELECT is(pg_temp.job(:job), 'null 12:30 0 g t', 'and its number with it');
SELECT is(_pgq_marks(), _pgq_mark_of('default'), 'the queue is marked');
SELECT pgq_update(:job, group_key => 'h');
SELECT is(pg_temp.job(:job), 'null 12:30 0 h t', 'another group');
SELECT pgq_update(:job, '2', group_key => '');
SELECT is(pg_temp.job(:job), '2 12:30 0 - t', 'or none again');
SELECT is(pgq_update(:job, ripe_at => '2030-01-01 11:00Z'), '2030-01-01 12:00Z', 'a time that has passed is now');

-- A job that is ripe keeps its place when its args change, and goes to the end of its lane otherwise.
SET LOCAL pgq.now = '2030-01-01 12:10Z';
SELECT is(pgq_update(:job, '3'), '2030-01-01 12:00Z', 'with other args a ripe job keeps its place');
SELECT is(pgq_update(:job, priority => 4), '2030-01-01 12:10Z', 'with another priority it is ripe from now on');
SELECT results_eq('SELECT id, args FROM pgq_claim()', format($$ VALUES (%s::bigint, '3'::jsonb) $$, :job), 'it is claimed with its new args');

-- In other states.
SELECT throws_ok(format('SELECT pgq_update(%s, ''4'')', :job), 'PGQ03', format('job %s is running and cannot be updated', :job), 'a running job is left alone');
SELECT pgq_fail(id, token, 'why', retry => false) FROM pgq_running;
SELECT throws_ok(format('SELECT pgq_update(%s, ''4'')', :job), 'PGQ03', format('job %s is dead and cannot be updated', :job), 'and so is one that has ended');
SELECT throws_ok('SELECT pgq_update(0)', 'PGQ01', 'there is no job 0', 'there must be a job');
SELECT throws_ok('SELECT pgq_update(NULL)', 'PGQ01', 'there is no job null', 'NULL is none');
SELECT pgq_retry(:job);
SELECT lives_ok(format('SELECT pgq_update(%s, ''4'')', :job), 'a job that is retried can be updated');
SELECT is(error, 'why', 'and keeps its errors') FROM pgq_result(:job);
SELECT throws_ok(format('SELECT pgq_update(%s, %s)', :job, arguments), state, message, arguments)
FROM (VALUES ('priority => 10', '22023', 'priority 10 is out of range'), ('ripe_at => ''infinity''', '22008', 'ripe_at infinity is out of range'),
             ('group_key => repeat(''x'', 201)', '22023', format('group_key "%s" is not a name', repeat('x', 200))),
             ('to_jsonb(repeat(''x'', 1048577))', '54000', NULL)) AS t (arguments, state, message);
SELECT is(pg_temp.job(:job), '4 12:10 4 - t', 'what is refused changes nothing');

-- What the new args make of its signature.
SELECT id AS twin FROM pgq_enqueue('k', '5') \gset
SELECT throws_ok(format('SELECT pgq_update(%s, ''5'')', :job), 'PGQ04', format('another job is waiting already with the signature that job %s would get', :job), 'a job does not become a twin');
SELECT is(pg_temp.job(:job), '4 12:10 4 - t', 'and stays as it is');
SELECT lives_ok(format('SELECT pgq_update(%s, ''4'')', :job), 'its own args are no twin');
SELECT pgq_update(:job, '6');
SELECT is(id, :job::bigint, 'with its new args it is found as a duplicate') FROM pgq_enqueue('k', '6');
SELECT ok(created, 'and with the old ones it is not') FROM pgq_enqueue('k', '4');
SELECT id AS keyed FROM pgq_enqueue('k', '7', dedup_key => 'x') \gset
SELECT lives_ok(format('SELECT pgq_update(%s, ''5'')', :keyed), 'with a key the args make no twin');
SELECT id AS free FROM pgq_enqueue('k', '8', dedup => false) \gset
SELECT lives_ok(format('SELECT pgq_update(%s, ''5'')', :free), 'nor do they without a signature');
SELECT is(count(*), 3::bigint, 'three jobs have the same args') FROM pgq_waiting WHERE args = '5';

SELECT * FROM finish();
ROLLBACK;
