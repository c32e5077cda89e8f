-- Packed batches: whatever happens to a job, the result is that of a job in a row of its own.
BEGIN;
SELECT plan(83);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT set_config('pgq.jitter', '0', true);

-- What is packed.
CREATE FUNCTION pg_temp.rows_and_packed(queue text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT (SELECT count(*) FROM pgq_running AS r WHERE r.queue = rows_and_packed.queue) || ' ' || (SELECT count(*) FROM _pgq_packed AS p WHERE p.queue = rows_and_packed.queue)
$$;
CREATE FUNCTION pg_temp.packs(queue text, jobs integer, size integer DEFAULT 1, packed boolean DEFAULT true) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgq_enqueue('k', jsonb_build_array(n, repeat('x', size)), queue) FROM generate_series(1, jobs) AS n;
    PERFORM pgq_claim_batch(ARRAY[queue], jobs, packed => packed);
    RETURN pg_temp.rows_and_packed(queue);
END
$$;
SELECT is(pg_temp.packs('eight', 8), '8 0', 'eight jobs are not packed');
SELECT is(pg_temp.packs('nine', 9), '0 9', 'nine jobs are packed');
SELECT is(pg_temp.packs('apart', 9, packed => false), '9 0', 'jobs are not packed where the caller does not want it');
SELECT is(pg_temp.packs('many', 1001), '1001 0', 'more than a thousand jobs are not packed');
SELECT is(pg_temp.packs('large', 10, 26300), '10 0', 'large jobs are not packed');
SELECT is(pg_temp.packs('medium', 10, 26100), '0 10', 'jobs of 256 kB in all are packed');
SELECT pgq_enqueue('k', to_jsonb(n), 'traced', context => jsonb_build_object('x', (SELECT string_agg(md5(i::text), '') FROM generate_series(n, n + 240) AS i)))
FROM generate_series(1, 100) AS n;
SELECT pgq_claim_batch('{traced}');
SELECT is(pg_temp.rows_and_packed('traced'), '100 0', 'jobs with large contexts are not packed');
SELECT pgq_enqueue('k', to_jsonb(n), 'failed') FROM generate_series(1, 20) AS n;
SELECT pgq_fail(id, token, 'e', retry_in => '0') FROM pgq_claim('{failed}');
SELECT pgq_claim_batch('{failed}');
SELECT is(pg_temp.rows_and_packed('failed'), '20 0', 'jobs are not packed together with one that has failed');
-- The same of bare claims from two queues.
SELECT set_config(_pgq_bare_setting(), _pgq_digest('{two,none}') || ' ' || _pgq_microseconds(pgq_now() + interval '1 second'), true);
SELECT pgq_enqueue('k', to_jsonb(n), 'two', context => jsonb_build_object('x', (SELECT string_agg(md5(i::text), '') FROM generate_series(n, n + 240) AS i)))
FROM generate_series(1, 100) AS n;
SELECT pgq_claim_batch('{two,none}');
SELECT is(pg_temp.rows_and_packed('two'), '100 0', 'jobs of two queues with large contexts are not packed');
SELECT pgq_enqueue('k', to_jsonb(n), 'none') FROM generate_series(1, 20) AS n;
SELECT pgq_fail(id, token, 'e', retry_in => '0') FROM pgq_claim('{none}', 1);
SELECT set_config(_pgq_bare_setting(), _pgq_digest('{two,none}') || ' ' || _pgq_microseconds(pgq_now() + interval '1 second'), true);
SELECT pgq_claim_batch('{two,none}');
SELECT is(pg_temp.rows_and_packed('none'), '20 0', 'jobs of two queues are not packed together with one that has failed');
-- And of bare claims from one.
SELECT set_config(_pgq_bare_setting(), _pgq_digest('{one}') || ' ' || _pgq_microseconds(pgq_now() + interval '1 second'), true);
SELECT pgq_enqueue('k', to_jsonb(n), 'one', context => jsonb_build_object('x', (SELECT string_agg(md5(i::text), '') FROM generate_series(n, n + 240) AS i)))
FROM generate_series(1, 100) AS n;
SELECT pgq_claim_batch('{one}');
SELECT is(pg_temp.rows_and_packed('one'), '100 0', 'jobs of one queue with large contexts are not packed');
DELETE FROM pgq_running WHERE queue = 'one';
SELECT pgq_enqueue('k', to_jsonb(n), 'one') FROM generate_series(1, 20) AS n;
SELECT pgq_fail(id, token, 'e', retry_in => '0') FROM pgq_claim('{one}', 1);
SELECT set_config(_pgq_bare_setting(), _pgq_digest('{one}') || ' ' || _pgq_microseconds(pgq_now() + interval '1 second'), true);
SELECT pgq_claim_batch('{one}');
SELECT is(pg_temp.rows_and_packed('one'), '20 0', 'jobs of one queue are not packed together with one that has failed');
SELECT pgq_enqueue('k', to_jsonb(n), 'suspect') FROM generate_series(1, 20) AS n;
UPDATE pgq_waiting SET losses = 1 WHERE queue = 'suspect' AND args = '15';
SELECT pgq_claim_batch('{suspect}');
SELECT is(pg_temp.rows_and_packed('suspect'), '0 14', 'the jobs before a suspect are packed without it');
SELECT pgq_enqueue('k', to_jsonb(n), 'plain') FROM generate_series(1, 20) AS n;
SELECT pgq_claim('{plain}', 20);
SELECT is(pg_temp.rows_and_packed('plain'), '20 0', 'pgq_claim packs nothing');

-- Each job of the batch differs in all columns.
CREATE FUNCTION pg_temp.fill(queue text) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pgq_enqueue('k' || n, jsonb_build_object('n', n, 'x', 1.50), queue || CASE WHEN n % 4 = 0 THEN '4' ELSE '' END, ripe_at => pgq_now() - n * interval '1 min', priority => n % 3,
                       max_retries => n, backoff => n * interval '1 min', backoff_cap => n * interval '1 hour', dedup => n % 5 > 0, dedup_key => CASE WHEN n % 5 > 2 THEN 'd' || n END,
                       context => CASE WHEN n % 2 = 0 THEN jsonb_build_object('c', n) END)
    FROM generate_series(1, 12) AS n
$$;
-- All that the views tell about the jobs, in which neither ids nor queues differ between two lives.
CREATE FUNCTION pg_temp.look(queue text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT string_agg(replace((to_jsonb(j) - 'id')::text, look.queue, 'q'), E'\n' ORDER BY j.kind) || E'\n'
        || (SELECT string_agg(s.kind || s.running, ' ' ORDER BY s.kind) FROM pgq_stats AS s WHERE starts_with(s.queue, look.queue))
        || coalesce((SELECT concat_ws(' ', w.running, w.kinds, w.oldest_claimed_at, w.overdue) FROM pgq_workers AS w WHERE w.name = look.queue), '')
    FROM pgq_jobs AS j WHERE starts_with(j.queue, look.queue)
$$;
CREATE SEQUENCE pg_temp.lives;
CREATE FUNCTION pg_temp.life(packed boolean, calls text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_queue text := chr(97 + nextval('pg_temp.lives')::integer % 26) || currval('pg_temp.lives') || '_';
    v_batch record;
    v_call text;
    v_result text;
    v_results text := '';
BEGIN
    DELETE FROM pgq_waiting;
    DELETE FROM pgq_running;
    DELETE FROM pgq_running_batch;
    DELETE FROM pgq_ended;
    DELETE FROM pgq_worker_session;
    -- The next claim is the first one of its session, which rescues.
    PERFORM set_config(_pgq_head_setting(''), '', true), set_config('pgq.now', '2030-01-01 12:00Z', true);
    PERFORM pg_temp.fill(v_queue);
    v_batch := pgq_claim_batch(ARRAY[v_queue, v_queue || '4'], 20, '10 min', v_queue, packed => packed);
    FOREACH v_call IN ARRAY calls LOOP
        -- %1$s is the id of the third job, %2$s that of the fourth, %3$s the token, %4$L and %5$L are the ids and tokens of all, %6$L is the queue.
        BEGIN
            EXECUTE format('SELECT string_agg(c::text, '','' ORDER BY c::text) FROM ' || v_call || ' AS c', v_batch.ids[3], v_batch.ids[4], v_batch.token, v_batch.ids,
                           array_fill(v_batch.token, ARRAY[12]), v_queue) INTO v_result;
        EXCEPTION WHEN OTHERS THEN
            v_result := SQLSTATE;
        END;
        FOR v_n IN 1..12 LOOP
            v_result := regexp_replace(v_result, '\m' || v_batch.ids[v_n] || '\M', 'job' || v_n, 'g');
        END LOOP;
        v_results := v_results || coalesce(v_result, 'null') || E'\n';
    END LOOP;
    RETURN v_results || coalesce(pg_temp.look(v_queue), 'nothing');
END
$$;
-- In the first five seconds after the start of the server no worker counts as gone.
SELECT pg_sleep(greatest(0, extract(epoch FROM pg_postmaster_start_time() + interval '5.1 seconds' - clock_timestamp())));
CREATE FUNCTION pg_temp.end_session(worker text) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, s.number) FROM pgq_worker_session AS s WHERE s.name = worker;
    SELECT _pgq_sweep_workers(pgq_now(), false);
$$;
CREATE TEMP TABLE life (calls text[], told text);
INSERT INTO life VALUES
    ('{}', 'is claimed'),
    ('{"pgq_fail(%1$s, %3$s, ''e'')"}', 'fails'),
    ('{"pgq_fail(%1$s, %3$s, ''e'', retry => false)"}', 'fails for good'),
    ('{"pgq_complete(%1$s, %3$s)"}', 'is completed'),
    ('{"pgq_complete(%1$s, %3$s, ''1'')"}', 'is completed with a result'),
    ('{"pgq_complete(%1$s, %3$s, note => ''n'')"}', 'is completed with a note'),
    ('{"pgq_snooze(%1$s, %3$s, delay => ''1 min'')"}', 'is snoozed'),
    ('{"pgq_release(%1$s, %3$s)"}', 'is released'),
    ('{"pgq_decline(%1$s, %3$s)"}', 'is declined'),
    ('{"pgq_cancel_claimed(%1$s, %3$s)"}', 'is cancelled by its worker'),
    ('{"pgq_hold(%1$s, %3$s)","pgq_complete(%1$s, %3$s)"}', 'is held and completed'),
    ('{"pgq_hold_many(ARRAY[%1$s, %2$s, %2$s, 7], ARRAY[%3$s, %3$s, %3$s + 1, %3$s])","pgq_complete_many(%4$L, %5$L)"}', 'is held with another one and completed with all'),
    ('{"pgq_fail(%1$s, %3$s, ''e'')","pgq_fail(%2$s, %3$s, ''e'')","pgq_fail(%1$s, %3$s, ''e'')"}', 'fails, another one does, and it cannot fail again'),
    ('{"pgq_complete_many(ARRAY[%1$s, %2$s, %1$s, NULL, 7], ARRAY[%3$s, %3$s, %3$s, %3$s, %3$s])","pgq_complete_many(ARRAY[%1$s], ARRAY[%3$s])"}', 'is completed with another one'),
    ('{"pgq_complete_many(ARRAY[%1$s, %2$s], ARRAY[%3$s, %3$s])","pgq_fail(%1$s, %3$s)","pgq_complete(%2$s, %3$s)","pgq_hold(%1$s, %3$s)","pgq_extend(%1$s, %3$s)","pgq_cancel(%1$s)"}', 'has been completed and is called for again'),
    ('{"pgq_complete_many(ARRAY[%1$s, %2$s], ARRAY[%3$s, %3$s])","pgq_complete_many(%4$L, %5$L)"}', 'is completed before the others'),
    ('{"pgq_complete_many(ARRAY[%1$s, %2$s], ARRAY[%3$s, %3$s + 1])"}', 'is completed with one under a wrong token'),
    ('{"pgq_complete_many(%4$L, %5$L)","pgq_complete_many(%4$L, %5$L)"}', 'is completed with all, twice'),
    ('{"pgq_complete_many((%4$L::bigint[])[12:12] || (%4$L::bigint[])[1:11], %5$L)"}', 'is completed with all in another order'),
    ('{"pgq_complete_many(%4$L::bigint[] || 7, %5$L::bigint[] || 1)"}', 'is completed with all and one more'),
    ('{"pgq_complete_many(%4$L::bigint[] || 7, %5$L::bigint[] || %3$s)"}', 'is completed with all and one that is not in the batch'),
    ('{"pgq_complete(%1$s, %3$s + 1)","pgq_fail(%1$s, %3$s + 1)","pgq_hold(%1$s, %3$s + 1)","pgq_extend(%1$s, %3$s + 1)","pgq_complete_many(%4$L, array_fill(%3$s + 1, ''{12}''))"}', 'is called for under a wrong token'),
    ('{"pgq_complete(NULL, %3$s)","pgq_fail(%1$s, NULL)","pgq_hold(7, %3$s)","pgq_extend(7, %3$s)","pgq_complete(7, %3$s)"}', 'is called for under a wrong id'),
    ('{"pgq_cancel(%1$s)","pgq_cancel_requested(%4$L, %5$L)","pgq_cancel(%1$s)"}', 'is to be cancelled'),
    ('{"pgq_cancel(%1$s)","pgq_release(%1$s, %3$s)"}', 'is to be cancelled and is released'),
    ('{"pgq_cancel(%1$s)","pgq_complete(%1$s, %3$s)","pgq_cancel(%1$s)"}', 'is to be cancelled and is completed'),
    ('{"pgq_remaining(ARRAY[%6$L])","pgq_remaining(ARRAY[%6$L || ''4''])"}', 'runs in one of two queues'),
    ('{"pgq_register(%6$L)","pgq_reconcile(%6$L, ARRAY[%1$s, %2$s], ARRAY[%3$s, %3$s])"}', 'is one of two that its worker knows'),
    ('{"pgq_register(%6$L)","pgq_reconcile(%6$L, ARRAY[%1$s, %2$s, NULL], ARRAY[%3$s, NULL, NULL])"}', 'is the one that its worker knows'),
    ('{"pgq_register(%6$L)","pgq_reconcile(%6$L, ARRAY[%1$s], ARRAY[%3$s + 1])"}', 'is known under another token'),
    ('{"pgq_register(%6$L)","pgq_reconcile(%6$L, %4$L, %5$L)"}', 'is known with all others'),
    ('{"pgq_register(%6$L)","pgq_complete_many(ARRAY[%1$s], ARRAY[%3$s])","pgq_reconcile(%6$L, (%4$L::bigint[])[1:2] || (%4$L::bigint[])[4:12], (%5$L::bigint[])[1:11])"}', 'is gone, and all others are known'),
    ('{"set_config(''pgq.now'', ''2030-01-01 12:10:01Z'', true)","pgq_claim(''{none}'')"}', 'is lost with all'),
    ('{"pgq_complete_many((%4$L::bigint[])[2:12], (%5$L::bigint[])[2:12])","set_config(''pgq.now'', ''2030-01-01 12:10:01Z'', true)","pgq_claim(''{none}'')"}', 'is done, and one is lost alone'),
    ('{"set_config(''pgq.now'', ''2030-01-01 12:10:01Z'', true)","pgq_cancel(%1$s)","pgq_claim(''{none}'')"}', 'is cancelled after its lease, and the others are lost'),
    ('{"set_config(''pgq.now'', ''2030-01-01 12:10:01Z'', true)","pgq_complete_many(%4$L, %5$L)"}', 'is completed with all after its lease'),
    ('{"pgq_register(%6$L)","pg_temp.end_session(%6$L)","pgq_claim(''{none}'')"}', 'is lost with all when its worker is gone'),
    ('{"pgq_complete_many((%4$L::bigint[])[2:12], (%5$L::bigint[])[2:12])","pgq_register(%6$L)","pg_temp.end_session(%6$L)","pgq_claim(''{none}'')"}', 'is lost alone when its worker is gone');
-- Ids that occur nowhere else in a result, and sort as text.
SELECT setval('pgq_job_id', 3000000);
CREATE FUNCTION pg_temp.both(calls text[]) RETURNS TABLE (packed text, rows text) LANGUAGE plpgsql AS $$
BEGIN
    packed := pg_temp.life(true, calls);
    rows := pg_temp.life(false, calls);
    RETURN NEXT;
END
$$;
CREATE TEMP TABLE results AS SELECT l.told, b.* FROM life AS l CROSS JOIN LATERAL pg_temp.both(l.calls) AS b;
SELECT is(packed, rows, format('a packed job that %s is as one in a row', told)) FROM results;
SELECT set_config('pgq.now', '2030-01-01 12:00Z', true);

-- What the comparison cannot tell: how much stays packed.
CREATE FUNCTION pg_temp.claim(queue text, worker text DEFAULT 'w') RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgq_enqueue('k', to_jsonb(n), queue) FROM generate_series(1, 12) AS n;
    RETURN (SELECT token FROM pgq_claim_batch(ARRAY[queue], 12, '10 min', worker));
END
$$;
CREATE FUNCTION pg_temp.ids(token bigint) RETURNS bigint[] LANGUAGE sql STABLE AS $$ SELECT array_agg(r.id ORDER BY r.id) FROM _pgq_running AS r WHERE r.token = ids.token $$;
SELECT pg_temp.claim('part') AS token \gset
SELECT pg_temp.ids(:token) AS ids \gset
SELECT set_eq(format('SELECT pgq_complete_many(%L, %L)', (:'ids'::bigint[])[3:6], array_fill(:token, '{4}')), (:'ids'::bigint[])[3:6], 'a part of a batch is completed');
SELECT is(pg_temp.rows_and_packed('part'), '0 8', 'the rest of the batch stays packed');
SELECT is(gone, (:'ids'::bigint[])[3:6], 'the jobs that are done are gone') FROM pgq_running_batch WHERE token = :token;
SELECT is_empty(format('SELECT pgq_complete_many(%L, %L)', (:'ids'::bigint[])[3:6], array_fill(:token, '{4}')), 'they are not completed again');
SELECT is(cardinality(gone), 4, 'and are gone once') FROM pgq_running_batch WHERE token = :token;
SELECT is(pgq_extend((:'ids'::bigint[])[1], :token, '1 hour'), pgq_now() + interval '1 hour', 'the lease of a packed job is extended');
SELECT is(pgq_extend((:'ids'::bigint[])[2], :token, '1 minute'), pgq_now() + interval '1 hour', 'with that of its batch, and is not shortened');
SELECT is(pg_temp.rows_and_packed('part'), '0 8', 'an extension unpacks nothing');
SELECT is_empty(format('SELECT pgq_hold_many(ARRAY[%s, 7], ARRAY[%s, %2$s])', (:'ids'::bigint[])[3], :token), 'jobs that are gone, or in no batch, are not held');
SELECT is(pg_temp.rows_and_packed('part'), '0 8', 'which unpacks nothing');
SELECT lives_ok(format('SELECT pgq_fail(%s, %s)', (:'ids'::bigint[])[1], :token), 'a packed job fails');
SELECT is(pg_temp.rows_and_packed('part'), '7 0', 'which unpacks the others, but for those that are gone');
SELECT is(lease_until, pgq_now() + interval '1 hour', 'the lease is that of the batch') FROM pgq_running WHERE queue = 'part' LIMIT 1;
SELECT set_eq(format('SELECT pgq_complete_many(%L, %L)', :'ids', array_fill(:token, '{12}')), (:'ids'::bigint[])[2:2] || (:'ids'::bigint[])[7:12], 'what was unpacked is completed');
SELECT is_empty($$ SELECT FROM pgq_running_batch WHERE queues[1] = 'part' $$, 'no batch is left');

-- In one call, jobs of several batches and jobs in rows.
SELECT pg_temp.claim('one') AS one, pg_temp.claim('two') AS two \gset
SELECT pg_temp.ids(:one) AS ones, pg_temp.ids(:two) AS twos, pgq_enqueue('k', queue => 'row') \gset
SELECT id AS row, token AS row_token FROM pgq_claim('{row}') \gset
SELECT set_eq(
    format('SELECT pgq_complete_many(%L, %L)', :'ones'::bigint[] || (:'twos'::bigint[])[2:3] || :row || (:'twos'::bigint[])[4],
           array_fill(:one, '{12}') || array_fill(:two, '{2}') || :row_token || :one),
    :'ones'::bigint[] || (:'twos'::bigint[])[2:3] || :row, 'jobs of several batches are completed, each under its own token');
SELECT pgq_hold_many(ARRAY[(:'twos'::bigint[])[5], 7], ARRAY[:one, :two]);
SELECT is(pg_temp.rows_and_packed('two'), '0 10', 'and leave the others, also a call under a wrong token');

-- A role with some of the queues.
CREATE ROLE tap_packed;
SELECT pgq_grant('tap_packed', 'worker', '{mine}');
SELECT pgq_enqueue('k', to_jsonb(n), CASE WHEN n % 2 = 0 THEN 'mine' ELSE 'theirs' END) FROM generate_series(1, 20) AS n;
SELECT token, ids FROM pgq_claim_batch('{mine,theirs}', worker => 'both') \gset
SELECT (:'ids'::bigint[])[array_position(queues, 'theirs')] AS theirs, (:'ids'::bigint[])[array_position(queues, 'mine')] AS mine FROM pgq_running_batch WHERE token = :token \gset
\ir result.sql
SELECT is(pg_temp.result('tap_packed', format('SELECT %s(%s, %s)', f, :theirs, :token)), 'PGQ02', format('%s refuses a packed job of another queue', f))
FROM unnest('{pgq_complete,pgq_fail,pgq_hold,pgq_extend}'::text[]) AS f;
SELECT is(pg_temp.result('tap_packed', format('SELECT %s(%s, %s) IS NOT NULL', f, :mine, :token)), 'true', format('%s finds a packed job of its queue', f))
FROM unnest('{pgq_complete,pgq_fail,pgq_hold,pgq_extend}'::text[]) AS f;
SET LOCAL ROLE tap_packed;
SELECT pgq_hold_many(ARRAY[:theirs], ARRAY[:token]);
SELECT pgq_complete_many(:'ids', array_fill(:token, '{20}'));
SELECT pgq_register('both', '{mine}'), pgq_reconcile('both', '{}', '{}');
RESET ROLE;
SELECT is(pg_temp.rows_and_packed('mine') || ', ' || pg_temp.rows_and_packed('theirs'), '0 0, 0 10', 'a role completes the packed jobs of its queues only, and reconciles no others');

-- Requests stay until the job has ended.
SELECT pg_temp.claim('asked') AS token \gset
SELECT pg_temp.ids(:token) AS ids \gset
SELECT pgq_cancel((:'ids'::bigint[])[5]);
SELECT _pgq_settle_cancel_requests(pgq_now());
SELECT set_eq(format('SELECT pgq_cancel_requested(%L, %L)', :'ids', array_fill(:token, '{12}')), (:'ids'::bigint[])[5:5], 'the request for a packed job stays');
SELECT is(pg_temp.rows_and_packed('asked'), '0 12', 'and unpacks nothing');
SELECT pgq_complete_many((:'ids'::bigint[])[5:5], ARRAY[:token]);
SELECT _pgq_settle_cancel_requests(pgq_now());
SELECT is_empty('SELECT FROM pgq_cancel_request', 'the request for a packed job that is gone is removed');

-- More than a rescue takes at once.
SELECT pgq_enqueue('k', to_jsonb(n), 'big') FROM generate_series(1, 120) AS n;
SELECT pgq_claim_batch('{big}', 120, '1 min');
SET LOCAL pgq.now = '2030-01-01 12:02Z';
SELECT pgq_claim('{none}');
SELECT is((SELECT count(*) FROM pgq_jobs WHERE queue = 'big' AND state = 'waiting' AND losses = 1 AND attempt = 0), 50::bigint, 'a rescue takes fifty jobs of a batch');
SELECT pgq_claim('{none}'), pgq_claim('{none}');
SELECT is((SELECT count(*) FROM pgq_jobs WHERE queue = 'big' AND state = 'waiting' AND losses = 1 AND attempt = 0), 120::bigint, 'the next ones take the others, which were lost together, too');

SELECT * FROM finish();
ROLLBACK;
