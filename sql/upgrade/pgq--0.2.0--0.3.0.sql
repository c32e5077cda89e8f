-- From 0.2.0 to 0.3.0: one word for one thing.
--
-- A clean break: calls, views and columns have other names, so drivers of 0.2.0 cannot go on. They must be stopped first.
-- With no client left to break, squawk need not report what is renamed or dropped for that reason. It still reports rewrites,
-- scans and indexes that are built under a lock.
-- squawk-ignore-file ban-drop-not-null, ban-drop-function, ban-drop-view, renaming-column, renaming-table, renaming-object

DO $upgrade_estimate$
DECLARE
    -- Measured on PostgreSQL 18, on a busy machine: 0.8 s for the catalogue; 12 s for a million waiting jobs, most of it
    -- for the claim index; 30 s for a million jobs with errors, most of them dead, and 150 s for a gigabyte of errors.
    c_seconds CONSTANT numeric := 0.8;
    c_seconds_per_million CONSTANT numeric := 12;
    c_seconds_per_million_failed CONSTANT numeric := 30;
    c_seconds_per_gigabyte CONSTANT numeric := 150;
    v_waiting bigint := (SELECT count(*) FROM pgq_waiting);
    v_failed bigint;
    v_bytes bigint;
BEGIN
    -- The size of the stored value is read without the value, which may be compressed; that of [] is 5.
    SELECT count(*), coalesce(sum(pg_column_size(j.errors)), 0)
    INTO v_failed, v_bytes
    FROM (
        SELECT w.errors FROM pgq_waiting AS w
        UNION ALL
        SELECT r.errors FROM pgq_running AS r
        UNION ALL
        SELECT d.errors FROM pgq_ended AS d
    ) AS j
    WHERE pg_column_size(j.errors) > 8;

    RAISE NOTICE 'this upgrade takes about % s (% waiting jobs, % with errors); drivers of pgq 0.2.0 cannot go on after it',
          ceil(c_seconds + (v_waiting * c_seconds_per_million + v_failed * c_seconds_per_million_failed) / 1000000
               + v_bytes * c_seconds_per_gigabyte / 1000000000),
          v_waiting, v_failed;
END
$upgrade_estimate$;

-- No session enqueues, claims or registers from here on. The lock_timeout holds for each table.
LOCK TABLE pgq_waiting, pgq_running, pgq_ended, pgq_permission, pgq_worker IN ACCESS EXCLUSIVE MODE;

-- There is no way to force this, and no need: the session of a worker that does not stop can be ended.
DO $upgrade_workers$
DECLARE
    v_workers text;
    v_sessions text;
BEGIN
    SELECT string_agg(format('"%s"', left(w.name, 200)), ', ' ORDER BY w.name), string_agg(p.pid::text, ', ' ORDER BY w.name)
    INTO v_workers, v_sessions
    FROM pgq_worker AS w
    JOIN _pgq_presence AS p USING (number);

    IF v_workers IS NOT NULL THEN
        RAISE EXCEPTION 'workers of pgq 0.2.0 are present: %', v_workers
            USING ERRCODE = 'object_in_use',
                  HINT = format('Stop these workers; pg_terminate_backend ends the session of one that does not stop (%s).',
                                v_sessions);
    END IF;
END
$upgrade_workers$;


ALTER TABLE pgq_permission RENAME COLUMN what TO privilege;
ALTER TABLE pgq_permission RENAME CONSTRAINT pgq_permission_what_check TO pgq_permission_privilege_check;

-- @renamed pgq_job pgq_jobs
-- @renamed pgq_disown pgq_reconcile
-- @renamed pgq_pending pgq_remaining
-- @renamed pgq_discard pgq_cancel_claimed
-- @same _pgq_signature
-- @drop

ALTER TABLE pgq_worker RENAME TO pgq_worker_session;
ALTER SEQUENCE pgq_worker_number RENAME TO pgq_worker_session_number;
ALTER TABLE pgq_worker_session RENAME COLUMN reach TO allowed_queues;
ALTER TABLE pgq_worker_session ADD COLUMN kinds text[];
ALTER TABLE pgq_worker_session RENAME CONSTRAINT pgq_worker_pkey TO pgq_worker_session_pkey;
ALTER TABLE pgq_worker_session RENAME CONSTRAINT pgq_worker_number_key TO pgq_worker_session_number_key;

-- PostgreSQL 18 has begun to name NOT NULL constraints, after the table and the column.
DO $upgrade_not_null$
DECLARE
    v_name record;
BEGIN
    FOR v_name IN
        SELECT c.conrelid::regclass AS relation, c.conname AS was,
               format('%s_%s_not_null', t.relname, a.attname) AS becomes
        FROM pg_constraint AS c
        JOIN pg_class AS t ON t.oid = c.conrelid
        JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.conrelid IN ('pgq_permission'::regclass, 'pgq_worker_session'::regclass)
          AND c.contype = 'n'
          AND c.conname <> format('%s_%s_not_null', t.relname, a.attname)
    LOOP
        EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', v_name.relation, v_name.was, v_name.becomes);
    END LOOP;
END
$upgrade_not_null$;

-- The order of text no longer depends on the collation of the database.
-- squawk-ignore changing-column-type
ALTER TABLE pgq_permission ALTER COLUMN privilege TYPE text COLLATE "C";
-- squawk-ignore changing-column-type
ALTER TABLE pgq_worker_session ALTER COLUMN name TYPE text COLLATE "C";
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX pgq_waiting_claim;

-- No row is rewritten.
ALTER TABLE pgq_waiting
    ADD COLUMN losses smallint, ADD COLUMN newest_error integer, ADD COLUMN group_key text,
    ADD COLUMN group_id bigint, ALTER COLUMN max_retries DROP NOT NULL, ALTER COLUMN backoff DROP NOT NULL,
    ALTER COLUMN backoff_cap DROP NOT NULL;
ALTER TABLE pgq_running
    ADD COLUMN losses smallint, ADD COLUMN newest_error integer, ADD COLUMN group_key text,
    ADD COLUMN group_id bigint, ALTER COLUMN backoff DROP NOT NULL, ALTER COLUMN backoff_cap DROP NOT NULL;
ALTER TABLE pgq_ended
    ADD COLUMN losses smallint, ADD COLUMN newest_error integer, ADD COLUMN group_key text,
    ADD COLUMN group_id bigint, ADD COLUMN claimed_at timestamptz, ALTER COLUMN backoff DROP NOT NULL,
    ALTER COLUMN backoff_cap DROP NOT NULL;
ALTER TABLE pgq_worker_session ADD COLUMN lost_several boolean NOT NULL DEFAULT false;
ALTER TABLE pgq_worker_session ADD COLUMN shares boolean NOT NULL DEFAULT false;

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX pgq_waiting_claim ON pgq_waiting (queue COLLATE "C", priority, ripe_at, id) WHERE group_id IS NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX pgq_waiting_group ON pgq_waiting (queue COLLATE "C", group_id, priority, ripe_at, id)
    WHERE group_id IS NOT NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX pgq_waiting_order ON pgq_waiting (queue COLLATE "C", group_id, id) WHERE group_id IS NOT NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX pgq_ended_dead ON pgq_ended (queue COLLATE "C", group_id, id)
    WHERE outcome = 'dead' AND group_id IS NOT NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX pgq_ended_died ON pgq_ended (ended_at) WHERE outcome = 'dead';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX pgq_running_counted ON pgq_running (queue COLLATE "C", token) INCLUDE (group_id)
    WHERE group_id IS NOT NULL;
-- From here on each INSERT sets the signature; those of waiting jobs stay.
-- squawk-ignore ban-drop-generated-expression
ALTER TABLE pgq_waiting ALTER COLUMN signature DROP EXPRESSION;
-- A job without a signature has no entry.
-- squawk-ignore ban-drop-constraint
ALTER TABLE pgq_waiting DROP CONSTRAINT pgq_waiting_signature_key;
-- squawk-ignore require-concurrent-index-creation
CREATE UNIQUE INDEX pgq_waiting_signature ON pgq_waiting (signature) WHERE signature IS NOT NULL;

-- The functions refuse what these refused.
-- squawk-ignore ban-drop-constraint
ALTER TABLE pgq_waiting DROP CONSTRAINT pgq_waiting_check;
-- squawk-ignore ban-drop-constraint
ALTER TABLE pgq_running DROP CONSTRAINT pgq_running_check;

-- Jobs that are running keep their greater tokens, from before, until their claims end.
ALTER SEQUENCE pgq_token MAXVALUE 9007199254740991;

-- Hints: sessions find the heads again.
-- squawk-ignore ban-drop-table
DROP TABLE pgq_head;

-- @create

-- Errors move to a table of their own; the newest of up to ten has the number 10. Only jobs that have any are written.
-- The claim index must be there before: to index a table after such updates would leave an index that no transaction
-- uses that began before.
INSERT INTO pgq_error (id, number, attempt, at, worker, error)
SELECT j.id, 11 - e.n, (e.error ->> 'attempt')::integer, (e.error ->> 'at')::timestamptz, e.error ->> 'worker',
       e.error ->> 'error'
FROM (
    SELECT w.id, w.errors FROM pgq_waiting AS w
    UNION ALL
    SELECT r.id, r.errors FROM pgq_running AS r
    UNION ALL
    SELECT d.id, d.errors FROM pgq_ended AS d
) AS j
CROSS JOIN LATERAL jsonb_array_elements(j.errors) WITH ORDINALITY AS e (error, n);
UPDATE pgq_waiting SET newest_error = 10, errors = '[]' WHERE errors <> '[]';
UPDATE pgq_running SET newest_error = 10, errors = '[]' WHERE errors <> '[]';
UPDATE pgq_ended SET newest_error = 10, errors = '[]' WHERE errors <> '[]';
-- squawk-ignore ban-drop-column
ALTER TABLE pgq_waiting DROP COLUMN errors;
-- squawk-ignore ban-drop-column
ALTER TABLE pgq_running DROP COLUMN errors;
-- squawk-ignore ban-drop-column
ALTER TABLE pgq_ended DROP COLUMN errors;

-- What is done is counted as what was claimed, but has not ended in another way.
INSERT INTO pgq_count (queue, kind, event, jobs)
SELECT queue, kind, 'claimed', count(*) FROM pgq_running GROUP BY queue, kind;

SELECT pg_extension_config_dump('pgq_error', '');
SELECT pg_extension_config_dump('pgq_saved', '');
SELECT pg_extension_config_dump('pgq_job_signal', '');
SELECT pg_extension_config_dump('pgq_signal_wait', '');
SELECT pg_extension_config_dump('pgq_merged', '');
SELECT pg_extension_config_dump('pgq_mark', '');
SELECT pg_extension_config_dump('pgq_queue_setting', '');
SELECT pg_extension_config_dump('pgq_paused', '');
SELECT pg_extension_config_dump('pgq_rate', '');
SELECT pg_extension_config_dump('pgq_uncounted', '');
SELECT pg_extension_config_dump('pgq_schedule_entry', '');
SELECT pg_extension_config_dump('pgq_seen', '');
SELECT pg_extension_config_dump('pgq_count', '');
SELECT pg_extension_config_dump('pgq_blocked', '');
SELECT pg_extension_config_dump('pgq_need', '');
SELECT pg_extension_config_dump('pgq_need_ended', '');
SELECT pg_extension_config_dump('pgq_batch', '');
SELECT pg_extension_config_dump('pgq_needed', '');
SELECT pg_extension_config_dump('pgq_running_batch', '');
SELECT pg_extension_config_dump('pgq_cancel_request', '');
