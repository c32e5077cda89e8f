-- pgq_save: what a job has saved goes with it, from attempt to attempt.
BEGIN;
SELECT plan(44);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

SELECT * FROM pgq_enqueue('job', '1') \gset
SELECT token, saved IS NULL AS none FROM pgq_claim() \gset
SELECT ok(:'none', 'a job that has saved nothing is claimed with NULL');
SELECT is(saved, NULL::jsonb, 'and pgq_jobs shows NULL') FROM pgq_jobs WHERE id = :id;
SELECT pgq_save(:id, :token, '{"page": 1}');
SELECT is(saved, '{"page": 1}'::jsonb, 'pgq_jobs shows what a running job has saved') FROM pgq_jobs WHERE id = :id;
SELECT pgq_save(:id, :token, '{"page": 2}');
SELECT is(saved, '{"page": 2}'::jsonb, 'which takes the place of what it has saved before') FROM pgq_jobs WHERE id = :id;
SELECT throws_ok(format('SELECT pgq_save(%s, %s, ''1'')', :id, :token + 1), 'PGQ02', NULL, 'a job is saved under its token only');
SELECT throws_ok(format('SELECT pgq_save(%s, NULL, ''1'')', :id), 'PGQ02', NULL, 'NULL for the token holds no job');
SELECT throws_ok(format('SELECT pgq_save(%s, %s, to_jsonb(repeat(''x'', 1048575)))', :id, :token), '54000', 'saved takes 1048577 bytes as text, more than 1048576', 'more than 1 MiB is refused');
SELECT lives_ok(format('SELECT pgq_save(%s, %s, to_jsonb(repeat(''x'', 1048574)))', :id, :token), '1 MiB can be saved');
SELECT throws_ok(format('SELECT pgq_save(%s, %s, ''1'', %L)', :id, :token, '1'), '25000', 'transaction 1 has ended',
                 'a job is not saved in another transaction than the one that is given');
SELECT lives_ok(format('SELECT pgq_save(%s, %s, ''{"page": 2}'', pg_current_xact_id()::text)', :id, :token), 'it is in that one');

SELECT pgq_snooze(:id, :token, delay => '1 minute');
SELECT is(saved, '{"page": 2}'::jsonb, 'a job that waits shows it, too') FROM pgq_jobs WHERE id = :id;
SET LOCAL pgq.now = '2030-01-01 12:01Z';
SELECT token, saved AS again FROM pgq_claim() \gset
SELECT is(:'again'::text, '{"page": 2}'::text, 'a claim after a snooze returns it');
SELECT pgq_fail(:id, :token, 'e', '0');
SELECT token, saved[1] AS again, cardinality(saved) AS n FROM (SELECT token, saved FROM pgq_claim_batch()) AS b \gset
SELECT is(:'again'::text, '{"page": 2}'::text, 'pgq_claim_batch returns it as text after a failure');
SELECT pgq_release(:id, :token);
SELECT token, saved AS again FROM pgq_claim(max_jobs => 2) \gset
SELECT is(:'again'::text, '{"page": 2}'::text, 'a claim of several jobs after a release returns it');
SET LOCAL pgq.now = '2030-01-01 12:07Z';
SELECT pgq_claim(max_jobs => 0);
SELECT count(*) FROM pgq_claim('{elsewhere}');
SELECT saved AS again FROM pgq_jobs WHERE id = :id \gset
SELECT is(:'again'::text, '{"page": 2}'::text, 'it survives a lost lease');
SET LOCAL pgq.now = '2030-01-01 14:00Z';
SELECT token FROM pgq_claim() \gset
SELECT pgq_fail(:id, :token, 'e', retry => false);
SELECT is(state || saved::text, 'dead{"page": 2}', 'a dead job keeps it') FROM pgq_jobs WHERE id = :id;
SELECT pgq_retry(:id);
SELECT token, saved AS again FROM pgq_claim() \gset
SELECT is(:'again'::text, '{"page": 2}'::text, 'and so does one that is retried by hand');
SELECT pgq_save(:id, :token, NULL);
SELECT is(saved, NULL::jsonb, 'NULL removes what was saved') FROM pgq_jobs WHERE id = :id;
SELECT pgq_save(:id, :token, 'null');
SELECT is(saved, 'null'::jsonb, 'the JSON null can be saved') FROM pgq_jobs WHERE id = :id;
SELECT pgq_complete(:id, :token);
SELECT is_empty('SELECT FROM pgq_saved', 'completing a job deletes it');

-- A queue whose jobs have saved something is never packed, and only they are returned with it.
SELECT count(*) FROM pgq_enqueue_many((SELECT jsonb_agg(jsonb_build_object('kind', 'many', 'args', n)) FROM generate_series(1, 12) AS n));
SELECT token, ids FROM pgq_claim_batch() \gset
SELECT is(count(*), 12::bigint, 'jobs that have saved nothing are packed') FROM _pgq_packed;
SELECT pgq_save((:'ids'::bigint[])[3], :token, '"third"');
SELECT is(count(*), 0::bigint, 'a job that saves is unpacked, with its batch') FROM _pgq_packed;
SELECT pgq_release(id, :token) FROM unnest(:'ids'::bigint[]) AS id;
SELECT token, saved FROM pgq_claim_batch() \gset
SELECT is(:'saved'::text[] , ARRAY[NULL, NULL, '"third"', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL], 'a batch has it at the place of the job');
SELECT is(count(*), 0::bigint, 'and is not packed') FROM _pgq_packed;
SELECT is(count(*), 12::bigint, 'all its jobs can be completed together') FROM pgq_complete_many(:'ids', array_fill(:token::bigint, '{12}'));
SELECT is_empty('SELECT FROM pgq_saved', 'which deletes what they have saved');

-- Ended jobs keep it until they are deleted.
SELECT id AS kept FROM pgq_enqueue('kept') \gset
SELECT token FROM pgq_claim() \gset
SELECT pgq_save(:kept, :token, '{"n": 9}');
SELECT pgq_complete(:kept, :token, '"r"');
SELECT is(saved, '{"n": 9}'::jsonb, 'a job that is done and kept keeps what it has saved') FROM pgq_jobs WHERE id = :kept;
SELECT pgq_purge('0');
SELECT is_empty('SELECT FROM pgq_saved', 'and pgq_purge deletes it');

-- A merge hands it over.
SELECT id AS first FROM pgq_enqueue('twin', dedup_key => 'x') \gset
SELECT token FROM pgq_claim() \gset
SELECT pgq_save(:first, :token, '{"of": "first"}');
SELECT id AS second FROM pgq_enqueue('twin', dedup_key => 'x') \gset
SELECT is(pgq_release(:first, :token), 'merged', 'a job that has saved something merges into its twin');
SELECT results_eq('SELECT id, saved FROM pgq_saved', format('VALUES (%s::bigint, ''{"of": "first"}''::jsonb)', :second), 'which takes over what it has saved');
SELECT token, saved FROM pgq_claim() \gset
SELECT is(:'saved'::text, '{"of": "first"}', 'and is claimed with it');
SELECT id AS third FROM pgq_enqueue('twin', dedup_key => 'x') \gset
SELECT t.token AS other FROM pgq_claim() AS t \gset
SELECT pgq_save(:third, :other, '{"of": "third"}');
SELECT pgq_release(:third, :other);
SELECT pgq_release(:second, :token);
SELECT results_eq('SELECT id, saved FROM pgq_saved', format('VALUES (%s::bigint, ''{"of": "third"}''::jsonb)', :third), 'a twin that has saved something itself keeps that');

SELECT pgq_configure('ordered', '{"ordered": true}');
SELECT id AS first FROM pgq_enqueue('twin', queue => 'ordered', group_key => 'g') \gset
SELECT token FROM pgq_claim('{ordered}') \gset
SELECT pgq_save(:first, :token, '"first"');
SELECT id AS second FROM pgq_enqueue('twin', queue => 'ordered', group_key => 'g') \gset
SELECT is(pgq_release(:first, :token), 'released', 'in an ordered queue a job takes the place of its twin');
SELECT results_eq('SELECT id, saved FROM pgq_saved WHERE saved = ''"first"''', format('VALUES (%s::bigint, ''"first"''::jsonb)', :first), 'and keeps what it has saved');
SELECT token, saved FROM pgq_claim('{ordered}') \gset
SELECT is(:'saved'::text, '"first"', 'with which it is claimed');
SELECT pgq_complete(:first, :token);

-- One that has errors keeps them, and one that saves often is written once.
SELECT id AS failing FROM pgq_enqueue('failing', queue => 'failing') \gset
SELECT token FROM pgq_claim('{failing}') \gset
SELECT pgq_fail(:failing, :token, 'one', '0');
SELECT token FROM pgq_claim('{failing}') \gset
SELECT pgq_save(:failing, :token, '1');
SELECT lives_ok(format('SELECT pgq_fail(%s, %s, ''two'', ''0'')', :failing, :token), 'a job that has an error saves, and fails again');
SELECT is(jsonb_array_length(errors), 2, 'both errors are there') FROM pgq_jobs WHERE id = :failing;
SELECT token FROM pgq_claim('{failing}') \gset
SELECT pgq_complete(:failing, :token);
SELECT id AS often FROM pgq_enqueue('often', queue => 'often') \gset
SELECT token FROM pgq_claim('{often}') \gset
SELECT pgq_save(:often, :token, '1');
SELECT ctid AS place FROM pgq_running WHERE id = :often \gset
SELECT pgq_save(:often, :token, '2');
SELECT is(ctid, :'place'::tid, 'the second save does not write the row of the job anew') FROM pgq_running WHERE id = :often;

-- What an operator cancels, and what is kept for long enough, goes with what it has saved.
SELECT pgq_release(:often, :token);
SELECT is(pgq_cancel(:often), 'cancelled', 'a job that has saved something is cancelled');
SELECT is(state || saved::text, 'cancelled2', 'and keeps it') FROM pgq_jobs WHERE id = :often;
SET LOCAL pgq.now = '2030-03-01 12:00Z';
SELECT _pgq_delete_old(pgq_now());
SELECT is_empty(format('SELECT FROM pgq_ended WHERE id = %s', :often), 'until it is old');
SELECT is_empty(format('SELECT FROM pgq_saved WHERE id = %s', :often), 'then both are deleted');

-- Grouped and limited queues take another way.
SELECT pgq_configure('limited', '{"max_running": 3}');
SELECT id AS grouped FROM pgq_enqueue('g', queue => 'limited', group_key => 'a') \gset
SELECT token FROM pgq_claim('{limited}') \gset
SELECT pgq_save(:grouped, :token, '7');
SELECT pgq_release(:grouped, :token);
SELECT token, saved FROM pgq_claim('{limited}') \gset
SELECT is(:'saved'::text, '7', 'pgq_claim returns it from a queue with limits');
SELECT pgq_release(:grouped, :token);
SELECT saved[1] AS saved FROM pgq_claim_batch('{limited}') \gset
SELECT is(:'saved'::text, '7', 'and so does pgq_claim_batch');

SELECT * FROM finish();
ROLLBACK;
