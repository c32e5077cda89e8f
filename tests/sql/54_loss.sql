-- Jobs that are lost together go back uncounted, as suspects, which are claimed one at a time.
BEGIN;
SELECT plan(47);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT set_config('pgq.jitter', '0', true);

-- A claim in another queue, which rescues.
CREATE FUNCTION pg_temp.rescue(after interval) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('pgq.now', (pgq_now() + after)::text, true);
    PERFORM pgq_claim('{elsewhere}');
END
$$;
CREATE FUNCTION pg_temp.claims(queue text, max_jobs integer, worker text DEFAULT NULL) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT string_agg(c.kind || CASE WHEN c.suspect THEN '!' ELSE '' END, ',' ORDER BY c.id)
    FROM pgq_claim(ARRAY[queue], max_jobs, '1 minute', worker) AS c
$$;
CREATE FUNCTION pg_temp.look(queue text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT string_agg(concat_ws(' ', j.kind, j.state, j.attempt, j.losses), ', ' ORDER BY j.id) FROM pgq_jobs AS j WHERE j.queue = look.queue
$$;

-- One claim without a name.
SELECT pgq_enqueue(kind, queue => 'q', max_retries => 0) FROM unnest('{a,b,c}'::text[]) AS kind;
SELECT is(pg_temp.claims('q', 3), 'a,b,c', 'new jobs are claimed together');
SELECT pg_temp.rescue('1 minute 1 s');
SELECT is(pg_temp.look('q'), 'a waiting 0 1, b waiting 0 1, c waiting 0 1', 'jobs that were lost together go back, although they have no retries');
SELECT is(errors, '[]', 'a job that was lost together with others has no error') FROM pgq_jobs WHERE queue = 'q';
SELECT is(ripe_at, pgq_now(), 'a job that was lost together with others is ripe at once') FROM pgq_jobs WHERE queue = 'q';
SELECT pgq_enqueue('d', queue => 'q', max_retries => 0), pgq_enqueue('e', queue => 'q', priority => 1);
SELECT is(pg_temp.claims('q', 10), 'e', 'a claim ends before the first suspect');
SELECT is(pg_temp.claims('q', 10), 'a!', 'a suspect is claimed alone');
SELECT is(pg_temp.claims('q', 1), 'b!', 'a claim of one job returns a suspect, too');
SELECT is(pg_temp.look('q'), 'a running 1 1, b running 1 1, c waiting 0 1, d waiting 0, e running 1', 'the claim of a suspect counts');
SELECT is(pg_temp.claims('q', 0), NULL, 'a claim of no job returns no suspect');
SELECT pgq_complete(id, token) FROM pgq_running WHERE queue = 'q' AND kind <> 'a';
SELECT pg_temp.rescue('1 minute 1 s');
SELECT is(pg_temp.look('q'), 'a dead 1 1, c waiting 0 1, d waiting 0', 'a suspect that is lost alone has lost the attempt');
SELECT is(errors #>> '{0,error}', 'the lease ran out', 'the error of a suspect that was lost alone says why') FROM pgq_jobs WHERE queue = 'q' AND kind = 'a';
SELECT is(pgq_retry(id), 'retry', 'a dead suspect can be retried') FROM pgq_jobs WHERE queue = 'q' AND state = 'dead';
SELECT is(pg_temp.look('q'), 'a waiting 0 1, c waiting 0 1, d waiting 0', 'a retry by hand keeps the suspicion');

-- Two claims without a name are two clients.
SELECT pgq_enqueue(kind, queue => 'two', max_retries => 0) FROM unnest('{a,b}'::text[]) AS kind;
SELECT pg_temp.claims('two', 1), pg_temp.claims('two', 1);
SELECT pg_temp.rescue('1 minute 1 s');
SELECT is(pg_temp.look('two'), 'a dead 1, b dead 1', 'jobs of two claims without a name are lost one by one');

-- Under a name all claims count, also those whose leases end later.
SELECT pgq_enqueue(kind, queue => 'late', max_retries => 0) FROM unnest('{a,b,c}'::text[]) AS kind;
SELECT pg_temp.claims('late', 1, 'w'), pg_temp.claims('late', 1, 'w'), pg_temp.claims('late', 1, 'v');
SELECT pgq_extend(id, token, '1 hour') FROM pgq_running WHERE queue = 'late' AND kind = 'b';
SELECT pg_temp.rescue('1 minute 1 s');
SELECT is(pg_temp.look('late'), 'a waiting 0 1, b running 1 1, c dead 1', 'jobs of one worker are lost together, whenever they were claimed');
SELECT pg_temp.rescue('1 hour');
SELECT is(pg_temp.look('late'), 'a waiting 0 1, b waiting 0 1, c dead 1', 'so they are when the lease of one ends later');

-- A job that is found lost, and whose worker lives all the same.
SELECT pgq_enqueue(kind, queue => 'alive') FROM unnest('{a,b,c,d,e,f}'::text[]) AS kind;
SELECT pg_temp.claims('alive', 6, 'alive');
SELECT pgq_extend(id, token, '1 hour') FROM pgq_running WHERE queue = 'alive' AND kind <> 'a';
SELECT pg_temp.rescue('1 minute 1 s');
SELECT is(pg_temp.look('alive'), 'a waiting 0 1, b running 1 1, c running 1 1, d running 1 1, e running 1 1, f running 1 1', 'jobs whose leases go on are marked, and run on');
SELECT pgq_complete(id, token) FROM pgq_running WHERE queue = 'alive' AND kind = 'b';
SELECT pgq_fail(id, token, retry_in => '0') FROM pgq_running WHERE queue = 'alive' AND kind = 'c';
SELECT pgq_release(id, token) FROM pgq_running WHERE queue = 'alive' AND kind = 'd';
SELECT pgq_snooze(id, token, delay => '0') FROM pgq_running WHERE queue = 'alive' AND kind = 'e';
SELECT pgq_cancel_claimed(id, token) FROM pgq_running WHERE queue = 'alive' AND kind = 'f';
SELECT is(pg_temp.look('alive'), 'a waiting 0 1, c waiting 1, d waiting 0 1, e waiting 0 1, f cancelled 1 1', 'a failure ends the suspicion; a release, a snooze and a cancel do not');
SELECT is(pgq_cancel(id), 'cancelled', 'a suspect can be cancelled') FROM pgq_waiting WHERE queue = 'alive' AND kind = 'a';
SELECT is(pg_temp.look('alive'), 'a cancelled 0 1, c waiting 1, d waiting 0 1, e waiting 0 1, f cancelled 1 1', 'a suspect that was cancelled keeps its number');

-- Again and again together, under a name that several clients share.
SELECT pgq_enqueue(kind, queue => 'again', max_retries => 1, backoff => '0') FROM unnest('{a,b}'::text[]) AS kind;
CREATE FUNCTION pg_temp.lose() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.claims('again', 1, 'shared'), pg_temp.claims('again', 1, 'shared');
    PERFORM pg_temp.rescue('1 minute 1 s');
    RETURN pg_temp.look('again');
END
$$;
SELECT is(pg_temp.lose(), format('a %s, b %1$s', expected), format('after loss %s together the jobs are %s', n, expected))
FROM (VALUES (1, 'waiting 0 1'), (2, 'waiting 0 2'), (3, 'waiting 0 3'), (4, 'waiting 0 4'), (5, 'waiting 0 5'), (6, 'waiting 1 5'), (7, 'dead 2 5')) AS t (n, expected);

-- Merging.
SELECT pgq_enqueue(kind, queue => 'm') FROM unnest('{a,b}'::text[]) AS kind;
SELECT pg_temp.claims('m', 2);
SELECT pgq_enqueue(kind, queue => 'm') FROM unnest('{a,b}'::text[]) AS kind;
SELECT pg_temp.rescue('1 minute 1 s');
SELECT is(pg_temp.look('m'), 'a waiting 0 1, b waiting 0 1', 'a suspect that merges into its twin makes the twin a suspect');
SELECT is(pg_temp.claims('m', 10), 'a!', 'a twin that has become a suspect is claimed alone');
SELECT pgq_enqueue('a', queue => 'm');
SELECT pgq_release(id, token) FROM pgq_running WHERE queue = 'm';
SELECT is(pg_temp.look('m'), 'b waiting 0 1, a waiting 0 1', 'so does one that is released');
UPDATE pgq_waiting SET losses = 4 WHERE queue = 'm' AND kind = 'b';
SELECT pg_temp.claims('m', 1);
SELECT pgq_enqueue('b', queue => 'm');
UPDATE pgq_waiting SET losses = 2 WHERE queue = 'm' AND kind = 'b';
SELECT pgq_release(id, token) FROM pgq_running WHERE queue = 'm';
SELECT is(losses, 4, 'the twin takes over the larger number') FROM pgq_jobs WHERE queue = 'm' AND kind = 'b';

-- Registered workers.
CREATE FUNCTION pg_temp.dies(worker text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number) FROM pgq_worker_session WHERE name = worker;
    PERFORM pg_sleep(greatest(0, extract(epoch FROM pg_postmaster_start_time() + interval '5.1 seconds' - clock_timestamp())));
    PERFORM pg_temp.rescue('2 s');
    PERFORM pg_temp.rescue('2 s');
END
$$;
SELECT pgq_enqueue('single', queue => 'r', max_retries => 0);
SELECT pgq_register('one', '{r}');
SELECT pg_temp.claims('r', 10, 'one');
SELECT pg_temp.dies('one');
SELECT is(pg_temp.look('r'), 'single dead 1', 'the only job of a worker that is gone has lost the attempt');
SELECT is(errors #>> '{0,error}', 'the worker is gone', 'its error says why') FROM pgq_jobs WHERE queue = 'r';
SELECT pgq_purge('0', queue => 'r');
SELECT pgq_enqueue('x', to_jsonb(n), 'r', max_retries => 0) FROM generate_series(1, 101) AS n;
SELECT pgq_register('two', '{r}');
SELECT count(*) FROM pgq_claim('{r}', 60, worker => 'two');
SELECT count(*) FROM pgq_claim('{r}', 41, worker => 'two');
SELECT pg_temp.dies('two');
SELECT pg_temp.rescue('2 s');
SELECT is(count(*), 101::bigint, 'all jobs of a worker that is gone go back uncounted, also those beyond the first 50')
FROM pgq_waiting WHERE queue = 'r' AND attempt = 0 AND losses = 1;
SELECT is(lost_several, true, 'a worker that was lost with several jobs is remembered') FROM pgq_worker_session WHERE name = 'two';
-- As if this job had been locked until now.
INSERT INTO pgq_running SELECT (r).* FROM (
    SELECT jsonb_populate_record(NULL::pgq_running, to_jsonb(w) || '{"attempt": 1, "losses": null, "token": 1, "worker": "two"}'
           || jsonb_build_object('claimed_at', pgq_now(), 'lease_until', pgq_now() + interval '1 hour')) AS r
    FROM pgq_waiting AS w WHERE queue = 'r' ORDER BY id LIMIT 1) AS one;
DELETE FROM pgq_waiting AS w USING pgq_running AS r WHERE r.id = w.id;
SELECT pg_temp.rescue('2 s');
SELECT is(count(*), 101::bigint, 'a job that was locked when the others were rescued goes back uncounted, too')
FROM pgq_waiting WHERE queue = 'r' AND attempt = 0 AND losses = 1;
SELECT pgq_register('two', '{r}');
SELECT is(lost_several, false, 'a worker that comes back has lost nothing') FROM pgq_worker_session WHERE name = 'two';

-- A worker that serves other databases, too.
SELECT pgq_enqueue('lone', queue => 's', max_retries => 0);
SELECT pgq_register('three', '{s}', shares => true);
SELECT pg_temp.claims('s', 10, 'three');
SELECT pg_temp.dies('three');
SELECT is(pg_temp.look('s'), 'lone waiting 0 1', 'the only job here of a worker that is gone goes back uncounted where the worker serves other databases');
SELECT pgq_register('four', '{s}', shares => true);
SELECT is(pg_temp.claims('s', 10, 'four'), 'lone!', 'it is a suspect then');
SELECT pg_temp.dies('four');
SELECT is(pg_temp.look('s'), 'lone dead 1 1', 'a suspect runs alone in all databases of its worker, so its loss counts');
SELECT pgq_enqueue('late', queue => 't', max_retries => 0);
SELECT pgq_register('five', '{t}', shares => true);
SELECT pg_temp.claims('t', 10, 'five');
SELECT pg_temp.rescue('1 minute 1 s');
SELECT is(pg_temp.look('t'), 'late waiting 0 1', 'the only job here whose lease ran out goes back uncounted there, too');
SELECT is(pg_temp.claims('t', 10, 'five'), 'late!', 'it is a suspect, too');
SELECT pg_temp.rescue('1 minute 1 s');
SELECT is(pg_temp.look('t'), 'late dead 1 1', 'the loss of a suspect whose lease ran out counts');

SELECT * FROM finish();
ROLLBACK;
