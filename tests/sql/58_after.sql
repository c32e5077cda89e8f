-- Jobs that run after others: blocked, unblocked, cancelled.
BEGIN;
SELECT plan(99);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

CREATE FUNCTION pg_temp.state(of bigint) RETURNS text LANGUAGE sql AS $$ SELECT coalesce((SELECT state FROM pgq_jobs WHERE id = of), 'gone') $$;
CREATE FUNCTION pg_temp.after(of bigint) RETURNS bigint[] LANGUAGE sql AS $$ SELECT after FROM pgq_jobs WHERE id = of $$;
-- Jobs are claimed by kind, so each job of this file that is to end has a queue of its own, with the name of its kind.
CREATE FUNCTION pg_temp.add(kind text, VARIADIC after bigint[] DEFAULT '{}') RETURNS bigint LANGUAGE sql
    AS $$ SELECT id FROM pgq_enqueue(kind, queue => kind, after => add.after) $$;
CREATE FUNCTION pg_temp.take(name text) RETURNS TABLE (id bigint, token bigint) LANGUAGE sql
    AS $$ SELECT c.id, c.token FROM pgq_claim(ARRAY[name]) AS c $$;
CREATE FUNCTION pg_temp.done(name text) RETURNS bigint LANGUAGE sql AS $$ SELECT t.id FROM pg_temp.take(name) AS t, pgq_complete(t.id, t.token) $$;
CREATE FUNCTION pg_temp.dead(name text) RETURNS bigint LANGUAGE sql AS $$ SELECT t.id FROM pg_temp.take(name) AS t, pgq_fail(t.id, t.token, retry => false) $$;

-- Blocked until all are over. No rollback resets the sequence, which other files may have left set.
SELECT _pgq_reset_needed();
SELECT ok(NOT _pgq_has_needs(), 'no job is blocked at first');
SELECT pg_temp.add('a') AS a \gset
SELECT pg_temp.add('b') AS b \gset
SELECT pg_temp.add('c', :a, :b, :a) AS c \gset
SELECT ok(_pgq_has_needs(), 'a job may be blocked');
SELECT is(pg_temp.state(:c), 'blocked', 'a job is blocked after others');
SELECT is(pg_temp.after(:c), ARRAY[:a, :b]::bigint[], 'the view shows what it waits for');
SELECT is(pg_temp.after(:a), NULL, 'and nothing for other jobs');
SELECT is((SELECT blocked FROM pgq_stats WHERE kind = 'c'), 1::bigint, 'and it is counted');
SELECT is_empty('SELECT FROM pgq_claim(''{c}'')', 'a blocked job is not claimed');
SELECT is(pg_temp.done('a'), :a::bigint, 'the first one is done');
SELECT is(pg_temp.after(:c), ARRAY[:b]::bigint[], 'the job waits for the other one');
SELECT is(pg_temp.done('b'), :b::bigint, 'which is done, too');
SELECT is(pg_temp.state(:c), 'waiting', 'then the job is unblocked');
SELECT is_empty('SELECT FROM pgq_need', 'nothing is left of its needs');
SELECT is(pg_temp.done('c'), :c::bigint, 'and it runs');

-- What is over does not block.
SELECT is(pg_temp.state(pg_temp.add('d', :a, :b)), 'waiting', 'a job after jobs that are gone is not blocked');
SELECT id AS e FROM pgq_enqueue('e') \gset
SELECT id AS running, token FROM pgq_claim() \gset
SELECT is(pg_temp.state(pg_temp.add('d', :running)), 'blocked', 'a job after one that runs is');
SELECT pgq_complete(:running, :token, '1');
SELECT is(pg_temp.state(pg_temp.add('d2', :running)), 'waiting', 'one after a job that is done and kept is not');
SELECT is((SELECT count(*) FROM pgq_jobs WHERE kind = 'd' AND state = 'waiting'), 1::bigint, 'a job that has a twin when it is unblocked merges into it');
SELECT is(pg_temp.state(pg_temp.add('d3')), 'waiting', 'an empty array blocks nothing');
SELECT is((SELECT pg_temp.state(id) FROM pgq_enqueue('d4', after_failed => 'wait')), 'waiting', 'nor does after_failed alone');

-- Nine jobs or more are packed.
SELECT count(pgq_enqueue('p', to_jsonb(n), 'p')) FROM generate_series(1, 10) AS n;
CREATE TEMP TABLE batch AS SELECT token, ids FROM pgq_claim_batch('{p}');
SELECT isnt_empty('SELECT FROM pgq_running_batch', 'a batch is packed');
SELECT pg_temp.add('q', VARIADIC ids[1:3]) AS q FROM batch \gset
SELECT is(pg_temp.state(:q), 'blocked', 'a job after packed ones is blocked');
SELECT is((SELECT count(*) FROM batch, pgq_complete_many(ids[1:2], array_fill(token, '{2}'))), 2::bigint, 'some are done');
SELECT is(pg_temp.after(:q), (SELECT ids[3:3] FROM batch), 'they are counted off');
SELECT is(pg_temp.state(pg_temp.add('q2', VARIADIC ids[1:2])), 'waiting', 'and a job after these is not blocked') FROM batch;
SELECT is((SELECT count(*) FROM batch, pgq_complete_many(ids[3:10], array_fill(token, '{8}'))), 8::bigint, 'the others are done');
SELECT is(pg_temp.state(:q), 'waiting', 'it is unblocked');
SELECT count(pgq_enqueue('p', to_jsonb(n), 'p')) FROM generate_series(1, 10) AS n;
UPDATE batch SET (token, ids) = (SELECT token, ids FROM pgq_claim_batch('{p}'));
SELECT pg_temp.add('r', VARIADIC ids) AS r FROM batch \gset
SELECT is((SELECT lost FROM batch, pgq_claim_batch('{p}', 0, done_ids => ids, done_tokens => array_fill(token, '{10}'))), '{}', 'a whole batch is done with the next claim');
SELECT is(pg_temp.state(:r), 'waiting', 'and unblocks a job');
SELECT pg_temp.add('s') AS s \gset
SELECT pg_temp.add('t', :s) AS t \gset
SELECT is((SELECT lost FROM pg_temp.take('s') AS j, pgq_claim_batch('{s}', 0, done_ids => ARRAY[j.id], done_tokens => ARRAY[j.token])), '{}', 'so is a single job');
SELECT is(pg_temp.state(:t), 'waiting', 'and unblocks one');

-- A job that goes back has not ended.
SELECT pg_temp.add('u') AS u \gset
SELECT pg_temp.add('v', :u) AS v \gset
SELECT count(*) FROM pg_temp.take('u') AS j, pgq_fail(j.id, j.token, retry_in => '0');
SELECT is(pg_temp.state(:v), 'blocked', 'a failure that is retried unblocks nothing');
SELECT count(*) FROM pg_temp.take('u') AS j, pgq_release(j.id, j.token);
SELECT count(*) FROM pg_temp.take('u') AS j, pgq_snooze(j.id, j.token, delay => '0');
SELECT is(pg_temp.state(:v), 'blocked', 'nor does a release or snooze');
SELECT is(pg_temp.dead('u'), :u::bigint, 'the job is dead');
SELECT is(pg_temp.state(:v), 'cancelled', 'then the one after it is cancelled');
SELECT is((SELECT errors -> 0 ->> 'error' FROM pgq_jobs WHERE id = :v), format('job %s, after which this one was to run, is dead or cancelled', :u),
          'its error says why');
SELECT is(pg_temp.state(pg_temp.add('w', :u)), 'cancelled', 'so is a job that is enqueued after it later');
SELECT is((SELECT errors -> 0 ->> 'error' FROM pgq_jobs WHERE kind = 'w'), format('job %s, after which this one was to run, is dead or cancelled', :u), 'with the same error');
SELECT is(pgq_retry(:u), 'retry', 'the dead job is retried');
SELECT is(pg_temp.state(:v), 'cancelled', 'that does not bring the cancelled one back');
SELECT is(pgq_retry(:v), 'retry', 'which can be retried itself');
SELECT is(pg_temp.state(:v), 'waiting', 'and waits for no job any more');

-- after_failed: run and wait.
SELECT pg_temp.add('aa') AS aa \gset
SELECT id AS run FROM pgq_enqueue('run', after => ARRAY[:aa], after_failed => 'run') \gset
SELECT id AS wait FROM pgq_enqueue('wait', after => ARRAY[:aa], after_failed => 'wait') \gset
SET LOCAL pgq.now = '2030-01-01 12:01Z';
SELECT is(pg_temp.dead('aa'), :aa::bigint, 'a job is dead');
SELECT is(pg_temp.state(:run), 'waiting', 'with after_failed run a job is unblocked');
SELECT is((SELECT ripe_at FROM pgq_jobs WHERE id = :run), pgq_now(), 'ripe from now on');
SELECT is(pg_temp.state(:wait), 'blocked', 'with wait it stays blocked');
SELECT _pgq_settle_blocked(pgq_now());
SELECT is(pg_temp.state(:wait), 'blocked', 'also for maintenance');
SELECT is((SELECT pg_temp.state(id) FROM pgq_enqueue('run', '1', after => ARRAY[:aa], after_failed => 'run')), 'waiting', 'it is the same for a job that is enqueued later: run');
SELECT is((SELECT pg_temp.after(id) FROM pgq_enqueue('wait', '1', after => ARRAY[:aa], after_failed => 'wait')), ARRAY[:aa]::bigint[], 'and wait');
SELECT pgq_retry(:aa);
SELECT is(pg_temp.done('aa'), :aa::bigint, 'the job is retried, and done');
SELECT is((SELECT count(*) FROM pgq_jobs WHERE kind = 'wait' AND state = 'waiting'), 2::bigint, 'which unblocks those that wait');
SELECT pg_temp.add('bb') AS bb \gset
SELECT id AS wait FROM pgq_enqueue('wait', '2', after => ARRAY[:bb], after_failed => 'wait') \gset
SELECT pgq_cancel(:bb);
SELECT is(pg_temp.state(:wait), 'blocked', 'a job that is cancelled while it waits counts as failed');
SET LOCAL pgq.now = '2030-01-02 12:00Z';
SELECT pgq_purge('0', kind => 'bb');
SELECT is(pg_temp.state(:wait), 'cancelled', 'when it is purged, those that wait for it are cancelled');

-- Cancelled by hand, and what waits for that.
SELECT pg_temp.add('cc') AS cc \gset
SELECT pg_temp.add('dd', :cc) AS dd \gset
SELECT pg_temp.add('ee', :dd) AS ee \gset
SELECT pg_temp.add('ff', :ee) AS ff \gset
SELECT throws_ok(format('SELECT pgq_retry(%s)', :dd), 'PGQ03', format('job %s is blocked and cannot be retried', :dd), 'a blocked job cannot be retried');
SELECT is(pgq_cancel(:dd), 'cancelled', 'it can be cancelled');
SELECT is((SELECT errors FROM pgq_jobs WHERE id = :dd), '[]', 'without an error');
SELECT is(pg_temp.state(:ee), 'cancelled', 'what waits for it is cancelled');
SELECT is(pg_temp.state(:ff), 'cancelled', 'and what waits for that');
SELECT is((SELECT errors -> 0 ->> 'error' FROM pgq_jobs WHERE id = :ff), format('job %s, after which this one was to run, is dead or cancelled', :ee),
          'its error names the one before it');
SELECT is_empty('SELECT FROM pgq_need_ended', 'no note is left');
SELECT is(pg_temp.state(:cc), 'waiting', 'prerequisites are left alone');
SELECT pg_temp.add('c2', :cc) AS c2 \gset
SELECT pgq_cancel(:cc);
SELECT is(pg_temp.state(:c2), 'cancelled', 'a job that is cancelled while it waits cancels what waits for it');

-- A failure that is not settled yet, and a retry by hand.
SELECT pg_temp.add('c3') AS c3 \gset
SELECT pg_temp.add('c4', :c3) AS c4 \gset
INSERT INTO pgq_need_ended VALUES (:cc, 'failed'), (:c3, 'failed');
SELECT pgq_retry(:cc);
SELECT results_eq('SELECT id FROM pgq_need_ended', format('VALUES (%s::bigint)', :c3), 'a retry removes the note of the failure');
SELECT _pgq_settle_blocked(pgq_now());
SELECT is(pg_temp.state(:c4), 'blocked', 'a note of a job that is alive cancels nothing');
SELECT is_empty('SELECT FROM pgq_need_ended', 'and is removed');

-- Merging is not an end.
SELECT pg_temp.add('gg') AS gg \gset
SELECT pg_temp.add('hh', :gg) AS hh \gset
SELECT id, token FROM pg_temp.take('gg') \gset
SELECT pg_temp.add('gg') AS twin \gset
SELECT is(pgq_release(:id, :token), 'merged', 'a job merges into its twin');
SELECT is(pg_temp.after(:hh), ARRAY[:twin]::bigint[], 'what waits for it waits for the twin');
SELECT is(pg_temp.done('gg'), :twin::bigint, 'the twin is done');
SELECT is(pg_temp.state(:hh), 'waiting', 'which unblocks it');

-- Duplicates of blocked jobs.
SELECT pg_temp.add('ii') AS ii \gset
SELECT pg_temp.add('jj') AS jj \gset
SELECT id AS kk FROM pgq_enqueue('kk', after => ARRAY[:ii, :jj]) \gset
SELECT results_eq(format('SELECT * FROM pgq_enqueue(''kk'', after => ARRAY[%s, %s])', :jj, :ii), format('VALUES (%s::bigint, false)', :kk), 'a job after the same jobs is a duplicate');
SELECT ok((SELECT created FROM pgq_enqueue('kk', after => ARRAY[:ii])), 'one after others is not');
SELECT ok((SELECT created FROM pgq_enqueue('kk', after => ARRAY[:ii, :jj], after_failed => 'run')), 'nor is one that does something else after a failure');
SELECT ok((SELECT created FROM pgq_enqueue('kk', after => ARRAY[:ii, :jj], dedup => false)), 'nor one without dedup');
SELECT throws_ok(format('SELECT pgq_enqueue(''kk'', after => ARRAY[%s, %s], on_duplicate => ''error'')', :ii, :jj), 'PGQ04', format('job %s is blocked already with this signature', :kk),
                 'on_duplicate error');
SELECT is((SELECT id FROM pgq_enqueue('kk', after => ARRAY[:ii, :jj], ripe_at => '2031-01-01Z', priority => 2, on_duplicate => 'replace')), :kk::bigint, 'replace');
SELECT results_eq(format('SELECT ripe_at, priority FROM pgq_jobs WHERE id = %s', :kk), $$VALUES (timestamptz '2031-01-01Z', 2)$$, 'replaces');
SELECT is((SELECT id FROM pgq_enqueue('kk', after => ARRAY[:ii, :jj], on_duplicate => 'soonest')), :kk::bigint, 'soonest');
SELECT is((SELECT ripe_at FROM pgq_jobs WHERE id = :kk), pgq_now(), 'makes it ripe sooner');
SELECT count(*) FROM (VALUES (pg_temp.done('ii')), (pg_temp.done('jj'))) AS d;
SELECT is((SELECT count(*) FROM pgq_jobs WHERE kind = 'kk' AND state = 'waiting'), 2::bigint, 'when they are unblocked, twins merge');

SELECT throws_like($$SELECT pgq_enqueue_many('[{"kind": "one"}, {"kind": "free"}, {"kind": "free", "on_duplicate": "error"}, {"kind": "two", "after": ["#1"]}]')$$,
                   'job 3 of the array: job % is waiting or blocked already with this signature', 'a duplicate in an array is refused with its number');

SELECT results_eq('SELECT enqueued, merged, cancelled FROM pgq_counters WHERE kind IN (''kk'', ''v'') ORDER BY kind',
                  $$VALUES (4::bigint, 2::bigint, 0::bigint), (1, 0, 1)$$, 'blocked jobs are counted like others');
SELECT is((SELECT state FROM pgq_result(:kk)), pg_temp.state(:kk), 'pgq_result knows them, too');
SELECT pg_temp.add('late', (SELECT id FROM pgq_enqueue('early'))) AS late \gset
SELECT is((SELECT state FROM pgq_result(:late)), 'blocked', 'while they are blocked');
SELECT throws_ok(format('SELECT pgq_enqueue(''k'', dedup_for => ''1 hour'', after => ARRAY[%s])', :late), '22023', 'both after and dedup_for are given', 'a window cannot be combined with prerequisites');

-- A whole graph in one call: a diamond with a tail, and a job that waits for one of before.
SELECT pg_temp.add('ll') AS ll \gset
CREATE TEMP TABLE graph AS
SELECT * FROM pgq_enqueue_many(format('[
    {"kind": "top", "queue": "top"}, {"kind": "left", "after": ["#1"]}, {"kind": "right", "after": ["#1", %s], "after_failed": "run"},
    {"kind": "free", "after": []}, {"kind": "bottom", "after": ["#2", "#3"], "delay": "1 hour", "group_key": "g"}]', :ll)::jsonb);
SELECT results_eq('SELECT n, created FROM graph', 'SELECT n, true FROM generate_series(1::bigint, 5) AS n', 'a graph is enqueued, in the order of the array');
SELECT results_eq(
    'SELECT g.n, j.state, (SELECT array_agg(o.n ORDER BY o.n) FROM graph AS o WHERE o.id = ANY (j.after)) FROM graph AS g JOIN pgq_jobs AS j USING (id) ORDER BY g.n',
    $$VALUES (1::bigint, 'waiting', NULL), (2, 'blocked', '{1}'::bigint[]), (3, 'blocked', '{1}'), (4, 'waiting', NULL), (5, 'blocked', '{2,3}')$$,
    'each job waits for those that it names');
SELECT pg_temp.done('top');
SELECT pg_temp.done('ll');
SELECT is((SELECT array_agg(kind ORDER BY kind) FROM pgq_jobs JOIN graph USING (id) WHERE state = 'waiting'), '{free,left,right}', 'the next ones are unblocked');
SELECT count(*) FROM pgq_claim(max_jobs => 100) AS c, pgq_complete(c.id, c.token);
SELECT results_eq('SELECT state, ripe_at, group_key FROM pgq_jobs WHERE kind = ''bottom''', $$VALUES ('waiting', timestamptz '2030-01-02 13:00Z', 'g')$$, 'a job keeps its time and its group');

-- An end that the enqueue has not seen, and that has not seen the enqueue.
SELECT pg_temp.add('mm') AS mm \gset
SELECT pg_temp.add('nn', :mm) AS nn \gset
SELECT pg_temp.add('oo', :mm) AS oo \gset
UPDATE pgq_need SET needs = :a WHERE job = :nn;
UPDATE pgq_need SET needs = :dd WHERE job = :oo;
SELECT _pgq_settle_blocked(pgq_now());
SELECT is(pg_temp.state(:nn), 'waiting', 'maintenance unblocks a job whose prerequisite is gone');
SELECT is(pg_temp.state(:oo), 'cancelled', 'and cancels one whose prerequisite was cancelled');

-- Many at once: a call deals with a thousand, and leaves the rest to maintenance.
SELECT pg_temp.add('pp') AS pp \gset
SELECT count(*) FROM pgq_enqueue_many((SELECT jsonb_agg(jsonb_build_object('kind', 'qq', 'args', n, 'after', ARRAY[:pp])) FROM generate_series(1, 1001) AS n));
SELECT pg_temp.done('pp');
SELECT is((SELECT array_agg(blocked || ' ' || waiting) FROM pgq_stats WHERE kind = 'qq'), '{1 1000}', 'a job unblocks a thousand others');
SELECT ok((SELECT running FROM pgq_remaining('{none}')), 'until the rest is unblocked, something is left to do');
SELECT _pgq_settle_blocked(pgq_now());
SELECT ok(NOT (SELECT running FROM pgq_remaining('{none}')), 'and then nothing');
SELECT is((SELECT array_agg(blocked || ' ' || waiting) FROM pgq_stats WHERE kind = 'qq'), '{0 1001}', 'and maintenance the rest');

-- In an ordered queue a twin that takes the place of a job takes over what waits for both.
SELECT pgq_configure('rr', '{"ordered": true}');
SELECT id AS first FROM pgq_enqueue('k', queue => 'rr', group_key => 'g') \gset
SELECT token FROM pgq_claim('{rr}') \gset
SELECT id AS twin FROM pgq_enqueue('k', queue => 'rr', group_key => 'g') \gset
SELECT id AS last FROM pgq_enqueue('last', after => ARRAY[:first]) \gset
SELECT id AS other FROM pgq_enqueue('other', after => ARRAY[:twin]) \gset
SELECT pgq_release(:first, :token);
SELECT is(pg_temp.after(:last), ARRAY[:first]::bigint[], 'a job keeps its place in an ordered queue, and what waits for it');
SELECT is(pg_temp.after(:other), ARRAY[:first]::bigint[], 'and takes over what waits for its twin');

-- Jobs in queues that a role may not use do not exist for it.
CREATE ROLE tap_flow;
SELECT pgq_grant('tap_flow', 'producer', '{mine}');
SELECT pgq_grant('tap_flow', 'admin', '{yours}');
SELECT id AS theirs FROM pgq_enqueue('k', queue => 'theirs') \gset
SELECT id AS yours FROM pgq_enqueue('k', queue => 'yours') \gset
SET ROLE tap_flow;
SELECT id AS x FROM pgq_enqueue('x', queue => 'mine', after => ARRAY[:theirs]) \gset
SELECT id AS y FROM pgq_enqueue('y', queue => 'mine', after => ARRAY[:yours]) \gset
RESET ROLE;
SELECT is(pg_temp.state(:x), 'waiting', 'a job after one of a queue that the role may not use is not blocked');
SELECT is(pg_temp.state(:y), 'blocked', 'one after a job of its own queues is');

-- At the end nothing is left, and the ends of jobs pay for nothing.
DELETE FROM pgq_blocked;
DELETE FROM pgq_need;
SELECT ok(_pgq_has_needs(), 'the sequence says that jobs may be blocked');
SELECT _pgq_settle_blocked(pgq_now());
SELECT ok(_pgq_has_needs(), 'also to a transaction that has removed what they need: a rollback would bring it back');
SELECT * FROM finish();
ROLLBACK;
