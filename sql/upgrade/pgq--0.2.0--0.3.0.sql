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


-- DROP takes the privileges on an object with it, and a release may give a kind of role more functions. The statements
-- that give both back are noted here, while it can still be seen which roles have what, and run at the end.
DO $upgrade_privileges_save$
DECLARE
    c_schema CONSTANT text := current_schema();
    -- The views and functions that are dropped below, each with what takes its place.
    c_dropped CONSTANT jsonb := '{
        "_pgq_caller": null,
        "_pgq_limit": null,
        "_pgq_refuse": null,
        "_pgq_channel": "_pgq_channel",
        "_pgq_wake": "_pgq_wake",
        "pgq_idle": "pgq_idle",
        "_pgq_problem": null,
        "pgq_enqueue": "pgq_enqueue",
        "_pgq_check_jobs": "_pgq_check_jobs",
        "_pgq_parse_jobs": "_pgq_parse_jobs",
        "_pgq_change_twins": null,
        "_pgq_meet_twins": null,
        "_pgq_is_long": null,
        "_pgq_pause": null,
        "_pgq_steps": null,
        "_pgq_head_setting": "_pgq_head_setting",
        "_pgq_keep_head": null,
        "_pgq_shared_head": "_pgq_shared_head",
        "_pgq_recall_head": null,
        "_pgq_reached": null,
        "_pgq_share_head": "_pgq_share_head",
        "_pgq_move_heads": "_pgq_move_heads",
        "_pgq_check_claim": "_pgq_check_claim",
        "pgq_claim": "pgq_claim",
        "_pgq_expire": null,
        "_pgq_expire_sometimes": null,
        "pgq_register": "pgq_register",
        "pgq_unregister": "pgq_unregister",
        "pgq_disown": "pgq_reconcile",
        "_pgq_sweep": null,
        "pgq_pending": "pgq_remaining",
        "_pgq_lease_lost": null,
        "pgq_complete": "pgq_complete",
        "pgq_backoff": "pgq_backoff",
        "_pgq_end": "_pgq_end",
        "_pgq_put_back": null,
        "_pgq_errors": null,
        "_pgq_retry_or_bury": null,
        "pgq_discard": "pgq_cancel_claimed",
        "pgq_snooze": "pgq_snooze",
        "_pgq_sight": null,
        "pgq_job": "pgq_jobs",
        "pgq_workers": "pgq_workers",
        "pgq_stats": "pgq_stats",
        "_pgq_state": null,
        "pgq_cancel": "pgq_cancel",
        "pgq_purge": "pgq_purge",
        "_pgq_functions": null,
        "_pgq_check_grant": "_pgq_check_grant",
        "_pgq_grant_privileges": "_pgq_grant_privileges",
        "_pgq_revoke_privileges": "_pgq_revoke_privileges",
        "pgq_grant": "pgq_grant",
        "pgq_revoke": "pgq_revoke"
    }';
    v_users text;
BEGIN
    -- CASCADE would take what is not ours.
    WITH dropped AS (
        SELECT 'pg_class'::regclass AS class, c.oid
        FROM pg_class AS c
        WHERE c.relnamespace = quote_ident(c_schema)::regnamespace AND c.relkind = 'v' AND c_dropped ? c.relname
        UNION ALL
        SELECT 'pg_proc'::regclass, p.oid
        FROM pg_proc AS p
        WHERE p.pronamespace = quote_ident(c_schema)::regnamespace AND c_dropped ? p.proname
    ), dependent AS (
        SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END AS class,
               coalesce(r.ev_class, d.objid) AS oid,
               CASE WHEN r.oid IS NULL THEN d.objsubid ELSE 0 END AS part
        FROM pg_depend AS d
        JOIN dropped AS o ON d.refclassid = o.class AND d.refobjid = o.oid
        LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
        WHERE d.deptype = 'n'
    )
    SELECT string_agg(DISTINCT pg_describe_object(d.class, d.oid, d.part), ', ') INTO v_users
    FROM dependent AS d
    WHERE NOT EXISTS (SELECT FROM dropped AS o WHERE o.class = d.class AND o.oid = d.oid);

    IF v_users IS NOT NULL THEN
        RAISE EXCEPTION 'other objects depend on views or functions that pgq @TO@ replaces: %', v_users
            USING ERRCODE = 'dependent_objects_still_exist',
                  HINT = 'Drop these objects, upgrade, and create them again on the new views and functions.';
    END IF;

    PERFORM set_config('pgq.upgrade_grants', coalesce((
        SELECT string_agg(g.statement || ';', E'\n' ORDER BY g.part, g.statement)
        FROM (
            SELECT 1 AS part, format('GRANT EXECUTE ON FUNCTION %I.%I TO %s%s', c_schema, c_dropped ->> p.proname::text,
                   CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                   CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS statement
            FROM pg_proc AS p
            CROSS JOIN LATERAL aclexplode(p.proacl) AS a
            WHERE p.pronamespace = quote_ident(c_schema)::regnamespace
              AND c_dropped ->> p.proname::text IS NOT NULL
              AND a.grantee <> p.proowner
            UNION ALL
            SELECT 1, format('GRANT %s%s ON TABLE %I.%I TO %s%s', a.privilege_type, ' (' || quote_ident(a.attname) || ')',
                   c_schema, c_dropped ->> c.relname::text,
                   CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                   CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
            FROM pg_class AS c
            CROSS JOIN LATERAL (
                SELECT NULL::name AS attname, e.* FROM aclexplode(c.relacl) AS e
                UNION ALL
                SELECT t.attname, e.*
                FROM pg_attribute AS t
                CROSS JOIN LATERAL aclexplode(t.attacl) AS e
                WHERE t.attrelid = c.oid
            ) AS a
            WHERE c.relnamespace = quote_ident(c_schema)::regnamespace
              AND c.relkind = 'v'
              AND c_dropped ->> c.relname::text IS NOT NULL
              AND a.grantee <> c.relowner
            UNION ALL
            -- What pgq_grant gave, in terms of the new release; as there, a row counts if its role has the privileges.
            SELECT 2, format('PERFORM _pgq_grant_privileges(%L::regrole, %L)', p.role::oid, p.privilege)
            FROM pgq_permission AS p
            JOIN pg_roles AS r ON r.oid = p.role
            WHERE EXISTS (
                SELECT
                FROM pg_proc AS f
                CROSS JOIN LATERAL aclexplode(f.proacl) AS a
                WHERE f.pronamespace = quote_ident(c_schema)::regnamespace
                  AND f.proname = CASE p.privilege
                          WHEN 'producer' THEN 'pgq_enqueue'
                          WHEN 'worker' THEN 'pgq_claim'
                          WHEN 'admin' THEN 'pgq_cancel'
                          ELSE 'pgq_now'
                      END
                  AND a.grantee = p.role
            )
        ) AS g
    ), ''), true);
END
$upgrade_privileges_save$;

DROP FUNCTION pgq_revoke(text, text, text[]);
DROP FUNCTION pgq_grant(text, text, text[]);
DROP FUNCTION _pgq_revoke_privileges(regrole, text);
DROP FUNCTION _pgq_grant_privileges(regrole, text);
DROP FUNCTION _pgq_check_grant(text, text, text[]);
DROP FUNCTION _pgq_functions(text);
DROP FUNCTION pgq_purge(interval, text, text, integer);
DROP FUNCTION pgq_cancel(bigint);
DROP FUNCTION _pgq_state(bigint);
DROP VIEW pgq_stats;
DROP VIEW pgq_workers;
DROP VIEW pgq_job;
DROP VIEW _pgq_sight;
DROP FUNCTION pgq_snooze(bigint, bigint, timestamptz, interval);
DROP FUNCTION pgq_discard(bigint, bigint, text);
DROP FUNCTION _pgq_retry_or_bury(pgq_running, timestamptz, text, timestamptz);
DROP FUNCTION _pgq_errors(pgq_running, timestamptz, text);
DROP FUNCTION _pgq_put_back(pgq_running, timestamptz, integer, jsonb);
DROP FUNCTION _pgq_end(pgq_running, text, timestamptz, jsonb, jsonb);
DROP FUNCTION pgq_backoff(integer, interval, interval);
DROP FUNCTION pgq_complete(bigint, bigint, jsonb);
DROP FUNCTION _pgq_lease_lost(bigint, bigint);
DROP FUNCTION pgq_pending(text[]);
DROP FUNCTION _pgq_sweep(timestamptz);
DROP FUNCTION pgq_disown(text, bigint[]);
DROP FUNCTION pgq_unregister(text);
DROP FUNCTION pgq_register(text, text[], text, integer);
DROP FUNCTION _pgq_expire_sometimes(timestamptz);
DROP FUNCTION _pgq_expire(timestamptz);
DROP FUNCTION pgq_claim(text[], integer, interval, text);
DROP FUNCTION _pgq_check_claim(text[], integer, text);
DROP FUNCTION _pgq_move_heads(pgq_head[], tid[], boolean, bigint, timestamptz, timestamptz);
DROP FUNCTION _pgq_share_head(pgq_head);
DROP FUNCTION _pgq_reached(pgq_head[], integer, tid[], boolean, timestamptz);
DROP FUNCTION _pgq_recall_head(text, timestamptz);
DROP FUNCTION _pgq_shared_head(text, timestamptz);
DROP FUNCTION _pgq_keep_head(pgq_head);
DROP FUNCTION _pgq_head_setting(text);
DROP FUNCTION _pgq_steps(regclass);
DROP FUNCTION _pgq_pause(interval);
DROP FUNCTION _pgq_is_long(bigint, integer);
DROP FUNCTION _pgq_meet_twins(pgq_waiting[], text[]);
DROP FUNCTION _pgq_change_twins(pgq_waiting[], text[]);
DROP FUNCTION _pgq_parse_jobs(jsonb);
DROP FUNCTION _pgq_check_jobs(jsonb);
DROP FUNCTION pgq_enqueue(text, jsonb, text, timestamptz, interval, integer, integer, interval, interval, boolean, text, text, jsonb);
DROP FUNCTION _pgq_problem(text, jsonb, text, timestamptz, interval, integer, integer, interval, interval, text, text, jsonb, timestamptz);
DROP FUNCTION pgq_idle(text[], boolean);
DROP FUNCTION _pgq_wake(text);
DROP FUNCTION _pgq_channel(text);
DROP FUNCTION _pgq_refuse(text, text);
DROP FUNCTION _pgq_limit(text);
DROP FUNCTION _pgq_caller();


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

COMMENT ON FUNCTION pgq_now() IS
    'Return the current time of the server. The times of jobs, leases and workers all come from this function, so a '
    'test kit can replace its body to set the time.';
COMMENT ON FUNCTION pgq_version() IS
    'Return the version of the installed SQL, such as 0.3.0.';

-- Each INSERT into pgq_waiting sets the column signature by this function, where the job has dedup. No UPDATE changes
-- what it is made of. A generated column would take a sixth of an enqueue, because PostgreSQL prepares its expression
-- anew for each statement. A body that returns another value would leave the signatures of waiting jobs as they are,
-- and their twins would no longer be found.
--
-- The separators make the text unambiguous, because _pgq_validate refuses them in queue and kind; the letters a and k
-- keep a key from being mistaken for args. The queue is part of it so that no role can suppress the jobs of a queue by
-- planting their twins in another one.
--
-- An expression, so that PostgreSQL inlines it.
CREATE OR REPLACE FUNCTION _pgq_signature(queue text, kind text, args jsonb, dedup_key text) RETURNS uuid
    LANGUAGE sql
    IMMUTABLE
    RETURN md5(
        queue || E'\x1f' || kind || coalesce(E'\x1fk' || dedup_key, E'\x1fa' || args::text)
    )::uuid;

COMMENT ON FUNCTION _pgq_signature(text, text, jsonb, text) IS
    'Return what makes two jobs twins: the MD5 over queue, kind and dedup_key, or over queue, kind and args if '
    'dedup_key is NULL.';
COMMENT ON TABLE pgq_permission IS
    'The queues that a role may use with each of its privileges; written by pgq_grant and pgq_revoke.';
COMMENT ON COLUMN pgq_permission.privilege IS 'The privilege: producer, worker, admin or reader.';
COMMENT ON COLUMN pgq_permission.role IS
    'The role that was granted the privilege; roles that inherit from it have it, too.';
COMMENT ON COLUMN pgq_permission.queues IS 'The queues in which the role has the privilege; NULL: all.';

CREATE FUNCTION _pgq_calling_role() RETURNS name
    LANGUAGE sql
    STABLE
    RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;

COMMENT ON FUNCTION _pgq_calling_role() IS
    'Return the role on whose behalf a SECURITY DEFINER function runs: that of SET ROLE, or else that of the session.';

-- A security barrier. PostgreSQL evaluates an index expression or a materialized view with the rights of the table's
-- owner, but in the session of the role that analyzes, reindexes or refreshes it: without the barrier, a call of pgq
-- that the owner has planted there could use the queues of that role. In such a security-restricted operation
-- PostgreSQL refuses UNLISTEN (42501). Elsewhere the UNLISTEN of a channel without a listener changes nothing.
--
-- Without a search path of its own: it names no object, and a path would double what it costs each call.
CREATE FUNCTION _pgq_refuse_in_maintenance() RETURNS boolean
    LANGUAGE plpgsql
AS $_pgq_refuse_in_maintenance$
BEGIN
    UNLISTEN pgq_nothing;
    RETURN true;
END
$_pgq_refuse_in_maintenance$;

COMMENT ON FUNCTION _pgq_refuse_in_maintenance() IS
    'Raise 42501 inside an index expression or a materialized view, where PostgreSQL runs code of a table''s owner in '
    'the session of another role. Returns true elsewhere.';

-- An expression, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_acts_as_owner() RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN pg_has_role(_pgq_calling_role(), current_user, 'USAGE');

COMMENT ON FUNCTION _pgq_acts_as_owner() IS
    'Return whether the calling role has the rights of the owner of pgq, and so may use all queues. Call it only where '
    'current_user is that owner.';

-- Looked up once per call, so that the filter by queue costs the same for one job or a thousand.
CREATE FUNCTION _pgq_allowed_queues(privilege text) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_allowed_queues$
DECLARE
    -- Assigned, because PERFORM would cost a statement.
    v_elsewhere boolean := _pgq_refuse_in_maintenance();
    v_queues text[];
    v_allowed text[] := '{}';
BEGIN
    IF _pgq_acts_as_owner() THEN
        RETURN NULL;
    END IF;
    FOR v_queues IN
        SELECT p.queues
        FROM pgq_permission AS p
        WHERE p.privilege = _pgq_allowed_queues.privilege
          AND pg_has_role(_pgq_calling_role(), p.role::oid, 'USAGE')
    LOOP
        IF v_queues IS NULL THEN
            RETURN NULL;
        END IF;
        v_allowed := v_allowed || v_queues;
    END LOOP;
    RETURN v_allowed;
END
$_pgq_allowed_queues$;

COMMENT ON FUNCTION _pgq_allowed_queues(text) IS
    'Return the queues that the calling role may use with a privilege (producer, worker, admin or reader); NULL means '
    'all. Raises 42501 where _pgq_refuse_in_maintenance does.';

-- Call it before anything is looked up or locked: the error must not depend on which jobs there are.
CREATE FUNCTION _pgq_raise_denied(queue text, privilege text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_raise_denied$
BEGIN
    RAISE EXCEPTION 'role "%" may not use queue "%" as %', _pgq_calling_role(), left(queue, 200), privilege
        USING ERRCODE = 'insufficient_privilege',
              HINT = format('Ask the owner of pgq to run SELECT pgq_grant(%L, %L, ARRAY[%L]).',
                            _pgq_calling_role(), privilege, left(queue, 200));
END
$_pgq_raise_denied$;

COMMENT ON FUNCTION _pgq_raise_denied(text, text) IS
    'Raise 42501: the calling role may not use a queue with a privilege (producer, worker or admin).';

CREATE FUNCTION _pgq_is_name(name text) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN octet_length(name) BETWEEN 1 AND 200 AND strpos(name, E'\x1f') = 0;

COMMENT ON FUNCTION _pgq_is_name(text) IS
    'Return whether a text can be the name of a queue or kind, or the key of a group: 1 to 200 bytes without U+001F, '
    'the separator in signatures.';

-- From 1 to the number before that of the waiting room (see _pgq_room). Two keys with the same number share their
-- limits and their order: of a million groups, hardly any two.
CREATE FUNCTION _pgq_group_id(group_key text) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN group_key IS NOT NULL
            THEN greatest(least(hashtextextended(group_key COLLATE "C", 0) & 9223372036854775807,
                                9223372036854775806), 1)
    END;

COMMENT ON FUNCTION _pgq_group_id(text) IS
    'Return the number of a group, by which claims find its jobs: a hash of its key, from 1 on; NULL for '
    'NULL.';

-- Months and days of opposite signs can make an interval that is small when compared, but large or negative when added.
CREATE FUNCTION _pgq_is_in_range(span interval, at timestamptz, longest interval) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN span BETWEEN interval '0' AND longest AND at + span BETWEEN at AND at + longest;

COMMENT ON FUNCTION _pgq_is_in_range(interval, timestamptz, interval) IS
    'Return whether an interval is from 0 to longest, both when compared and when added to a time.';

CREATE SEQUENCE pgq_mark AS bigint MINVALUE -9223372036854775808 START 0;

COMMENT ON SEQUENCE pgq_mark IS
    'Marks of the queues that have, or have had, settings, a pause or a job with a group: a bit for each hash of a '
    'name.';

-- Expressions, so that PostgreSQL inlines them. Each node of them costs each claim.
CREATE FUNCTION _pgq_mark_of(queue text) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN 1::bigint << (hashtext(queue COLLATE "C") & 63);

COMMENT ON FUNCTION _pgq_mark_of(text) IS
    'Return the mark of a queue, a number with one bit.';

CREATE FUNCTION _pgq_marks_of(queues text[]) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE cardinality(queues) WHEN 1 THEN _pgq_mark_of(queues[1]) ELSE -1 END;

COMMENT ON FUNCTION _pgq_marks_of(text[]) IS
    'Return the mark of the only queue, or all marks for several queues, of which each would cost a look.';

-- The function of PostgreSQL reads the sequence without a query. It locks the sequence until the end of the
-- transaction, and pgq_configure relies on that (see _pgq_await_claims): so a claim calls this function before it takes
-- a job, and an enqueue does not call it.
CREATE FUNCTION _pgq_marks() RETURNS bigint
    LANGUAGE sql
    VOLATILE
    RETURN pg_sequence_last_value('pgq_mark');

COMMENT ON FUNCTION _pgq_marks() IS
    'Return the marks of all queues that are marked; NULL before the first one.';

-- A lock keeps two sessions from adding a mark at once, one of them for nothing. It is that of a table, because any
-- role can take an advisory lock and keep it. The error ends a subtransaction and with it the lock, so a session that
-- stays in its transaction keeps no other one waiting; the sequence stays as it is.
CREATE FUNCTION _pgq_mark(queue text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_mark$
BEGIN
    IF (SELECT m.last_value FROM pgq_mark AS m) & _pgq_mark_of(queue) <> 0 THEN
        RETURN;
    END IF;
    BEGIN
        LOCK TABLE pgq_queue_setting IN SHARE UPDATE EXCLUSIVE MODE;
        PERFORM setval('pgq_mark', coalesce(_pgq_marks(), 0) | _pgq_mark_of(queue));
        RAISE SQLSTATE 'PGQ00';
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        RETURN;
    END;
END
$_pgq_mark$;

COMMENT ON FUNCTION _pgq_mark(text) IS
    'Mark a queue, at once and for good. Returns nothing.';

CREATE TYPE _pgq_cron AS (
    minutes       varbit,
    hours         varbit,
    days          varbit,
    months        varbit,
    weekdays      varbit,
    last_day      boolean,
    last_workday  boolean,
    nth_weekdays  varbit,
    last_weekdays varbit,
    both_days     boolean,
    wall_time     boolean
);

COMMENT ON TYPE _pgq_cron IS 'What the five fields of a cron expression say.';
COMMENT ON COLUMN _pgq_cron.minutes IS 'Minutes, from 0 to 59.';
COMMENT ON COLUMN _pgq_cron.hours IS 'Hours, from 0 to 23.';
COMMENT ON COLUMN _pgq_cron.days IS 'Days of the month, from 1 to 31.';
COMMENT ON COLUMN _pgq_cron.months IS 'Months, from 1 to 12.';
COMMENT ON COLUMN _pgq_cron.weekdays IS 'Days of the week, from 0 (Sunday) to 6.';
COMMENT ON COLUMN _pgq_cron.last_day IS 'Whether the last day of the month is among the days.';
COMMENT ON COLUMN _pgq_cron.last_workday IS
    'Whether the last day of the month that is no Saturday or Sunday is among the days.';
COMMENT ON COLUMN _pgq_cron.nth_weekdays IS
    'First to fifth Sunday of the month, then first to fifth Monday, and so on: five bits for each day of the week.';
COMMENT ON COLUMN _pgq_cron.last_weekdays IS 'Last Sunday of the month, last Monday, and so on.';
COMMENT ON COLUMN _pgq_cron.both_days IS
    'Whether a day must be among the days of the month and those of the week, and not only among one of them: one of '
    'the two fields begins with *.';
COMMENT ON COLUMN _pgq_cron.wall_time IS
    'Whether minutes and hours are fixed, so that a time that the clocks skip or repeat counts once: neither field '
    'begins with *.';

CREATE FUNCTION _pgq_raise_cron(cron text, item text, field text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_raise_cron$
BEGIN
    RAISE EXCEPTION 'cron "%" has "%" as %', left(cron, 200), left(item, 200), field
        USING ERRCODE = 'invalid_parameter_value',
              HINT = CASE field
                         WHEN 'minute' THEN 'Use 0 to 59, *, ranges, lists and steps, such as */15.'
                         WHEN 'hour' THEN 'Use 0 to 23, *, ranges, lists and steps, such as 8-18/2.'
                         WHEN 'day of the month' THEN
                             'Use 1 to 31, *, ranges, lists and steps; L for the last day, LW for the last weekday.'
                         WHEN 'month' THEN 'Use 1 to 12 or jan to dec, *, ranges, lists and steps.'
                         ELSE 'Use 0 to 7 (both Sunday) or sun to sat, *, ranges, lists and steps; fri#2 for the '
                              'second Friday, 5L for the last Friday.'
                     END;
END
$_pgq_raise_cron$;

COMMENT ON FUNCTION _pgq_raise_cron(text, text, text) IS
    'Raise 22023: an item of a cron expression is not valid in its field.';

-- A step after a single value runs to the end of the field, as in 5/15; so it does after 5-5.
CREATE FUNCTION _pgq_cron_set(
    cron text,
    items text[],
    field text,
    lowest integer,
    highest integer,
    names text[] DEFAULT '{}'
) RETURNS varbit
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_set$
DECLARE
    v_set varbit := repeat('0', highest - lowest + 1)::varbit;
    v_item text;
    v_part text[];
    v_first integer;
    v_last integer;
    v_step integer;
BEGIN
    FOREACH v_item IN ARRAY items LOOP
        v_part := regexp_match(
            v_item COLLATE "C", '^(?:(\*)|([0-9]{1,9}|[A-Z]{3})(?:-([0-9]{1,9}|[A-Z]{3}))?)(?:/([0-9]{1,9}))?$');
        v_step := coalesce(v_part[4]::integer, 1);
        v_first := CASE
            WHEN v_part[1] = '*' THEN lowest
            WHEN v_part[2] ~ '^[0-9]' THEN v_part[2]::integer
            ELSE array_position(names, v_part[2]) - 1 + lowest
        END;
        v_last := CASE
            WHEN v_part[1] = '*' THEN highest
            WHEN v_part[3] IS NULL THEN v_first
            WHEN v_part[3] ~ '^[0-9]' THEN v_part[3]::integer
            ELSE array_position(names, v_part[3]) - 1 + lowest
        END;
        IF (v_first BETWEEN lowest AND highest AND v_last BETWEEN v_first AND highest AND v_step > 0) IS NOT TRUE THEN
            PERFORM _pgq_raise_cron(cron, v_item, field);
        END IF;
        IF v_part[4] IS NOT NULL AND v_last = v_first THEN
            v_last := highest;
        END IF;
        IF v_item = '*' THEN
            v_set := ~ repeat('0', highest - lowest + 1)::varbit;
        ELSE
            FOR v_n IN 0..(v_last - v_first) / v_step LOOP
                v_set := set_bit(v_set, v_first - lowest + v_n * v_step, 1);
            END LOOP;
        END IF;
    END LOOP;
    RETURN v_set;
END
$_pgq_cron_set$;

COMMENT ON FUNCTION _pgq_cron_set(text, text[], text, integer, integer, text[]) IS
    'Return the values that the items of one field of a cron expression stand for, as bits from lowest to highest. '
    'names are those of the values from lowest on. Raises 22023 for an item that is not valid.';

CREATE FUNCTION _pgq_parse_cron(cron text) RETURNS _pgq_cron
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_parse_cron$
DECLARE
    c_nicknames CONSTANT jsonb := '{
        "@HOURLY": "0 * * * *", "@DAILY": "0 0 * * *", "@MIDNIGHT": "0 0 * * *", "@WEEKLY": "0 0 * * 0",
        "@MONTHLY": "0 0 1 * *", "@YEARLY": "0 0 1 1 *", "@ANNUALLY": "0 0 1 1 *"
    }';
    c_days CONSTANT text[] := '{SUN,MON,TUE,WED,THU,FRI,SAT}';
    v_text text := upper(cron COLLATE "C");
    v_field text[];
    v_items text[];
    v_item text;
    v_part text[];
    v_plain text[] := '{}';
    v_weekday integer;
    v_cron _pgq_cron;
BEGIN
    v_field := regexp_split_to_array(
        btrim(coalesce(c_nicknames ->> v_text, v_text), E' \t\r\n'), '[ \t\r\n]+' COLLATE "C");
    IF cardinality(v_field) <> 5 OR octet_length(cron) > 1000 THEN
        RAISE EXCEPTION 'cron "%" is not an expression of five fields', left(cron, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give minute, hour, day of the month, month and day of the week, such as "0 7 * * mon-fri"; '
                         'or @hourly, @daily, @weekly, @monthly, @yearly; or an interval such as "every 90 seconds".';
    END IF;
    v_cron.minutes := _pgq_cron_set(cron, string_to_array(v_field[1], ','), 'minute', 0, 59);
    v_cron.hours := _pgq_cron_set(cron, string_to_array(v_field[2], ','), 'hour', 0, 23);
    v_cron.months := _pgq_cron_set(
        cron, string_to_array(v_field[4], ','), 'month', 1, 12, '{JAN,FEB,MAR,APR,MAY,JUN,JUL,AUG,SEP,OCT,NOV,DEC}');

    v_items := string_to_array(v_field[3], ',');
    v_cron.last_day := 'L' = ANY (v_items);
    v_cron.last_workday := 'LW' = ANY (v_items);
    v_cron.days := _pgq_cron_set(
        cron, array_remove(array_remove(v_items, 'L'), 'LW'), 'day of the month', 1, 31);

    v_cron.nth_weekdays := repeat('0', 35)::varbit;
    v_cron.last_weekdays := repeat('0', 7)::varbit;
    FOREACH v_item IN ARRAY string_to_array(v_field[5], ',') LOOP
        v_part := regexp_match(v_item COLLATE "C", '^(?:([0-7])L|([0-7]|[A-Z]{3})#([1-5]))$');
        v_weekday := CASE
            WHEN coalesce(v_part[1], v_part[2]) ~ '^[0-7]' THEN coalesce(v_part[1], v_part[2])::integer
            ELSE array_position(c_days, v_part[2]) - 1
        END;
        IF v_weekday IS NULL THEN
            v_plain := v_plain || v_item;
        ELSIF v_part[1] IS NOT NULL THEN
            v_cron.last_weekdays := set_bit(v_cron.last_weekdays, v_weekday % 7, 1);
        ELSE
            v_cron.nth_weekdays := set_bit(v_cron.nth_weekdays, v_weekday % 7 * 5 + v_part[3]::integer - 1, 1);
        END IF;
    END LOOP;
    v_cron.weekdays := _pgq_cron_set(cron, v_plain, 'day of the week', 0, 7, c_days);
    v_cron.weekdays := substring(
        v_cron.weekdays | (substring(v_cron.weekdays FROM 8) || repeat('0', 7)::varbit) FOR 7);

    v_cron.both_days := v_field[3] LIKE '*%' OR v_field[5] LIKE '*%';
    v_cron.wall_time := NOT (v_field[1] LIKE '*%' OR v_field[2] LIKE '*%');
    RETURN v_cron;
END
$_pgq_parse_cron$;

COMMENT ON FUNCTION _pgq_parse_cron(text) IS
    'Return what a cron expression says. Raises 22023 for one that is not valid.';

CREATE FUNCTION _pgq_cron_days(cron _pgq_cron, month date) RETURNS varbit
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_days$
DECLARE
    c_none CONSTANT varbit := repeat('0', 31)::varbit;
    -- The first, 8th, 15th, 22nd and 29th day.
    c_weekly CONSTANT varbit := B'1000000100000010000001000000100';
    v_length integer := extract(day FROM month + interval '1 month' - interval '1 day');
    v_first integer := extract(dow FROM month);
    v_last integer := (v_first + v_length - 1) % 7;
    v_days varbit := cron.days;
    v_weekdays varbit := c_none;
    v_offset integer;
BEGIN
    IF cron.last_day THEN
        v_days := set_bit(v_days, v_length - 1, 1);
    END IF;
    IF cron.last_workday THEN
        v_days := set_bit(v_days, v_length - 1 - CASE v_last WHEN 0 THEN 2 WHEN 6 THEN 1 ELSE 0 END, 1);
    END IF;
    IF cron.weekdays = B'1111111' THEN
        v_weekdays := ~ c_none;
    ELSE
        FOR v_weekday IN 0..6 LOOP
            v_offset := (v_weekday - v_first + 7) % 7;
            IF get_bit(cron.weekdays, v_weekday) = 1 THEN
                v_weekdays := v_weekdays | (c_weekly >> v_offset);
            END IF;
            FOR v_nth IN 0..4 LOOP
                IF get_bit(cron.nth_weekdays, v_weekday * 5 + v_nth) = 1 AND v_offset + v_nth * 7 < v_length THEN
                    v_weekdays := set_bit(v_weekdays, v_offset + v_nth * 7, 1);
                END IF;
            END LOOP;
            IF get_bit(cron.last_weekdays, v_weekday) = 1 THEN
                v_weekdays := set_bit(v_weekdays, v_length - 1 - (v_last - v_weekday + 7) % 7, 1);
            END IF;
        END LOOP;
    END IF;
    RETURN substring(CASE WHEN cron.both_days THEN v_days & v_weekdays ELSE v_days | v_weekdays END FOR v_length);
END
$_pgq_cron_days$;

COMMENT ON FUNCTION _pgq_cron_days(_pgq_cron, date) IS
    'Return the days of a month, given by its first day, on which a cron expression fires: a bit for each day.';

-- Dates repeat their weekdays after 28 years, or after 40 where a year such as 2100 is no leap year.
CREATE FUNCTION _pgq_cron_next_wall(cron _pgq_cron, after timestamp) RETURNS timestamp
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_next_wall$
DECLARE
    v_month date := date_trunc('month', after);
    v_day integer := extract(day FROM after);
    v_hour integer := extract(hour FROM after);
    -- From here on: the first minute of the day, or of the hour, that is still to come.
    v_minute integer := extract(minute FROM after) + 1;
    v_days varbit;
    v_found integer;
    v_next_hour integer;
BEGIN
    FOR v_n IN 0..600 LOOP
        v_days := B'';
        IF get_bit(cron.months, extract(month FROM v_month)::integer - 1) = 1 THEN
            v_days := _pgq_cron_days(cron, v_month);
        END IF;
        LOOP
            v_found := position(B'1' IN substring(v_days FROM v_day));
            EXIT WHEN v_found = 0;
            IF v_found > 1 THEN
                v_day := v_day + v_found - 1;
                v_hour := 0;
                v_minute := 0;
            END IF;
            IF get_bit(cron.hours, v_hour) = 1 THEN
                v_found := position(B'1' IN substring(cron.minutes FROM v_minute + 1));
                IF v_found > 0 THEN
                    RETURN v_month + make_interval(
                        days => v_day - 1, hours => v_hour, mins => v_minute + v_found - 1);
                END IF;
            END IF;
            v_next_hour := position(B'1' IN substring(cron.hours FROM v_hour + 2));
            IF v_next_hour > 0 THEN
                RETURN v_month + make_interval(
                    days => v_day - 1, hours => v_hour + v_next_hour, mins => position(B'1' IN cron.minutes) - 1);
            END IF;
            v_day := v_day + 1;
            v_hour := 0;
            v_minute := 0;
        END LOOP;
        v_month := v_month + interval '1 month';
        v_day := 1;
        v_hour := 0;
        v_minute := 0;
    END LOOP;
    RETURN NULL;
END
$_pgq_cron_next_wall$;

COMMENT ON FUNCTION _pgq_cron_next_wall(_pgq_cron, timestamp) IS
    'Return the first time after another that a cron expression names, on clocks that never change; NULL if there is '
    'none in 50 years, and so none at all.';

CREATE FUNCTION _pgq_wall(at timestamp, timezone text) RETURNS timestamp
    LANGUAGE sql
    IMMUTABLE
    RETURN (at AT TIME ZONE 'UTC') AT TIME ZONE timezone;

COMMENT ON FUNCTION _pgq_wall(timestamp, text) IS
    'Return what the clocks of a time zone show at a time in UTC.';

-- Two changes within a day would be missed; there is no such zone.
CREATE FUNCTION _pgq_clock_change(since timestamp, until timestamp, timezone text) RETURNS timestamp
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_clock_change$
DECLARE
    v_offset interval := _pgq_wall(since, timezone) - since;
    v_middle timestamp;
BEGIN
    IF _pgq_wall(until, timezone) - until = v_offset THEN
        RETURN NULL;
    END IF;
    WHILE until - since > interval '1 second' LOOP
        v_middle := date_trunc('second', since + (until - since) / 2);
        IF _pgq_wall(v_middle, timezone) - v_middle = v_offset THEN
            since := v_middle;
        ELSE
            until := v_middle;
        END IF;
    END LOOP;
    RETURN until;
END
$_pgq_clock_change$;

COMMENT ON FUNCTION _pgq_clock_change(timestamp, timestamp, text) IS
    'Return when, after one time in UTC and up to another, the clocks of a time zone change; NULL if they do not. The '
    'two times are whole seconds, at most a day apart.';

CREATE FUNCTION _pgq_cron_next_fixed(cron _pgq_cron, after timestamp, timezone text) RETURNS timestamp
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_next_fixed$
DECLARE
    c_day CONSTANT interval := '24 hours';
    v_wall timestamp := _pgq_wall(after, timezone);
    v_at timestamp;
    v_before timestamp;
    v_end timestamp;
BEGIN
    LOOP
        v_wall := _pgq_cron_next_wall(cron, v_wall);
        IF v_wall IS NULL THEN
            RETURN NULL;
        END IF;
        -- PostgreSQL takes a repeated time for the second one, and a skipped time as if the clocks had not changed yet.
        v_at := (v_wall AT TIME ZONE timezone) AT TIME ZONE 'UTC';
        v_before := v_at - c_day;
        IF _pgq_wall(v_at, timezone) <> v_wall THEN
            v_at := _pgq_clock_change(v_before, v_at, timezone);
            v_end := _pgq_wall(v_at, timezone);
            v_at := v_at + (date_trunc('minute', v_end + interval '59 seconds') - v_end);
        ELSIF _pgq_wall(v_wall - (_pgq_wall(v_before, timezone) - v_before), timezone) = v_wall THEN
            v_at := v_wall - (_pgq_wall(v_before, timezone) - v_before);
        END IF;
        -- A repeated time has passed where "after" is in the repetition.
        IF v_at > after THEN
            RETURN v_at;
        END IF;
    END LOOP;
END
$_pgq_cron_next_fixed$;

COMMENT ON FUNCTION _pgq_cron_next_fixed(_pgq_cron, timestamp, text) IS
    'Return the first time after another, both in UTC, at which a cron expression with fixed minutes and hours fires '
    'in a time zone; NULL if there is none.';

CREATE FUNCTION _pgq_cron_next_passing(cron _pgq_cron, after timestamp, timezone text) RETURNS timestamp
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_next_passing$
DECLARE
    c_day CONSTANT interval := '24 hours';
    v_wall timestamp := _pgq_wall(after, timezone);
    v_offset interval := v_wall - after;
    v_named timestamp;
    v_at timestamp;
    v_change timestamp;
BEGIN
    LOOP
        v_named := _pgq_cron_next_wall(cron, v_wall);
        IF v_named IS NULL THEN
            RETURN NULL;
        END IF;
        v_at := v_named - v_offset;
        v_change := _pgq_clock_change(after, after + c_day, timezone);
        IF v_at < v_change OR (v_change IS NULL AND v_at <= after + c_day) THEN
            RETURN v_at;
        END IF;
        IF v_change IS NULL THEN
            -- No change moves the clocks by more than a day, so none of the times up to here is named.
            after := greatest(after + c_day, v_at - 2 * c_day);
            v_wall := _pgq_wall(after, timezone);
            v_offset := v_wall - after;
        ELSE
            -- The first time that the clocks show after the change counts, too.
            after := v_change;
            v_wall := _pgq_wall(after, timezone);
            v_offset := v_wall - after;
            v_wall := v_wall - interval '1 microsecond';
        END IF;
    END LOOP;
END
$_pgq_cron_next_passing$;

COMMENT ON FUNCTION _pgq_cron_next_passing(_pgq_cron, timestamp, text) IS
    'Return the first time after another, both in UTC, at which the clocks of a time zone show a time that a cron '
    'expression names; NULL if there is none.';

-- Only names of areas and places: PostgreSQL takes an abbreviation, such as CET, for an offset that never changes, and
-- most text with a digit in it for a zone of its own rules.
CREATE FUNCTION _pgq_check_timezone(timezone text) RETURNS void
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_check_timezone$
BEGIN
    IF timezone COLLATE "C" ~ '^(UTC|Etc/[A-Za-z0-9+-]+|[A-Za-z_-]+(/[A-Za-z_-]+)+)$' THEN
        BEGIN
            PERFORM timestamp '2000-01-01' AT TIME ZONE timezone;
            RETURN;
        EXCEPTION WHEN invalid_parameter_value THEN
            NULL;
        END;
    END IF;
    RAISE EXCEPTION 'timezone "%" is unknown', left(timezone, 200)
        USING ERRCODE = 'invalid_parameter_value',
              HINT = 'Use UTC, or a name of area and place, such as Europe/Berlin; pg_timezone_names lists them.';
END
$_pgq_check_timezone$;

COMMENT ON FUNCTION _pgq_check_timezone(text) IS
    'Check the name of a time zone. Returns nothing. Raises 22023 for one that is unknown.';

-- IMMUTABLE, as PostgreSQL's own functions of time zones are: only another version of the time zone data changes what
-- it returns.
CREATE FUNCTION pgq_cron_next(cron text, after timestamptz, timezone text DEFAULT 'UTC') RETURNS timestamptz
    LANGUAGE plpgsql
    IMMUTABLE
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_cron_next$
DECLARE
    v_every text[];
    v_seconds bigint;
    v_after timestamp;
    v_cron _pgq_cron;
BEGIN
    IF cron IS NULL OR after IS NULL OR timezone IS NULL THEN
        RAISE EXCEPTION '% is null',
            CASE WHEN cron IS NULL THEN 'cron' WHEN after IS NULL THEN 'after' ELSE 'timezone' END
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give an expression, such as "0 7 * * mon-fri", and a time; leave timezone out for UTC.';
    END IF;
    IF extract(year FROM after AT TIME ZONE 'UTC') NOT BETWEEN 1900 AND 9999 THEN
        RAISE EXCEPTION 'after % is out of range', after
            USING ERRCODE = 'datetime_field_overflow',
                  HINT = 'Give a time in the years 1900 to 9999.';
    END IF;
    IF timezone <> 'UTC' THEN
        PERFORM _pgq_check_timezone(timezone);
    END IF;

    v_every := regexp_match(
        upper(cron COLLATE "C"), '^EVERY ([0-9]{1,9}) (SECOND|MINUTE|HOUR|DAY|WEEK)S?$');
    IF v_every IS NOT NULL THEN
        v_seconds := v_every[1]::bigint * CASE v_every[2]
            WHEN 'SECOND' THEN 1 WHEN 'MINUTE' THEN 60 WHEN 'HOUR' THEN 3600 WHEN 'DAY' THEN 86400 ELSE 604800
        END;
        IF v_seconds NOT BETWEEN 1 AND 3155760000 THEN
            RAISE EXCEPTION 'cron "%" is out of range', left(cron, 200)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Give an interval from 1 second to 100 years.';
        END IF;
        RETURN to_timestamp(((floor(extract(epoch FROM after) / v_seconds) + 1) * v_seconds)::double precision);
    END IF;

    v_cron := _pgq_parse_cron(cron);
    v_after := date_trunc('second', after AT TIME ZONE 'UTC');
    RETURN CASE
        WHEN timezone = 'UTC' THEN _pgq_cron_next_wall(v_cron, v_after)
        WHEN v_cron.wall_time THEN _pgq_cron_next_fixed(v_cron, v_after, timezone)
        ELSE _pgq_cron_next_passing(v_cron, v_after, timezone)
    END AT TIME ZONE 'UTC';
END
$pgq_cron_next$;

COMMENT ON FUNCTION pgq_cron_next(text, timestamptz, text) IS
    'Return the first time after another at which a cron expression fires, on the clocks of a time zone; NULL if it '
    'never fires, such as on 30 February. cron has five fields: minute, hour, day of the month, month, day of the '
    'week. Each is *, or a list of numbers, names (jan, mon) and ranges, with steps, such as "*/15 8-18 * * mon-fri". '
    'L is the last day of the month, LW its last weekday, fri#2 the second Friday, and 5L the last. If neither of the '
    'two fields of days begins with *, a day in one of them is enough. @hourly, @daily, @weekly, @monthly and @yearly '
    'stand for the usual expressions; "every 90 seconds" (or minutes, hours, days of 24 hours, weeks) for the '
    'multiples of that since 1970 in UTC. Where the clocks change, an expression whose minute or hour begins with * '
    'fires whenever the clocks show a time that it names. Any other fires once for a time that is skipped, when the '
    'skip ends, and once, the first time, for one that is repeated. timezone is UTC or a name such as Europe/Berlin. '
    'NULL for an argument raises 22004. Raises 22023 for a bad expression or an unknown time zone, 22008 for a time '
    'before 1900 or after 9999.';
COMMENT ON TABLE pgq_waiting IS 'Jobs that wait for a worker: ripe now, or from ripe_at on.';
COMMENT ON COLUMN pgq_waiting.id IS 'Number of the job; it stays the same in all states.';
COMMENT ON COLUMN pgq_waiting.kind IS 'Kind of work, by which a worker finds its handler.';
COMMENT ON COLUMN pgq_waiting.args IS 'Arguments for the handler: any JSON of at most 1 MiB as text.';
COMMENT ON COLUMN pgq_waiting.priority IS '0 is claimed first, 9 last.';
COMMENT ON COLUMN pgq_waiting.ripe_at IS 'No worker can claim the job before this time.';
COMMENT ON COLUMN pgq_waiting.attempt IS
    'Attempts so far: a claim adds one; a snooze, decline or release takes it back; pgq_retry starts at 0; a merge '
    'keeps the larger number.';
COMMENT ON COLUMN pgq_waiting.max_retries IS
    'Number of attempts allowed after the first one; NULL, like backoff and backoff_cap: that of the queue when the '
    'job is claimed.';
COMMENT ON COLUMN pgq_waiting.backoff_cap IS 'Longest delay between two attempts, before jitter.';
COMMENT ON COLUMN pgq_waiting.dedup IS 'Whether the job has a signature, so that no twin can wait beside it.';
COMMENT ON COLUMN pgq_waiting.dedup_key IS
    'Key that decides, instead of args, which jobs are twins; NULL: args decide.';
COMMENT ON COLUMN pgq_waiting.context IS
    'JSON object that the worker gets beside args, such as a trace to continue; NULL: none.';
COMMENT ON COLUMN pgq_waiting.signature IS 'MD5 over queue, kind, and dedup_key or else args; NULL without dedup.';
COMMENT ON COLUMN pgq_waiting.losses IS
    'Number of attempts that did not count because the job was lost together with others; NULL: none since its last '
    'failure. A job with a number is a suspect, which is claimed alone.';
COMMENT ON COLUMN pgq_waiting.newest_error IS
    'Number of the newest error of the job in pgq_error; NULL: it has none; 0: it has none, and its queue kept all '
    'that is done when the job was claimed; -1: it has none, and has saved something (see pgq_save).';
COMMENT ON COLUMN pgq_waiting.group_key IS
    'Key of the group of the job: jobs of its queue with the same key share limits and order; NULL: it has no group.';
COMMENT ON COLUMN pgq_waiting.group_id IS
    'Number of the group, by which claims find its jobs: a hash of group_key, that of the waiting room for a job that '
    'is to be ripe later (see _pgq_room), NULL without a group.';
COMMENT ON SEQUENCE pgq_job_id IS 'Source of the ids of jobs.';
COMMENT ON TABLE pgq_running IS 'Jobs that a worker has claimed. The columns of pgq_waiting, and those of the claim.';
COMMENT ON COLUMN pgq_running.backoff IS
    'As in pgq_waiting, with the setting of the queue filled in; NULL: 1 minute, and 1 hour in backoff_cap.';
COMMENT ON COLUMN pgq_running.token IS
    'Number that names the claim; every call about the job must present it. Jobs that were claimed together share it.';
COMMENT ON COLUMN pgq_running.lease_until IS
    'When the worker loses the job, unless it has ended the attempt or extended the lease.';
COMMENT ON COLUMN pgq_running.worker IS 'Name under which the worker has claimed the job; NULL: it gave none.';
COMMENT ON COLUMN pgq_running.losses IS
    'As in pgq_waiting. Negative from when the job is found lost together with others until the rescue puts it back; '
    'the number then includes this loss.';
COMMENT ON COLUMN pgq_running.group_id IS
    'Number of the group if the queue has limits, 0 for a job without a group: the limits count the job. NULL '
    'otherwise.';
COMMENT ON SEQUENCE pgq_token IS 'Source of tokens; it follows the clock, in microseconds since 1970.';

CREATE TABLE pgq_running_batch (
    token        bigint        NOT NULL,
    lease_until  timestamptz   NOT NULL,
    worker       text,
    claimed_at   timestamptz   NOT NULL,
    ids          bigint[]      NOT NULL,
    queues       text[]        NOT NULL,
    kinds        text[]        NOT NULL,
    args         text[]        NOT NULL,
    priorities   integer[]     NOT NULL,
    ripe_ats     timestamptz[] NOT NULL,
    attempts     integer[]     NOT NULL,
    max_retries  integer[]     NOT NULL,
    backoffs     interval[]    NOT NULL,
    backoff_caps interval[]    NOT NULL,
    dedups       boolean[]     NOT NULL,
    dedup_keys   text[],
    enqueued_ats timestamptz[] NOT NULL,
    contexts     text[],
    gone         bigint[]      NOT NULL DEFAULT '{}',

    CONSTRAINT pgq_running_batch_pkey PRIMARY KEY (token)
)
-- A row lives only as long as its batch runs, so vacuum comes as early as for pgq_waiting.
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 100,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);


CREATE INDEX pgq_running_batch_lease ON pgq_running_batch (lease_until);

COMMENT ON TABLE pgq_running_batch IS
    'Batches of small, plain jobs that a worker has claimed together. Each array has the values of one column of '
    'pgq_running, in the order of the claim.';
COMMENT ON COLUMN pgq_running_batch.token IS 'Token of all jobs of the batch.';
COMMENT ON COLUMN pgq_running_batch.lease_until IS
    'When the worker loses the jobs of the batch, unless it extends the lease.';
COMMENT ON COLUMN pgq_running_batch.worker IS 'Name under which the worker has claimed the batch; NULL: it gave none.';
COMMENT ON COLUMN pgq_running_batch.claimed_at IS 'When the batch was claimed.';
COMMENT ON COLUMN pgq_running_batch.ids IS 'Numbers of the jobs.';
COMMENT ON COLUMN pgq_running_batch.queues IS 'Their queues.';
COMMENT ON COLUMN pgq_running_batch.kinds IS 'Their kinds.';
COMMENT ON COLUMN pgq_running_batch.args IS 'Their arguments, as the text of JSON.';
COMMENT ON COLUMN pgq_running_batch.priorities IS 'Their priorities.';
COMMENT ON COLUMN pgq_running_batch.ripe_ats IS 'The times from which they were ripe.';
COMMENT ON COLUMN pgq_running_batch.attempts IS 'The numbers of their attempts, that of this claim included.';
COMMENT ON COLUMN pgq_running_batch.max_retries IS 'The numbers of attempts allowed after the first one.';
COMMENT ON COLUMN pgq_running_batch.backoffs IS 'The delays before their first retries.';
COMMENT ON COLUMN pgq_running_batch.backoff_caps IS 'The longest delays between two of their attempts.';
COMMENT ON COLUMN pgq_running_batch.dedups IS 'Whether they have signatures.';
COMMENT ON COLUMN pgq_running_batch.dedup_keys IS 'Their dedup_keys; NULL: no job has one.';
COMMENT ON COLUMN pgq_running_batch.enqueued_ats IS 'When they were enqueued.';
COMMENT ON COLUMN pgq_running_batch.contexts IS 'Their contexts, as the text of JSON; NULL: no job has one.';
COMMENT ON COLUMN pgq_running_batch.gone IS 'Numbers of the jobs that are done, and no longer running.';
-- Compressing args that are hard to compress would take more time than all else. Most other arrays repeat one value.
ALTER TABLE pgq_running_batch ALTER COLUMN args SET STORAGE EXTERNAL;
COMMENT ON TABLE pgq_ended IS
    'Jobs that have ended, until they have been kept for long enough (see pgq_configure), or pgq_purge deletes them. '
    'The columns of pgq_waiting, and those of the end.';
COMMENT ON COLUMN pgq_ended.backoff IS 'As in pgq_running.';
COMMENT ON COLUMN pgq_ended.outcome IS
    'dead (retries used up, or failed for good), cancelled (by an operator or its worker), or done (with a result or a '
    'note, or in a queue that keeps all that is done).';
COMMENT ON COLUMN pgq_ended.result IS
    'Result that was given to pgq_complete; NULL: none was given, or the job is not done.';
COMMENT ON COLUMN pgq_ended.worker IS
    'Worker of the last attempt; NULL: it gave no name, or the job was cancelled while it waited.';
COMMENT ON COLUMN pgq_ended.claimed_at IS
    'When the job was claimed for its last attempt; NULL: it was cancelled while it waited.';
COMMENT ON COLUMN pgq_ended.losses IS 'As in pgq_waiting, when the job ended.';
COMMENT ON TABLE pgq_worker_session IS 'Workers that have registered and not left.';
COMMENT ON COLUMN pgq_worker_session.name IS 'Name under which the worker claims; no other process ever has it.';
COMMENT ON COLUMN pgq_worker_session.number IS
    'Second part of the key of the advisory lock that the worker''s session holds.';
COMMENT ON COLUMN pgq_worker_session.queues IS 'Queues that the worker serves.';
COMMENT ON COLUMN pgq_worker_session.host IS 'Host of the worker, as it reports itself; NULL: not reported.';
COMMENT ON COLUMN pgq_worker_session.pid IS 'Process id of the worker on that host; NULL: not reported.';
COMMENT ON COLUMN pgq_worker_session.registered_at IS 'When the worker first registered under this name.';
COMMENT ON COLUMN pgq_worker_session.gone_at IS 'When the worker''s session was found gone; NULL: it was not.';
COMMENT ON COLUMN pgq_worker_session.allowed_queues IS 'Queues that the role of the worker may use; NULL: all.';
COMMENT ON COLUMN pgq_worker_session.kinds IS 'Kinds that the worker has handlers for; NULL: it does not tell.';
COMMENT ON COLUMN pgq_worker_session.lost_several IS
    'Whether the worker held several jobs when it was found gone.';
COMMENT ON COLUMN pgq_worker_session.shares IS
    'Whether the process of the worker also serves other databases, whose jobs are lost together with those here.';
COMMENT ON SEQUENCE pgq_worker_session_number IS 'Source of the numbers of workers.';

-- A place in a lane is the ripe_at and the id of a job. Here ripe_at is in microseconds since 1970: a session keeps its
-- heads as text, and the text of a timestamptz depends on DateStyle and TimeZone.
CREATE TYPE _pgq_lane_head AS (
    priority     smallint,
    here_ripe_us bigint,
    here_id      bigint,
    next_ripe_us bigint,
    next_id      bigint
);

COMMENT ON TYPE _pgq_lane_head IS 'The head of one lane of a queue.';
COMMENT ON COLUMN _pgq_lane_head.priority IS 'The priority of the jobs in this lane of the queue.';
COMMENT ON COLUMN _pgq_lane_head.here_ripe_us IS
    'A claim begins after this place; its ripe_at in microseconds since 1970.';
COMMENT ON COLUMN _pgq_lane_head.here_id IS 'The id of the job at that place.';
COMMENT ON COLUMN _pgq_lane_head.next_ripe_us IS
    'The head moves to this place next; its ripe_at in microseconds since 1970.';
COMMENT ON COLUMN _pgq_lane_head.next_id IS 'The id of the job at that place, or 0.';

CREATE UNLOGGED TABLE pgq_head (
    queue        text COLLATE "C" NOT NULL,
    due          timestamptz      NOT NULL,
    rescan_delay interval         NOT NULL,
    lanes        _pgq_lane_head[] NOT NULL
);


CREATE INDEX pgq_head_due ON pgq_head (queue, due);

COMMENT ON TABLE pgq_head IS 'Where the live jobs of a queue begin, as the last long scan of its lanes found it.';
COMMENT ON COLUMN pgq_head.queue IS
    'The queue, or with U+001F and a number after it, a group of it. Empty for the search for expired leases, and '
    'U+001F for the tokens; neither has lanes. U+001F and "kept" before the name of a queue: a claim has found the lock '
    'of its long scan taken. U+001F and "ended", "seen", "batches" or "count": how far the deletion of old jobs, of '
    'windows and of batches, and the folding of counts, have come.';
COMMENT ON COLUMN pgq_head.due IS
    'From when on a claim may scan the lanes from their start again; for the tokens, from when on a worker may count '
    'as gone.';
COMMENT ON COLUMN pgq_head.rescan_delay IS
    'The least time between two such scans, in proportion to the cost of the last.';
COMMENT ON COLUMN pgq_head.lanes IS
    'The heads of the lanes that are known; a lane that is missing is scanned from its start.';

CREATE TABLE pgq_cancel_request (
    id           bigint      NOT NULL,
    requested_at timestamptz NOT NULL,

    CONSTRAINT pgq_cancel_request_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE pgq_cancel_request IS
    'Requests to cancel jobs that were running; maintenance removes those of jobs that have ended all the same.';
COMMENT ON COLUMN pgq_cancel_request.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_cancel_request.requested_at IS 'When pgq_cancel was called.';

CREATE TABLE pgq_error (
    id       bigint      NOT NULL,
    number   integer     NOT NULL,
    attempt  integer     NOT NULL,
    at       timestamptz NOT NULL,
    worker   text,
    error    text,
    declined integer,

    CONSTRAINT pgq_error_pkey PRIMARY KEY (id, number)
)
-- Each failure of a job that has ten errors leaves a dead row: vacuum as early as pgq_waiting.
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE pgq_error IS
    'The newest ten errors of each job, those of merged jobs, too: failures, reasons of pgq_cancel_claimed, and notes '
    'of pgq_complete and pgq_decline.';
COMMENT ON COLUMN pgq_error.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_error.number IS
    'Place among the errors of the job: a newer error has a greater number. The newest has the number that is '
    'newest_error of the job.';
COMMENT ON COLUMN pgq_error.attempt IS 'Attempt that the error has ended, or in which the note was made.';
COMMENT ON COLUMN pgq_error.at IS 'When the error was recorded.';
COMMENT ON COLUMN pgq_error.worker IS 'Name under which the worker held the job; NULL: it gave none.';
COMMENT ON COLUMN pgq_error.error IS 'Text of the error, at most 4000 characters; NULL: none was given.';
COMMENT ON COLUMN pgq_error.declined IS
    'In a note of pgq_decline, how often in succession the job was declined; NULL in all others.';

CREATE TABLE pgq_saved (
    id    bigint NOT NULL,
    saved jsonb  NOT NULL,

    CONSTRAINT pgq_saved_pkey PRIMARY KEY (id)
)
-- Each call of pgq_save leaves a dead row: vacuum as early as pgq_waiting.
WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE pgq_saved IS
    'What jobs have saved by pgq_save, until they are deleted: it is kept through retries, snoozes and lost workers.';
COMMENT ON COLUMN pgq_saved.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_saved.saved IS 'Any JSON of at most 1 MiB as text.';

CREATE TABLE pgq_job_signal (
    id      bigint      NOT NULL,
    name    text        NOT NULL COLLATE "C",
    payload jsonb,
    sent_at timestamptz NOT NULL,
    unseen  boolean     NOT NULL,

    CONSTRAINT pgq_job_signal_pkey PRIMARY KEY (id, name)
);


CREATE INDEX pgq_job_signal_unseen ON pgq_job_signal (id) WHERE unseen;


CREATE TABLE pgq_signal_wait (
    id    bigint      NOT NULL,
    name  text        NOT NULL COLLATE "C",
    until timestamptz NOT NULL,

    CONSTRAINT pgq_signal_wait_pkey PRIMARY KEY (id, name)
);


CREATE TABLE pgq_merged (
    id   bigint NOT NULL,
    twin bigint NOT NULL,

    CONSTRAINT pgq_merged_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE pgq_job_signal IS 'Signals that were sent to jobs (see pgq_signal), until the jobs are deleted.';
COMMENT ON COLUMN pgq_job_signal.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_job_signal.name IS 'Name of the signal; a job gets one of each name.';
COMMENT ON COLUMN pgq_job_signal.payload IS 'What was sent with it: any JSON of at most 1 MiB as text; NULL: nothing.';
COMMENT ON COLUMN pgq_job_signal.sent_at IS 'When pgq_signal was called.';
COMMENT ON COLUMN pgq_job_signal.unseen IS 'Whether maintenance is to look for a job that waits for the signal.';
COMMENT ON TABLE pgq_signal_wait IS 'What jobs wait for, or have waited for (see pgq_wait_signal).';
COMMENT ON COLUMN pgq_signal_wait.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_signal_wait.name IS 'Name of the signal.';
COMMENT ON COLUMN pgq_signal_wait.until IS 'When the wait is over without the signal.';
COMMENT ON TABLE pgq_merged IS
    'Jobs that have merged, so that signals for them reach the job that has survived, and jobs that are to run after '
    'them wait for it, while that is there.';
COMMENT ON COLUMN pgq_merged.id IS 'Number of the job that has merged.';
COMMENT ON COLUMN pgq_merged.twin IS 'Number of the twin that has survived.';

-- The columns of pgq_waiting come first.
CREATE TABLE pgq_blocked (
    id           bigint      NOT NULL,
    queue        text        NOT NULL,
    kind         text        NOT NULL,
    args         jsonb       NOT NULL,
    priority     smallint    NOT NULL,
    ripe_at      timestamptz NOT NULL,
    attempt      integer     NOT NULL,
    max_retries  integer,
    backoff      interval,
    backoff_cap  interval,
    dedup        boolean     NOT NULL,
    dedup_key    text,
    enqueued_at  timestamptz NOT NULL,
    context      jsonb,
    signature    uuid,
    losses       smallint,
    newest_error integer,
    group_key    text,
    group_id     bigint,
    after_failed text        NOT NULL,

    CONSTRAINT pgq_blocked_pkey PRIMARY KEY (id)
)
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);


CREATE UNIQUE INDEX pgq_blocked_signature ON pgq_blocked (signature) WHERE signature IS NOT NULL;

COMMENT ON TABLE pgq_blocked IS
    'Jobs that wait for other jobs. The columns of pgq_waiting, and after_failed.';
COMMENT ON COLUMN pgq_blocked.signature IS
    'MD5 over that of a waiting job, what the job was enqueued after, and after_failed; NULL without dedup.';
COMMENT ON COLUMN pgq_blocked.group_id IS 'NULL: the job gets a number when it goes to pgq_waiting.';
COMMENT ON COLUMN pgq_blocked.after_failed IS
    'What becomes of the job if one that it waits for is dead or cancelled: cancel, run or wait.';
-- For the reason given in pgq_waiting.
ALTER TABLE pgq_blocked ALTER COLUMN args SET STORAGE EXTERNAL;

CREATE TABLE pgq_need (
    job   bigint NOT NULL,
    needs bigint NOT NULL,

    CONSTRAINT pgq_need_pkey PRIMARY KEY (job, needs)
)
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);


CREATE INDEX pgq_need_needs ON pgq_need (needs);

COMMENT ON TABLE pgq_need IS 'What blocked jobs wait for.';
COMMENT ON COLUMN pgq_need.job IS 'Number of the blocked job.';
COMMENT ON COLUMN pgq_need.needs IS
    'Number of a job that it waits for: one that has not ended or, with after_failed wait, one that is dead or '
    'cancelled.';

-- What ends a job deals with those that wait for it, up to a number. It leaves the rest, those that other transactions
-- have locked, and those that wait for the latter, to the maintenance of claims.
CREATE TABLE pgq_need_ended (
    id      bigint NOT NULL,
    outcome text   NOT NULL,

    CONSTRAINT pgq_need_ended_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE pgq_need_ended IS
    'Jobs that have ended, and of which blocked jobs have still to be unblocked or cancelled.';
COMMENT ON COLUMN pgq_need_ended.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_need_ended.outcome IS
    'How it has ended: done, failed (dead or cancelled), or purged (and dead or cancelled before).';

-- As with pgq_mark, a value is seen by all sessions at once, and no rollback takes it back. Maintenance takes it away
-- when pgq_need is empty and no transaction is open that has inserted there.
CREATE SEQUENCE pgq_needed;

COMMENT ON SEQUENCE pgq_needed IS
    'Whether any job may be blocked: then it has been called. Maintenance resets it.';

-- An expression, so that PostgreSQL inlines it. This is all that the end of a job pays where no job is blocked.
CREATE FUNCTION _pgq_has_needs() RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN pg_sequence_last_value('pgq_needed') IS NOT NULL;

COMMENT ON FUNCTION _pgq_has_needs() IS 'Return whether any job may be blocked.';

CREATE VIEW _pgq_packed AS
SELECT j.id, j.queue, j.kind, j.args::jsonb AS args, j.priority::smallint AS priority, j.ripe_at, j.attempt,
       j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.enqueued_at,
       j.context::jsonb AS context, b.token, b.lease_until, b.worker, b.claimed_at, NULL::smallint AS losses,
       NULL::integer AS newest_error, NULL::text AS group_key, NULL::bigint AS group_id
FROM pgq_running_batch AS b
CROSS JOIN LATERAL unnest(
    b.ids, b.queues, b.kinds, b.args, b.priorities, b.ripe_ats, b.attempts, b.max_retries, b.backoffs, b.backoff_caps,
    b.dedups, b.dedup_keys, b.enqueued_ats, b.contexts
) AS j (id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context)
WHERE j.id <> ALL (b.gone);

COMMENT ON VIEW _pgq_packed IS 'The jobs of pgq_running_batch that are not gone, with the columns of pgq_running.';

CREATE VIEW _pgq_running AS
SELECT id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
       enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
FROM pgq_running
UNION ALL
SELECT id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
       enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
FROM _pgq_packed;

COMMENT ON VIEW _pgq_running IS
    'All running jobs, with the columns of pgq_running. A condition on id reads all batches, one on token does not.';

-- Fewer than nine jobs gain nothing. The rescue unpacks a batch as a whole, so a batch has a thousand jobs at most.
-- Unpacking writes all args again, and an array has less than 1 GB, so the args of a batch are small. A packed job has
-- no errors, is in a queue without groups and limits, and is no suspect, because a suspect is claimed alone.
CREATE FUNCTION _pgq_is_plain(jobs bigint, bytes bigint, failed bigint) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN jobs BETWEEN 9 AND 1000 AND bytes <= 262144 AND failed = 0;

COMMENT ON FUNCTION _pgq_is_plain(bigint, bigint, bigint) IS
    'Return whether a claim may pack its jobs into one row, given their number, the size of their args and contexts, '
    'and the number of those that have errors.';

CREATE FUNCTION _pgq_unpack(tokens bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_unpack$
BEGIN
    IF tokens = '{}' THEN
        RETURN;
    END IF;
    PERFORM _pgq_count_batch(b.token, b.queues, b.kinds, b.ripe_ats, b.claimed_at, NULL)
    FROM pgq_running_batch AS b
    WHERE b.token = ANY (tokens);
    WITH unpacked AS (
        DELETE FROM pgq_running_batch AS b WHERE b.token = ANY (tokens)
    )
    INSERT INTO pgq_running (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
    )
    SELECT p.id, p.queue, p.kind, p.args, p.priority, p.ripe_at, p.attempt, p.max_retries, p.backoff, p.backoff_cap,
           p.dedup, p.dedup_key, p.enqueued_at, p.context, p.token, p.lease_until, p.worker, p.claimed_at, p.losses,
           CASE WHEN _pgq_is_timed(p.token) THEN 0 END, p.group_key, p.group_id
    FROM _pgq_packed AS p
    WHERE p.token = ANY (tokens);
END
$_pgq_unpack$;

COMMENT ON FUNCTION _pgq_unpack(bigint[]) IS
    'Move the jobs of these batches, whose rows this transaction has locked in an earlier statement, to pgq_running. '
    'Returns nothing.';

-- This waits for transactions that have locked one of the batches. A job moves from its batch to pgq_running and never
-- back. So the caller looks for the row in its next statement, whether or not this function has unpacked a batch.
CREATE FUNCTION _pgq_unpack_jobs(ids bigint[], tokens bigint[], allowed text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_unpack_jobs$
BEGIN
    -- Most jobs that a worker takes one by one are rows already. What follows costs as much as taking such a job.
    IF NOT EXISTS (SELECT FROM pgq_running_batch AS b WHERE b.token = ANY (tokens)) THEN
        RETURN;
    END IF;
    PERFORM _pgq_unpack(ARRAY(
        SELECT found.token
        FROM (SELECT DISTINCT u.token FROM unnest(tokens) AS u (token) ORDER BY u.token) AS given
        CROSS JOIN LATERAL (
            SELECT b.token
            FROM pgq_running_batch AS b
            WHERE b.token = given.token
              AND EXISTS (
                  SELECT
                  FROM unnest(b.ids, b.queues) AS j (id, queue)
                  JOIN unnest(_pgq_unpack_jobs.ids, tokens) AS u (id, token) ON u.id = j.id AND u.token = b.token
                  WHERE j.id <> ALL (b.gone)
                    AND (allowed IS NULL OR j.queue = ANY (allowed))
              )
            FOR UPDATE
        ) AS found
    ));
END
$_pgq_unpack_jobs$;

COMMENT ON FUNCTION _pgq_unpack_jobs(bigint[], bigint[], text[]) IS
    'Unpack the batches in which these jobs run, each under its token, if they are in one of the allowed queues, or '
    'these are NULL. Returns nothing.';

CREATE TABLE pgq_queue_setting (
    queue          text COLLATE "C" NOT NULL,
    max_running    integer,
    max_per_group  integer,
    ordered        boolean,
    on_dead        text,
    rate           integer,
    per            interval,
    burst          integer,
    rate_per_group integer,
    max_retries    integer,
    backoff        interval,
    backoff_cap    interval,
    lease          interval,
    keep_done      interval,
    keep_dead      interval,
    keep_cancelled interval,
    sensitive      boolean,

    CONSTRAINT pgq_queue_setting_pkey PRIMARY KEY (queue)
);

COMMENT ON TABLE pgq_queue_setting IS
    'Settings of queues, written by pgq_configure, whose keys are the columns. NULL in any of them means that it is '
    'not set.';
COMMENT ON COLUMN pgq_queue_setting.queue IS
    'Queue that the settings are for; empty: those of all queues, of which only keep_done, keep_dead and '
    'keep_cancelled may be set.';
COMMENT ON COLUMN pgq_queue_setting.max_running IS 'Most jobs of the queue that run at a time.';
COMMENT ON COLUMN pgq_queue_setting.max_per_group IS 'Most jobs of each group that run at a time.';
COMMENT ON COLUMN pgq_queue_setting.ordered IS
    'Whether the jobs of each group run one after the other, in the order in which they were enqueued.';
COMMENT ON COLUMN pgq_queue_setting.on_dead IS
    'What a dead job does to the jobs after it in its group: continue (the default) lets them run, stop keeps them.';
COMMENT ON COLUMN pgq_queue_setting.rate IS 'Jobs of the queue that may start in each interval "per".';
COMMENT ON COLUMN pgq_queue_setting.per IS 'Interval of rate and rate_per_group.';
COMMENT ON COLUMN pgq_queue_setting.burst IS
    'Jobs that may start at once after a pause, beyond what rate and rate_per_group allow.';
COMMENT ON COLUMN pgq_queue_setting.rate_per_group IS 'Jobs of each group that may start in each interval "per".';
COMMENT ON COLUMN pgq_queue_setting.max_retries IS 'max_retries of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queue_setting.backoff IS 'backoff of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queue_setting.backoff_cap IS 'backoff_cap of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queue_setting.lease IS 'Lease of claims that are made without.';
COMMENT ON COLUMN pgq_queue_setting.keep_done IS
    'How long a job is kept that is done; if it is set for the queue itself, also one that is done without a result.';
COMMENT ON COLUMN pgq_queue_setting.keep_dead IS 'How long a dead job is kept.';
COMMENT ON COLUMN pgq_queue_setting.keep_cancelled IS 'How long a cancelled job is kept.';
COMMENT ON COLUMN pgq_queue_setting.sensitive IS
    'Whether the programs of pgq show no arguments, results and errors of the queue unless they are asked to.';

CREATE TABLE pgq_paused (
    queue     text COLLATE "C" NOT NULL,
    group_id  bigint           NOT NULL,
    group_key text,
    until     timestamptz      NOT NULL,
    paused_at timestamptz      NOT NULL,

    CONSTRAINT pgq_paused_pkey PRIMARY KEY (queue, group_id)
);

COMMENT ON TABLE pgq_paused IS 'Queues and groups that are paused, or were: pgq_pause removes rows whose time is over.';
COMMENT ON COLUMN pgq_paused.queue IS 'Queue that is paused, or that the group belongs to.';
COMMENT ON COLUMN pgq_paused.group_id IS 'Number of the group that is paused, as in pgq_waiting; 0: the whole queue.';
COMMENT ON COLUMN pgq_paused.group_key IS 'Key of the group; NULL: the whole queue.';
COMMENT ON COLUMN pgq_paused.until IS 'When the pause ends; infinity: when pgq_resume is called.';
COMMENT ON COLUMN pgq_paused.paused_at IS 'When pgq_pause was last called.';

CREATE FUNCTION _pgq_with_defaults(job pgq_waiting) RETURNS pgq_waiting
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_with_defaults$
DECLARE
    v_setting pgq_queue_setting;
BEGIN
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = job.queue COLLATE "C";
    job.max_retries := coalesce(job.max_retries, v_setting.max_retries, 10);
    job.backoff := coalesce(job.backoff, v_setting.backoff, '1 minute');
    job.backoff_cap := coalesce(job.backoff_cap, v_setting.backoff_cap, '1 hour');
    RETURN job;
END
$_pgq_with_defaults$;

COMMENT ON FUNCTION _pgq_with_defaults(pgq_waiting) IS
    'Return a waiting job with the max_retries, backoff and backoff_cap that it would be claimed with.';

-- The rows are locked already. Not in the statement that takes them, because the look-up would cost all claims.
CREATE FUNCTION _pgq_set_defaults(rows tid[]) RETURNS tid[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_set_defaults$
DECLARE
    v_rows tid[];
BEGIN
    WITH updated AS (
        UPDATE pgq_waiting AS w
        SET max_retries = coalesce(w.max_retries, s.max_retries),
            backoff = coalesce(w.backoff, s.backoff),
            backoff_cap = coalesce(w.backoff_cap, s.backoff_cap),
            newest_error = CASE WHEN s.keep_done IS NOT NULL THEN coalesce(w.newest_error, 0) ELSE w.newest_error END
        FROM pgq_queue_setting AS s
        WHERE w.ctid = ANY (rows)
          AND s.queue = w.queue COLLATE "C"
          AND num_nonnulls(s.max_retries, s.backoff, s.backoff_cap, s.keep_done) > 0
        RETURNING w.ctid
    ), others AS (
        SELECT w.ctid
        FROM pgq_waiting AS w
        WHERE w.ctid = ANY (rows)
          AND NOT EXISTS (
              SELECT
              FROM pgq_queue_setting AS s
              WHERE s.queue = w.queue COLLATE "C"
                AND num_nonnulls(s.max_retries, s.backoff, s.backoff_cap, s.keep_done) > 0)
    )
    SELECT ARRAY(SELECT u.ctid FROM updated AS u UNION ALL SELECT o.ctid FROM others AS o) INTO v_rows;
    RETURN v_rows;
END
$_pgq_set_defaults$;

COMMENT ON FUNCTION _pgq_set_defaults(tid[]) IS
    'Set max_retries, backoff and backoff_cap of waiting jobs that were enqueued without, if their queues have '
    'settings for these, and newest_error of jobs without an error to 0, if their queues keep all that is done. '
    'Returns the ctids of the rows, in any order.';

CREATE TABLE pgq_batch (
    id       bigint      NOT NULL,
    queue    text        NOT NULL,
    jobs     bigint      NOT NULL,
    failed   bigint[]    NOT NULL,
    given_up bigint      NOT NULL,
    at       timestamptz NOT NULL
);


CREATE INDEX pgq_batch_id ON pgq_batch (id);

-- The table has no key. Without an identity its rows could not be deleted once a publication has the table.
ALTER TABLE pgq_batch REPLICA IDENTITY FULL;
COMMENT ON TABLE pgq_batch IS
    'What was put into batches, and what of it has failed: the sums count, by id. Kept for 7 days, and for as long as '
    'the batch is a job.';
COMMENT ON COLUMN pgq_batch.id IS 'Number of the job that comes after all others of the batch.';
COMMENT ON COLUMN pgq_batch.queue IS 'Its queue.';
COMMENT ON COLUMN pgq_batch.jobs IS 'Number of jobs that were put into the batch.';
COMMENT ON COLUMN pgq_batch.failed IS 'Numbers of those that are dead or cancelled.';
COMMENT ON COLUMN pgq_batch.given_up IS 'Number of jobs that were left when the batch itself was cancelled.';
COMMENT ON COLUMN pgq_batch.at IS 'When the row was inserted.';

CREATE TABLE pgq_count (
    queue  text   NOT NULL,
    kind   text   NOT NULL,
    event  text   NOT NULL,
    jobs   bigint NOT NULL,
    waited interval,
    ran    interval
)
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- The table has no key. Without an identity its rows could not be deleted once a publication has the table.
ALTER TABLE pgq_count REPLICA IDENTITY FULL;
COMMENT ON TABLE pgq_count IS
    'What has happened to jobs. Maintenance folds the rows: the sums count, by queue, kind and event.';
COMMENT ON COLUMN pgq_count.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_count.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_count.event IS
    'claimed: an attempt has begun. How it has ended, unless as done: returned, it does not count; failed; dead, it '
    'has failed for good; stopped, the running job was cancelled. Beside these, timed: jobs that are done, with their '
    'times; packed: a batch is done, which counts as claimed and timed; cancelled: while the job waited; merged: the '
    'job is gone; retried: an operator has put it back.';
COMMENT ON COLUMN pgq_count.jobs IS 'Number of the jobs.';
COMMENT ON COLUMN pgq_count.waited IS 'How long the jobs had been ripe when they were claimed, summed up.';
COMMENT ON COLUMN pgq_count.ran IS 'Times from the claim to the end, summed up.';

-- An expression, so that PostgreSQL inlines it. To count the time of each job that is a row would cost eight percent
-- of its life, so one claim in 64 is chosen, and its jobs count for 64.
CREATE FUNCTION _pgq_is_timed(token bigint) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN hashint8(token) & 63 = 0;

COMMENT ON FUNCTION _pgq_is_timed(bigint) IS
    'Return whether the time that the jobs of a claim take is counted, if they are rows of pgq_running.';

-- Not all queues and kinds are the same: in _pgq_complete_held the usual case needs no call. How long the jobs had been
-- ripe is estimated there, too: one of them, which the token chooses, stands for all.
CREATE FUNCTION _pgq_count_batch(
    token bigint,
    queues text[],
    kinds text[],
    ripe_ats timestamptz[],
    claimed_at timestamptz,
    ended_at timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_count_batch$
BEGIN
    INSERT INTO pgq_count (queue, kind, event, jobs, waited, ran)
    SELECT j.queue, j.kind, CASE WHEN ended_at IS NULL THEN 'claimed' ELSE 'packed' END, count(*),
           (claimed_at - ripe_ats[1 + token % cardinality(kinds)]) * count(*), (ended_at - claimed_at) * count(*)
    FROM unnest(queues, kinds) AS j (queue, kind)
    GROUP BY j.queue, j.kind;
END
$_pgq_count_batch$;

COMMENT ON FUNCTION _pgq_count_batch(bigint, text[], text[], timestamptz[], timestamptz, timestamptz) IS
    'Count the jobs of a packed batch that is deleted: all are done at ended_at, or they are unpacked if that is NULL. '
    'Returns nothing.';

CREATE FUNCTION _pgq_room() RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN 9223372036854775807;

COMMENT ON FUNCTION _pgq_room() IS 'Return the number under which jobs wait whose time is to come, after all groups.';

-- The groups of an ordered queue share 64 advisory locks. An enqueue holds that of its group, in shared mode, from
-- before it draws the id until its transaction ends. While a claim has the lock exclusively, no enqueue in the group is
-- open: all ids that are missing are later ones. Two queues may share their locks, and then wait for each other a
-- little.
CREATE FUNCTION _pgq_order_key(queue text, group_id bigint) RETURNS integer
    LANGUAGE sql
    IMMUTABLE
    RETURN (hashtext(queue COLLATE "C") & ~63) | (group_id & 63)::integer;

COMMENT ON FUNCTION _pgq_order_key(text, bigint) IS
    'Return the second key of the advisory lock under which ids are drawn in a group of an ordered queue.';

CREATE FUNCTION _pgq_is_ordered(queue text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_is_ordered$
BEGIN
    RETURN EXISTS (SELECT FROM pgq_queue_setting AS s WHERE s.queue = _pgq_is_ordered.queue AND s.ordered);
END
$_pgq_is_ordered$;

COMMENT ON FUNCTION _pgq_is_ordered(text) IS 'Return whether a queue is ordered.';

-- Waits for a claim that looks for the first job of the group: some milliseconds.
CREATE FUNCTION _pgq_enter_group(queue text, group_key text, is_ripe boolean) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enter_group$
DECLARE
    v_group_id bigint := _pgq_group_id(group_key);
BEGIN
    PERFORM _pgq_mark(queue);
    IF _pgq_is_ordered(queue) THEN
        PERFORM pg_advisory_xact_lock_shared(
            'pgq_queue_setting'::regclass::oid::integer, _pgq_order_key(queue, v_group_id));
        RETURN v_group_id;
    END IF;
    RETURN CASE WHEN is_ripe THEN v_group_id ELSE _pgq_room() END;
END
$_pgq_enter_group$;

COMMENT ON FUNCTION _pgq_enter_group(text, text, boolean) IS
    'Prepare the enqueue of a job with a group, before its id is drawn. Returns the number under which it is to wait.';

-- In one order, so that two calls do not wait for each other in a circle with a claim between them.
CREATE FUNCTION _pgq_enter_groups(jobs jsonb) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_enter_groups$
DECLARE
    v_ordered text[] := ARRAY(SELECT s.queue FROM pgq_queue_setting AS s WHERE s.ordered);
BEGIN
    IF v_ordered <> '{}' THEN
        PERFORM pg_advisory_xact_lock_shared('pgq_queue_setting'::regclass::oid::integer, k.key)
        FROM (
            SELECT DISTINCT _pgq_order_key(j.queue, _pgq_group_id(j.group_key)) AS key
            FROM (
                SELECT coalesce(r.queue, 'default'), r.group_key
                FROM jsonb_to_recordset(jobs) AS r (queue text, group_key text)
            ) AS j (queue, group_key)
            WHERE j.group_key IS NOT NULL AND j.queue = ANY (v_ordered)
            ORDER BY key
        ) AS k;
    END IF;
    RETURN v_ordered;
END
$_pgq_enter_groups$;

COMMENT ON FUNCTION _pgq_enter_groups(jsonb) IS
    'Prepare the enqueue of an array of jobs, before their ids are drawn, as _pgq_enter_group does. Returns the queues '
    'that are ordered.';

CREATE FUNCTION _pgq_place(queue text, group_key text, is_ripe boolean) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_place$
BEGIN
    IF group_key IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN CASE WHEN is_ripe OR _pgq_is_ordered(queue) THEN _pgq_group_id(group_key) ELSE _pgq_room() END;
END
$_pgq_place$;

COMMENT ON FUNCTION _pgq_place(text, text, boolean) IS
    'Return the number under which a job that goes back to waiting is to wait; NULL without a group.';

CREATE TABLE pgq_schedule_entry (
    name          text COLLATE "C" NOT NULL,
    cron          text             NOT NULL,
    timezone      text             NOT NULL,
    queue         text COLLATE "C" NOT NULL,
    kind          text             NOT NULL,
    args          jsonb            NOT NULL,
    priority      smallint         NOT NULL,
    max_retries   integer,
    backoff       interval,
    backoff_cap   interval,
    group_key     text,
    catch_up      text             NOT NULL,
    overlap       text             NOT NULL,
    jitter        interval         NOT NULL,
    source        text,
    paused_at     timestamptz,
    next_at       timestamptz      NOT NULL,
    due_at        timestamptz      NOT NULL,
    set_at        timestamptz      NOT NULL,
    last_at       timestamptz,
    last_job      bigint,
    last_error    text,
    last_error_at timestamptz,
    missed        bigint           NOT NULL DEFAULT 0,

    CONSTRAINT pgq_schedule_entry_pkey PRIMARY KEY (name)
);


CREATE INDEX pgq_schedule_entry_due ON pgq_schedule_entry (due_at);


CREATE INDEX pgq_schedule_entry_queue ON pgq_schedule_entry (queue, due_at);

COMMENT ON TABLE pgq_schedule_entry IS
    'Schedules, which enqueue a job at each of their slots; written by pgq_schedule.';
COMMENT ON COLUMN pgq_schedule_entry.name IS 'Name of the schedule.';
COMMENT ON COLUMN pgq_schedule_entry.cron IS 'Cron expression, whose times are the slots.';
COMMENT ON COLUMN pgq_schedule_entry.timezone IS 'Time zone of the expression.';
COMMENT ON COLUMN pgq_schedule_entry.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_schedule_entry.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_schedule_entry.args IS 'Arguments of the jobs.';
COMMENT ON COLUMN pgq_schedule_entry.priority IS 'Priority of the jobs.';
COMMENT ON COLUMN pgq_schedule_entry.max_retries IS 'max_retries of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedule_entry.backoff IS 'backoff of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedule_entry.backoff_cap IS 'backoff_cap of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedule_entry.group_key IS 'Key of the group of the jobs; NULL: none.';
COMMENT ON COLUMN pgq_schedule_entry.catch_up IS
    'What becomes of slots that are late: one job for the newest (one), a job for each (all), or none (none).';
COMMENT ON COLUMN pgq_schedule_entry.overlap IS
    'Whether a slot is left out while the last job waits or runs (skip), or not (allow).';
COMMENT ON COLUMN pgq_schedule_entry.jitter IS 'Longest random delay of a job after its slot.';
COMMENT ON COLUMN pgq_schedule_entry.source IS 'What has declared the schedule, such as a module; NULL: made by hand.';
COMMENT ON COLUMN pgq_schedule_entry.paused_at IS 'When the schedule was paused; NULL: it is not.';
COMMENT ON COLUMN pgq_schedule_entry.next_at IS 'The next slot.';
COMMENT ON COLUMN pgq_schedule_entry.due_at IS
    'When a claim fires the slot: next_at, a later time after an error, infinity while the schedule is paused.';
COMMENT ON COLUMN pgq_schedule_entry.set_at IS
    'When due_at was set; in the future where the clock was set back since.';
COMMENT ON COLUMN pgq_schedule_entry.last_at IS
    'The last slot that has got a job, or when pgq_run_schedule was called.';
COMMENT ON COLUMN pgq_schedule_entry.last_job IS 'Number of the last job.';
COMMENT ON COLUMN pgq_schedule_entry.last_error IS 'Why the slot could not be fired; NULL: it could.';
COMMENT ON COLUMN pgq_schedule_entry.last_error_at IS 'When that was.';
COMMENT ON COLUMN pgq_schedule_entry.missed IS
    'Number of slots that have got no job; up to 100 of those that are late at a time.';

CREATE TABLE pgq_seen (
    signature uuid        NOT NULL,
    id        bigint,
    until     timestamptz NOT NULL,

    CONSTRAINT pgq_seen_pkey PRIMARY KEY (signature)
);


CREATE INDEX pgq_seen_until ON pgq_seen (until);

COMMENT ON TABLE pgq_seen IS
    'Windows that pgq_enqueue has opened for its argument dedup_for; claims delete those that are over.';
COMMENT ON COLUMN pgq_seen.signature IS 'The signature of the job, as in pgq_waiting.';
COMMENT ON COLUMN pgq_seen.id IS 'Number of the first job of the window.';
COMMENT ON COLUMN pgq_seen.until IS 'When the window is over.';

-- What is true of most jobs, in few steps. PostgreSQL prepares an expression of PL/pgSQL anew in each transaction: the
-- one below takes a sixth of pgq_enqueue, _pgq_is_valid as much again, and _pgq_validate half. An expression, so that
-- PostgreSQL inlines it.
CREATE FUNCTION _pgq_is_common(
    kind text,
    args_as_text text,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    after bigint[],
    after_failed text
) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN _pgq_is_name(kind) AND _pgq_is_name(queue)
        AND octet_length(args_as_text) <= 1048576
        AND num_nonnulls(
            ripe_at, delay, backoff, backoff_cap, context, group_key, dedup_for, after, after_failed) = 0
        AND (max_retries >> 31 = 0) IS NOT FALSE  -- neither negative nor more than 2147483647
        AND priority BETWEEN 0 AND 9
        AND dedup IS NOT NULL
        AND (octet_length(dedup_key) <= 1000) IS NOT FALSE
        AND on_duplicate = 'keep';

COMMENT ON FUNCTION _pgq_is_common(
    text, text, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb, text,
    interval, bigint[], text
) IS
    'Return true for a valid job that leaves no value to a default but is ripe now, has the backoff of its queue, no '
    'context, no group and no window, waits for no other job, and keeps a twin as it is; otherwise false or NULL, '
    'whether it is valid or not.';

-- An expression, so that PostgreSQL inlines it, also in the check of a whole array in pgq_enqueue_many.
CREATE FUNCTION _pgq_is_valid(
    kind text,
    args_as_text text,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    at timestamptz
) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN _pgq_is_name(kind) AND _pgq_is_name(queue)
        AND octet_length(args_as_text) <= 1048576
        AND (ripe_at IS NULL OR delay IS NULL)
        AND (ripe_at BETWEEN at - interval '100 years' AND at + interval '100 years') IS NOT FALSE
        AND _pgq_is_in_range(delay, at, '100 years') IS NOT FALSE
        AND (priority BETWEEN 0 AND 9) IS NOT FALSE
        AND (max_retries BETWEEN 0 AND 2147483647) IS NOT FALSE
        AND (backoff BETWEEN interval '0' AND interval '100 years') IS NOT FALSE
        AND (backoff_cap BETWEEN interval '0' AND interval '100 years') IS NOT FALSE
        AND (octet_length(dedup_key) <= 1000) IS NOT FALSE
        AND (on_duplicate IN ('keep', 'replace', 'soonest', 'error')) IS NOT FALSE
        AND (jsonb_typeof(context) = 'object' AND octet_length(context::text) <= 8192) IS NOT FALSE
        AND _pgq_is_name(group_key) IS NOT FALSE
        AND (dedup_for > interval '0' AND _pgq_is_in_range(dedup_for, at, '100 years')) IS NOT FALSE
        AND (dedup_for IS NULL OR dedup IS NOT FALSE);

COMMENT ON FUNCTION _pgq_is_valid(
    text, text, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb, text,
    interval, timestamptz
) IS
    'Return true for the values of a job that may be enqueued; otherwise false or NULL: _pgq_validate then returns '
    'what is wrong with them.';

CREATE FUNCTION _pgq_validate(
    kind text,
    args jsonb,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    at timestamptz
) RETURNS text[]
    LANGUAGE sql
    STABLE
    RETURN CASE
        WHEN kind IS NULL THEN
            ARRAY['22004', 'kind is null', 'Name the kind of work, by which a worker finds its handler.']
        WHEN NOT _pgq_is_name(kind) THEN
            ARRAY['22023', format('kind "%s" is not a name', left(kind, 200)),
                  'Use 1 to 200 bytes without the character U+001F.']
        WHEN queue IS NULL THEN
            ARRAY['22004', 'queue is null', 'Name a queue, or leave the argument out for the queue "default".']
        WHEN NOT _pgq_is_name(queue) THEN
            ARRAY['22023', format('queue "%s" is not a name', left(queue, 200)),
                  'Use 1 to 200 bytes without the character U+001F.']
        WHEN args IS NULL THEN
            ARRAY['22004', 'args is null', 'Pass any JSON, such as {} or the JSON null, but not the SQL NULL.']
        WHEN octet_length(args::text) > 1048576 THEN
            ARRAY['54000', format('args take %s bytes as text, more than 1048576', octet_length(args::text)),
                  'Store large data in a table of your own and enqueue a reference to it.']
        WHEN ripe_at IS NOT NULL AND delay IS NOT NULL THEN
            ARRAY['22023', 'both ripe_at and delay are given',
                  'Give one of the two, or neither for a job that is ripe now.']
        WHEN ripe_at NOT BETWEEN at - interval '100 years' AND at + interval '100 years' THEN
            ARRAY['22008', format('ripe_at %s is out of range', ripe_at), 'Give a time within a hundred years of now.']
        WHEN NOT _pgq_is_in_range(delay, at, '100 years') THEN
            ARRAY['22023', format('delay %s is out of range', delay), 'Give an interval from 0 to 100 years.']
        WHEN priority NOT BETWEEN 0 AND 9 THEN
            ARRAY['22023', format('priority %s is out of range', priority), 'Give a number from 0 (first) to 9 (last).']
        WHEN max_retries NOT BETWEEN 0 AND 2147483647 THEN
            ARRAY['22023', format('max_retries %s is out of range', max_retries),
                  'Give a number from 0, for a single attempt, to 2147483647.']
        WHEN backoff NOT BETWEEN interval '0' AND interval '100 years' THEN
            ARRAY['22023', format('backoff %s is out of range', backoff), 'Give an interval from 0 to 100 years.']
        WHEN backoff_cap NOT BETWEEN interval '0' AND interval '100 years' THEN
            ARRAY['22023', format('backoff_cap %s is out of range', backoff_cap),
                  'Give an interval from 0 to 100 years.']
        WHEN octet_length(dedup_key) > 1000 THEN
            ARRAY['22023', format('dedup_key takes %s bytes, more than 1000', octet_length(dedup_key)),
                  'Use a digest of it instead.']
        WHEN on_duplicate NOT IN ('keep', 'replace', 'soonest', 'error') THEN
            ARRAY['22023', format('on_duplicate "%s" is unknown', left(on_duplicate, 200)),
                  'Use keep, replace, soonest or error.']
        WHEN jsonb_typeof(context) <> 'object' OR octet_length(context::text) > 8192 THEN
            ARRAY['22023', 'context is not an object of at most 8192 bytes',
                  'Pass a small JSON object, such as a trace to continue, or NULL.']
        WHEN NOT _pgq_is_name(group_key) THEN
            ARRAY['22023', format('group_key "%s" is not a name', left(group_key, 200)),
                  'Use 1 to 200 bytes without the character U+001F, or NULL for a job without a group.']
        WHEN NOT (dedup_for > interval '0' AND _pgq_is_in_range(dedup_for, at, '100 years')) THEN
            ARRAY['22023', format('dedup_for %s is out of range', dedup_for),
                  'Give an interval of more than 0 and at most 100 years, or NULL for no window.']
        WHEN dedup_for IS NOT NULL AND NOT dedup THEN
            ARRAY['22023', 'dedup_for is given, but dedup is false',
                  'Leave dedup out: a job without a signature has no duplicates.']
    END;

COMMENT ON FUNCTION _pgq_validate(
    text, jsonb, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb, text,
    interval, timestamptz
) IS
    'Check the values of a job to be enqueued. Returns SQLSTATE, message and hint of the first error, or NULL for a '
    'valid job.';

-- No planner settings: an INSERT of VALUES has one plan.
CREATE FUNCTION pgq_enqueue(
    kind text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    ripe_at timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL,
    priority bigint DEFAULT 5,
    max_retries bigint DEFAULT NULL,
    backoff interval DEFAULT NULL,
    backoff_cap interval DEFAULT NULL,
    dedup boolean DEFAULT true,
    dedup_key text DEFAULT NULL,
    on_duplicate text DEFAULT 'keep',
    context jsonb DEFAULT NULL,
    group_key text DEFAULT NULL,
    dedup_for interval DEFAULT NULL,
    after bigint[] DEFAULT NULL,
    after_failed text DEFAULT NULL,
    OUT id bigint,
    OUT created boolean
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_enqueue$
DECLARE
    v_now timestamptz := pgq_now();
    v_problem text[];
    v_group_id bigint;
    v_awake boolean;
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call

    IF _pgq_is_common(
        kind, args::text, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup, dedup_key,
        on_duplicate, context, group_key, dedup_for, after, after_failed
    ) IS NOT TRUE THEN
        IF _pgq_is_valid(
            kind, args::text, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup,
            dedup_key, on_duplicate, context, group_key, dedup_for, v_now
        ) IS NOT TRUE THEN
            v_problem := _pgq_validate(
                kind, args, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup, dedup_key,
                on_duplicate, context, group_key, dedup_for, v_now);
            RAISE EXCEPTION USING ERRCODE = v_problem[1], MESSAGE = v_problem[2], HINT = v_problem[3];
        END IF;
        ripe_at := coalesce(ripe_at, v_now + delay);
        priority := coalesce(priority, 5);
        dedup := coalesce(dedup, true);
        IF num_nonnulls(after, after_failed) > 0 THEN
            SELECT a.id, a.created INTO id, created
            FROM _pgq_enqueue_after(
                ROW(NULL, queue, kind, args, priority, coalesce(ripe_at, v_now), 0, max_retries, backoff, backoff_cap,
                    dedup, dedup_key, v_now, context, NULL, NULL, NULL, group_key, NULL)::pgq_waiting,
                after, after_failed, coalesce(on_duplicate, 'keep'), dedup_for IS NOT NULL) AS a;
            IF id IS NOT NULL THEN
                RETURN;
            END IF;
        END IF;
        IF dedup_for IS NOT NULL THEN
            SELECT o.id, o.created INTO id, created
            FROM _pgq_enqueue_once(
                kind, args, queue, ripe_at, priority, max_retries, backoff, backoff_cap, dedup_key, on_duplicate,
                context, group_key, dedup_for, v_now) AS o;
            RETURN;
        END IF;
        -- A mark costs look-ups only, so it may come before the check of the privilege, where the usual call passes by.
        IF group_key IS NOT NULL THEN
            v_group_id := _pgq_enter_group(queue, group_key, coalesce(ripe_at <= v_now, true));
        END IF;
    END IF;
    -- Whether _pgq_allowed_queues would return NULL or this queue among others, at half of its cost. Two statements,
    -- because PostgreSQL prepares an expression as a whole.
    IF NOT _pgq_acts_as_owner() THEN
        IF NOT EXISTS (
            SELECT
            FROM pgq_permission AS p
            WHERE p.privilege = 'producer'
              AND (p.queues IS NULL OR pgq_enqueue.queue = ANY (p.queues))
              AND pg_has_role(_pgq_calling_role(), p.role::oid, 'USAGE')
        ) THEN
            PERFORM _pgq_raise_denied(queue, 'producer');
        END IF;
    END IF;

    -- One pass, unless a worker claims the twin between the two statements: then the job is new after all.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id, signature
        )
        VALUES (
            nextval('pgq_job_id'), queue, kind, args, priority, coalesce(ripe_at, v_now), 0, max_retries, backoff,
            backoff_cap, dedup, dedup_key, v_now, context, NULL, NULL, group_key, v_group_id,
            CASE WHEN dedup THEN _pgq_signature(queue, kind, args, dedup_key) END
        )
        ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING
        RETURNING pgq_waiting.id INTO pgq_enqueue.id;

        IF FOUND THEN
            created := true;
            -- Assignments, because a PERFORM would cost one more statement; and the shorter one where it does.
            IF ripe_at IS NULL THEN
                v_awake := NOT _pgq_wake(queue);
            ELSIF _pgq_is_soon(ripe_at, v_now) THEN
                v_awake := NOT _pgq_wake(queue, (ripe_at <= v_now)::integer);
            END IF;
            RETURN;
        END IF;

        id := _pgq_resolve_duplicate(
            _pgq_signature(queue, kind, args, dedup_key), args, coalesce(ripe_at, v_now), priority, on_duplicate);
        IF id IS NOT NULL THEN
            IF on_duplicate = 'error' THEN
                RAISE EXCEPTION 'job % is waiting already with this signature', id
                    USING ERRCODE = 'PGQ04',
                          HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
            END IF;
            created := false;
            IF on_duplicate <> 'keep' AND _pgq_is_soon(coalesce(ripe_at, v_now), v_now) THEN
                v_awake := NOT _pgq_wake(queue, (coalesce(ripe_at, v_now) <= v_now)::integer);
            END IF;
            RETURN;
        END IF;
    END LOOP;
END
$pgq_enqueue$;

COMMENT ON FUNCTION pgq_enqueue(
    text, jsonb, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb, text,
    interval, bigint[], text
) IS
    'Enqueue a job in the transaction of the caller. Returns its id and created = true. If a job with the same queue, '
    'kind and dedup_key (or args, without a key) is already waiting, locks that job until the end of the transaction, '
    'and returns its id and created = false. on_duplicate then decides: keep leaves the waiting job as it is, so that '
    'one in backoff after a failure runs when that is over; replace gives it the new args, ripe_at and priority, '
    'soonest gives it the earlier ripe_at, error raises PGQ04. None of them changes its group, attempts and errors. '
    'With dedup false the job is always created, and no later job is a duplicate of it. '
    'dedup_for opens a window: a further enqueue with this argument, within that time after the first one, is a '
    'duplicate also of a job that runs or has ended, and returns the id of the first; on_duplicate then changes a job '
    'only if it waits. An enqueue without it does not look at windows. ripe_at or delay, not both, says when the job '
    'is ripe; priority 0 is claimed first, 9 last. context is a JSON object that the worker gets beside args, such as '
    'a trace to continue. group_key puts the job into a group of its queue. Neither of the two has a part in what '
    'makes duplicates. after names jobs that must be over before this one may be claimed: until then it is blocked. '
    'after_failed says what becomes of it if one of them is dead or cancelled, be it already now: cancel (the '
    'default) ends it as cancelled, run counts that job as over, wait keeps it blocked until that job has been '
    'retried and is done, or is purged, which cancels it. A job that is gone counts as done, and so does one in a '
    'queue that the calling role may use neither as producer nor as admin. A job is a duplicate of a blocked one only '
    'if both were enqueued after the same jobs, with the same after_failed; one that has a twin when it is unblocked '
    'merges into that. NULL or an empty array for after means none. NULL for group_key means no group. NULL for both '
    'ripe_at and delay means now. NULL for dedup_key means that args decide. NULL for max_retries, backoff or '
    'backoff_cap means what the queue has among its settings when the job is claimed (see pgq_configure), or else 10, '
    '1 minute and 1 hour. NULL for kind, args or queue raises 22004; any other NULL means the default. Raises 22023 '
    'or 22008 for a bad value, 22004 for a NULL in after, PGQ01 for an id in after that no enqueue has returned, '
    '54000 for args of more than 1 MiB as text, 42501 for a queue that the calling role may not use.';

CREATE FUNCTION _pgq_resolve_duplicate(
    signature uuid,
    args jsonb,
    ripe_at timestamptz,
    priority bigint,
    on_duplicate text
) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_resolve_duplicate$
DECLARE
    v_id bigint;
BEGIN
    IF on_duplicate = 'replace' THEN
        UPDATE pgq_waiting AS w
        SET args = _pgq_resolve_duplicate.args, ripe_at = _pgq_resolve_duplicate.ripe_at,
            priority = _pgq_resolve_duplicate.priority
        WHERE w.signature = _pgq_resolve_duplicate.signature;
    ELSIF on_duplicate = 'soonest' THEN
        UPDATE pgq_waiting AS w
        SET ripe_at = _pgq_resolve_duplicate.ripe_at
        WHERE w.signature = _pgq_resolve_duplicate.signature
          AND w.ripe_at > _pgq_resolve_duplicate.ripe_at;
    END IF;

    -- A claim skips locked rows: the twin starts after this transaction has committed, so that its handler sees what
    -- this transaction has written.
    SELECT w.id INTO v_id
    FROM pgq_waiting AS w
    WHERE w.signature = _pgq_resolve_duplicate.signature
    FOR KEY SHARE;
    RETURN v_id;
END
$_pgq_resolve_duplicate$;

COMMENT ON FUNCTION _pgq_resolve_duplicate(uuid, jsonb, timestamptz, bigint, text) IS
    'Do to a waiting job what on_duplicate asks for, and lock it until the end of the transaction. Returns its id, or '
    'NULL if no job is waiting any more with this signature.';

-- Several duplicates of one job amount to one change: that of the last "replace" and of each "soonest" after it.
CREATE FUNCTION _pgq_update_duplicates(jobs pgq_waiting[], policies text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_update_duplicates$
DECLARE
    v_change record;
BEGIN
    FOR v_change IN
        SELECT d.signature,
               bool_or(d.policy = 'replace') AS replaced,
               (array_agg(d.args) FILTER (WHERE d.n = d.last_replace))[1] AS args,
               min(d.priority) FILTER (WHERE d.n = d.last_replace) AS priority,
               min(d.ripe_at) FILTER (WHERE d.n >= coalesce(d.last_replace, 0)) AS ripe_at
        FROM (
            SELECT j.signature, j.args, j.ripe_at, j.priority, j.unnest AS policy, j.ordinality AS n,
                   max(j.ordinality) FILTER (WHERE j.unnest = 'replace') OVER (PARTITION BY j.signature) AS last_replace
            FROM ROWS FROM (unnest(jobs), unnest(policies)) WITH ORDINALITY AS j
            CROSS JOIN LATERAL (SELECT w.id FROM pgq_waiting AS w WHERE w.signature = j.signature OFFSET 0) AS twin
            WHERE j.unnest IN ('replace', 'soonest')
              AND j.id <> twin.id  -- a job that this call has inserted needs no change
        ) AS d
        GROUP BY d.signature
        ORDER BY d.signature
    LOOP
        UPDATE pgq_waiting AS w
        SET args = CASE WHEN v_change.replaced THEN v_change.args ELSE w.args END,
            priority = CASE WHEN v_change.replaced THEN v_change.priority ELSE w.priority END,
            ripe_at = v_change.ripe_at
        WHERE w.signature = v_change.signature
          AND (v_change.replaced OR w.ripe_at > v_change.ripe_at);
    END LOOP;
END
$_pgq_update_duplicates$;

COMMENT ON FUNCTION _pgq_update_duplicates(pgq_waiting[], text[]) IS
    'Update waiting jobs as their duplicates in an array ask for: with replace their args, priority and ripe_at, with '
    'soonest an earlier ripe_at. Returns nothing.';

CREATE FUNCTION _pgq_resolve_duplicates(jobs pgq_waiting[], policies text[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_resolve_duplicates$
DECLARE
    v_ids bigint[];
    v_complete boolean;
BEGIN
    LOOP
        IF policies && '{replace,soonest}' THEN
            PERFORM _pgq_update_duplicates(jobs, policies);
        END IF;

        -- As in pgq_enqueue, the lock keeps each twin from starting before this transaction has committed.
        SELECT array_agg(coalesce(twin.id, j.id) ORDER BY j.ordinality),
               bool_and(twin.id IS NOT NULL OR NOT j.dedup)
        INTO v_ids, v_complete
        FROM (
            SELECT d.id, d.dedup, d.signature, d.ordinality
            FROM unnest(jobs) WITH ORDINALITY AS d
            ORDER BY d.signature
        ) AS j
        LEFT JOIN LATERAL (
            SELECT w.id FROM pgq_waiting AS w WHERE w.signature = j.signature FOR KEY SHARE
        ) AS twin ON true;
        IF v_complete THEN
            RETURN v_ids;
        END IF;

        -- A worker has claimed a twin before it could be locked: its duplicate is a new job after all.
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id, signature
        )
        SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, j.max_retries, j.backoff, j.backoff_cap,
               j.dedup, j.dedup_key, j.enqueued_at, j.context, j.losses, j.newest_error, j.group_key, j.group_id,
               j.signature
        FROM unnest(jobs) AS j
        WHERE j.dedup
        ORDER BY j.signature, j.id
        ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING;
    END LOOP;
END
$_pgq_resolve_duplicates$;

COMMENT ON FUNCTION _pgq_resolve_duplicates(pgq_waiting[], text[]) IS
    'Handle the duplicates of an array whose other jobs were inserted: apply on_duplicate to their twins, and lock '
    'these until the end of the transaction. Returns for each job of the array, in order, the id of the waiting job: '
    'its own or that of its twin.';

CREATE FUNCTION _pgq_check_jobs(jobs jsonb) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_jobs$
DECLARE
    c_types CONSTANT jsonb := '{
        "kind": "string", "args": "any", "queue": "string", "ripe_at": "string", "delay": "string",
        "priority": "number", "max_retries": "number", "backoff": "string", "backoff_cap": "string",
        "dedup": "boolean", "dedup_key": "string", "on_duplicate": "string", "context": "object",
        "group_key": "string", "dedup_for": "string", "after": "array", "after_failed": "string"
    }';
    v_plain boolean := CASE WHEN jsonb_typeof(jobs) = 'array' THEN (
        SELECT bool_and(
            CASE WHEN jsonb_typeof(j.item) = 'object' THEN
                j.item - '{kind,args,queue,dedup,dedup_key}'::text[] = '{}'
                AND coalesce(jsonb_typeof(j.item -> 'kind'), 'string') = 'string'
                AND coalesce(jsonb_typeof(j.item -> 'queue'), 'string') = 'string'
                AND coalesce(jsonb_typeof(j.item -> 'dedup'), 'boolean') = 'boolean'
                AND coalesce(jsonb_typeof(j.item -> 'dedup_key'), 'string') = 'string'
            ELSE
                false
            END)
        FROM jsonb_array_elements(jobs) AS j (item)
    ) END;
    v_n bigint;
    v_key text;
    v_type text;
BEGIN
    -- Most arrays have no other keys. What follows takes four times as long.
    IF v_plain THEN
        RETURN true;
    END IF;

    IF jobs IS NULL THEN
        RAISE EXCEPTION 'jobs is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass a JSON array of objects, empty if there is nothing to enqueue.';
    END IF;
    IF jsonb_typeof(jobs) <> 'array' THEN
        RAISE EXCEPTION 'jobs is not an array but of JSON type %', jsonb_typeof(jobs)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass a JSON array of objects, each with the arguments of pgq_enqueue as its keys.';
    END IF;

    SELECT j.n INTO v_n
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    WHERE jsonb_typeof(j.item) <> 'object'
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array is not an object', v_n
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Make each element an object such as {"kind": "mail", "args": {"to": "ann"}}.';
    END IF;

    SELECT j.n, e.key, c_types ->> e.key INTO v_n, v_key, v_type
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    CROSS JOIN LATERAL jsonb_each(j.item) AS e
    WHERE (c_types ->> e.key IN (jsonb_typeof(e.value), 'any') OR jsonb_typeof(e.value) = 'null' AND c_types ? e.key)
          IS NOT TRUE
    LIMIT 1;
    IF FOUND AND v_type IS NULL THEN
        RAISE EXCEPTION 'job % of the array has an unknown key "%"', v_n, left(v_key, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format(
                      'Use only the keys %s.', (SELECT string_agg(k, ', ') FROM jsonb_object_keys(c_types) AS k));
    ELSIF FOUND THEN
        RAISE EXCEPTION 'job % of the array: % is not of JSON type %', v_n, v_key, v_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give times and intervals as strings, priority and max_retries as numbers, dedup as boolean, '
                         'after as an array.';
    END IF;
    RETURN false;
END
$_pgq_check_jobs$;

COMMENT ON FUNCTION _pgq_check_jobs(jsonb) IS
    'Check that an array for pgq_enqueue_many holds objects with known keys, each of the right JSON type. Returns '
    'true if none has other keys than kind, args, queue, dedup and dedup_key, false if some may. Raises 22004 for '
    'NULL, 22023 otherwise.';

CREATE FUNCTION _pgq_raise_invalid(
    n bigint,
    kind text,
    args jsonb,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    at timestamptz
) RETURNS boolean
    LANGUAGE plpgsql
    STABLE
    SET search_path FROM CURRENT
AS $_pgq_raise_invalid$
DECLARE
    v_problem CONSTANT text[] := _pgq_validate(
        kind, args, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup, dedup_key,
        on_duplicate, context, group_key, dedup_for, at);
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = v_problem[1],
        MESSAGE = format('job %s of the array: %s', n, v_problem[2]),
        HINT = v_problem[3];
END
$_pgq_raise_invalid$;

COMMENT ON FUNCTION _pgq_raise_invalid(
    bigint, text, jsonb, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb,
    text, interval, timestamptz
) IS
    'Raise the error for a job of an array that may not be enqueued, with its number. Never returns.';

-- STABLE and without a search path of its own, so that PostgreSQL inlines it, and computes only those columns that are
-- used. The JSON null is a value for args; for any other key it means the default, as if the key were absent. In a
-- record both are NULL, so args that are NULL are looked up again.
CREATE FUNCTION _pgq_parse_jobs(jobs jsonb, at timestamptz, ordered text[]) RETURNS TABLE (
    n bigint,
    kind text,
    args jsonb,
    args_as_text text,
    queue text,
    ripe_at timestamptz,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    group_id bigint,
    dedup_for interval,
    valid boolean
)
    LANGUAGE sql
    STABLE
BEGIN ATOMIC
    SELECT j.n, j.kind, j.args, j.args_as_text, j.queue, coalesce(j.ripe_at, at + j.delay, at), j.priority,
           j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context, j.group_key,
           CASE
               WHEN j.group_key IS NULL THEN NULL
               WHEN coalesce(j.ripe_at, at + j.delay, at) <= at OR j.queue = ANY (ordered)
                   THEN _pgq_group_id(j.group_key)
               ELSE _pgq_room()
           END,
           j.dedup_for,
           CASE
               WHEN _pgq_is_common(j.kind, j.args_as_text, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries,
                                   j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context,
                                   j.group_key, j.dedup_for, NULL, NULL)
                    OR _pgq_is_valid(j.kind, j.args_as_text, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries,
                                     j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context,
                                     j.group_key, j.dedup_for, at)
                   THEN true
               ELSE _pgq_raise_invalid(j.n, j.kind, j.args, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries,
                                       j.backoff, j.backoff_cap, j.dedup, j.dedup_key, j.on_duplicate, j.context,
                                       j.group_key, j.dedup_for, at)
           END
    FROM (
        SELECT p.*, p.args::text AS args_as_text
        FROM (
            SELECT r.n, r.kind, coalesce(r.args, jobs -> (r.n - 1)::integer -> 'args', '{}') AS args,
                   coalesce(r.queue, 'default') AS queue, r.ripe_at, r.delay, coalesce(r.priority, 5) AS priority,
                   r.max_retries, r.backoff, r.backoff_cap, coalesce(r.dedup, true) AS dedup, r.dedup_key,
                   coalesce(r.on_duplicate, 'keep') AS on_duplicate, r.context, r.group_key, r.dedup_for
            FROM ROWS FROM (
                jsonb_to_recordset(jobs) AS (
                    kind text, args jsonb, queue text, ripe_at timestamptz, delay interval, priority bigint,
                    max_retries bigint, backoff interval, backoff_cap interval, dedup boolean, dedup_key text,
                    on_duplicate text, context jsonb, group_key text, dedup_for interval)
            ) WITH ORDINALITY AS r (
                kind, args, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup, dedup_key,
                on_duplicate, context, group_key, dedup_for, n)
        ) AS p
        OFFSET 0  -- without it, PostgreSQL merges the subquery into the query around it, and converts args at each use
    ) AS j;
END;

COMMENT ON FUNCTION _pgq_parse_jobs(jsonb, timestamptz, text[]) IS
    'Return the jobs of an array as rows, with the defaults of pgq_enqueue filled in; n counts from 1. ordered has the '
    'ordered queues, which decide group_id. valid is always true: for a job that may not be enqueued at a time, '
    'reading it raises the error.';

CREATE OR REPLACE FUNCTION pgq_enqueue_many(jobs jsonb) RETURNS TABLE (n bigint, id bigint, created boolean)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_enqueue_many$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('producer');
    v_is_plain boolean;
    v_ordered text[] := '{}';
    v_ids bigint[];
    v_left bigint;
    v_dedup boolean;
    v_queues text[];
    v_grouped text[];
    v_queue text;
    v_n bigint;
    v_jobs pgq_waiting[];
    v_policies text[];
    v_waiting bigint[];
BEGIN
    v_is_plain := _pgq_check_jobs(jobs);
    IF v_allowed IS NOT NULL THEN
        SELECT coalesce(j.item ->> 'queue', 'default') INTO v_queue
        FROM jsonb_array_elements(jobs) AS j (item)
        WHERE coalesce(j.item ->> 'queue', 'default') <> ALL (v_allowed)
        LIMIT 1;
        IF FOUND THEN
            PERFORM _pgq_raise_denied(v_queue, 'producer');
        END IF;
    END IF;
    IF NOT v_is_plain THEN
        IF EXISTS (
            SELECT
            FROM jsonb_array_elements(jobs) AS j (item)
            WHERE num_nonnulls(j.item ->> 'after', j.item ->> 'after_failed') > 0
        ) THEN
            RETURN QUERY SELECT g.n, g.id, g.created FROM _pgq_enqueue_graph(jobs, v_now) AS g ORDER BY g.n;
            RETURN;
        END IF;
        IF jsonb_path_exists(jobs, '$[*].dedup_for ? (@ != null)') THEN
            RETURN QUERY SELECT e.n, e.id, e.created FROM _pgq_enqueue_each(jobs, v_now) AS e ORDER BY e.n;
            RETURN;
        END IF;
        v_ordered := _pgq_enter_groups(jobs);
    END IF;
    v_left := jsonb_array_length(jobs);
    v_ids := ARRAY(SELECT nextval('pgq_job_id') FROM generate_series(1, v_left));
    -- The jobs of an array are mostly alike: one INSERT does it, that which takes the first job. Each of the two checks
    -- all jobs. The one that may wait for the transaction of a twin sorts its jobs, so it has checked all of them
    -- before it inserts the first: no bad array waits.
    v_dedup := coalesce((jobs -> 0 ->> 'dedup')::boolean, true);
    FOREACH v_dedup IN ARRAY ARRAY[v_dedup, NOT v_dedup] LOOP
        EXIT WHEN v_left = 0;
        IF v_dedup THEN
            WITH added AS (
                INSERT INTO pgq_waiting (
                    id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup,
                    dedup_key, enqueued_at, context, losses, newest_error, group_key, group_id, signature
                )
                SELECT v_ids[j.n], j.queue, j.kind, j.args, j.priority, j.ripe_at, 0, j.max_retries, j.backoff,
                       j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context, NULL, NULL, j.group_key, j.group_id,
                       _pgq_signature(j.queue, j.kind, j.args, j.dedup_key)
                FROM _pgq_parse_jobs(jobs, v_now, v_ordered) AS j
                WHERE CASE WHEN j.valid THEN j.dedup END
                ORDER BY hashtextextended(coalesce(j.dedup_key, j.args_as_text), 0), j.kind COLLATE "C",
                         j.queue COLLATE "C", j.n
                ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING
                RETURNING queue, ripe_at, group_key
            )
            SELECT v_left - count(*),
                   v_queues || array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE _pgq_is_soon(a.ripe_at, v_now)),
                   v_grouped || array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE a.group_key IS NOT NULL)
            INTO v_left, v_queues, v_grouped
            FROM added AS a;
        ELSE
            -- Without a signature a job meets no twin. ON CONFLICT would cost a fifth of the INSERT.
            WITH added AS (
                INSERT INTO pgq_waiting (
                    id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup,
                    dedup_key, enqueued_at, context, losses, newest_error, group_key, group_id, signature
                )
                SELECT v_ids[j.n], j.queue, j.kind, j.args, j.priority, j.ripe_at, 0, j.max_retries, j.backoff,
                       j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context, NULL, NULL, j.group_key, j.group_id,
                       NULL
                FROM _pgq_parse_jobs(jobs, v_now, v_ordered) AS j
                WHERE CASE WHEN j.valid THEN NOT j.dedup END
                RETURNING queue, ripe_at, group_key
            )
            SELECT v_left - count(*),
                   v_queues || array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE _pgq_is_soon(a.ripe_at, v_now)),
                   v_grouped || array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE a.group_key IS NOT NULL)
            INTO v_left, v_queues, v_grouped
            FROM added AS a;
        END IF;
    END LOOP;

    IF v_left > 0 THEN
        -- A duplicate may wake a session, too, and become a job after all.
        SELECT array_agg(ROW(
                   v_ids[j.n], j.queue, j.kind, j.args, j.priority, j.ripe_at, 0, j.max_retries, j.backoff,
                   j.backoff_cap, j.dedup, j.dedup_key, v_now, j.context,
                   CASE WHEN j.dedup THEN _pgq_signature(j.queue, j.kind, j.args, j.dedup_key) END,
                   NULL, NULL, j.group_key, j.group_id
               )::pgq_waiting ORDER BY j.n),
               array_agg(j.on_duplicate ORDER BY j.n),
               array_agg(j.queue) FILTER (WHERE _pgq_is_soon(j.ripe_at, v_now)),
               array_agg(j.queue) FILTER (WHERE j.group_key IS NOT NULL)
        INTO v_jobs, v_policies, v_queues, v_grouped
        FROM _pgq_parse_jobs(jobs, v_now, v_ordered) AS j;
    END IF;
    -- Not too late: no other session sees the jobs yet.
    FOR v_queue IN SELECT DISTINCT q FROM unnest(v_grouped) AS q LOOP
        PERFORM _pgq_mark(v_queue);
    END LOOP;
    FOR v_queue IN SELECT DISTINCT q FROM unnest(v_queues) AS q LOOP
        -- Counted only where a session may sleep.
        PERFORM _pgq_wake(v_queue, (
            SELECT count(*)
            FROM _pgq_parse_jobs(jobs, v_now, v_ordered) AS j
            WHERE j.queue = v_queue AND j.ripe_at <= v_now));
    END LOOP;
    IF v_left = 0 THEN
        RETURN QUERY SELECT j.n, j.id, true FROM unnest(v_ids) WITH ORDINALITY AS j (id, n);
        RETURN;
    END IF;

    v_waiting := _pgq_resolve_duplicates(v_jobs, v_policies);

    SELECT j.n INTO v_n
    FROM ROWS FROM (unnest(v_ids), unnest(v_policies), unnest(v_waiting)) WITH ORDINALITY AS j (id, policy, waiting, n)
    WHERE j.policy = 'error' AND j.waiting <> j.id
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array: job % is waiting already with this signature', v_n, v_waiting[v_n]
            USING ERRCODE = 'PGQ04',
                  HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
    END IF;

    RETURN QUERY
    SELECT j.n, j.waiting, j.waiting = j.id
    FROM ROWS FROM (unnest(v_ids), unnest(v_waiting)) WITH ORDINALITY AS j (id, waiting, n);
END
$pgq_enqueue_many$;

COMMENT ON FUNCTION pgq_enqueue_many(jsonb) IS
    'Enqueue an array of jobs in the transaction of the caller, all or none. Each element is an object whose keys are '
    'arguments of pgq_enqueue; kinds and queues may differ. A key that is JSON null counts as absent, but for args it '
    'is a value. after is an array of ids, and of positions of earlier jobs in this array: "#1" is the first. Returns '
    'a row for each job, in order: n (from 1), id and created, as pgq_enqueue returns them. NULL for jobs raises '
    '22004. Raises what pgq_enqueue raises, and 22023 if jobs is not an array of objects with these keys, each of the '
    'right JSON type; the message has the number of the job. Raises 42501 and PGQ01 without that number, and 22007, '
    '22008, 22003 or 22P02 for a value that PostgreSQL cannot read as a time, interval or integer.';

CREATE FUNCTION _pgq_enqueue_cancelled(job pgq_waiting, cause bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enqueue_cancelled$
BEGIN
    INSERT INTO pgq_error (id, number, attempt, at, error)
    VALUES (job.id, 1, 0, job.enqueued_at,
            format('job %s, after which this one was to run, is dead or cancelled', cause));
    job.newest_error := 1;
    PERFORM _pgq_cancel_waiting(job, job.enqueued_at);
END
$_pgq_enqueue_cancelled$;

COMMENT ON FUNCTION _pgq_enqueue_cancelled(pgq_waiting, bigint) IS
    'Enqueue a job as cancelled, because one that it was to run after is dead or cancelled. Returns nothing.';

-- The lock on the table keeps _pgq_reset_needed away until the end of the transaction.
CREATE FUNCTION _pgq_enter_needs() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enter_needs$
BEGIN
    LOCK TABLE pgq_need IN ROW EXCLUSIVE MODE;
    IF NOT _pgq_has_needs() THEN
        PERFORM setval('pgq_needed', 1);
    END IF;
    IF NOT _pgq_is_awaited() THEN
        PERFORM setval('pgq_awaited', 1);
    END IF;
END
$_pgq_enter_needs$;

COMMENT ON FUNCTION _pgq_enter_needs() IS
    'Let what ends a job look for those that wait for it, before this transaction looks at prerequisites and enqueues '
    'a blocked job. Returns nothing.';

CREATE FUNCTION _pgq_enqueue_after(
    job pgq_waiting,
    after bigint[],
    after_failed text,
    on_duplicate text,
    with_window boolean,
    OUT id bigint,
    OUT created boolean
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_enqueue_after$
DECLARE
    v_ids CONSTANT bigint[] := ARRAY(SELECT DISTINCT a.id FROM unnest(after) AS a (id) ORDER BY a.id);
    v_failed CONSTANT text := coalesce(after_failed, 'cancel');
    v_allowed text[] := _pgq_allowed_queues('producer');
    v_found record;
    v_needs bigint[];
BEGIN
    IF job.queue <> ALL (v_allowed) THEN
        PERFORM _pgq_raise_denied(job.queue, 'producer');
    END IF;
    PERFORM _pgq_check_after(after, after_failed);
    IF v_ids = '{}' THEN
        RETURN;
    END IF;
    IF with_window THEN
        RAISE EXCEPTION 'both after and dedup_for are given'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Leave dedup_for out: a window begins when a job is enqueued, and this one may run much '
                         'later.';
    END IF;
    v_allowed := _pgq_named_queues();

    PERFORM _pgq_enter_needs();
    IF job.dedup THEN
        job.signature := _pgq_blocked_signature(
            _pgq_signature(job.queue, job.kind, job.args, job.dedup_key), v_ids, v_failed);
    END IF;
    -- One pass, unless the twin goes to pgq_waiting or is cancelled between the two statements.
    LOOP
        v_found := _pgq_prerequisites(v_ids, v_allowed);
        v_needs := v_found.living || CASE WHEN v_failed = 'wait' THEN v_found.failed ELSE '{}' END;
        IF v_failed = 'cancel' AND v_found.failed <> '{}' THEN
            job.id := nextval('pgq_job_id');
            PERFORM _pgq_enqueue_cancelled(job, (SELECT min(f) FROM unnest(v_found.failed) AS f));
            id := job.id;
            created := true;
            RETURN;
        ELSIF v_needs = '{}' THEN
            RETURN;
        END IF;

        INSERT INTO pgq_blocked (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id, signature, after_failed
        )
        VALUES (
            nextval('pgq_job_id'), job.queue, job.kind, job.args, job.priority, job.ripe_at, 0, job.max_retries,
            job.backoff, job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, job.context, NULL, NULL,
            job.group_key, NULL, job.signature, v_failed
        )
        ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING
        RETURNING pgq_blocked.id INTO _pgq_enqueue_after.id;
        IF FOUND THEN
            INSERT INTO pgq_need (job, needs) SELECT _pgq_enqueue_after.id, n FROM unnest(v_needs) AS n;
            -- A mark costs look-ups only.
            IF job.group_key IS NOT NULL THEN
                PERFORM _pgq_mark(job.queue);
            END IF;
            created := true;
            RETURN;
        END IF;

        IF on_duplicate IN ('replace', 'soonest') THEN
            UPDATE pgq_blocked AS b
            SET args = CASE on_duplicate WHEN 'replace' THEN job.args ELSE b.args END,
                priority = CASE on_duplicate WHEN 'replace' THEN job.priority ELSE b.priority END,
                ripe_at = CASE on_duplicate WHEN 'replace' THEN job.ripe_at ELSE least(b.ripe_at, job.ripe_at) END
            WHERE b.signature = job.signature;
        END IF;
        -- The twin is not unblocked before this transaction has ended: its handler sees what this one has written.
        SELECT b.id INTO id FROM pgq_blocked AS b WHERE b.signature = job.signature FOR KEY SHARE;
        IF FOUND THEN
            IF on_duplicate = 'error' THEN
                RAISE EXCEPTION 'job % is blocked already with this signature', id
                    USING ERRCODE = 'PGQ04',
                          HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
            END IF;
            created := false;
            RETURN;
        END IF;
    END LOOP;
END
$_pgq_enqueue_after$;

COMMENT ON FUNCTION _pgq_enqueue_after(pgq_waiting, bigint[], text, text, boolean) IS
    'Do what pgq_enqueue does with the argument after. Returns NULL for the id if none of these jobs is to be waited '
    'for: the caller then enqueues the job as any other.';

CREATE FUNCTION _pgq_check_after(after bigint[], after_failed text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_after$
DECLARE
    v_last bigint := coalesce(pg_sequence_last_value('pgq_job_id'), 0);
    v_id bigint;
BEGIN
    IF after_failed NOT IN ('cancel', 'run', 'wait') THEN
        RAISE EXCEPTION 'after_failed "%" is unknown', left(after_failed, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use cancel, run or wait.';
    END IF;
    SELECT a.id INTO v_id FROM unnest(after) AS a (id) WHERE (a.id BETWEEN 1 AND v_last) IS NOT TRUE LIMIT 1;
    IF FOUND AND v_id IS NULL THEN
        RAISE EXCEPTION 'one of the ids in after is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give the id of each job, or leave the argument out for a job that waits for none.';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'there has been no job %', v_id
            USING ERRCODE = 'PGQ01',
                  HINT = 'Give ids that an enqueue has returned.';
    END IF;
END
$_pgq_check_after$;

COMMENT ON FUNCTION _pgq_check_after(bigint[], text) IS
    'Check the arguments after and after_failed of pgq_enqueue. Returns nothing. Raises what pgq_enqueue does for '
    'them.';

-- Two statements, because the search in packed batches reads all of them, and few jobs are in one. A job in neither is
-- over: it was completed without a result, has merged, or was purged.
CREATE FUNCTION _pgq_prerequisites(ids bigint[], allowed text[], OUT living bigint[], OUT failed bigint[])
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_prerequisites$
DECLARE
    v_found integer;
BEGIN
    FOR v_try IN 1..2 LOOP
        SELECT count(*), coalesce(array_agg(j.id) FILTER (WHERE j.lives), '{}'),
               coalesce(array_agg(j.id) FILTER (WHERE NOT j.lives), '{}')
        INTO v_found, living, failed
        FROM (
            SELECT w.id, w.queue, true AS lives FROM pgq_waiting AS w WHERE w.id = ANY (ids)
            UNION ALL
            SELECT b.id, b.queue, true FROM pgq_blocked AS b WHERE b.id = ANY (ids)
            UNION ALL
            SELECT e.id, e.queue, false
            FROM pgq_ended AS e
            WHERE e.id = ANY (ids) AND e.outcome IN ('dead', 'cancelled')
            UNION ALL
            SELECT r.id, r.queue, true FROM _pgq_running AS r WHERE v_try = 2 AND r.id = ANY (ids)
        ) AS j
        WHERE allowed IS NULL OR j.queue = ANY (allowed);
        EXIT WHEN v_found = cardinality(ids);
    END LOOP;
END
$_pgq_prerequisites$;

COMMENT ON FUNCTION _pgq_prerequisites(bigint[], text[]) IS
    'Return which of these jobs have not ended, and which are dead or cancelled, as far as they are in one of the '
    'allowed queues, or any if these are NULL.';

CREATE FUNCTION _pgq_named_queues() RETURNS text[]
    LANGUAGE plpgsql
    STABLE
    SET search_path FROM CURRENT
AS $_pgq_named_queues$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('producer');
    v_as_admin text[];
BEGIN
    IF v_allowed IS NOT NULL THEN
        v_as_admin := _pgq_allowed_queues('admin');
    END IF;
    RETURN CASE WHEN v_as_admin IS NOT NULL THEN v_allowed || v_as_admin END;
END
$_pgq_named_queues$;

COMMENT ON FUNCTION _pgq_named_queues() IS
    'Return the queues whose jobs the calling role may name in after, or send signals to, as producer or as admin; '
    'NULL: all.';

-- An expression, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_blocked_signature(signature uuid, after bigint[], after_failed text) RETURNS uuid
    LANGUAGE sql
    STABLE
    RETURN md5(signature || after_failed || after::text)::uuid;

COMMENT ON FUNCTION _pgq_blocked_signature(uuid, bigint[], text) IS
    'Return what makes two blocked jobs twins: the MD5 over the signature of each as a waiting job, the different ids '
    'after which it was enqueued, in order, and after_failed.';

-- The first look takes no lock, so duplicates do not wait for each other. Where it finds no window, another session may
-- be about to open one: the INSERT waits for it.
CREATE FUNCTION _pgq_enqueue_once(
    kind text,
    args jsonb,
    queue text,
    ripe_at timestamptz,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    at timestamptz,
    OUT id bigint,
    OUT created boolean
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_enqueue_once$
DECLARE
    v_signature uuid := _pgq_signature(queue, kind, args, dedup_key);
    v_waiting bigint;
    v_until timestamptz;
BEGIN
    IF queue <> ALL (_pgq_allowed_queues('producer')) THEN
        PERFORM _pgq_raise_denied(queue, 'producer');
    END IF;

    SELECT s.id, s.until INTO id, v_until FROM pgq_seen AS s WHERE s.signature = v_signature AND s.until > at;
    IF NOT FOUND THEN
        INSERT INTO pgq_seen AS s (signature, until)
        VALUES (v_signature, at + dedup_for)
        ON CONFLICT ON CONSTRAINT pgq_seen_pkey DO UPDATE SET until = excluded.until
        WHERE s.until <= at;
        IF FOUND THEN
            SELECT e.id, e.created INTO id, created
            FROM pgq_enqueue(
                kind, args, queue, ripe_at, NULL, priority, max_retries, backoff, backoff_cap, true, dedup_key,
                on_duplicate, context, group_key) AS e;
            UPDATE pgq_seen AS s SET id = _pgq_enqueue_once.id WHERE s.signature = v_signature;
            RETURN;
        END IF;
        SELECT s.id, s.until INTO id, v_until FROM pgq_seen AS s WHERE s.signature = v_signature;
    END IF;

    -- A job that waits is the duplicate, as without a window: it may be another one than the first.
    v_waiting := _pgq_resolve_duplicate(v_signature, args, coalesce(ripe_at, at), priority, on_duplicate);
    id := coalesce(v_waiting, id);
    IF on_duplicate = 'error' THEN
        RAISE EXCEPTION 'job % has been enqueued with this signature, in a window until %', id, v_until
            USING ERRCODE = 'PGQ04',
                  HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
    END IF;
    created := false;
    IF v_waiting IS NOT NULL AND on_duplicate <> 'keep' AND _pgq_is_soon(coalesce(ripe_at, at), at) THEN
        PERFORM _pgq_wake(queue, (coalesce(ripe_at, at) <= at)::integer);
    END IF;
END
$_pgq_enqueue_once$;

COMMENT ON FUNCTION _pgq_enqueue_once(
    text, jsonb, text, timestamptz, bigint, bigint, interval, interval, text, text, jsonb, text, interval, timestamptz
) IS
    'Do what pgq_enqueue does with the argument dedup_for, at a time. Returns the id of the job, or that of the first '
    'one in the window, and whether the job was created.';

-- Not the same ids in another order: the UPDATE would meet those that it has not changed yet.
CREATE FUNCTION _pgq_draw_ids(ids bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_draw_ids$
DECLARE
    v_new bigint[] := ARRAY(SELECT nextval('pgq_job_id') FROM generate_series(1, cardinality(ids)));
BEGIN
    WITH moved AS (
        UPDATE pgq_waiting AS w
        SET id = d.new
        FROM unnest(ids, v_new) AS d (old, new)
        WHERE w.id = d.old
        RETURNING w.id, w.signature, d.old
    )
    UPDATE pgq_seen AS s
    SET id = m.id
    FROM moved AS m
    WHERE s.signature = m.signature AND s.id = m.old;
    RETURN v_new;
END
$_pgq_draw_ids$;

COMMENT ON FUNCTION _pgq_draw_ids(bigint[]) IS
    'Give jobs that this transaction has enqueued new ids, which grow in the order of the array, also in the windows '
    'that they have opened. Returns the new ids.';

-- In the order in which pgq_enqueue_many inserts, so that two calls do not deadlock. In an ordered queue the ids say in
-- which order jobs run, so there they are drawn anew, in the order of the array.
CREATE FUNCTION _pgq_enqueue_each(jobs jsonb, at timestamptz) RETURNS TABLE (n bigint, id bigint, created boolean)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enqueue_each$
#variable_conflict use_column
DECLARE
    v_ordered text[] := ARRAY(SELECT s.queue FROM pgq_queue_setting AS s WHERE s.ordered);
    v_job record;
    v_old bigint[] := '{}';
    v_ns bigint[] := '{}';
    v_ids bigint[] := '{}';
    v_created boolean[] := '{}';
BEGIN
    -- The sort reads all jobs first, so no bad array enqueues any.
    FOR v_job IN
        SELECT p.*
        FROM _pgq_parse_jobs(jobs, at, v_ordered) AS p
        WHERE p.valid
        ORDER BY hashtextextended(coalesce(p.dedup_key, p.args_as_text), 0), p.kind COLLATE "C",
                 p.queue COLLATE "C", p.n
    LOOP
        n := v_job.n;
        SELECT e.id, e.created INTO id, created
        FROM pgq_enqueue(
            v_job.kind, v_job.args, v_job.queue, v_job.ripe_at, NULL, v_job.priority, v_job.max_retries,
            v_job.backoff, v_job.backoff_cap, v_job.dedup, v_job.dedup_key,
            CASE v_job.on_duplicate WHEN 'error' THEN 'keep' ELSE v_job.on_duplicate END, v_job.context,
            v_job.group_key, v_job.dedup_for) AS e;
        IF NOT created AND v_job.on_duplicate = 'error' THEN
            RAISE EXCEPTION 'job % of the array: job % has been enqueued with this signature', n, id
                USING ERRCODE = 'PGQ04',
                      HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
        END IF;
        v_ns := v_ns || n;
        v_ids := v_ids || id;
        v_created := v_created || created;
        IF created AND v_job.group_key IS NOT NULL AND v_job.queue = ANY (v_ordered) THEN
            v_old := v_old || id;
        END IF;
    END LOOP;

    v_old := ARRAY(
        SELECT r.id
        FROM unnest(v_ns, v_ids, v_created) AS r (n, id, created)
        WHERE r.created AND r.id = ANY (v_old)
        ORDER BY r.n);
    RETURN QUERY
    SELECT r.n, coalesce(d.new, r.id), r.created
    FROM unnest(v_ns, v_ids, v_created) AS r (n, id, created)
    LEFT JOIN unnest(v_old, CASE WHEN v_old <> '{}' THEN _pgq_draw_ids(v_old) END) AS d (old, new) ON d.old = r.id;
END
$_pgq_enqueue_each$;

COMMENT ON FUNCTION _pgq_enqueue_each(jsonb, timestamptz) IS
    'Do what pgq_enqueue_many does, for an array in which a job has the key dedup_for: call pgq_enqueue for each. '
    'Returns the rows in any order.';

-- STABLE and without a search path of its own, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_named_ids(after jsonb, ids bigint[]) RETURNS TABLE (id bigint)
    LANGUAGE sql
    STABLE
BEGIN ATOMIC
    SELECT CASE jsonb_typeof(r.reference)
               WHEN 'number' THEN r.reference::bigint
               ELSE ids[substr(r.reference #>> '{}', 2)::integer]
           END
    FROM jsonb_array_elements(after) AS r (reference);
END;

COMMENT ON FUNCTION _pgq_named_ids(jsonb, bigint[]) IS
    'Return the ids that a job of an array names under the key after; ids are those of the jobs of the array, by their '
    'positions.';

-- A set only if nothing depends on the order: no job may be a duplicate of another one, which would change what the jobs
-- after it wait for, and each must be blocked. A job after one that this call has created can have a twin only in the
-- array.
CREATE FUNCTION _pgq_enqueue_blocked(jobs jsonb, at timestamptz, ids bigint[], old bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_enqueue_blocked$
DECLARE
    v_last CONSTANT bigint := coalesce(pg_sequence_last_value('pgq_job_id'), 0);
    v_all CONSTANT bigint[] := ARRAY(SELECT coalesce(i, nextval('pgq_job_id')) FROM unnest(ids) AS i);
    v_old bigint[];
    v_found record;
    v_left bigint;
    v_grouped text[];
    v_queue text;
BEGIN
    IF jsonb_path_exists(jobs, '$[*] ? (@.dedup_for != null && @.after.type() == "array" && @.after.size() > 0)') THEN
        RETURN NULL;
    END IF;
    v_old := ARRAY(
        SELECT DISTINCT o.id
        FROM (
            SELECT r.reference::bigint AS id
            FROM jsonb_path_query(jobs, '$[*].after[*] ? (@.type() == "number")') AS r (reference)
            UNION ALL
            SELECT u FROM unnest(old) AS u
        ) AS o);
    IF EXISTS (SELECT FROM unnest(v_old) AS o (id) WHERE o.id NOT BETWEEN 1 AND v_last) THEN
        RETURN NULL;
    END IF;
    PERFORM _pgq_enter_needs();
    v_found := _pgq_prerequisites(v_old, _pgq_named_queues());
    IF cardinality(v_found.living) < cardinality(v_old) THEN
        RETURN NULL;
    END IF;
    v_left := array_length(ids, 1) - num_nonnulls(VARIADIC ids);

    BEGIN
        WITH graph AS MATERIALIZED (
            SELECT v_all[p.n] AS id, p.n, p.queue, p.kind, p.args, p.priority, p.ripe_at, p.max_retries, p.backoff,
                   p.backoff_cap, p.dedup, p.dedup_key, p.context, p.group_key, a.after, f.after_failed,
                   CASE
                       WHEN p.dedup THEN _pgq_blocked_signature(
                           _pgq_signature(p.queue, p.kind, p.args, p.dedup_key), a.after, f.after_failed)
                   END AS signature
            FROM _pgq_parse_jobs(jobs, at, '{}') AS p
            CROSS JOIN LATERAL (SELECT jobs -> (p.n - 1)::integer OFFSET 0) AS o (item)
            CROSS JOIN LATERAL (
                SELECT ARRAY(SELECT DISTINCT r.id FROM _pgq_named_ids(o.item -> 'after', v_all) AS r ORDER BY r.id)
                OFFSET 0
            ) AS a (after)
            CROSS JOIN LATERAL (SELECT coalesce(o.item ->> 'after_failed', 'cancel')) AS f (after_failed)
            WHERE coalesce(o.item -> 'after', 'null') NOT IN ('null', '[]')
        ), twins AS (
            SELECT count(g.signature) - count(DISTINCT g.signature)
                   + count((SELECT true FROM pgq_blocked AS b WHERE b.signature = g.signature)) AS jobs
            FROM graph AS g
        ), added AS (
            INSERT INTO pgq_blocked (
                id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
                enqueued_at, context, losses, newest_error, group_key, group_id, signature, after_failed
            )
            SELECT g.id, g.queue, g.kind, g.args, g.priority, g.ripe_at, 0, g.max_retries, g.backoff, g.backoff_cap,
                   g.dedup, g.dedup_key, at, g.context, NULL, NULL, g.group_key, NULL, g.signature, g.after_failed
            FROM graph AS g
            WHERE (SELECT t.jobs FROM twins AS t) = 0
            ORDER BY g.signature, g.n  -- so that two calls do not deadlock
            ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING
            RETURNING queue, group_key
        ), needed AS (
            INSERT INTO pgq_need (job, needs)
            SELECT g.id, u.id
            FROM graph AS g
            CROSS JOIN LATERAL unnest(g.after) AS u (id)
            WHERE (SELECT t.jobs FROM twins AS t) = 0
        )
        SELECT v_left - count(*), array_agg(DISTINCT a.queue COLLATE "C") FILTER (WHERE a.group_key IS NOT NULL)
        INTO v_left, v_grouped
        FROM added AS a;
        IF v_left > 0 THEN
            RAISE SQLSTATE 'PGQ00';
        END IF;
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        RETURN NULL;
    END;
    -- A mark costs look-ups only.
    FOR v_queue IN SELECT q FROM unnest(v_grouped) AS q LOOP
        PERFORM _pgq_mark(v_queue);
    END LOOP;
    RETURN v_all;
END
$_pgq_enqueue_blocked$;

COMMENT ON FUNCTION _pgq_enqueue_blocked(jsonb, timestamptz, bigint[], bigint[]) IS
    'Enqueue the jobs of an array, which is valid, that run after others. ids has the ids of those that do not, by '
    'their positions, and old those among them that this call has not created. Returns the ids of all, or NULL, and '
    'has enqueued none, if the jobs must be enqueued one by one: one may be a duplicate, or does not need to wait, or '
    'is refused.';

CREATE FUNCTION _pgq_check_references(jobs jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_references$
DECLARE
    v_bad record;
BEGIN
    SELECT j.n, r.reference INTO v_bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    CROSS JOIN LATERAL jsonb_array_elements(
        CASE jsonb_typeof(j.item -> 'after') WHEN 'array' THEN j.item -> 'after' ELSE '[]' END) AS r (reference)
    WHERE CASE jsonb_typeof(r.reference)
              WHEN 'number' THEN r.reference::text !~ '^[0-9]{1,18}$'
              WHEN 'string' THEN r.reference #>> '{}' !~ '^#[0-9]{1,9}$'
                                 OR substr(r.reference #>> '{}', 2)::integer NOT BETWEEN 1 AND j.n - 1
              ELSE true
          END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array: after has %, which is neither an id nor the position of an earlier job',
              v_bad.n, left(v_bad.reference::text, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give ids as numbers, and the jobs of this array that come before as strings such as "#1", '
                         'the first one.';
    END IF;
    PERFORM _pgq_check_after(NULL, f.after_failed)
    FROM (SELECT DISTINCT j.item ->> 'after_failed' FROM jsonb_array_elements(jobs) AS j (item)) AS f (after_failed);
END
$_pgq_check_references$;

COMMENT ON FUNCTION _pgq_check_references(jsonb) IS
    'Check what the jobs of an array have under the keys after and after_failed. Returns nothing. Raises 22023 for '
    'what is neither an id nor the position of an earlier job, and for an unknown after_failed.';

-- Those without prerequisites first, as an array of their own. The others are one set if none may be a duplicate or is
-- not blocked. If not, they come in the order of the array: each finds the ids of those before.
CREATE FUNCTION _pgq_enqueue_graph(jobs jsonb, at timestamptz)
    RETURNS TABLE (n bigint, id bigint, created boolean)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enqueue_graph$
#variable_conflict use_column
DECLARE
    v_ids bigint[];
    v_first bigint[];
    v_old bigint[] := '{}';
    v_all bigint[];
    v_job record;
BEGIN
    PERFORM _pgq_check_references(jobs);
    -- No bad array waits for another transaction.
    IF NOT (SELECT bool_and(j.valid) FROM _pgq_parse_jobs(jobs, at, '{}') AS j) THEN
        RETURN;
    END IF;
    v_ids := array_fill(NULL::bigint, ARRAY[jsonb_array_length(jobs)]);
    v_first := ARRAY(
        SELECT j.n
        FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
        WHERE coalesce(j.item -> 'after', 'null') IN ('null', '[]')
        ORDER BY j.n);

    FOR v_job IN
        SELECT v_first[e.n] AS n, e.id, e.created, coalesce(j.item ->> 'on_duplicate', 'keep') AS on_duplicate
        FROM pgq_enqueue_many((
            SELECT coalesce(jsonb_agg(
                       (o.item - '{after,after_failed}'::text[]) || CASE o.item ->> 'on_duplicate'
                           WHEN 'error' THEN '{"on_duplicate": "keep"}' ELSE '{}' END::jsonb
                       ORDER BY o.n), '[]')
            FROM jsonb_array_elements(jobs) WITH ORDINALITY AS o (item, n)
            WHERE coalesce(o.item -> 'after', 'null') IN ('null', '[]')
        )) AS e
        CROSS JOIN LATERAL (SELECT jobs -> (v_first[e.n] - 1)::integer) AS j (item)
    LOOP
        n := v_job.n;
        id := v_job.id;
        created := v_job.created;
        v_ids[n] := id;
        IF NOT created THEN
            v_old := v_old || id;
            PERFORM _pgq_refuse_duplicate(n, id, created, v_job.on_duplicate);
        END IF;
        RETURN NEXT;
    END LOOP;

    v_all := _pgq_enqueue_blocked(jobs, at, v_ids, v_old);
    IF v_all IS NOT NULL THEN
        RETURN QUERY
        SELECT a.n, a.id, true
        FROM ROWS FROM (unnest(v_all), unnest(v_ids)) WITH ORDINALITY AS a (id, first, n)
        WHERE a.first IS NULL;
        RETURN;
    END IF;
    FOR v_job IN
        SELECT p.*, o.item -> 'after' AS after, o.item ->> 'after_failed' AS after_failed
        FROM _pgq_parse_jobs(jobs, at, '{}') AS p
        CROSS JOIN LATERAL (SELECT jobs -> (p.n - 1)::integer) AS o (item)
        WHERE coalesce(o.item -> 'after', 'null') NOT IN ('null', '[]')
        ORDER BY p.n
    LOOP
        n := v_job.n;
        SELECT e.id, e.created INTO id, created
        FROM pgq_enqueue(
            v_job.kind, v_job.args, v_job.queue, v_job.ripe_at, NULL, v_job.priority, v_job.max_retries, v_job.backoff,
            v_job.backoff_cap, v_job.dedup, v_job.dedup_key,
            CASE v_job.on_duplicate WHEN 'error' THEN 'keep' ELSE v_job.on_duplicate END, v_job.context,
            v_job.group_key, v_job.dedup_for,
            after => ARRAY(SELECT r.id FROM _pgq_named_ids(v_job.after, v_ids) AS r),
            after_failed => v_job.after_failed) AS e;
        v_ids[n] := id;
        PERFORM _pgq_refuse_duplicate(n, id, created, v_job.on_duplicate);
        RETURN NEXT;
    END LOOP;
END
$_pgq_enqueue_graph$;

COMMENT ON FUNCTION _pgq_enqueue_graph(jsonb, timestamptz) IS
    'Do what pgq_enqueue_many does, at a time, for an array in which a job has the key after or after_failed. Returns '
    'the rows in any order.';

CREATE FUNCTION _pgq_refuse_duplicate(n bigint, id bigint, created boolean, on_duplicate text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_refuse_duplicate$
BEGIN
    IF on_duplicate = 'error' AND NOT created THEN
        RAISE EXCEPTION 'job % of the array: job % is waiting or blocked already with this signature', n, id
            USING ERRCODE = 'PGQ04',
                  HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
    END IF;
END
$_pgq_refuse_duplicate$;

COMMENT ON FUNCTION _pgq_refuse_duplicate(bigint, bigint, boolean, text) IS
    'Raise PGQ04 if a job of an array was not created and on_duplicate is error. Returns nothing.';

-- For the batches of one call. A job that has failed is in pgq_need as well if it has done so just now: then it counts
-- when the need is met. One that has failed as a job of the batch has been counted.
CREATE FUNCTION _pgq_count_added(batches bigint[], queues text[], jobs bigint[], added bigint[], at timestamptz)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_count_added$
BEGIN
    INSERT INTO pgq_batch (id, queue, jobs, failed, given_up, at)
    SELECT b.id, b.queue, b.jobs + cardinality(f.ids), f.ids, 0, at
    FROM unnest(batches, queues, jobs) AS b (id, queue, jobs)
    CROSS JOIN LATERAL (
        SELECT ARRAY(
            SELECT e.id
            FROM pgq_ended AS e
            WHERE e.id = ANY (added)
              AND e.outcome <> 'done'
              AND (SELECT true FROM pgq_need AS n WHERE n.job = b.id AND n.needs = e.id) IS NULL
              AND (SELECT true FROM pgq_batch AS o WHERE o.id = b.id AND e.id = ANY (o.failed) LIMIT 1) IS NULL)
    ) AS f (ids);
END
$_pgq_count_added$;

COMMENT ON FUNCTION _pgq_count_added(bigint[], text[], bigint[], bigint[], timestamptz) IS
    'Record that jobs were added to batches in these queues: how many are new to each of those that are not over, and '
    'which have failed already. Those that are done already do not count. Returns nothing.';

CREATE FUNCTION pgq_enqueue_batch(
    kind text,
    args jsonb,
    jobs jsonb,
    queue text DEFAULT 'default',
    priority bigint DEFAULT 5,
    max_retries bigint DEFAULT NULL,
    backoff interval DEFAULT NULL,
    backoff_cap interval DEFAULT NULL,
    context jsonb DEFAULT NULL,
    group_key text DEFAULT NULL,
    OUT id bigint,
    OUT ids bigint[]
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_enqueue_batch$
DECLARE
    v_number bigint;
BEGIN
    ids := ARRAY(SELECT m.id FROM pgq_enqueue_many(jobs) AS m ORDER BY m.n);
    SELECT e.id INTO id
    FROM pgq_enqueue(
        kind, args, queue, priority => priority, max_retries => max_retries, backoff => backoff,
        backoff_cap => backoff_cap, dedup => false, context => context, group_key => group_key, after => ids,
        after_failed => 'run') AS e;
    v_number := (SELECT count(*) FROM pgq_need AS n WHERE n.job = pgq_enqueue_batch.id);
    PERFORM _pgq_count_added(ARRAY[id], ARRAY[queue], ARRAY[v_number], ids, pgq_now());
END
$pgq_enqueue_batch$;

COMMENT ON FUNCTION pgq_enqueue_batch(
    text, jsonb, jsonb, text, bigint, bigint, interval, interval, jsonb, text
) IS
    'Enqueue a batch: an array of jobs, as for pgq_enqueue_many, and a job that comes after all of them, whatever has '
    'become of each. Returns the id of that job, which is the id of the batch, and the ids of the others, in the '
    'order of the array. The other arguments are those of that job, as in pgq_enqueue; it is never a duplicate. Until '
    'all others are over it is blocked; after an empty array it waits at once. pgq_batch_progress says how many have '
    'failed, and which. A job that was waiting already belongs to the batch like the others, and one that has failed '
    'already counts as failed; one that is done already, a duplicate within a window, does not belong to it. Raises '
    'what pgq_enqueue_many and pgq_enqueue do.';

-- The running job is locked, so its need stays until the end of the transaction, and the batch is not over before. No
-- lock on the batch is needed, for which the completions of its jobs would wait.
CREATE FUNCTION pgq_add_to_batch(id bigint, token bigint, jobs jsonb) RETURNS bigint[]
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_add_to_batch$
DECLARE
    v_batches bigint[];
    v_queues text[];
    v_numbers bigint[];
    v_ids bigint[];
    v_given bigint[];
    v_created bigint[];
    v_living bigint[];
BEGIN
    PERFORM pgq_hold(id, token);
    SELECT array_agg(b.id ORDER BY b.id), array_agg(b.queue ORDER BY b.id) INTO v_batches, v_queues
    FROM pgq_need AS n
    CROSS JOIN LATERAL (SELECT o.id, o.queue FROM pgq_batch AS o WHERE o.id = n.job LIMIT 1) AS b
    WHERE n.needs = pgq_add_to_batch.id;
    IF v_batches IS NULL THEN
        RAISE EXCEPTION 'no batch waits for job %', id
            USING ERRCODE = 'PGQ03',
                  HINT = 'Add jobs only from a running job of a batch that was not cancelled.';
    END IF;
    -- A job of the batch that waits for the batch would be a cycle.
    IF jsonb_path_exists(jobs, '$[*].after[*] ? (@.type() == "number")') THEN
        RAISE EXCEPTION 'a job that is added to a batch has an id in after'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name only jobs of the same array, by their positions, such as "#1".';
    END IF;

    SELECT coalesce(array_agg(m.id ORDER BY m.n), '{}'), array_agg(m.id) FILTER (WHERE m.created)
    INTO v_given, v_created
    FROM pgq_enqueue_many(jobs) AS m;
    v_ids := ARRAY(SELECT DISTINCT g FROM unnest(v_given) AS g ORDER BY g);
    v_living := (_pgq_prerequisites(v_ids, NULL)).living;
    WITH added AS (
        INSERT INTO pgq_need (job, needs)
        SELECT b, l FROM unnest(v_batches) AS b CROSS JOIN unnest(v_living) AS l
        ON CONFLICT ON CONSTRAINT pgq_need_pkey DO NOTHING
        RETURNING job, needs
    )
    -- One that has failed as a job of the batch, and was retried, has been counted.
    SELECT array_agg((
               SELECT count(*)
               FROM added AS a
               WHERE a.job = b.id
                 AND (a.needs IN (SELECT c FROM unnest(v_created) AS c)
                      OR (SELECT true FROM pgq_batch AS o WHERE o.id = b.id AND a.needs = ANY (o.failed) LIMIT 1)
                         IS NULL)
           ) ORDER BY b.id)
    INTO v_numbers
    FROM unnest(v_batches) AS b (id);
    PERFORM _pgq_count_added(v_batches, v_queues, v_numbers, v_ids, pgq_now());
    RETURN v_given;
END
$pgq_add_to_batch$;

COMMENT ON FUNCTION pgq_add_to_batch(bigint, bigint, jsonb) IS
    'Enqueue an array of jobs, as for pgq_enqueue_many, and add them to the batch to which a running job belongs (see '
    'pgq_enqueue_batch), or to each if it belongs to several. Returns the ids, in the order of the array. after of '
    'these jobs may name only jobs of the same array. A job counts once, however often it is added; one that is done '
    'already, a duplicate within a window, does not count. Call it as the worker of the running job, which is locked '
    'until the end of the transaction, as by pgq_hold: the batch cannot be over before. Raises PGQ02 if the job is '
    'not held under this token, PGQ03 if no batch waits for it, and what pgq_enqueue_many does.';

CREATE OR REPLACE FUNCTION _pgq_lease_end(at timestamptz, lease interval) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_lease_end$
BEGIN
    IF lease IS NULL THEN
        RAISE EXCEPTION 'lease is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give the interval after which another worker may take the job, unless the lease is extended.';
    END IF;
    IF NOT _pgq_is_in_range(lease, at, '1 year') OR at + lease = at THEN
        RAISE EXCEPTION 'lease % is out of range', lease
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval of more than 0 and at most 1 year.';
    END IF;
    RETURN at + lease;
END
$_pgq_lease_end$;

COMMENT ON FUNCTION _pgq_lease_end(timestamptz, interval) IS
    'Return when a lease that begins at a time ends. Raises 22004 for a NULL lease, 22023 for one that is zero, '
    'negative or longer than a year.';

-- What is true of most claims. It spares them the calls of the two functions beside it, whose many expressions
-- PostgreSQL prepares anew in each transaction. An expression, so that PostgreSQL inlines it; array_position refuses an
-- array of two dimensions.
CREATE FUNCTION _pgq_is_usual_claim(
    queues text[],
    max_jobs bigint,
    lease interval,
    worker text,
    max_bytes bigint,
    at timestamptz,
    allowed text[]
) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN array_ndims(queues) = 1 AND array_position(queues, NULL) IS NULL
        AND max_jobs BETWEEN 0 AND 10000
        AND (_pgq_is_in_range(lease, at, '1 year') AND at + lease > at) IS NOT FALSE
        AND octet_length(coalesce(worker, '')) <= 200
        AND max_bytes > 0
        AND (allowed IS NULL OR (cardinality(queues) <= 16 AND queues <@ allowed));

COMMENT ON FUNCTION _pgq_is_usual_claim(text[], bigint, interval, text, bigint, timestamptz, text[]) IS
    'Return true for valid arguments of a claim at a time, from queues that are allowed, or any if these are NULL; '
    'false or NULL for any others, and for some valid ones.';

CREATE FUNCTION _pgq_check_claim(
    queues text[],
    max_jobs bigint,
    worker text,
    max_bytes bigint DEFAULT 16777216
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_claim$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_denied text;
BEGIN
    IF queues IS NULL OR max_jobs IS NULL OR EXISTS (SELECT FROM unnest(queues) AS q WHERE q IS NULL) THEN
        RAISE EXCEPTION '% is null', CASE WHEN max_jobs IS NULL THEN 'max_jobs' ELSE 'queues, or one of them,' END
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default: one job of the queue "default".';
    END IF;
    IF cardinality(queues) = 0 THEN
        RAISE EXCEPTION 'queues is empty'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name at least one queue.';
    END IF;
    IF max_jobs NOT BETWEEN 0 AND 10000 THEN
        RAISE EXCEPTION 'max_jobs % is out of range', max_jobs
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a number from 0 to 10000.';
    END IF;
    IF max_bytes IS NULL THEN
        RAISE EXCEPTION 'max_bytes is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default, 16 MiB.';
    END IF;
    IF max_bytes < 1 THEN
        RAISE EXCEPTION 'max_bytes % is out of range', max_bytes
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a number of bytes from 1 on; the first job is claimed however large it is.';
    END IF;
    IF octet_length(worker) > 200 THEN
        RAISE EXCEPTION 'worker takes % bytes, more than 200', octet_length(worker)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give the worker a shorter name.';
    END IF;
    -- The operator <@ compares each queue with each allowed one; EXCEPT makes a hash table of them.
    IF v_allowed IS NOT NULL AND (cardinality(queues) > 16 OR NOT queues <@ v_allowed) THEN
        SELECT q INTO v_denied FROM unnest(queues) AS q EXCEPT SELECT unnest(v_allowed) LIMIT 1;
        IF FOUND THEN
            PERFORM _pgq_raise_denied(v_denied, 'worker');
        END IF;
    END IF;
END
$_pgq_check_claim$;

COMMENT ON FUNCTION _pgq_check_claim(text[], bigint, text, bigint) IS
    'Check arguments of pgq_claim. Returns nothing. Raises 22004 for NULL queues, a NULL among them, or NULL max_jobs '
    'or max_bytes; 22023 for a value out of range; 42501 for a queue that the calling role may not use.';

CREATE FUNCTION _pgq_distinct(queues text[]) RETURNS text[]
    LANGUAGE sql
    STABLE
    RETURN ARRAY(
        SELECT q.name COLLATE "C"
        FROM unnest(queues) WITH ORDINALITY AS q (name, n)
        GROUP BY q.name COLLATE "C"
        ORDER BY min(q.n)
    );

COMMENT ON FUNCTION _pgq_distinct(text[]) IS
    'Return each of these queues once, in the order of their first places.';

CREATE FUNCTION _pgq_resumes_at(queues text[], at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_resumes_at$
BEGIN
    RETURN (
        SELECT min(p.until)
        FROM unnest(queues) AS q (queue)
        JOIN pgq_paused AS p ON p.queue = q.queue COLLATE "C"
        WHERE _pgq_marks() & _pgq_mark_of(q.queue) <> 0
          AND p.until > at
          AND p.until < 'infinity'
    );
END
$_pgq_resumes_at$;

COMMENT ON FUNCTION _pgq_resumes_at(text[], timestamptz) IS
    'Return the first time after another at which the pause of one of these queues, or of a group of them, ends by '
    'itself; NULL if there is none.';

CREATE FUNCTION _pgq_bare_setting() RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.bare_' || 'pgq_head'::regclass::oid;

COMMENT ON FUNCTION _pgq_bare_setting() IS
    'Return the name of the setting in which a session keeps until when its claims are bare.';

-- The value is a digest of the queues, a space, and a time, which has 16 digits until the year 2286. So the order of
-- bytes compares the times, and no damaged value can raise an error.
CREATE FUNCTION _pgq_is_bare(digest text, at_us bigint) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN (current_setting(_pgq_bare_setting(), true) COLLATE "C")
           BETWEEN digest || ' ' || at_us + 1 AND digest || ' ' || at_us + 10000000;

COMMENT ON FUNCTION _pgq_is_bare(text, bigint) IS
    'Return whether a claim from the queues with this digest is bare at a time, in microseconds since 1970; NULL if '
    'the session has kept nothing.';

-- The number tells a list that names a queue twice from the list that names it once.
CREATE FUNCTION _pgq_digest(queues text[]) RETURNS text
    LANGUAGE sql
    IMMUTABLE
    RETURN (
        SELECT cardinality(queues) || ' ' || bit_xor(hashtextextended(q COLLATE "C", 0))
        FROM unnest(queues) AS q
    );

COMMENT ON FUNCTION _pgq_digest(text[]) IS
    'Return a digest of a list of queues, which is the same in each order.';

-- A hundred entries in vain cost about a tenth of a claim. Finding the start of a lane counts as twelve.
CREATE FUNCTION _pgq_is_long_scan(wasted bigint, lanes integer) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN coalesce(wasted > 100 + 12 * lanes, true);

COMMENT ON FUNCTION _pgq_is_long_scan(bigint, integer) IS
    'Return whether a scan is worth avoiding, by the entries that it read in vain and the number of its lanes; NULL '
    'entries count as too many.';

-- The cost is counted in entries and not in time, which would grow with the load of the machine. Measured: five entries
-- take a microsecond.
CREATE FUNCTION _pgq_rescan_delay(entries bigint) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN greatest(interval '50 milliseconds', least(entries * interval '4 microseconds', interval '5 minutes'));

COMMENT ON FUNCTION _pgq_rescan_delay(bigint) IS
    'Return the least time between a long scan that read so many entries in vain and the next one: about 20 times as '
    'long as it takes on an idle machine, so that such scans take 5 % of the time, but at least 50 milliseconds and at '
    'most 5 minutes.';

-- The server does not count entries that are known to be dead to all, but it counts the pages full of them.
CREATE FUNCTION _pgq_entries_read(index regclass) RETURNS bigint
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN current_setting('track_counts')::boolean THEN
            pg_stat_get_xact_tuples_returned(index) + 2 * pg_stat_get_xact_blocks_fetched(index)
    END;

COMMENT ON FUNCTION _pgq_entries_read(regclass) IS
    'Return a counter of what this transaction has read from an index, where a page counts as two entries; NULL if the '
    'server does not count.';
COMMENT ON FUNCTION _pgq_microseconds(timestamptz) IS
    'Return a time as microseconds since 1970.';

-- Only a forged setting has a number outside the range of timestamptz: that lane counts as unknown.
CREATE FUNCTION _pgq_lane_start(ripe_us bigint) RETURNS timestamptz
    LANGUAGE sql
    STABLE
    RETURN CASE
        WHEN ripe_us BETWEEN -200000000000000000 AND 1000000000000000000
            THEN timestamptz 'epoch' + ripe_us * interval '1 microsecond'
        ELSE '-infinity'
    END;

COMMENT ON FUNCTION _pgq_lane_start(bigint) IS
    'Return the ripe_at after which the scan of a lane starts: that of its head, or -infinity where none is known.';

-- The oid tells apart installations in several schemas; the digest makes a valid name of any queue. Not "pgq.head_": a
-- session that has lived through the upgrade from 0.2.0 keeps something else under that name.
CREATE FUNCTION _pgq_head_setting(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.heads_' || 'pgq_head'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_head_setting(text) IS
    'Return the name of the setting in which a session keeps its heads in the lanes of a queue.';

CREATE FUNCTION _pgq_save_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_save_head$
BEGIN
    PERFORM set_config(
        _pgq_head_setting(head.queue),
        _pgq_microseconds(head.due) || ' ' || (extract(epoch FROM head.rescan_delay) * 1000000)::bigint || ' '
        || head.lanes::text,
        false);
END
$_pgq_save_head$;

COMMENT ON FUNCTION _pgq_save_head(pgq_head) IS
    'Keep the heads of a queue in this session, with a due that is at most rescan_delay from now.';

-- A row whose due is further ahead than its own rescan_delay was written before the clock of the server was set back.
-- It gets a second more: the row may have been written since this session has read the clock. No rescan_delay is
-- longer than 5 minutes, so the first condition on due limits the scan of the index.
CREATE FUNCTION _pgq_shared_head(queue text, at timestamptz) RETURNS pgq_head
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_shared_head$
DECLARE
    v_head pgq_head;
BEGIN
    SELECT h.* INTO v_head
    FROM pgq_head AS h
    WHERE h.queue = _pgq_shared_head.queue
      AND h.due < at + interval '6 minutes'
      AND h.due < at + h.rescan_delay + interval '1 second'
    ORDER BY h.due DESC
    LIMIT 1;
    RETURN v_head;
END
$_pgq_shared_head$;

COMMENT ON FUNCTION _pgq_shared_head(text, timestamptz) IS
    'Return the newest heads of a queue that a session has shared; NULLs where there are none.';

-- No session waits for another one's row. In a stricter isolation level, the removal of old rows could fail.
CREATE FUNCTION _pgq_replace_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_replace_head$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    DELETE FROM pgq_head AS h
    WHERE h.ctid = ANY (ARRAY(SELECT o.ctid FROM pgq_head AS o WHERE o.queue = head.queue FOR UPDATE SKIP LOCKED));
    INSERT INTO pgq_head VALUES (head.*);
END
$_pgq_replace_head$;

COMMENT ON FUNCTION _pgq_replace_head(pgq_head) IS
    'Share what is known of a queue in place of what was shared before, without waiting for a lock. Returns nothing.';

-- A scan of up to 12,500 entries, which has the shortest delay, is not worth sharing; after one that is shared, the
-- next comes a second later at least.
CREATE FUNCTION _pgq_share_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_share_head$
DECLARE
    v_scanned_at timestamptz := head.due - head.rescan_delay;
    v_old pgq_head;
BEGIN
    IF head.rescan_delay <= interval '50 milliseconds' THEN
        RETURN;
    END IF;
    v_old := _pgq_shared_head(head.queue, v_scanned_at);
    IF head.due < v_old.due THEN
        RETURN;
    END IF;
    head.rescan_delay := greatest(head.rescan_delay, interval '1 second');
    head.due := v_scanned_at + head.rescan_delay;
    head.lanes := head.lanes || ARRAY(
        SELECT ROW(o.priority, o.next_ripe_us, o.next_id, o.next_ripe_us, o.next_id)::_pgq_lane_head
        FROM unnest(v_old.lanes) AS o
        WHERE o.priority NOT IN (SELECT l.priority FROM unnest(head.lanes) AS l)
    );
    PERFORM _pgq_replace_head(head);
END
$_pgq_share_head$;

COMMENT ON FUNCTION _pgq_share_head(pgq_head) IS
    'Share what a scan of a queue has found, if it took a few milliseconds or more. No session makes the next one '
    'before due, which is a second later at least. Returns nothing.';

-- The lanes that the scan has not come to have no "here": they are scanned from their start. Where nothing was shared
-- before, no session knows a place that lies ahead, and all go on from their own.
CREATE FUNCTION _pgq_share_scan(queue text, reached _pgq_lane_head[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_share_scan$
DECLARE
    v_old pgq_head := _pgq_shared_head(queue, at);
BEGIN
    IF v_old.rescan_delay > interval '0' THEN
        PERFORM _pgq_replace_head(ROW(
            queue,
            at,
            v_old.rescan_delay,
            ARRAY(
                SELECT ROW(o.priority, r.here_ripe_us, r.here_id, o.next_ripe_us, o.next_id)::_pgq_lane_head
                FROM unnest(v_old.lanes) AS o
                LEFT JOIN unnest(reached) AS r ON r.priority = o.priority
            )
        )::pgq_head);
    END IF;
END
$_pgq_share_scan$;

COMMENT ON FUNCTION _pgq_share_scan(text, _pgq_lane_head[], timestamptz) IS
    'Share how far an unfinished scan of a queue has come; the next one goes on from there, and claims that do not '
    'scan begin where they did before. Returns nothing.';

-- Not for heads that a session has kept: any role can forge those.
CREATE FUNCTION _pgq_share_lanes(queue text, reached _pgq_lane_head[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_share_lanes$
DECLARE
    v_head pgq_head := _pgq_shared_head(queue, at);
BEGIN
    IF v_head.rescan_delay > interval '0' THEN
        v_head.lanes := ARRAY(
            SELECT CASE
                       WHEN (r.next_ripe_us, r.next_id) > (o.next_ripe_us, o.next_id) THEN
                           CASE
                               WHEN (o.here_ripe_us, o.here_id) = (o.next_ripe_us, o.next_id) THEN r
                               ELSE ROW(
                                   o.priority, o.here_ripe_us, o.here_id, r.next_ripe_us, r.next_id)::_pgq_lane_head
                           END
                       ELSE o
                   END
            FROM unnest(v_head.lanes) AS o
            LEFT JOIN unnest(reached) AS r ON r.priority = o.priority
        );
        PERFORM _pgq_replace_head(v_head);
    END IF;
END
$_pgq_share_lanes$;

COMMENT ON FUNCTION _pgq_share_lanes(text, _pgq_lane_head[], timestamptz) IS
    'Move the shared heads of a queue to where a claim has come that began at them and walked over many dead entries. '
    'Returns nothing.';

-- A snapshot of its own: a row that was updated just before it was locked has a new ctid, which the snapshot of the
-- statement that locked it does not see.
CREATE FUNCTION _pgq_cut(rows tid[], max_bytes bigint) RETURNS tid[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_cut$
BEGIN
    RETURN ARRAY(
        SELECT sized.ctid
        FROM (
            SELECT w.ctid, r.n, sum(pg_column_size(w.args)) OVER (ORDER BY r.n) - pg_column_size(w.args) AS before,
                   count(w.losses) OVER (ORDER BY r.n) AS suspects
            FROM unnest(rows) WITH ORDINALITY AS r (ctid, n)
            JOIN pgq_waiting AS w ON w.ctid = r.ctid
        ) AS sized
        WHERE sized.n = 1 OR (sized.before < max_bytes AND sized.suspects = 0)
        ORDER BY sized.n
    );
END
$_pgq_cut$;

COMMENT ON FUNCTION _pgq_cut(tid[], bigint) IS
    'Return those of the rows that a claim has locked which it takes. Jobs beyond max_bytes stay where they are, '
    'locked until the end of this transaction. So do all jobs after a suspect that is the first job, or else all from '
    'the first suspect on.';

-- The end of a lane counts as a tenth of a second ago, because a job may have been enqueued there and not be committed
-- yet. A lane that was walked to its end has its head no further left than before, whatever late jobs were taken from
-- it.
CREATE FUNCTION _pgq_lanes_reached(head pgq_head, rows tid[], ended integer, at timestamptz) RETURNS _pgq_lane_head[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lanes_reached$
DECLARE
    v_end bigint[] := ARRAY[_pgq_microseconds(at) - 100000, 0];
BEGIN
    RETURN ARRAY(
        SELECT ROW(p.priority, reached.place[1], reached.place[2], reached.place[1], reached.place[2])::_pgq_lane_head
        FROM generate_series(0, 9) AS p (priority)
        LEFT JOIN (
            -- OFFSET 0 is a fence: with a condition on queue beside ctid, the planner may prefer an index on queue.
            SELECT w.priority, max(ARRAY[_pgq_microseconds(w.ripe_at), w.id]) AS place
            FROM (SELECT * FROM pgq_waiting WHERE ctid = ANY (rows) OFFSET 0) AS w
            WHERE w.queue = head.queue
            GROUP BY w.priority
        ) AS taken USING (priority)
        CROSS JOIN LATERAL (
            SELECT CASE
                       WHEN p.priority >= ended THEN taken.place
                       WHEN taken.place IS NULL THEN v_end
                       ELSE greatest(taken.place, (
                           SELECT max(least(ARRAY[l.next_ripe_us, l.next_id], v_end))
                           FROM unnest(head.lanes) AS l
                           WHERE l.priority = p.priority))
                   END AS place
            -- A fence, too: the expression would be evaluated for each of its uses.
            OFFSET 0
        ) AS reached
        WHERE reached.place IS NOT NULL
    );
END
$_pgq_lanes_reached$;

COMMENT ON FUNCTION _pgq_lanes_reached(pgq_head, tid[], integer, timestamptz) IS
    'Return the heads of the lanes of a queue that a claim has walked, where "here" and "next" are both the place that '
    'it has reached; ended is the priority below which it has come to the end of each lane. The lanes that it has not '
    'come to are left out.';

CREATE FUNCTION _pgq_taken_from(rows tid[], OUT queues text[], OUT last_queue text, OUT last_priority integer)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_taken_from$
BEGIN
    -- OFFSET 0 is a fence: for the sake of DISTINCT the planner may prefer an index on queue.
    SELECT array_agg(DISTINCT w.queue COLLATE "C"),
           max(w.queue) FILTER (WHERE w.ctid = rows[cardinality(rows)]),
           max(w.priority) FILTER (WHERE w.ctid = rows[cardinality(rows)])
    INTO queues, last_queue, last_priority
    FROM (SELECT ctid, queue, priority FROM pgq_waiting WHERE ctid = ANY (rows) OFFSET 0) AS w;
END
$_pgq_taken_from$;

COMMENT ON FUNCTION _pgq_taken_from(tid[]) IS
    'Return the queues of the rows that a claim has taken, and the queue and the priority of the last row; NULLs for '
    'no rows.';

CREATE FUNCTION _pgq_load_head(queue text, at timestamptz) RETURNS pgq_head
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_load_head$
DECLARE
    v_setting text := current_setting(_pgq_head_setting(queue), true);
    v_wait bigint;
    v_delay bigint;
    v_head pgq_head := ROW(queue, at, '0', '{}');
    v_shared pgq_head;
    v_is_shared boolean := false;
    v_is_unfinished boolean;
BEGIN
    IF v_setting <> '' THEN
        BEGIN
            v_head.lanes := split_part(v_setting, ' ', 3)::_pgq_lane_head[];
            v_delay := least(split_part(v_setting, ' ', 2)::bigint, 600000000);
            v_wait := split_part(v_setting, ' ', 1)::bigint - _pgq_microseconds(at);
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            -- Damaged or forged. Raising would keep every client of a pooled session from its jobs.
            v_head.lanes := '{}';
        END;
        -- A due that is further ahead than its rescan_delay was kept before the clock was set back.
        IF v_wait BETWEEN 1 AND v_delay THEN
            v_head.due := at + v_wait * interval '1 microsecond';
            v_head.rescan_delay := v_delay * interval '1 microsecond';
            RETURN v_head;
        END IF;
    END IF;

    v_shared := _pgq_shared_head(queue, at);
    -- Nothing is known after a crash, and in a new database. A small index is scanned in a few milliseconds; of a large
    -- one, one session makes the first scan, and shares the result whatever it is, so that no session waits again.
    IF v_shared.due IS NULL
       AND current_setting('transaction_isolation') = 'read committed'
       AND pg_relation_size(CASE queue WHEN '' THEN 'pgq_running_lease' ELSE 'pgq_waiting_claim' END) > 8000000 THEN
        PERFORM _pgq_await_head(queue, at);
        v_head.rescan_delay := '1 second';
        v_shared := _pgq_shared_head(queue, clock_timestamp());
    END IF;
    IF v_shared.rescan_delay > interval '0' THEN
        IF v_head.lanes = '{}' THEN
            v_head.lanes := ARRAY(
                SELECT ROW(l.priority, l.next_ripe_us, l.next_id, l.next_ripe_us, l.next_id)::_pgq_lane_head
                FROM unnest(v_shared.lanes) AS l
            );
            v_is_shared := true;
        END IF;
        IF NOT _pgq_may_scan(v_shared, at) THEN
            v_head.due := greatest(v_shared.due, at + v_shared.rescan_delay / 10);
            v_head.rescan_delay := v_head.due - at;
            PERFORM _pgq_save_head(v_head);
            IF v_is_shared THEN
                v_head.rescan_delay := NULL;
            END IF;
            RETURN v_head;
        END IF;
        v_head.rescan_delay := v_shared.rescan_delay;
    END IF;

    -- A scan begins at the start of each lane, or goes on where an unfinished one has ended.
    v_is_unfinished := EXISTS (
        SELECT FROM unnest(v_shared.lanes) AS l
        WHERE (l.here_ripe_us, l.here_id) IS DISTINCT FROM (l.next_ripe_us, l.next_id)
    );
    v_head.lanes := ARRAY(
        SELECT ROW(l.priority, unfinished.here_ripe_us, unfinished.here_id, l.next_ripe_us, l.next_id)::_pgq_lane_head
        FROM unnest(v_head.lanes) AS l
        LEFT JOIN unnest(v_shared.lanes) AS unfinished
               ON unfinished.priority = l.priority AND v_is_unfinished
    );
    RETURN v_head;
END
$_pgq_load_head$;

COMMENT ON FUNCTION _pgq_load_head(text, timestamptz) IS
    'Return the heads of a queue that this session has kept, or else those that another session has shared; no lanes '
    'where nothing is known. When due has passed, this claim makes the long scan, and rescan_delay is positive if '
    'other sessions leave it to this one. Otherwise, rescan_delay is NULL if the heads are those that another session '
    'has shared.';

-- With many queues, few of them have a head. What is kept and what is shared of all of them is looked up in one
-- statement, and only where there is something, _pgq_load_head is called.
CREATE FUNCTION _pgq_load_heads(queues text[], at timestamptz) RETURNS pgq_head[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_load_heads$
DECLARE
    v_is_small boolean;
BEGIN
    IF cardinality(queues) = 1 THEN
        RETURN ARRAY[_pgq_load_head(queues[1], at)];
    END IF;
    v_is_small := pg_relation_size('pgq_waiting_claim') <= 8000000
        OR current_setting('transaction_isolation') <> 'read committed';
    RETURN ARRAY(
        SELECT CASE
                   WHEN coalesce(current_setting(_pgq_head_setting(q.queue), true), '') = ''
                        AND coalesce(shared.rescan_delay <= interval '0', v_is_small)
                       THEN ROW(q.queue, at, '0', '{}')::pgq_head
                   ELSE _pgq_load_head(q.queue, at)
               END
        FROM unnest(queues) WITH ORDINALITY AS q (queue, n)
        LEFT JOIN LATERAL (
            SELECT h.rescan_delay
            FROM pgq_head AS h
            WHERE h.queue = q.queue
              AND h.due < at + interval '6 minutes'
              AND h.due < at + h.rescan_delay + interval '1 second'
            ORDER BY h.due DESC
            LIMIT 1
        ) AS shared ON true
        ORDER BY q.n
    );
END
$_pgq_load_heads$;

COMMENT ON FUNCTION _pgq_load_heads(text[], timestamptz) IS
    'Return for each of these queues what _pgq_load_head returns.';

-- A lock that ends with the transaction, so a session that fails or is cancelled leaves none behind. Any role can take
-- it and keep it, and so can a transaction that stays open after its claim. So it is tried, and no claim depends on it.
-- A transaction takes 65 such locks at most, however many queues it claims from; two queues with the same number are
-- not scanned at the same time.
CREATE FUNCTION _pgq_try_scan(queue text) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN pg_try_advisory_xact_lock(
        'pgq_head'::regclass::oid::integer, CASE queue WHEN '' THEN -1 ELSE hashtext(queue) & 63 END);

COMMENT ON FUNCTION _pgq_try_scan(text) IS
    'Take the lock under which this transaction may make the long scan of a queue. Returns whether no other session '
    'has it.';

CREATE FUNCTION _pgq_await_head(queue text, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_await_head$
DECLARE
    v_shared pgq_head;
BEGIN
    FOR v_try IN 1..100 LOOP
        EXIT WHEN _pgq_try_scan(queue) OR clock_timestamp() > at + interval '5 seconds';
        PERFORM pg_sleep(0.05);
        v_shared := _pgq_shared_head(queue, clock_timestamp());
        EXIT WHEN v_shared.due IS NOT NULL;
    END LOOP;
END
$_pgq_await_head$;

COMMENT ON FUNCTION _pgq_await_head(text, timestamptz) IS
    'Wait until this session may make the first scan of a queue, or another one has shared what it found; five seconds '
    'after the given time at most. Returns nothing.';

-- A session may keep the lock for ever. A claim that finds the lock taken, and the scan overdue by a delay, leaves a
-- row that says so. Claims that find this row 9 to 18 delays old, and nothing shared since, scan without the lock: not
-- all at once, since each draws its own number. The age of the scan alone would not do: after a pause in which no
-- session claims, it is overdue for all of them.
CREATE FUNCTION _pgq_is_kept(shared pgq_head, at timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_is_kept$
DECLARE
    -- No queue has this name.
    c_queue CONSTANT text := E'\x1f' || ' kept ' || shared.queue;
    v_kept pgq_head;
BEGIN
    IF at < shared.due + shared.rescan_delay THEN
        RETURN false;
    END IF;
    v_kept := _pgq_shared_head(c_queue, at);
    IF v_kept.due > shared.due THEN
        RETURN at > v_kept.due + (9 + 9 * random()) * shared.rescan_delay;
    END IF;
    PERFORM _pgq_replace_head(ROW(c_queue, at, shared.rescan_delay, '{}')::pgq_head);
    RETURN false;
END
$_pgq_is_kept$;

COMMENT ON FUNCTION _pgq_is_kept(pgq_head, timestamptz) IS
    'Return whether another session has kept the lock of the long scan for so long that claims scan without it.';

CREATE FUNCTION _pgq_may_scan(shared pgq_head, at timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_may_scan$
BEGIN
    IF shared.due > at THEN
        RETURN false;
    END IF;
    IF NOT _pgq_try_scan(shared.queue) THEN
        RETURN _pgq_is_kept(shared, at);
    END IF;
    -- The session that had the lock may have finished its scan since the heads were read.
    shared := _pgq_shared_head(shared.queue, clock_timestamp());
    RETURN coalesce(shared.due < clock_timestamp(), true);
END
$_pgq_may_scan$;

COMMENT ON FUNCTION _pgq_may_scan(pgq_head, timestamptz) IS
    'Return whether this session is to make a long scan: it is due, and no other session makes it.';

-- A claim walks the lanes by priority, then in the order of the queues. It has come to the end of each lane before that
-- of its last row; if it could have taken more rows, it has come to the end of all.
--
-- A claim that scans may be filled by late jobs before it comes to where the heads are. That scan is unfinished: the
-- next one goes on from there, as soon as any session claims, and no head moves back. Otherwise all sessions would walk
-- again over the dead entries between the late jobs and the others.
CREATE FUNCTION _pgq_move_heads(
    heads pgq_head[],
    rows tid[],
    filled boolean,
    wasted bigint,
    at timestamptz,
    begun_at timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_move_heads$
DECLARE
    v_long boolean := _pgq_is_long_scan(wasted, 10 * cardinality(heads));
    v_done_at timestamptz := clock_timestamp();
    -- Without the counters of the server, the clock must do.
    v_cost bigint := coalesce(wasted, 5 * (_pgq_microseconds(v_done_at) - _pgq_microseconds(begun_at)));
    v_head pgq_head;
    v_scanned boolean;
    v_goes_on boolean;
    v_reached _pgq_lane_head[];
    v_taken record;
    v_ended integer := 10;
BEGIN
    IF v_long OR EXISTS (SELECT FROM unnest(heads) AS h WHERE h.due <= begun_at AND h.lanes <> '{}') THEN
        v_taken := _pgq_taken_from(rows);
        IF filled THEN
            v_ended := v_taken.last_priority + 1;
        END IF;
    END IF;
    FOR v_n IN 1..cardinality(heads) LOOP
        v_head := heads[v_n];
        v_scanned := v_head.due <= begun_at OR v_head.lanes = '{}';
        IF v_long OR (v_scanned AND v_head.lanes <> '{}') THEN
            IF filled AND v_head.queue = v_taken.last_queue THEN
                v_ended := v_taken.last_priority;
            END IF;
            v_reached := _pgq_lanes_reached(
                v_head, CASE WHEN v_head.queue = ANY (v_taken.queues) THEN rows ELSE '{}' END, v_ended, at);
        END IF;

        IF v_scanned AND filled AND EXISTS (
            -- A head that lies ahead was kept before the clock was set back.
            SELECT FROM unnest(v_reached) AS r
            JOIN unnest(v_head.lanes) AS l USING (priority)
            WHERE l.next_ripe_us < _pgq_microseconds(at) + 1000000
              AND ARRAY[r.next_ripe_us, r.next_id]
                < least(ARRAY[l.next_ripe_us, l.next_id], ARRAY[_pgq_microseconds(at) - 100000, 0])
        ) THEN
            IF v_cost > 2000 THEN
                PERFORM _pgq_share_scan(v_head.queue, v_reached, v_done_at);
            END IF;
        ELSIF v_long THEN
            v_goes_on := EXISTS (SELECT FROM unnest(v_head.lanes) AS l WHERE l.here_ripe_us IS NOT NULL);
            v_head.lanes := ARRAY(
                SELECT ROW(priority, moved.here[1], moved.here[2], moved.next[1], moved.next[2])::_pgq_lane_head
                FROM (SELECT l.priority, ARRAY[l.here_ripe_us, l.here_id] AS here,
                             ARRAY[l.next_ripe_us, l.next_id] AS next
                      FROM unnest(v_head.lanes) AS l) AS known
                FULL JOIN (SELECT l.priority, ARRAY[l.next_ripe_us, l.next_id] AS place
                           FROM unnest(v_reached) AS l) AS reached USING (priority)
                CROSS JOIN LATERAL (
                    SELECT CASE
                               WHEN reached.place IS NULL AND NOT v_scanned THEN known.here
                               -- Far behind, because other sessions have claimed meanwhile: move in one step.
                               WHEN wasted > 2000 AND NOT v_scanned THEN reached.place
                               ELSE least(reached.place, known.next)
                           END AS here,
                           coalesce(reached.place, known.next) AS next
                ) AS moved
            );
            IF v_scanned THEN
                -- A scan that goes on where another one has ended costs as much as both.
                v_head.rescan_delay := greatest(
                    _pgq_rescan_delay(v_cost), CASE WHEN v_goes_on THEN v_head.rescan_delay END);
                v_head.due := v_done_at + v_head.rescan_delay;
                PERFORM _pgq_share_head(ROW(v_head.queue, v_head.due, v_head.rescan_delay, v_reached));
            ELSIF v_head.rescan_delay IS NULL THEN
                v_head.rescan_delay := v_head.due - begun_at;
                IF v_cost > 2000 THEN
                    PERFORM _pgq_share_lanes(v_head.queue, v_reached, begun_at);
                END IF;
            END IF;
            PERFORM _pgq_save_head(v_head);
        ELSIF v_head.due <= begun_at THEN
            IF v_head.rescan_delay > interval '0' AND (NOT filled OR v_head.lanes = '{}') THEN
                PERFORM _pgq_replace_head(ROW(v_head.queue, '-infinity', '0', '{}')::pgq_head);
            END IF;
            -- The walk is short: do not look at the shared heads again for ten seconds. Not with very many queues,
            -- because PostgreSQL sorts all settings of a session when one is added, up to version 15.
            IF cardinality(heads) <= 100 THEN
                PERFORM _pgq_save_head(
                    ROW(v_head.queue, begun_at + interval '10 seconds', interval '10 seconds', '{}'));
            END IF;
        END IF;
    END LOOP;
END
$_pgq_move_heads$;

COMMENT ON FUNCTION _pgq_move_heads(pgq_head[], tid[], boolean, bigint, timestamptz, timestamptz) IS
    'Keep in this session where the next claims of these queues begin, given the rows that a claim has taken and the '
    'number of entries that it has read in vain. Returns nothing.';

-- Looking for a job in one lane costs a microsecond, and a worker with a thousand queues has ten thousand lanes. So a
-- bare claim looks up the first entry of each queue, which is in the first lane that is not empty. Of the lanes that it
-- finds so, it scans those of the most urgent priority, then looks up the next lanes of their queues, and so on.
--
-- A look that finds an entry costs several times as much as one that finds none. So the first look ends at max_jobs
-- lanes, which are enough for most claims, if no later queue has a lane before the lowest of these.
CREATE FUNCTION _pgq_lock_in_many(
    queues text[],
    max_jobs bigint,
    at timestamptz,
    OUT rows tid[],
    OUT jobs integer,
    OUT bytes bigint,
    OUT suspects integer,
    OUT failed bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_in_many$
DECLARE
    v_queues text[] := queues;
    v_priorities smallint[];
    v_ripe_ats timestamptz[];
    v_ids bigint[];
    v_priority smallint := -1;
    v_floor smallint := -1;     -- no queue in v_later has an entry of this priority or a lower one
    v_later text[] := '{}';     -- queues that were not looked up yet
    v_limit bigint := max_jobs;
    v_last bigint;
BEGIN
    rows := '{}';
    jobs := 0;
    bytes := 0;
    suspects := 0;
    failed := 0;
    LOOP
        -- Lanes that still lie ahead need not be looked up again. Each scan begins just before its first entry.
        SELECT array_agg(l.queue), array_agg(l.priority), array_agg(l.ripe_at), array_agg(l.id), min(l.priority),
               max(l.n)
        INTO v_queues, v_priorities, v_ripe_ats, v_ids, v_priority, v_last
        FROM (
            SELECT known.queue, next.priority, next.ripe_at, next.id, known.n
            FROM unnest(v_queues, v_priorities, v_ripe_ats, v_ids)
                 WITH ORDINALITY AS known (queue, priority, ripe_at, id, n)
            CROSS JOIN LATERAL (
                SELECT known.priority, known.ripe_at, known.id
                WHERE known.priority > v_priority
                UNION ALL
                (
                    SELECT w.priority, w.ripe_at, w.id - 1
                    FROM pgq_waiting AS w
                    WHERE (known.priority > v_priority) IS NOT TRUE
                      AND w.queue = known.queue COLLATE "C"
                      AND w.group_id IS NULL
                      AND w.priority > coalesce(known.priority, v_floor)
                    ORDER BY w.priority, w.ripe_at, w.id
                    LIMIT 1
                )
            ) AS next
            ORDER BY known.n
            LIMIT v_limit
        ) AS l;
        EXIT WHEN v_queues IS NULL;

        IF cardinality(v_queues) = v_limit THEN
            v_later := queues[v_last + 1:];
            IF EXISTS (
                SELECT
                FROM unnest(v_later) AS later (queue)
                CROSS JOIN LATERAL (
                    SELECT
                    FROM pgq_waiting AS w
                    WHERE w.queue = later.queue COLLATE "C"
                      AND w.group_id IS NULL
                      AND w.priority < v_priority
                    LIMIT 1
                ) AS earlier
            ) THEN
                v_priority := -1;
                v_queues := v_queues || v_later;
                v_later := '{}';
                v_limit := NULL;
                CONTINUE;
            END IF;
        END IF;
        v_limit := NULL;

        SELECT _pgq_lock_in_many.rows || coalesce(array_agg(locked.ctid), '{}'),
               _pgq_lock_in_many.jobs + count(*),
               _pgq_lock_in_many.bytes + coalesce(sum(locked.bytes), 0),
               _pgq_lock_in_many.suspects + count(locked.losses),
               _pgq_lock_in_many.failed + count(locked.newest_error)
        INTO rows, jobs, bytes, suspects, failed
        FROM (
            SELECT ripe.ctid, ripe.bytes, ripe.losses, ripe.newest_error
            FROM unnest(v_queues, v_priorities, v_ripe_ats, v_ids) AS lane (queue, priority, ripe_at, id)
            CROSS JOIN LATERAL (
                SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                       w.newest_error
                FROM pgq_waiting AS w
                WHERE w.queue = lane.queue COLLATE "C"
                  AND w.group_id IS NULL
                  AND w.priority = lane.priority
                  AND (w.ripe_at, w.id) > (lane.ripe_at, lane.id)
                  AND w.ripe_at <= at
                ORDER BY w.ripe_at, w.id
                LIMIT max_jobs - _pgq_lock_in_many.jobs
                FOR UPDATE SKIP LOCKED
            ) AS ripe
            WHERE lane.priority = v_priority
              AND lane.ripe_at <= at
            LIMIT max_jobs - _pgq_lock_in_many.jobs
        ) AS locked;
        EXIT WHEN jobs = max_jobs;
        v_floor := v_priority - 1;
        v_queues := v_queues || v_later;
        v_later := '{}';
    END LOOP;
END
$_pgq_lock_in_many$;

COMMENT ON FUNCTION _pgq_lock_in_many(text[], bigint, timestamptz) IS
    'Lock the rows of up to max_jobs jobs without a group of these queues, each named once, that are ripe at a time. '
    'Returns their ctids, in the order of the lanes, their number, the size of their args and contexts as they are '
    'stored, how many of them are suspects, and how many have errors.';

CREATE FUNCTION _pgq_drop_empty(heads pgq_head[]) RETURNS pgq_head[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_drop_empty$
BEGIN
    RETURN ARRAY(
        SELECT ROW(h.queue, h.due, h.rescan_delay, h.lanes)::pgq_head
        FROM unnest(heads) WITH ORDINALITY AS h (queue, due, rescan_delay, lanes, n)
        CROSS JOIN LATERAL (
            SELECT WHERE h.lanes <> '{}'
            UNION ALL
            (
                SELECT
                FROM pgq_waiting AS w
                WHERE h.lanes = '{}' AND w.queue = h.queue COLLATE "C" AND w.group_id IS NULL
                LIMIT 1
            )
        ) AS filled
        ORDER BY h.n
    );
END
$_pgq_drop_empty$;

COMMENT ON FUNCTION _pgq_drop_empty(pgq_head[]) IS
    'Return these heads without the queues in which no job waits that has no group, as far as no head is known of '
    'them.';

CREATE FUNCTION _pgq_lock_ripe(
    queues text[],
    max_jobs bigint,
    max_bytes bigint,
    at timestamptz,
    OUT rows tid[],
    OUT token bigint,
    OUT bytes bigint,
    OUT failed bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    -- Leave the planner one plan, whatever the statistics say: the claim index in its own order, then TID scans. A
    -- disabled plan type has a huge cost, which would trigger JIT, and compiling takes longer than the query.
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_ripe$
#variable_conflict use_column
DECLARE
    v_digest text;
    v_is_bare boolean;
    v_next_due timestamptz;
    v_heads pgq_head[];
    v_filled pgq_head[];
    v_has_heads boolean;
    v_scans boolean;
    v_is_long boolean;
    v_begun_at timestamptz;
    v_read bigint;
    v_wasted bigint;
    v_found integer;
    v_suspects bigint;
BEGIN
    -- Lane by lane, lazily: nothing is locked but what is found. The sizes are those of the values as they are stored;
    -- what lies out of line is not read. For one queue the expression below is the value of _pgq_digest, without a
    -- query. v_digest stays NULL on this way.
    v_begun_at := clock_timestamp();
    IF cardinality(queues) = 1 AND max_jobs > 0
       AND _pgq_is_bare('1 ' || hashtextextended(queues[1] COLLATE "C", 0), _pgq_microseconds(at)) THEN
        v_read := _pgq_entries_read('pgq_waiting_claim');
        SELECT coalesce(array_agg(locked.ctid), '{}'), sum(locked.bytes), count(locked.losses),
               count(locked.newest_error)
        INTO rows, bytes, v_suspects, failed
        FROM (
            SELECT ripe.ctid, ripe.bytes, ripe.losses, ripe.newest_error
            FROM generate_series(0, 9) AS lane (priority)
            CROSS JOIN LATERAL (
                SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                       w.newest_error
                FROM pgq_waiting AS w
                WHERE w.queue = queues[1] COLLATE "C"
                  AND w.group_id IS NULL
                  AND w.priority = lane.priority
                  AND w.ripe_at <= at
                ORDER BY w.ripe_at, w.id
                LIMIT max_jobs
                FOR UPDATE SKIP LOCKED
            ) AS ripe
            LIMIT max_jobs
        ) AS locked;
    ELSE
        rows := '{}';
        v_digest := _pgq_digest(queues);
        v_is_bare := coalesce(_pgq_is_bare(v_digest, _pgq_microseconds(at)), false);
        IF NOT v_is_bare THEN
            v_next_due := _pgq_maintain(at);
        END IF;
        IF max_jobs = 0 THEN
            RETURN;
        END IF;

        v_begun_at := clock_timestamp();
        IF v_is_bare THEN
            v_read := _pgq_entries_read('pgq_waiting_claim');
            SELECT l.rows, l.bytes, l.suspects, l.failed INTO rows, bytes, v_suspects, failed
            FROM _pgq_lock_in_many(queues, max_jobs, at) AS l;
        ELSE
            -- A queue that is named twice would give the same rows twice: SKIP LOCKED does not skip this transaction's
            -- own locks.
            IF cardinality(queues) > 1 THEN
                queues := _pgq_distinct(queues);
            END IF;
            v_heads := _pgq_load_heads(queues, v_begun_at);
            v_read := _pgq_entries_read('pgq_waiting_claim');
            v_filled := v_heads;
            IF cardinality(v_heads) > 16 THEN
                v_filled := _pgq_drop_empty(v_heads);
            END IF;
            SELECT coalesce(array_agg(locked.ctid), '{}'), sum(locked.bytes), count(locked.losses),
                   count(locked.newest_error)
            INTO rows, bytes, v_suspects, failed
            FROM (
                SELECT ripe.ctid, ripe.bytes, ripe.losses, ripe.newest_error
                FROM (
                    SELECT h.queue, l.priority, _pgq_lane_start(l.here_ripe_us) AS ripe_at, coalesce(l.here_id, 0) AS id
                    FROM unnest(v_filled) WITH ORDINALITY AS h (queue, due, rescan_delay, lanes, n)
                    CROSS JOIN LATERAL (
                        SELECT p.priority, known.here_ripe_us, known.here_id
                        FROM generate_series(0, 9) AS p (priority)
                        LEFT JOIN unnest(h.lanes) AS known USING (priority)
                    ) AS l
                    ORDER BY l.priority, h.n
                ) AS lane
                CROSS JOIN LATERAL (
                    SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                           w.newest_error
                    FROM pgq_waiting AS w
                    WHERE w.queue = lane.queue COLLATE "C"
                      AND w.group_id IS NULL
                      AND w.priority = lane.priority
                      AND (w.ripe_at, w.id) > (lane.ripe_at, lane.id)
                      AND w.ripe_at <= at
                    ORDER BY w.ripe_at, w.id
                    LIMIT max_jobs
                    FOR UPDATE SKIP LOCKED
                ) AS ripe
                LIMIT max_jobs
            ) AS locked;
        END IF;
    END IF;
    IF bytes > max_bytes OR v_suspects > 0 THEN
        v_found := cardinality(rows);
        rows := _pgq_cut(rows, max_bytes);
    END IF;
    -- Jobs that a cut leaves do not count as dead entries.
    v_wasted := _pgq_entries_read('pgq_waiting_claim') - v_read - coalesce(v_found, cardinality(rows));
    IF v_digest IS NOT NULL OR _pgq_is_long_scan(v_wasted, 10) THEN
        v_found := coalesce(v_found, cardinality(rows));
        v_is_bare := v_heads IS NULL;
        v_is_long := _pgq_is_long_scan(v_wasted, 10 * cardinality(queues));
        IF NOT v_is_bare THEN
            SELECT bool_or(h.due <= v_begun_at), bool_or(h.lanes <> '{}')
            INTO v_scans, v_has_heads
            FROM unnest(v_heads) AS h;
        ELSIF v_is_long THEN
            -- Like heads that are not known: this claim has scanned each lane from its start.
            v_heads := ARRAY(SELECT ROW(q, v_begun_at, '0', '{}')::pgq_head FROM unnest(queues) AS q);
            PERFORM set_config(_pgq_bare_setting(), '', false);
        END IF;
        -- After a short walk from heads that are not due there is nothing to move. After a cut the lanes are not walked
        -- to their ends.
        IF v_is_long OR v_scans THEN
            PERFORM _pgq_move_heads(
                v_heads, rows, v_found = max_jobs OR cardinality(rows) < v_found, v_wasted, at, v_begun_at);
        END IF;
        -- Not for a list that names a queue twice, because a bare claim does not remove the second one.
        IF NOT (v_is_bare OR v_is_long OR v_has_heads) AND v_next_due > at
           AND starts_with(v_digest, cardinality(queues) || ' ') THEN
            PERFORM set_config(
                _pgq_bare_setting(),
                v_digest || ' ' || _pgq_microseconds(least(v_next_due, at + interval '10 seconds')),
                false);
        END IF;
    END IF;
    IF rows = '{}' THEN
        RETURN;
    END IF;

    -- Drawn while the rows are locked: a later claim of one of these jobs draws later.
    token := nextval('pgq_token');
    IF token < _pgq_microseconds(at) - 1000000 THEN
        token := _pgq_move_token(_pgq_microseconds(at));
    END IF;
END
$_pgq_lock_ripe$;

COMMENT ON FUNCTION _pgq_lock_ripe(text[], bigint, bigint, timestamptz) IS
    'Do the maintenance of a claim, and lock the rows of pgq_waiting that it takes: up to max_jobs that have no group '
    'and are ripe at a time, and no more once their args reach max_bytes; a suspect alone. Returns their ctids, in the '
    'order of the lanes, and the token of the claim; an empty array and NULL if there are none. bytes are the size of '
    'their args and contexts, and failed is how many of them have errors; jobs that max_bytes or a suspect keeps out '
    'count, too. The caller removes the rows in its next statement.';

CREATE FUNCTION _pgq_lock_marked(
    queues text[],
    max_jobs bigint,
    max_bytes bigint,
    at timestamptz,
    OUT rows tid[],
    OUT token bigint,
    OUT bytes bigint,
    OUT failed bigint,
    OUT lease interval,
    OUT in_turn_at timestamptz
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_marked$
DECLARE
    v_looked record := _pgq_look_at_queues(queues, at);
BEGIN
    lease := v_looked.lease;
    IF v_looked.open = '{}' THEN
        PERFORM _pgq_maintain(at);
        rows := '{}';
        RETURN;
    END IF;

    IF v_looked.special <> '{}' THEN
        SELECT l.rows, l.token, l.at INTO rows, token, in_turn_at
        FROM _pgq_lock_in_turns(
            CASE WHEN cardinality(v_looked.open) > 1 THEN _pgq_distinct(v_looked.open) ELSE v_looked.open END,
            v_looked.special, max_jobs, max_bytes, at) AS l;
        RETURN;
    END IF;
    SELECT l.rows, l.token, l.bytes, l.failed INTO rows, token, bytes, failed
    FROM _pgq_lock_ripe(v_looked.open, max_jobs, max_bytes, at) AS l;
    IF v_looked.has_defaults AND rows <> '{}' THEN
        rows := _pgq_set_defaults(rows);
        IF v_looked.keeps THEN
            failed := failed + 1;
        END IF;
    END IF;
END
$_pgq_lock_marked$;

COMMENT ON FUNCTION _pgq_lock_marked(text[], bigint, bigint, timestamptz) IS
    'Do what _pgq_lock_ripe does, for the queues that are not paused, with the defaults of the queues filled in. '
    'Returns what that function returns, but the ctids in any order, and failed positive also if a queue keeps all '
    'that is done; and lease, the longest that the queues have among their settings. If one of the queues has groups '
    'or limits, the jobs are taken in turn, and in_turn_at is the time of the claim: the caller moves the rows with '
    '_pgq_move_in_turn, which keeps their order.';

-- A token is the next value of a sequence, which is moved where it is more than a second behind the clock. The section
-- "Tokens and leases" of docs/design.md says why no two claims of a job get the same token.
--
-- The lock keeps two sessions from moving the sequence at once, one of them back. Any role can take it and keep it, so
-- no session waits for it. A move is a second or more: while the session is between its two statements, others would
-- have to draw a million values to meet it. A long move is on disk when the claim has committed, so that a crash sets
-- the sequence back by less than a minute. The limit is in the year 2255; the sequence ends soon after.
CREATE FUNCTION _pgq_move_token(to_us bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_move_token$
DECLARE
    c_class CONSTANT integer := 'pgq_token'::regclass::oid::integer;
    v_token bigint;
BEGIN
    IF NOT pg_try_advisory_lock(c_class, 0) THEN
        RETURN nextval('pgq_token');
    END IF;
    v_token := nextval('pgq_token');
    IF v_token < to_us - 1000000 AND to_us < 9007000000000000 THEN
        IF v_token < to_us - 30000000 AND current_setting('synchronous_commit') = 'off' THEN
            PERFORM set_config('synchronous_commit', 'local', true);
        END IF;
        v_token := setval('pgq_token', to_us);
    END IF;
    PERFORM pg_advisory_unlock(c_class, 0);
    RETURN v_token;
END
$_pgq_move_token$;

COMMENT ON FUNCTION _pgq_move_token(bigint) IS
    'Move the sequence of tokens to a time in microseconds since 1970, if it is more than a second behind and no other '
    'session moves it. Returns the next token.';

-- After a crash the sequence may repeat the values of claims that were not yet on disk. A commit waits for the WAL
-- writer for three times its delay at most, which is 30 seconds if that is set to the longest. The row of the queue
-- U+001F says that these values have been skipped: pgq_head is unlogged, so a crash empties it. All sessions are new
-- then, and the first claim of each session looks for the row. Its due tells _pgq_workers_reconnect how long no worker
-- counts as gone.
CREATE FUNCTION _pgq_skip_lost_tokens(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_skip_lost_tokens$
DECLARE
    v_target bigint;
BEGIN
    IF EXISTS (SELECT FROM pgq_head AS h WHERE h.queue = E'\x1f') THEN
        RETURN;
    END IF;
    FOR v_try IN 1..20 LOOP
        v_target := greatest(nextval('pgq_token'), _pgq_microseconds(at)) + 60000000;
        IF _pgq_move_token(v_target) >= v_target THEN
            INSERT INTO pgq_head VALUES (E'\x1f', clock_timestamp() + interval '5 seconds', '0', '{}');
            RETURN;
        END IF;
        PERFORM pg_sleep(0.001);
    END LOOP;
END
$_pgq_skip_lost_tokens$;

COMMENT ON FUNCTION _pgq_skip_lost_tokens(timestamptz) IS
    'If the server has crashed since this function was last called, move the sequence of tokens on by a minute, past '
    'the tokens of claims that the crash has undone. Returns nothing.';

CREATE FUNCTION pgq_claim(
    queues text[] DEFAULT '{default}',
    max_jobs bigint DEFAULT 1,
    lease interval DEFAULT NULL,
    worker text DEFAULT NULL,
    max_bytes bigint DEFAULT 16777216
) RETURNS TABLE (
    id bigint,
    token bigint,
    queue text,
    kind text,
    args jsonb,
    attempt integer,
    max_retries integer,
    priority integer,
    ripe_at timestamptz,
    enqueued_at timestamptz,
    lease_until timestamptz,
    context jsonb,
    suspect boolean,
    group_key text,
    saved jsonb
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    -- Leave the planner one plan, whatever the statistics say: the claim index in its own order, then TID scans. A
    -- disabled plan type has a huge cost, which would trigger JIT, and compiling takes longer than the query.
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_claim$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[];
    v_ripe record;
    v_rows tid[];
    v_token bigint;
    v_lease_until timestamptz;
    v_stamp integer;
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    IF _pgq_is_usual_claim(queues, max_jobs, lease, worker, max_bytes, v_now, v_allowed) IS NOT TRUE THEN
        PERFORM _pgq_lease_end(v_now, coalesce(lease, '5 minutes'));
        PERFORM _pgq_check_claim(queues, max_jobs, worker, max_bytes);
    END IF;

    -- Two conditions: PostgreSQL prepares an expression as a whole, and few databases have any mark.
    IF _pgq_marks() IS NULL THEN
        v_ripe := _pgq_lock_ripe(queues, max_jobs, max_bytes, v_now);
    ELSIF _pgq_marks() & _pgq_marks_of(queues) = 0 THEN
        v_ripe := _pgq_lock_ripe(queues, max_jobs, max_bytes, v_now);
    ELSE
        v_ripe := _pgq_lock_marked(queues, max_jobs, max_bytes, v_now);
        lease := coalesce(lease, v_ripe.lease);
        IF v_ripe.in_turn_at IS NOT NULL AND v_ripe.token IS NOT NULL THEN
            RETURN QUERY
            SELECT r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
                   r.enqueued_at, r.lease_until, r.context, r.losses IS NOT NULL, r.group_key,
                   CASE WHEN r.newest_error IS NOT NULL THEN _pgq_saved(r.id) END
            FROM _pgq_move_in_turn(
                v_ripe.rows, v_ripe.token, v_ripe.in_turn_at, coalesce(lease, '5 minutes'), worker) AS r;
            RETURN;
        END IF;
    END IF;
    IF v_ripe.token IS NULL THEN
        RETURN;
    END IF;

    -- A snapshot of its own: a row that was updated just before it was locked has a new ctid, which the snapshot of the
    -- statement that locked it does not see. One job costs less in one statement; many cost less in two, because then
    -- no whole row passes through a CTE.
    IF max_jobs = 1 THEN
        RETURN QUERY
        WITH taken AS (
            DELETE FROM pgq_waiting AS w
            WHERE w.ctid = ANY (v_ripe.rows)
            RETURNING w.*
        ), counted AS (
            INSERT INTO pgq_count (queue, kind, event, jobs, waited)
            SELECT t.queue, t.kind, 'claimed', 1, v_now - t.ripe_at FROM taken AS t
        )
        INSERT INTO pgq_running AS r (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
        )
        SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1, coalesce(t.max_retries, 10),
               t.backoff, t.backoff_cap, t.dedup, t.dedup_key, t.enqueued_at, t.context, v_ripe.token,
               v_now + coalesce(lease, '5 minutes'), pgq_claim.worker, v_now, t.losses,
               coalesce(t.newest_error, CASE WHEN _pgq_is_timed(v_ripe.token) THEN 0 END), t.group_key,
               t.group_id
        FROM taken AS t
        RETURNING r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
                  r.enqueued_at, r.lease_until, r.context, r.losses IS NOT NULL, r.group_key,
                  CASE WHEN r.newest_error IS NOT NULL THEN _pgq_saved(r.id) END;
        RETURN;
    END IF;
    v_rows := v_ripe.rows;
    v_token := v_ripe.token;
    v_lease_until := v_now + coalesce(lease, '5 minutes');
    v_stamp := CASE WHEN _pgq_is_timed(v_token) THEN 0 END;
    RETURN QUERY
    INSERT INTO pgq_running AS r (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
    )
    SELECT w.id, w.queue, w.kind, w.args, w.priority, w.ripe_at, w.attempt + 1, coalesce(w.max_retries, 10),
           w.backoff, w.backoff_cap, w.dedup, w.dedup_key, w.enqueued_at, w.context, v_token, v_lease_until,
           pgq_claim.worker, v_now, w.losses, coalesce(w.newest_error, v_stamp), w.group_key, w.group_id
    FROM pgq_waiting AS w
    WHERE w.ctid = ANY (v_rows)
    ORDER BY w.priority, w.ripe_at, w.id
    RETURNING r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
              r.enqueued_at, r.lease_until, r.context, r.losses IS NOT NULL, r.group_key,
              CASE WHEN r.newest_error IS NOT NULL THEN _pgq_saved(r.id) END;
    WITH taken AS (
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (v_rows)
        RETURNING w.queue, w.kind, w.ripe_at
    )
    INSERT INTO pgq_count (queue, kind, event, jobs, waited)
    SELECT t.queue, t.kind, 'claimed', count(*), sum(v_now - t.ripe_at)
    FROM taken AS t
    GROUP BY t.queue, t.kind;
END
$pgq_claim$;

COMMENT ON FUNCTION pgq_claim(text[], bigint, interval, text, bigint) IS
    'Take up to max_jobs ripe jobs of these queues: by priority, 0 first, then by queue in the order given, then by '
    'ripe_at. So ripe jobs of one priority and queue keep back those after them; a worker that names its queues in '
    'another order each time lets each come first in turn. From a queue with groups or limits (see pgq_configure), a '
    'claim takes at the place of the queue in the list: of each group in turn, by priority within the group. Each row '
    'has the token that every further call about the job must present; the attempt is counted; saved is what the job '
    'has saved in earlier attempts (see pgq_save), or NULL. Fewer rows than '
    'max_jobs do not mean that no other job is ripe: once the args of the jobs taken reach max_bytes, as they are '
    'stored, no further job is taken; and a suspect, which is a job that was lost together with others, is returned '
    'alone. Ripe jobs that are not taken may stay locked until the end of the transaction. If the lease ends before '
    'the job is completed, put back or extended, a later claim rescues it. About once a second in each session, a '
    'claim first rescues up to 50 jobs, of any queue, whose lease has ended or whose worker is gone. Jobs of a queue '
    'or group that is paused stay where they are (see pgq_pause). Returns no row if no job is ripe. A ripe job is not '
    'returned while another transaction has it locked, and may be missed for some minutes while it lies among the '
    'index entries of many claimed jobs. worker is the name under which the jobs are held (see pgq_register); NULL '
    'means none. NULL for lease means the longest that these queues have among their settings (see pgq_configure), or '
    'else 5 minutes. Any other NULL, also among the queues, raises 22004. Raises 22023 for a bad value, 42501 for a '
    'queue that the calling role may not use; in REPEATABLE READ or SERIALIZABLE 25001 if a queue has limits, and '
    '40001 if one got its first limit after the snapshot of the transaction.';

CREATE FUNCTION pgq_claim_batch(
    queues text[] DEFAULT '{default}',
    max_jobs bigint DEFAULT 100,
    lease interval DEFAULT NULL,
    worker text DEFAULT NULL,
    done_ids bigint[] DEFAULT '{}',
    done_tokens bigint[] DEFAULT '{}',
    max_bytes bigint DEFAULT 16777216,
    packed boolean DEFAULT true,
    OUT lost bigint[],
    OUT token bigint,
    OUT lease_until timestamptz,
    OUT suspect boolean,
    OUT ids bigint[],
    OUT queue_names text[],
    OUT kinds text[],
    OUT args text[],
    OUT attempts integer[],
    OUT max_retries integer[],
    OUT priorities integer[],
    OUT ripe_ats timestamptz[],
    OUT enqueued_ats timestamptz[],
    OUT contexts text[],
    OUT group_keys text[],
    OUT saved text[]
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_claim_batch$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[];
    v_ended bigint[];
    v_freed_queues text[];
    v_freed_groups bigint[];
    v_ripe record;
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    IF (_pgq_is_usual_claim(queues, max_jobs, lease, worker, max_bytes, v_now, v_allowed)
        AND packed IS NOT NULL) IS NOT TRUE THEN
        PERFORM _pgq_lease_end(v_now, coalesce(lease, '5 minutes'));
        PERFORM _pgq_check_claim(queues, max_jobs, worker, max_bytes);
        IF packed IS NULL THEN
            RAISE EXCEPTION 'packed is null'
                USING ERRCODE = 'null_value_not_allowed',
                      HINT = 'Leave the argument out, or pass false if single jobs of the batch end in transactions of '
                             'their own.';
        END IF;
    END IF;

    -- Settled first: the maintenance of the claim would rescue a job that is done, but whose lease has ended.
    -- A job that is alone and has no errors needs one look-up. One that is not found there may run in a packed batch.
    IF cardinality(done_ids) = 1 AND cardinality(done_tokens) = 1 THEN
        DELETE FROM pgq_running AS r
        WHERE r.id = done_ids[1]
          AND r.token = done_tokens[1]
          AND r.newest_error IS NULL
          AND r.group_id IS NULL
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed));
        IF FOUND THEN
            v_ended := CASE WHEN _pgq_tell_ends(done_ids, 'done') IS NOT NULL THEN done_ids END;
        END IF;
    END IF;
    lost := '{}';
    -- Two conditions, because PostgreSQL prepares an expression as a whole.
    IF v_ended IS NULL THEN
        IF done_ids IS DISTINCT FROM '{}' OR done_tokens IS DISTINCT FROM '{}' THEN
            SELECT h.ended, h.freed_queues, h.freed_groups INTO v_ended, v_freed_queues, v_freed_groups
            FROM _pgq_complete_held(done_ids, done_tokens, v_allowed) AS h;
            IF cardinality(v_ended) < cardinality(done_ids) THEN
                lost := ARRAY(
                    SELECT d.id
                    FROM unnest(done_ids) WITH ORDINALITY AS d (id, n)
                    WHERE (d.id = ANY (v_ended)) IS NOT TRUE
                    ORDER BY d.n
                );
            END IF;
            -- The claim comes first: a place that it takes again wakes no session.
            IF v_freed_queues IS NOT NULL THEN
                SELECT b.token, b.lease_until, b.suspect, b.ids, b.queue_names, b.kinds, b.args, b.attempts,
                       b.max_retries, b.priorities, b.ripe_ats, b.enqueued_ats, b.contexts, b.group_keys, b.saved
                INTO token, lease_until, suspect, ids, queue_names, kinds, args, attempts, max_retries,
                     priorities, ripe_ats, enqueued_ats, contexts, group_keys, saved
                FROM pgq_claim_batch(
                    queues, max_jobs, lease, worker, max_bytes => max_bytes, packed => packed) AS b;
                PERFORM _pgq_wake_places(v_freed_queues, v_freed_groups);
                RETURN;
            END IF;
        END IF;
    END IF;

    IF max_jobs > 0 THEN
        -- Two conditions here, too; few databases have any mark.
        IF _pgq_marks() IS NULL THEN
            v_ripe := _pgq_lock_ripe(queues, max_jobs, max_bytes, v_now);
        ELSIF _pgq_marks() & _pgq_marks_of(queues) = 0 THEN
            v_ripe := _pgq_lock_ripe(queues, max_jobs, max_bytes, v_now);
        ELSE
            v_ripe := _pgq_lock_marked(queues, max_jobs, max_bytes, v_now);
            lease := coalesce(lease, v_ripe.lease);
            IF v_ripe.in_turn_at IS NOT NULL AND cardinality(v_ripe.rows) = 1 THEN
                SELECT r.token, r.lease_until, r.losses IS NOT NULL, ARRAY[r.id], ARRAY[r.queue], ARRAY[r.kind],
                       ARRAY[r.args::text], ARRAY[r.attempt], ARRAY[r.max_retries], ARRAY[r.priority::integer],
                       ARRAY[r.ripe_at], ARRAY[r.enqueued_at], string_to_array(r.context::text, E'\x1f'),
                       string_to_array(r.group_key, E'\x1f'),
                       CASE WHEN r.newest_error IS NOT NULL THEN _pgq_saved_texts(ARRAY[r.id]) END
                INTO token, lease_until, suspect, ids, queue_names, kinds, args, attempts, max_retries, priorities,
                     ripe_ats, enqueued_ats, contexts, group_keys, saved
                FROM _pgq_move_in_turn(
                    v_ripe.rows, v_ripe.token, v_ripe.in_turn_at, coalesce(lease, '5 minutes'), worker) AS r;
                RETURN;
            ELSIF v_ripe.in_turn_at IS NOT NULL AND v_ripe.token IS NOT NULL THEN
                SELECT max(r.token), max(r.lease_until), bool_or(r.losses IS NOT NULL), array_agg(r.id),
                       array_agg(r.queue), array_agg(r.kind), array_agg(r.args::text), array_agg(r.attempt),
                       array_agg(r.max_retries), array_agg(r.priority::integer), array_agg(r.ripe_at),
                       array_agg(r.enqueued_at), CASE WHEN count(r.context) > 0 THEN array_agg(r.context::text) END,
                       CASE WHEN count(r.group_key) > 0 THEN array_agg(r.group_key) END,
                       CASE WHEN count(r.newest_error) > 0 THEN _pgq_saved_texts(array_agg(r.id)) END
                INTO token, lease_until, suspect, ids, queue_names, kinds, args, attempts, max_retries, priorities,
                     ripe_ats, enqueued_ats, contexts, group_keys, saved
                FROM _pgq_move_in_turn(
                    v_ripe.rows, v_ripe.token, v_ripe.in_turn_at, coalesce(lease, '5 minutes'), worker) AS r;
                RETURN;
            END IF;
        END IF;
    ELSE
        -- A record has no fields before its first assignment.
        SELECT NULL::tid[] AS rows, NULL::bigint AS token, NULL::bigint AS bytes, NULL::bigint AS failed INTO v_ripe;
    END IF;
    IF v_ripe.token IS NULL THEN
        ids := '{}';
        queue_names := '{}';
        kinds := '{}';
        args := '{}';
        attempts := '{}';
        max_retries := '{}';
        priorities := '{}';
        ripe_ats := '{}';
        enqueued_ats := '{}';
        RETURN;
    END IF;

    -- One job needs no aggregates, which would be half of the cost of this statement. No JSON and no key of a group has
    -- the character U+001F in it, and string_to_array returns NULL for NULL.
    IF cardinality(v_ripe.rows) = 1 THEN
        WITH taken AS (
            DELETE FROM pgq_waiting AS w
            WHERE w.ctid = ANY (v_ripe.rows)
            RETURNING w.*
        ), counted AS (
            INSERT INTO pgq_count (queue, kind, event, jobs, waited)
            SELECT t.queue, t.kind, 'claimed', 1, v_now - t.ripe_at FROM taken AS t
        )
        INSERT INTO pgq_running AS r (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
        )
        SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1, coalesce(t.max_retries, 10),
               t.backoff, t.backoff_cap, t.dedup, t.dedup_key, t.enqueued_at, t.context, v_ripe.token,
               v_now + coalesce(lease, '5 minutes'), pgq_claim_batch.worker, v_now, t.losses,
               coalesce(t.newest_error, CASE WHEN _pgq_is_timed(v_ripe.token) THEN 0 END), t.group_key,
               t.group_id
        FROM taken AS t
        RETURNING r.token, r.lease_until, r.losses IS NOT NULL, ARRAY[r.id], ARRAY[r.queue], ARRAY[r.kind],
                  ARRAY[r.args::text], ARRAY[r.attempt], ARRAY[r.max_retries], ARRAY[r.priority::integer],
                  ARRAY[r.ripe_at], ARRAY[r.enqueued_at],
                  string_to_array(r.context::text, E'\x1f')
        INTO token, lease_until, suspect, ids, queue_names, kinds, args, attempts, max_retries, priorities, ripe_ats,
             enqueued_ats, contexts;
        IF v_ripe.failed > 0 THEN
            saved := _pgq_saved_texts(ids);
        END IF;
        RETURN;
    END IF;

    token := v_ripe.token;
    lease_until := v_now + coalesce(lease, '5 minutes');
    IF packed AND _pgq_is_plain(cardinality(v_ripe.rows), v_ripe.bytes, v_ripe.failed) THEN
        suspect := false;
        WITH taken AS (
            DELETE FROM pgq_waiting AS w
            WHERE w.ctid = ANY (v_ripe.rows)
            RETURNING w.*
        ), batch AS (
            SELECT array_agg(t.id) AS ids, array_agg(t.queue) AS queues, array_agg(t.kind) AS kinds,
                   array_agg(t.args::text) AS args, array_agg(t.priority::integer) AS priorities,
                   array_agg(t.ripe_at) AS ripe_ats, array_agg(t.attempt + 1) AS attempts,
                   array_agg(coalesce(t.max_retries, 10)) AS max_retries,
                   array_agg(t.backoff) AS backoffs, array_agg(t.backoff_cap) AS backoff_caps,
                   array_agg(t.dedup) AS dedups,
                   CASE WHEN count(t.dedup_key) > 0 THEN array_agg(t.dedup_key) END AS dedup_keys,
                   array_agg(t.enqueued_at) AS enqueued_ats,
                   CASE WHEN count(t.context) > 0 THEN array_agg(t.context::text) END AS contexts
            FROM (SELECT * FROM taken ORDER BY priority, ripe_at, id) AS t
        ), running AS (
            INSERT INTO pgq_running_batch (
                token, lease_until, worker, claimed_at, ids, queues, kinds, args, priorities, ripe_ats, attempts,
                max_retries, backoffs, backoff_caps, dedups, dedup_keys, enqueued_ats, contexts
            )
            SELECT v_ripe.token, pgq_claim_batch.lease_until, pgq_claim_batch.worker, v_now, b.ids, b.queues, b.kinds,
                   b.args, b.priorities, b.ripe_ats, b.attempts, b.max_retries, b.backoffs, b.backoff_caps, b.dedups,
                   b.dedup_keys, b.enqueued_ats, b.contexts
            FROM batch AS b
        )
        SELECT b.ids, b.queues, b.kinds, b.args, b.attempts, b.max_retries, b.priorities, b.ripe_ats, b.enqueued_ats,
               b.contexts
        INTO ids, queue_names, kinds, args, attempts, max_retries, priorities, ripe_ats, enqueued_ats, contexts
        FROM batch AS b;
        RETURN;
    END IF;

    WITH taken AS (
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (v_ripe.rows)
        RETURNING w.*
    ), counted AS (
        INSERT INTO pgq_count (queue, kind, event, jobs, waited)
        SELECT t.queue, t.kind, 'claimed', count(*), sum(v_now - t.ripe_at)
        FROM taken AS t
        GROUP BY t.queue, t.kind
    ), running AS (
        INSERT INTO pgq_running (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
        )
        SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1, coalesce(t.max_retries, 10),
               t.backoff, t.backoff_cap, t.dedup, t.dedup_key, t.enqueued_at, t.context, v_ripe.token,
               pgq_claim_batch.lease_until, pgq_claim_batch.worker, v_now, t.losses,
               coalesce(t.newest_error, CASE WHEN _pgq_is_timed(v_ripe.token) THEN 0 END), t.group_key,
               t.group_id
        FROM taken AS t
    )
    SELECT bool_or(t.losses IS NOT NULL), array_agg(t.id), array_agg(t.queue), array_agg(t.kind),
           array_agg(t.args::text), array_agg(t.attempt + 1), array_agg(coalesce(t.max_retries, 10)),
           array_agg(t.priority::integer), array_agg(t.ripe_at), array_agg(t.enqueued_at),
           CASE WHEN count(t.context) > 0 THEN array_agg(t.context::text) END
    INTO suspect, ids, queue_names, kinds, args, attempts, max_retries, priorities, ripe_ats, enqueued_ats, contexts
    FROM (SELECT * FROM taken ORDER BY priority, ripe_at, id) AS t;
    IF v_ripe.failed > 0 THEN
        saved := _pgq_saved_texts(ids);
    END IF;
END
$pgq_claim_batch$;

COMMENT ON FUNCTION pgq_claim_batch(
    text[], bigint, interval, text, bigint[], bigint[], bigint, boolean
) IS
    'End the jobs done_ids, each held under its token in done_tokens, as pgq_complete_many does, and take up to '
    'max_jobs ripe jobs as pgq_claim does, in one call. Returns one row. lost are those of done_ids that were not '
    'held: what was done for them must be rolled back. The jobs taken share token and lease_until, and are described '
    'by arrays in the order of the claim: ids, queue_names, kinds, args as the text of JSON, attempts, max_retries, '
    'priorities, ripe_ats, enqueued_ats, contexts as text, group_keys, and saved as text; the last three are NULL if '
    'no job has one. suspect says that the only job is one that was lost together with others (see pgq_claim). If no '
    'job is ripe, token is NULL and the arrays are empty. With max_jobs 0 no job is taken, and no job rescued. The '
    'jobs of a batch are held as those of pgq_claim are, and all calls for running jobs take any of them. packed false '
    'is for a client that holds, completes or fails single jobs of a batch in transactions of its own that stay open: '
    'no call for another job of the batch then waits for them. NULL for worker means none, NULL for lease what it '
    'means in pgq_claim. Any other NULL, also among the queues, raises 22004; a NULL among done_ids or done_tokens '
    'ends no job. Raises 22023 for a bad value, 2202E for done_ids and done_tokens of different lengths, 42501, 25001 '
    'and 40001 as pgq_claim does.';

-- One probe of the index for each group, however many jobs it has. A lap goes from the group after "start" to the last
-- one, and then from the first one to "start".
CREATE FUNCTION _pgq_groups_in_turn(
    queue text,
    setting pgq_queue_setting,
    start bigint,
    seen bigint,
    max_groups bigint,
    max_steps bigint,
    max_jobs bigint,
    capped bigint[],
    free bigint[],
    at timestamptz,
    OUT group_ids bigint[],
    OUT priorities smallint[],
    OUT rooms bigint[],
    OUT firsts tid[],
    OUT last_seen bigint,
    OUT steps bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_groups_in_turn$
DECLARE
    c_last CONSTANT bigint := 9223372036854775807;
    v_cap bigint := _pgq_cap(setting);
    v_after bigint := coalesce(seen, start);
    v_up_to bigint := CASE WHEN seen <= start THEN start ELSE c_last END;
    v_found record;
    v_first record;
BEGIN
    group_ids := '{}';
    priorities := '{}';
    rooms := '{}';
    firsts := '{}';
    last_seen := seen;
    steps := 0;
    -- The usual claim of one job needs one probe.
    IF max_groups = 1 THEN
        SELECT w.group_id, w.priority, w.ctid, 0::bigint AS room INTO v_first
        FROM pgq_waiting AS w
        WHERE w.queue = _pgq_groups_in_turn.queue COLLATE "C"
          AND w.group_id IS NOT NULL
          AND w.group_id > v_after
          AND w.group_id <= v_up_to
          AND w.group_id < _pgq_room()
        ORDER BY w.group_id, w.priority, w.ripe_at, w.id
        LIMIT 1;
        v_first.room := _pgq_room_of(v_first.group_id, setting, max_jobs, v_cap, capped, free, at);
        IF v_first.group_id IS NOT NULL AND v_first.room > 0 THEN
            group_ids := ARRAY[v_first.group_id];
            priorities := ARRAY[v_first.priority];
            rooms := ARRAY[v_first.room];
            firsts := ARRAY[v_first.ctid];
            last_seen := v_first.group_id;
            steps := 1;
            RETURN;
        END IF;
    END IF;
    LOOP
        WITH RECURSIVE step (group_id, priority, place, room, n, found) AS (
            SELECT v_after, NULL::smallint, NULL::tid, 0::bigint, 0, 0
            UNION ALL
            SELECT next.group_id, next.priority, next.ctid, has.room, step.n + 1, step.found + (has.room > 0)::integer
            FROM step
            CROSS JOIN LATERAL (
                SELECT w.group_id, w.priority, w.ctid
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_groups_in_turn.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id > step.group_id
                  AND w.group_id <= v_up_to
                  AND w.group_id < _pgq_room()
                ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                LIMIT 1
            ) AS next
            CROSS JOIN LATERAL (
                -- OFFSET 0 keeps the expression from being evaluated for each of its uses.
                SELECT _pgq_room_of(next.group_id, setting, max_jobs, v_cap, capped, free, at) AS room OFFSET 0
            ) AS has
            WHERE step.n < max_steps - steps AND step.found < max_groups - cardinality(group_ids)
        )
        SELECT array_agg(s.group_id) FILTER (WHERE s.room > 0) AS group_ids,
               array_agg(s.priority) FILTER (WHERE s.room > 0) AS priorities,
               array_agg(s.room) FILTER (WHERE s.room > 0) AS rooms,
               array_agg(s.place) FILTER (WHERE s.room > 0) AS firsts,
               max(s.group_id) FILTER (WHERE s.n > 0) AS last_seen,
               max(s.n) AS steps
        INTO v_found
        FROM step AS s;
        group_ids := group_ids || coalesce(v_found.group_ids, '{}');
        priorities := priorities || coalesce(v_found.priorities, '{}');
        rooms := rooms || coalesce(v_found.rooms, '{}');
        firsts := firsts || coalesce(v_found.firsts, '{}');
        last_seen := coalesce(v_found.last_seen, last_seen);
        steps := steps + v_found.steps;
        IF steps >= max_steps OR cardinality(group_ids) >= max_groups THEN
            RETURN;
        END IF;
        IF v_up_to = start THEN
            last_seen := NULL;
            RETURN;
        END IF;
        v_after := 0;
        v_up_to := start;
        SELECT w.priority, w.ctid INTO v_first
        FROM pgq_waiting AS w
        WHERE w.queue = _pgq_groups_in_turn.queue COLLATE "C"
          AND w.group_id IS NULL
        ORDER BY w.priority, w.ripe_at, w.id
        LIMIT 1;
        IF FOUND THEN
            group_ids := group_ids || 0::bigint;
            priorities := priorities || v_first.priority;
            firsts := firsts || v_first.ctid;
            rooms := rooms || max_jobs;
            last_seen := 0;
            steps := steps + 1;
        END IF;
    END LOOP;
END
$_pgq_groups_in_turn$;

COMMENT ON FUNCTION _pgq_groups_in_turn(
    text, pgq_queue_setting, bigint, bigint, bigint, bigint, bigint, bigint[], bigint[], timestamptz
) IS
    'Return up to max_groups groups of a queue in which jobs wait, ripe or not, in a lap that begins after the group '
    '"start", from after "seen" on; the lowest priority number in each; how many jobs may be taken from it (see '
    '_pgq_room_of); and the ctid of its first job. Groups from which none may be taken are left out. Returns the last '
    'group that it has seen, or NULL if the lap is complete, and how many it has seen, which are max_steps at most.';

CREATE FUNCTION _pgq_lock_firsts(firsts tid[], at timestamptz, OUT rows tid[], OUT bytes bigint, OUT suspects bigint)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_firsts$
BEGIN
    SELECT coalesce(array_agg(locked.ctid), '{}'), coalesce(sum(locked.bytes), 0), count(locked.losses)
    INTO rows, bytes, suspects
    FROM unnest(firsts) AS first (place)
    CROSS JOIN LATERAL (
        SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses
        FROM pgq_waiting AS w
        WHERE w.ctid = first.place
          AND w.ripe_at <= at
        FOR UPDATE SKIP LOCKED
    ) AS locked;
END
$_pgq_lock_firsts$;

COMMENT ON FUNCTION _pgq_lock_firsts(tid[], timestamptz) IS
    'Lock these rows of pgq_waiting, of jobs that are ripe at a time, and skip those that another transaction has '
    'locked. Returns their ctids, in the given order, the size of their args and contexts, and how many are suspects.';

-- One job of each group, where heads are known: of the first lane with one, or of a lane before it. Where neither has a
-- job, none is returned for the group.
CREATE FUNCTION _pgq_first_jobs(queue text, group_ids bigint[], at timestamptz, now timestamptz) RETURNS tid[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_first_jobs$
BEGIN
    RETURN ARRAY(
        SELECT first.ctid
        FROM unnest(group_ids) AS g (group_id)
        CROSS JOIN LATERAL (
            -- OFFSET 0 is a fence: the head is taken out of the row once.
            SELECT coalesce((head.lane).priority, 10) AS priority, _pgq_lane_start((head.lane).here_ripe_us) AS ripe_at,
                   coalesce((head.lane).here_id, 0) AS id
            FROM (
                SELECT (
                    SELECT h.lanes[1]
                    FROM pgq_head AS h
                    WHERE h.queue = _pgq_group_head(_pgq_first_jobs.queue, g.group_id)
                      AND h.due < _pgq_first_jobs.now + interval '6 minutes'
                      AND h.due BETWEEN _pgq_first_jobs.now
                                AND _pgq_first_jobs.now + h.rescan_delay + interval '1 second'
                    ORDER BY h.due DESC
                    LIMIT 1
                ) AS lane
                OFFSET 0
            ) AS head
            OFFSET 0
        ) AS known
        CROSS JOIN LATERAL (
            SELECT fresh.ctid
            FROM (
                SELECT w.ctid
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_first_jobs.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id = nullif(g.group_id, 0)
                  AND w.priority < known.priority
                  AND w.ripe_at <= at
                ORDER BY w.priority, w.ripe_at, w.id
            ) AS fresh
            UNION ALL
            SELECT lane.ctid
            FROM (
                SELECT w.ctid
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_first_jobs.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id = nullif(g.group_id, 0)
                  AND w.priority = known.priority
                  AND (w.ripe_at, w.id) > (known.ripe_at, known.id)
                  AND w.ripe_at <= at
                ORDER BY w.ripe_at, w.id
            ) AS lane
            LIMIT 1
        ) AS first
    );
END
$_pgq_first_jobs$;

COMMENT ON FUNCTION _pgq_first_jobs(text, bigint[], timestamptz, timestamptz) IS
    'Return the ctids of the first jobs of these groups of a queue that are ripe at a time, from their heads on, in '
    'the order of the groups; none for a group where that takes more than two look-ups, nor for the jobs without a '
    'group.';

-- No queue has a name with U+001F.
CREATE FUNCTION _pgq_group_head(queue text, group_id bigint) RETURNS text
    LANGUAGE sql
    IMMUTABLE
    RETURN queue || E'\x1f' || group_id::text;

COMMENT ON FUNCTION _pgq_group_head(text, bigint) IS
    'Return what stands for the queue in the row of pgq_head that has the heads of a group: those that are known, by '
    'priority.';

CREATE FUNCTION _pgq_tuples_read() RETURNS bigint
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN current_setting('track_counts')::boolean THEN
            pg_stat_get_xact_tuples_returned('pgq_waiting_group'::regclass)
            + pg_stat_get_xact_tuples_returned('pgq_waiting_claim'::regclass)
    END;

COMMENT ON FUNCTION _pgq_tuples_read() IS
    'Return a counter of the entries of waiting jobs that this transaction has read; NULL if the server does not '
    'count.';

-- As in _pgq_lanes_reached, the end of a lane counts as a tenth of a second ago. A head moves in two steps, or in one
-- where jobs are older than a second, and "next" never moves back. When its time has come, a group is visited from the
-- start of its lanes, and its heads stay until they have come past. That takes 1.3 % of the time if each visit to each
-- listed group costs as much. Measured: an entry takes as long as five of another queue, because neighbours of one group
-- are in pages of the table that are far apart.
CREATE FUNCTION _pgq_move_group_heads(
    queue text,
    group_ids bigint[],
    wanted bigint[],
    rows tid[],
    last_place bigint,
    entries bigint,
    listed bigint,
    at timestamptz,
    now timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_nestloop = off
    SET enable_mergejoin = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_move_group_heads$
DECLARE
    v_end bigint[] := ARRAY[_pgq_microseconds(at) - 100000, 0];
    -- A transaction that commits later than a second after its enqueue is found by the next visit from the start.
    v_settled bigint[] := ARRAY[_pgq_microseconds(at) - 1000000, 0];
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RETURN;
    END IF;
    WITH taken AS MATERIALIZED (
        SELECT w.group_id, w.priority, count(*) AS jobs, max(ARRAY[_pgq_microseconds(w.ripe_at), w.id]) AS place
        FROM (
            -- OFFSET 0 is a fence, as in _pgq_lanes_reached.
            SELECT coalesce(o.group_id, 0) AS group_id, o.priority, o.ripe_at, o.id
            FROM pgq_waiting AS o
            WHERE o.ctid = ANY (rows)
            OFFSET 0
        ) AS w
        GROUP BY w.group_id, w.priority
    ), visited AS MATERIALIZED (
        SELECT g.group_id, _pgq_group_head(queue, g.group_id) AS head, max(t.priority) AS last,
               coalesce(sum(t.jobs), 0) < g.wanted AND (g.n = last_place) IS NOT TRUE AS ended
        FROM unnest(_pgq_move_group_heads.group_ids, wanted) WITH ORDINALITY AS g (group_id, wanted, n)
        LEFT JOIN taken AS t ON t.group_id = g.group_id
        WHERE (g.n > last_place) IS NOT TRUE
        GROUP BY g.group_id, g.wanted, g.n
    ), known AS MATERIALIZED (
        SELECT v.*, old.ctid AS place, old.due > _pgq_move_group_heads.now AS is_current, old.due, old.rescan_delay,
               old.lanes
        FROM visited AS v
        LEFT JOIN LATERAL (
            SELECT h.ctid, h.*
            FROM pgq_head AS h
            WHERE h.queue = v.head
              AND h.due < _pgq_move_group_heads.now + interval '6 minutes'
              AND h.due < _pgq_move_group_heads.now + h.rescan_delay + interval '1 second'
            ORDER BY h.due DESC
            LIMIT 1
        ) AS old ON true
    ), visit AS MATERIALIZED (
        -- What was read in vain was read in the groups that were visited from the start. To write a row takes as long
        -- as 40 of these entries.
        SELECT _pgq_rescan_delay(20 * (entries * v.visited / greatest(v.from_start, 1) + 40) * listed) AS delay
        FROM (
            SELECT count(*) AS visited, count(*) FILTER (WHERE k.is_current IS NOT TRUE) AS from_start
            FROM known AS k
        ) AS v
    ), replaced AS (
        DELETE FROM pgq_head AS h
        WHERE h.ctid = ANY (ARRAY(
            SELECT o.ctid FROM pgq_head AS o WHERE o.ctid = ANY (ARRAY(SELECT k.place FROM known AS k))
            FOR UPDATE SKIP LOCKED))
    ), lane AS (
        SELECT l.group_id, l.priority, max(l.place) AS place, max(l.here) AS here, max(l.next) AS next
        FROM (
            SELECT t.group_id, t.priority, t.place, NULL::bigint[] AS here, NULL::bigint[] AS next
            FROM taken AS t
            UNION ALL
            SELECT k.group_id, old.priority, NULL,
                   CASE WHEN old.here_ripe_us IS NOT NULL THEN ARRAY[old.here_ripe_us, old.here_id] END,
                   ARRAY[old.next_ripe_us, old.next_id]
            FROM known AS k
            CROSS JOIN LATERAL unnest(k.lanes) AS old
            UNION ALL
            -- A lane that no head is known of, and that was walked to its end, must be long.
            SELECT k.group_id, p.priority, NULL, NULL, NULL
            FROM known AS k
            CROSS JOIN LATERAL generate_series(0, k.last - 1) AS p (priority)
            WHERE k.is_current AND entries > 50
        ) AS l
        GROUP BY l.group_id, l.priority
    )
    INSERT INTO pgq_head (queue, due, rescan_delay, lanes)
    -- A microsecond later, so that the newest row is the first in the index.
    SELECT k.head,
           CASE
               WHEN k.is_current THEN k.due + interval '1 microsecond'
               ELSE _pgq_move_group_heads.now + visit.delay
           END,
           CASE WHEN k.is_current THEN k.rescan_delay ELSE visit.delay END,
           array_agg(
               ROW(lane.priority, moved.here[1], moved.here[2], moved.next[1], moved.next[2])::_pgq_lane_head
               ORDER BY lane.priority)
    FROM known AS k
    CROSS JOIN visit
    JOIN lane ON lane.group_id = k.group_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN k.ended OR lane.priority < k.last THEN greatest(lane.place, v_end) ELSE lane.place END AS place
        OFFSET 0
    ) AS reached
    CROSS JOIN LATERAL (
        SELECT CASE
                   WHEN reached.place IS NULL THEN lane.here
                   -- Far behind: move in one step.
                   WHEN entries > 2000 AND k.is_current THEN reached.place
                   ELSE greatest(least(reached.place, lane.next), least(reached.place, v_settled))
               END AS here,
               greatest(reached.place, lane.next) AS next
        OFFSET 0
    ) AS moved
    GROUP BY k.head, k.is_current, k.due, k.rescan_delay, visit.delay;
END
$_pgq_move_group_heads$;

COMMENT ON FUNCTION _pgq_move_group_heads(
    text, bigint[], bigint[], tid[], bigint, bigint, bigint, timestamptz, timestamptz
) IS
    'Keep where the lanes of groups of a queue begin, given how many jobs of each a claim has wanted, and the rows '
    'that it has taken. Groups after last_place were not visited; NULL: all were. entries is how many it has read in '
    'vain for each group, and listed how many groups there are. Returns nothing.';

CREATE FUNCTION _pgq_groups_setting(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.groups_' || 'pgq_head'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_groups_setting(text) IS
    'Return the name of the setting in which a session keeps a list of the groups of a queue.';

CREATE FUNCTION _pgq_known_groups(
    queue text,
    at timestamptz,
    OUT group_ids bigint[],
    OUT idle bigint[],
    OUT look_us bigint,
    OUT full_look_us bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_known_groups$
DECLARE
    v_parts text[] := string_to_array(current_setting(_pgq_groups_setting(queue), true), ' ');
BEGIN
    idle := '{}';
    -- Most sessions keep none: they need no subtransaction.
    IF v_parts IS NULL OR cardinality(v_parts) < 2 THEN
        RETURN;
    END IF;
    BEGIN
        group_ids := v_parts[3]::bigint[];
        idle := coalesce(v_parts[4]::bigint[], '{}');
        look_us := v_parts[1]::bigint;
        full_look_us := v_parts[2]::bigint;
        IF array_ndims(group_ids) > 1 OR array_position(group_ids, NULL) IS NOT NULL
           OR array_ndims(idle) > 1 OR array_position(idle, NULL) IS NOT NULL THEN
            group_ids := '{}';
            idle := '{}';
        END IF;
        -- A time that lies too far ahead was kept before the clock was set back.
        IF NOT look_us - _pgq_microseconds(at) BETWEEN 0 AND 600000000 THEN
            look_us := 0;
        END IF;
        IF NOT full_look_us - _pgq_microseconds(at) BETWEEN 0 AND 600000000 THEN
            full_look_us := 0;
        END IF;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        group_ids := NULL;
        idle := '{}';
        look_us := NULL;
        full_look_us := NULL;
    END;
END
$_pgq_known_groups$;

COMMENT ON FUNCTION _pgq_known_groups(text, timestamptz) IS
    'Return the groups of a queue that this session has in a list, those that it remembers as idle, and when it looks '
    'for others, and makes a full look, in microseconds since 1970, 0 for now. NULL for the groups: it keeps none, and '
    'from that time on it may make one; NULL for the times, too: it never had one.';

CREATE FUNCTION _pgq_keep_groups(queue text, group_ids bigint[], idle bigint[], look_us bigint, full_look_us bigint)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_keep_groups$
BEGIN
    PERFORM set_config(
        _pgq_groups_setting(queue),
        concat_ws(' ', look_us, full_look_us, group_ids, CASE WHEN group_ids IS NOT NULL THEN idle[:1000] END),
        false);
END
$_pgq_keep_groups$;

COMMENT ON FUNCTION _pgq_keep_groups(text, bigint[], bigint[], bigint, bigint) IS
    'Keep a list of groups of a queue in this session, up to a thousand that are idle, and when it looks for others, '
    'and makes a full look; NULL for the groups: they are too many. Returns nothing.';

CREATE FUNCTION _pgq_groups_of_list(
    list bigint[],
    setting pgq_queue_setting,
    start bigint,
    seen bigint,
    max_groups bigint,
    max_jobs bigint,
    capped bigint[],
    free bigint[],
    at timestamptz,
    OUT group_ids bigint[],
    OUT priorities smallint[],
    OUT rooms bigint[],
    OUT firsts tid[],
    OUT last_seen bigint,
    OUT steps bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_groups_of_list$
DECLARE
    v_cap bigint := _pgq_cap(setting);
    v_from integer := width_bucket(coalesce(seen, start), list) + 1;
    v_up_to integer := width_bucket(start, list);
    v_groups bigint[];
BEGIN
    v_groups := CASE
        WHEN seen <= start THEN list[v_from:v_up_to]
        ELSE list[v_from:] || list[:v_up_to]
    END;
    -- In the select list, unnest() is evaluated group by group, until there are enough.
    SELECT coalesce(array_agg(found.group_id), '{}'), array_agg(0::smallint), array_agg(found.room), '{}', 0
    INTO group_ids, priorities, rooms, firsts, steps
    FROM (
        SELECT g.group_id, has.room
        FROM (SELECT unnest(v_groups) AS group_id) AS g
        CROSS JOIN LATERAL (
            SELECT _pgq_room_of(g.group_id, setting, max_jobs, v_cap, capped, free, at) AS room OFFSET 0
        ) AS has
        WHERE has.room > 0
        LIMIT max_groups
    ) AS found;
    IF cardinality(group_ids) = max_groups THEN
        last_seen := group_ids[max_groups];
    END IF;
END
$_pgq_groups_of_list$;

COMMENT ON FUNCTION _pgq_groups_of_list(
    bigint[], pgq_queue_setting, bigint, bigint, bigint, bigint, bigint[], bigint[], timestamptz
) IS
    'Return what _pgq_groups_in_turn does, of the groups in a list, with the highest priority for each, and without '
    'the jobs.';

CREATE FUNCTION _pgq_find_groups(
    queue text,
    setting pgq_queue_setting,
    list bigint[],
    start bigint,
    seen bigint,
    max_groups bigint,
    max_steps bigint,
    max_jobs bigint,
    capped bigint[],
    free bigint[],
    at timestamptz,
    OUT group_ids bigint[],
    OUT priorities smallint[],
    OUT rooms bigint[],
    OUT firsts tid[],
    OUT last_seen bigint,
    OUT steps bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_find_groups$
DECLARE
    v_groups record;
BEGIN
    IF list IS NULL THEN
        v_groups := _pgq_groups_in_turn(
            queue, setting, start, seen, max_groups, max_steps, max_jobs, capped, free, at);
    ELSE
        v_groups := _pgq_groups_of_list(list, setting, start, seen, max_groups, max_jobs, capped, free, at);
    END IF;
    group_ids := v_groups.group_ids;
    priorities := v_groups.priorities;
    rooms := v_groups.rooms;
    firsts := v_groups.firsts;
    last_seen := v_groups.last_seen;
    steps := v_groups.steps;
END
$_pgq_find_groups$;

COMMENT ON FUNCTION _pgq_find_groups(
    text, pgq_queue_setting, bigint[], bigint, bigint, bigint, bigint, bigint, bigint[], bigint[], timestamptz
) IS
    'Return what _pgq_groups_of_list does, or _pgq_groups_in_turn if the list is NULL.';

CREATE FUNCTION _pgq_lock_in_groups(
    queue text,
    group_ids bigint[],
    priorities smallint[],
    wanted bigint[],
    max_jobs bigint,
    at timestamptz,
    has_heads boolean,
    polite boolean,
    now timestamptz,
    OUT rows tid[],
    OUT places bigint[],
    OUT last_place bigint,
    OUT bytes bigint,
    OUT suspects bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_in_groups$
BEGIN
    SELECT coalesce(array_agg(locked.ctid ORDER BY locked.n, locked.place), '{}'),
           coalesce(array_agg(locked.place), '{}'), max(locked.place), coalesce(sum(locked.bytes), 0),
           count(locked.losses)
    INTO rows, places, last_place, bytes, suspects
    FROM (
        SELECT ripe.*, g.place
        FROM unnest(group_ids, priorities, wanted) WITH ORDINALITY AS g (group_id, priority, wanted, place)
        CROSS JOIN LATERAL (
            SELECT one.*, row_number() OVER () AS n
            FROM (
                SELECT locked.*
                FROM (
                    SELECT lane.ctid
                    FROM (
                        SELECT CASE WHEN has_heads THEN (
                            SELECT h.lanes
                            FROM pgq_head AS h
                            WHERE h.queue = _pgq_group_head(_pgq_lock_in_groups.queue, g.group_id)
                              AND h.due < _pgq_lock_in_groups.now + interval '6 minutes'
                              AND h.due BETWEEN _pgq_lock_in_groups.now
                                        AND _pgq_lock_in_groups.now + h.rescan_delay + interval '1 second'
                            ORDER BY h.due DESC
                            LIMIT 1
                        ) END AS heads
                        OFFSET 0
                    ) AS known
                    CROSS JOIN LATERAL (
                        -- The range of a group has jobs that are or have been ripe: one look-up for all of its lanes.
                        SELECT every.ctid
                        FROM (
                            SELECT w.ctid
                            FROM pgq_waiting AS w
                            WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                              AND w.group_id IS NOT NULL
                              AND w.group_id = CASE WHEN known.heads IS NULL THEN nullif(g.group_id, 0) END
                              AND w.ripe_at <= at
                            ORDER BY w.priority, w.ripe_at, w.id
                        ) AS every
                        UNION ALL
                        -- No job was taken from the lanes before the first one with a head.
                        SELECT fresh.ctid
                        FROM (
                            SELECT w.ctid
                            FROM pgq_waiting AS w
                            WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                              AND w.group_id IS NOT NULL
                              AND w.group_id = CASE WHEN known.heads IS NOT NULL THEN nullif(g.group_id, 0) END
                              AND w.priority < (known.heads[1]).priority
                              AND w.ripe_at <= at
                            ORDER BY w.priority, w.ripe_at, w.id
                        ) AS fresh
                        UNION ALL
                        SELECT grouped.ctid
                        FROM (
                            SELECT h.priority, h.here_ripe_us, h.here_id,
                                   coalesce(lead(h.priority) OVER (), 10) AS next_priority
                            FROM unnest(known.heads) AS h
                            WHERE g.group_id <> 0
                        ) AS head
                        CROSS JOIN LATERAL (
                            SELECT lane.ctid
                            FROM (
                                SELECT w.ctid
                                FROM pgq_waiting AS w
                                WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                                  AND w.group_id IS NOT NULL
                                  AND w.group_id = g.group_id
                                  AND w.priority = head.priority
                                  AND (w.ripe_at, w.id) > (
                                      _pgq_lane_start(head.here_ripe_us), coalesce(head.here_id, 0))
                                  AND w.ripe_at <= at
                                ORDER BY w.ripe_at, w.id
                            ) AS lane
                            UNION ALL
                            SELECT later.ctid
                            FROM (
                                SELECT w.ctid
                                FROM pgq_waiting AS w
                                WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                                  AND w.group_id IS NOT NULL
                                  AND w.group_id = g.group_id
                                  AND w.priority > head.priority
                                  AND w.priority < head.next_priority
                                  AND w.ripe_at <= at
                                ORDER BY w.priority, w.ripe_at, w.id
                            ) AS later
                        ) AS grouped
                        UNION ALL
                        SELECT others.ctid
                        FROM generate_series(g.priority, 9) AS p (priority)
                        LEFT JOIN LATERAL (
                            SELECT h.here_ripe_us, h.here_id
                            FROM unnest(known.heads) AS h
                            WHERE h.priority = p.priority
                        ) AS head ON true
                        CROSS JOIN LATERAL (
                            SELECT w.ctid
                            FROM pgq_waiting AS w
                            WHERE w.queue = _pgq_lock_in_groups.queue COLLATE "C"
                              AND w.group_id IS NULL
                              AND w.priority = p.priority
                              AND (w.ripe_at, w.id) > (
                                  _pgq_lane_start(head.here_ripe_us), coalesce(head.here_id, 0))
                              AND w.ripe_at <= at
                            ORDER BY w.ripe_at, w.id
                        ) AS others
                        WHERE g.group_id = 0
                    ) AS lane
                    LIMIT CASE WHEN polite THEN g.wanted END
                ) AS first
                CROSS JOIN LATERAL (
                    SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses
                    FROM pgq_waiting AS w
                    WHERE w.ctid = first.ctid
                      AND w.ripe_at <= at
                    FOR UPDATE SKIP LOCKED
                ) AS locked
                LIMIT g.wanted
            ) AS one
        ) AS ripe
        WHERE g.wanted > 0
        LIMIT max_jobs
    ) AS locked;
END
$_pgq_lock_in_groups$;

COMMENT ON FUNCTION _pgq_lock_in_groups(
    text, bigint[], smallint[], bigint[], bigint, timestamptz, boolean, boolean, timestamptz
) IS
    'Lock the rows of up to max_jobs jobs of these groups of a queue that are ripe at a time, and no more of each than '
    'are wanted. No lane below the given priority of a group is looked at; with has_heads, each from its head on, if '
    'one is known now. Jobs that another transaction has locked are skipped; a polite claim takes none in their place. '
    'Returns their ctids: the first of each group, then the second of each, and so on; for each row, in any order, the '
    'place of its group among the given ones, and the last of these places; the size of their args and contexts; and '
    'how many are suspects.';

-- From group to group between each two of those that are passed, whose entries it does not read.
CREATE FUNCTION _pgq_groups_between(queue text, passed bigint[], max_groups bigint) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_groups_between$
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE step (group_id, up_to, is_new) AS (
            SELECT g.group_id, coalesce(lead(g.group_id) OVER (ORDER BY g.group_id), _pgq_room()), false
            FROM (SELECT DISTINCT unnest(passed || 0::bigint)) AS g (group_id)
            UNION ALL
            SELECT next.group_id, step.up_to, true
            FROM step
            CROSS JOIN LATERAL (
                SELECT w.group_id
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_groups_between.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id > step.group_id
                  AND w.group_id < step.up_to
                -- The order of the index whose entries are counted.
                ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                LIMIT 1
            ) AS next
        )
        SELECT s.group_id FROM step AS s WHERE s.is_new LIMIT max_groups
    );
END
$_pgq_groups_between$;

COMMENT ON FUNCTION _pgq_groups_between(text, bigint[], bigint) IS
    'Return up to max_groups groups of a queue in which jobs wait, but for those that are passed.';

CREATE FUNCTION _pgq_look_for_groups(
    queue text,
    known bigint[],
    INOUT idle bigint[],
    INOUT full_look_us bigint,
    capped bigint[],
    free bigint[],
    OUT group_ids bigint[],
    OUT look_us bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_look_for_groups$
DECLARE
    c_groups CONSTANT integer := 2000;
    v_read bigint := _pgq_entries_read('pgq_waiting_group');
    v_is_full boolean :=
        idle = '{}' OR coalesce(full_look_us <= _pgq_microseconds(clock_timestamp()), true);
    v_passed bigint[] := known || CASE WHEN v_is_full THEN '{}' ELSE idle END;
    v_new bigint[];
    v_entries bigint;
    v_steps bigint;
BEGIN
    v_new := _pgq_groups_between(queue, v_passed || capped, c_groups + 1);
    IF cardinality(v_passed) + cardinality(v_new) > c_groups THEN
        -- Those that are idle may be found again.
        v_passed := known;
    END IF;
    group_ids := ARRAY(
        SELECT g.group_id
        FROM (
            SELECT unnest(array_remove(v_passed, 0))
            UNION
            SELECT unnest(v_new)
            UNION
            SELECT unnest(capped)
            UNION
            SELECT 0
            WHERE EXISTS (
                SELECT
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_look_for_groups.queue COLLATE "C" AND w.group_id IS NULL)
        ) AS g (group_id)
        WHERE coalesce(_pgq_free(g.group_id, NULL, capped, free) > 0, true)
        ORDER BY g.group_id
    );
    v_entries := coalesce(_pgq_entries_read('pgq_waiting_group') - v_read, 100000);
    -- Measured: a step takes as long as 100 entries.
    v_steps := cardinality(v_passed) + cardinality(capped) + cardinality(v_new);
    IF v_is_full THEN
        full_look_us := _pgq_microseconds(clock_timestamp() + _pgq_rescan_delay(20 * v_entries + 100 * v_steps));
        -- To visit an idle group takes as long as 150 entries.
        idle := CASE
            WHEN v_entries > 1000 + 10 * v_steps + 150 * cardinality(idle) THEN
                ARRAY(SELECT unnest(idle) EXCEPT SELECT unnest(group_ids))
            ELSE '{}'
        END;
        look_us := _pgq_microseconds(
            clock_timestamp() + _pgq_rescan_delay(100 * (v_steps + cardinality(idle))));
    ELSE
        idle := '{}';
        look_us := _pgq_microseconds(clock_timestamp() + _pgq_rescan_delay(v_entries + 100 * v_steps));
    END IF;
    IF cardinality(group_ids) > c_groups THEN
        group_ids := NULL;
        look_us := _pgq_microseconds(clock_timestamp() + interval '5 minutes');
    END IF;
END
$_pgq_look_for_groups$;

COMMENT ON FUNCTION _pgq_look_for_groups(text, bigint[], bigint[], bigint, bigint[], bigint[]) IS
    'Look for groups of a queue in which jobs wait, and that are neither known nor among the capped ones (see '
    '_pgq_caps). Returns these, the known ones and those that are capped and have jobs free, in order, or NULL if they '
    'are too many, and when to look again, in microseconds since 1970. A full look, from full_look_us on, looks for '
    'idle groups, too, and returns those of them that are to be remembered, and when to make the next one; another '
    'look returns all idle groups among the known ones.';

-- What some groups leave of their share goes to the others, once there are no more groups to visit. SKIP LOCKED does
-- not skip the locks of this transaction, so each pass finds the rows of the one before again.
--
-- A group whose first jobs are locked is being served by a claim at the same time. So a claim that other claims do not
-- wait for leaves such a group to its next turn, at first.
CREATE FUNCTION _pgq_lock_shares(
    queue text,
    group_ids bigint[],
    priorities smallint[],
    rooms bigint[],
    firsts tid[],
    max_jobs bigint,
    at timestamptz,
    listed bigint,
    is_alone boolean,
    is_last boolean,
    OUT rows tid[],
    OUT bytes bigint,
    OUT suspects bigint,
    OUT last_group bigint,
    OUT idle bigint[],
    OUT is_long boolean
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_lock_shares$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_share bigint := ceil(max_jobs::numeric / cardinality(group_ids));
    v_wanted bigint[] := ARRAY(SELECT least(r, v_share) FROM unnest(rooms) AS r);
    v_next bigint[];
    v_locked record;
    v_left bigint;
    v_read bigint;
    v_wasted bigint;
    v_goes_on boolean;
BEGIN
    IF cardinality(group_ids) = max_jobs THEN
        v_read := _pgq_tuples_read();
        IF listed > 0 THEN
            firsts := _pgq_first_jobs(queue, group_ids, at, v_now);
        END IF;
        IF cardinality(firsts) = max_jobs THEN
            v_locked := _pgq_lock_firsts(firsts, at);
            rows := v_locked.rows;
            bytes := v_locked.bytes;
            suspects := v_locked.suspects;
            IF cardinality(rows) = max_jobs THEN
                v_wasted := _pgq_tuples_read() - v_read - max_jobs;
                is_long := coalesce(v_wasted > 100 + 5 * max_jobs, true);
                IF is_long AND listed > 0 THEN
                    PERFORM _pgq_move_group_heads(
                        queue, group_ids, v_wanted, rows, NULL, coalesce(v_wasted, 10000) / max_jobs, listed, at,
                        v_now);
                END IF;
                RETURN;
            END IF;
        END IF;
    END IF;
    FOR v_pass IN 1..3 LOOP
        v_read := _pgq_tuples_read();
        v_locked := _pgq_lock_in_groups(
            queue, group_ids, priorities, v_wanted, max_jobs, at, listed > 0, v_pass = 1 AND NOT is_alone, v_now);
        v_wasted := greatest(v_wasted, _pgq_tuples_read() - v_read - cardinality(v_locked.rows));
        v_left := max_jobs - cardinality(v_locked.rows);
        IF v_left = 0 AND v_pass = 1 THEN
            last_group := group_ids[v_locked.last_place];
        END IF;
        EXIT WHEN v_left = 0 OR v_pass = 3 OR NOT is_last;
        WITH taken AS (
            SELECT g.place, g.wanted, g.room, count(l.place) AS jobs,
                   count(l.place) = g.wanted AND g.wanted < g.room AS has_more
            FROM unnest(v_wanted, rooms) WITH ORDINALITY AS g (wanted, room, place)
            LEFT JOIN unnest(v_locked.places) AS l (place) USING (place)
            GROUP BY g.place, g.wanted, g.room
        )
        SELECT array_agg(
                   least(t.room, CASE WHEN t.has_more THEN t.wanted + m.more ELSE t.jobs + 1 END) ORDER BY t.place),
               bool_or(t.has_more)
        INTO v_next, v_goes_on
        FROM taken AS t
        CROSS JOIN (
            SELECT ceil(v_left::numeric / nullif(count(*), 0)) AS more FROM taken AS t WHERE t.has_more
        ) AS m;
        EXIT WHEN NOT v_goes_on AND (is_alone OR v_pass > 1);
        v_wanted := v_next;
    END LOOP;
    rows := v_locked.rows;
    bytes := v_locked.bytes;
    suspects := v_locked.suspects;
    IF v_left > 0 THEN
        idle := ARRAY(
            SELECT g.group_id
            FROM unnest(group_ids) WITH ORDINALITY AS g (group_id, place)
            WHERE g.place <> ALL (v_locked.places));
    END IF;
    is_long := coalesce(v_wasted > 100 + 5 * cardinality(group_ids), true);
    IF is_long AND listed > 0 THEN
        PERFORM _pgq_move_group_heads(
            queue, group_ids, v_wanted, rows, CASE WHEN v_left = 0 THEN v_locked.last_place END,
            coalesce(v_wasted, 10000) / cardinality(group_ids), listed, at, v_now);
    END IF;
END
$_pgq_lock_shares$;

COMMENT ON FUNCTION _pgq_lock_shares(
    text, bigint[], smallint[], bigint[], tid[], bigint, timestamptz, bigint, boolean, boolean
) IS
    'Lock the rows of up to max_jobs jobs of these groups of a queue that are ripe at a time, and no more of each than '
    'it has room for: as many of each, as far as it has them. No lane below the given priority of a group is looked '
    'at. listed is the number of groups in the list of this session (see 45_claim_groups_known.sql); 0: there is none, '
    'and no head is known. is_alone says that this transaction has the lock of the queue, is_last that there are no '
    'other groups. Returns their ctids in the order in which the groups are served; the size of their args and '
    'contexts; how many are suspects; the last group that is served, if later ones were not visited; those '
    'in which no job was taken; and whether many entries were read in vain.';

CREATE FUNCTION _pgq_lock_in_turn(
    queue text,
    max_jobs bigint,
    at timestamptz,
    waits boolean,
    OUT rows tid[],
    OUT bytes bigint,
    OUT suspects bigint,
    OUT locked_at timestamptz,
    OUT place tid,
    OUT is_noted boolean,
    OUT last_group bigint,
    OUT oldest bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_in_turn$
DECLARE
    v_setting pgq_queue_setting;
    v_turn record;
    v_caps record;
    v_list record;
    v_groups record;
    v_locked record;
    v_start bigint;
    v_room bigint := max_jobs;
    v_chunk bigint;
    v_seen bigint;
    v_first bigint;
    v_steps bigint := 0;
    v_read bigint;
    v_idle bigint[] := '{}';
    v_is_cut boolean := false;
    v_visited bigint[] := '{}';
    v_priorities smallint[] := '{}';
    v_rooms bigint[] := '{}';
    v_is_long boolean := false;
    v_has_looked boolean := false;
    v_may_look boolean;
    v_has_groups boolean := false;
    v_is_shared boolean := false;
BEGIN
    rows := '{}';
    bytes := 0;
    suspects := 0;
    is_noted := false;
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = _pgq_lock_in_turn.queue;
    -- In an ordered queue no job is to be left there; a row was locked when the queue became ordered.
    PERFORM _pgq_leave_room(queue, max_jobs + 50, CASE WHEN v_setting.ordered THEN 'infinity' ELSE at END);
    v_list := _pgq_known_groups(queue, clock_timestamp());
    IF _pgq_has_limits(v_setting) THEN
        -- To lock is to write: a claim from an empty queue writes nothing.
        IF v_list.look_us IS NULL AND NOT _pgq_has_waiting(queue) THEN
            last_group := 0;
            RETURN;
        END IF;
        v_setting := _pgq_lock_queue(queue, waits);
        IF v_setting.queue IS NULL THEN
            last_group := 0;
            RETURN;
        END IF;
        -- Under the lock, as the token is drawn: what this claim writes is later than what those before it have
        -- written.
        locked_at := pgq_now();
        at := locked_at;
    END IF;
    v_turn := _pgq_turn(queue);
    place := v_turn.place;
    v_start := coalesce(v_turn.group_id, 0);
    v_caps := _pgq_caps(queue, v_setting, v_turn.oldest, at);
    oldest := v_caps.oldest;
    IF locked_at IS NOT NULL THEN
        v_room := least(v_room, v_setting.max_running - v_caps.running);
        IF v_setting.rate IS NOT NULL THEN
            v_room := least(v_room, _pgq_may_start(_pgq_all_spent(v_setting, 0, at), v_setting.rate, v_setting, at));
        END IF;
    END IF;

    v_may_look := coalesce(v_list.look_us <= _pgq_microseconds(clock_timestamp()), true);
    IF v_room > 0 AND v_list.group_ids IS NOT NULL AND v_may_look THEN
        v_list := _pgq_look_for_groups(
            queue, v_list.group_ids, v_list.idle, v_list.full_look_us, v_caps.capped, v_caps.free);
        v_has_looked := true;
    END IF;
    v_chunk := v_room;
    WHILE v_room > 0 LOOP
        v_read := _pgq_tuples_read();
        IF locked_at IS NOT NULL THEN
            v_groups := _pgq_find_groups(
                queue, v_setting, v_list.group_ids, v_start, v_seen, v_chunk, 1000 - v_steps, v_room, v_caps.capped,
                v_caps.free, at);
        ELSE
            v_groups := _pgq_reserve_groups(
                queue, v_setting, v_list.group_ids, v_start, v_seen, v_chunk, 1000 - v_steps, v_room, v_caps.capped,
                v_caps.free, at);
            v_start := v_groups.start;
            v_is_shared := v_groups.was_shared;
        END IF;
        v_seen := v_groups.last_seen;
        v_steps := v_steps + v_groups.steps;
        v_first := coalesce(v_first, v_groups.group_ids[1]);
        v_has_groups := v_has_groups OR v_seen IS NOT NULL OR v_groups.steps > 1 OR NOT v_groups.group_ids <@ '{0}';
        v_is_long := v_is_long OR v_groups.steps > cardinality(v_groups.group_ids) + 100
            OR coalesce(
                _pgq_tuples_read() - v_read > greatest(v_groups.steps + 100, 8 * v_groups.steps - 200), true);
        IF v_groups.group_ids <> '{}' AND v_setting.ordered THEN
            v_locked := _pgq_lock_heads(
                queue, v_groups.group_ids, v_room, at, coalesce(v_setting.on_dead = 'stop', false));
            rows := rows || v_locked.rows;
            bytes := bytes + v_locked.bytes;
            suspects := suspects + v_locked.suspects;
            v_room := v_room - cardinality(v_locked.rows);
            v_seen := CASE WHEN v_room = 0 THEN v_locked.last_group ELSE v_seen END;
            -- Jobs without a group have no order.
            v_groups.rooms := ARRAY[v_room];
            v_groups.priorities := ARRAY[v_groups.priorities[array_position(v_groups.group_ids, 0)]];
            v_groups.group_ids := CASE WHEN 0 = ANY (v_groups.group_ids) THEN '{0}'::bigint[] ELSE '{}' END;
        END IF;
        IF v_groups.group_ids <> '{}' AND v_room > 0 THEN
            v_locked := _pgq_lock_shares(
                queue, v_groups.group_ids, v_groups.priorities, v_groups.rooms, v_groups.firsts, v_room, at,
                coalesce(cardinality(v_list.group_ids) + 1, 0), locked_at IS NOT NULL, v_seen IS NULL);
            rows := rows || v_locked.rows;
            bytes := bytes + v_locked.bytes;
            suspects := suspects + v_locked.suspects;
            v_room := v_room - cardinality(v_locked.rows);
            v_seen := coalesce(v_locked.last_group, v_seen);
            IF locked_at IS NULL AND v_locked.last_group IS NOT NULL THEN
                PERFORM _pgq_return_turn(queue, v_groups.reserved, v_locked.last_group);
            END IF;
            v_idle := v_idle || v_locked.idle;
            v_is_long := v_is_long OR v_locked.is_long;
            v_is_cut := v_is_cut OR v_seen IS NOT NULL;
            v_visited := v_visited || v_groups.group_ids;
            v_priorities := v_priorities || v_groups.priorities;
            v_rooms := v_rooms || v_groups.rooms;
        END IF;
        -- The next groups may have no job to take either.
        v_chunk := greatest(v_room, 64);
        CONTINUE WHEN v_seen IS NOT NULL AND v_steps < 1000;

        -- The end of a lap, or of what one claim does of it.
        EXIT WHEN rows <> '{}' OR v_has_looked OR (v_list.group_ids IS NULL AND NOT (v_is_long AND v_may_look));
        v_list := _pgq_look_for_groups(
            queue, CASE WHEN v_setting.ordered THEN '{}' ELSE coalesce(v_list.group_ids, '{}') END, v_list.idle,
            v_list.full_look_us, v_caps.capped, v_caps.free);
        v_has_looked := true;
        EXIT WHEN v_list.group_ids IS NULL;
        v_seen := NULL;
        v_steps := 0;
    END LOOP;
    -- The groups that came first have had no more than a share, because others were to follow.
    IF v_room > 0 AND v_seen IS NULL AND v_is_cut AND rows <> '{}' AND v_setting.ordered IS NOT TRUE THEN
        SELECT array_agg(g.group_id) AS group_ids, array_agg(g.priority) AS priorities, array_agg(g.room) AS rooms
        INTO v_groups
        FROM unnest(v_visited, v_priorities, v_rooms) AS g (group_id, priority, room)
        WHERE g.group_id NOT IN (SELECT unnest(v_idle));
        v_locked := _pgq_lock_shares(
            queue, v_groups.group_ids, v_groups.priorities, v_groups.rooms, '{}', cardinality(rows) + v_room, at,
            coalesce(cardinality(v_list.group_ids) + 1, 0), locked_at IS NOT NULL, true);
        rows := v_locked.rows;
        bytes := v_locked.bytes;
        suspects := v_locked.suspects;
    END IF;
    IF v_is_long AND v_may_look AND v_list.group_ids IS NULL AND NOT v_has_looked THEN
        v_list := _pgq_look_for_groups(queue, '{}', '{}', NULL, v_caps.capped, v_caps.free);
        v_has_looked := true;
    END IF;
    IF v_has_looked OR (v_list.group_ids IS NOT NULL AND v_idle <> '{}' AND v_setting.ordered IS NOT TRUE) THEN
        PERFORM _pgq_keep_groups(
            queue,
            CASE WHEN v_list.group_ids IS NOT NULL THEN
                ARRAY(SELECT unnest(v_list.group_ids) EXCEPT SELECT unnest(v_idle) ORDER BY 1)
            END,
            ARRAY(SELECT unnest(array_remove(v_idle, 0)) UNION SELECT unnest(v_list.idle)),
            v_list.look_us, v_list.full_look_us);
    END IF;
    -- After a whole lap the next one begins a group later. After one that has met no group the queue is as others.
    IF locked_at IS NOT NULL OR v_list.look_us IS NOT NULL OR v_has_groups THEN
        last_group := coalesce(v_seen, v_first, v_start);
        is_noted := locked_at IS NULL AND v_is_shared AND place IS NOT NULL;
    END IF;
END
$_pgq_lock_in_turn$;

COMMENT ON FUNCTION _pgq_lock_in_turn(text, bigint, timestamptz, boolean) IS
    'Lock the rows of up to max_jobs jobs of a queue that are ripe at a time, from its groups in turn, and no more '
    'than its limits allow. Returns their ctids; the size of their args and contexts; how many are suspects; if the '
    'queue has limits, when it was locked; and for _pgq_end_turn, where its turn was noted, whether that does, the '
    'group that is served last, NULL if the queue has none, and the oldest token that counts. A queue with limits is '
    'taken by one transaction at a time: while another keeps it, no job is locked, and with waits this is tried for 40 '
    'milliseconds.';

CREATE FUNCTION _pgq_has_limits(setting pgq_queue_setting) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN num_nonnulls(setting.max_running, setting.max_per_group, setting.rate, setting.rate_per_group) > 0
        OR setting.ordered IS TRUE;

COMMENT ON FUNCTION _pgq_has_limits(pgq_queue_setting) IS
    'Return whether a queue with these settings is claimed from under its lock.';

CREATE FUNCTION _pgq_cap(setting pgq_queue_setting) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE WHEN setting.ordered THEN 1 ELSE setting.max_per_group END;

COMMENT ON FUNCTION _pgq_cap(pgq_queue_setting) IS
    'Return how many jobs of each group of a queue may run at a time; NULL: any number.';

-- A lock_timeout far below deadlock_timeout.
CREATE FUNCTION _pgq_await_queue(queue text) RETURNS pgq_queue_setting
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '40ms'
AS $_pgq_await_queue$
DECLARE
    v_setting pgq_queue_setting;
BEGIN
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = _pgq_await_queue.queue FOR UPDATE;
    RETURN v_setting;
EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
END
$_pgq_await_queue$;

COMMENT ON FUNCTION _pgq_await_queue(text) IS
    'Lock the settings of a queue until the end of the transaction, and wait for that for 40 milliseconds at most. '
    'Returns them; NULL if another transaction keeps the lock, or the queue has none.';

CREATE FUNCTION _pgq_lock_queue(queue text, waits boolean) RETURNS pgq_queue_setting
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_queue$
DECLARE
    v_setting pgq_queue_setting;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'queue % has limits and cannot be claimed from in isolation level %',
            queue, upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'active_sql_transaction',
                  HINT = 'Claim in READ COMMITTED: a transaction that sees an old snapshot cannot count what runs.';
    END IF;
    SELECT s.* INTO v_setting
    FROM pgq_queue_setting AS s
    WHERE s.queue = _pgq_lock_queue.queue
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND AND waits THEN
        v_setting := _pgq_await_queue(queue);
    END IF;
    RETURN v_setting;
END
$_pgq_lock_queue$;

COMMENT ON FUNCTION _pgq_lock_queue(text, boolean) IS
    'Lock a queue that has limits until the end of the transaction. Returns its settings; NULL if another transaction '
    'keeps the lock, for more than 40 milliseconds if this one waits. Raises 25001 in an isolation level above READ '
    'COMMITTED.';

CREATE FUNCTION _pgq_await_claims() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_await_claims$
DECLARE
    v_under_way text[];
BEGIN
    FOR v_try IN 1..1000 LOOP
        v_under_way := ARRAY(
            SELECT l.virtualtransaction
            FROM pg_locks AS l
            WHERE l.locktype = 'relation'
              AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
              AND l.relation = 'pgq_mark'::regclass
              AND l.mode = 'RowExclusiveLock'
              AND l.pid IS DISTINCT FROM pg_backend_pid()
              AND (v_under_way IS NULL OR l.virtualtransaction = ANY (v_under_way))
        );
        IF v_under_way = '{}' THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE EXCEPTION 'transactions that have claimed jobs stay open'
        USING ERRCODE = 'lock_not_available',
              HINT = 'Try again later, or end those that pg_stat_activity shows as open for long: a limit counts what '
                     'they claim.';
END
$_pgq_await_claims$;

COMMENT ON FUNCTION _pgq_await_claims() IS
    'Wait for the end of all other transactions that have read the marks of queues. Returns nothing. Raises 55P03 '
    'after about ten seconds.';

-- Claims of all queues that are marked wait from now on, so this waits for a tenth of a second at a time.
CREATE FUNCTION _pgq_lock_settings() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET lock_timeout = '100ms'
AS $_pgq_lock_settings$
BEGIN
    FOR v_try IN 1..50 LOOP
        BEGIN
            LOCK TABLE pgq_queue_setting IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    RAISE EXCEPTION 'transactions that have looked for the settings of queues stay open'
        USING ERRCODE = 'lock_not_available',
              HINT = 'Try again later, or end those that pg_stat_activity shows as open for long: a limit counts what '
                     'they claim.';
END
$_pgq_lock_settings$;

COMMENT ON FUNCTION _pgq_lock_settings() IS
    'Wait until no other transaction has looked for the settings of queues, and keep it so until the end of this one. '
    'Returns nothing. Raises 55P03 after about ten seconds.';

-- Rows that are locked, mostly by the transaction of a handler, cannot be changed: to wait for it would be a deadlock,
-- because it could not end its job. These jobs are noted.
CREATE FUNCTION _pgq_begin_limits(queue text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_begin_limits$
DECLARE
    v_rows tid[];
BEGIN
    PERFORM _pgq_await_claims();
    PERFORM _pgq_lock_settings();
    DELETE FROM pgq_turn AS t WHERE t.queue = _pgq_begin_limits.queue;
    PERFORM _pgq_unpack(ARRAY(
        SELECT b.token
        FROM pgq_running_batch AS b
        WHERE b.queues @> ARRAY[queue]
        FOR UPDATE SKIP LOCKED));
    v_rows := ARRAY(
        SELECT r.ctid
        FROM pgq_running AS r
        WHERE r.queue = _pgq_begin_limits.queue
          AND r.group_id IS NULL
        FOR UPDATE SKIP LOCKED);
    UPDATE pgq_running AS r SET group_id = coalesce(_pgq_group_id(r.group_key), 0) WHERE r.ctid = ANY (v_rows);
    DELETE FROM pgq_uncounted AS u WHERE u.queue = _pgq_begin_limits.queue;
    INSERT INTO pgq_uncounted (queue, id, token, group_id)
    SELECT r.queue, r.id, r.token, coalesce(_pgq_group_id(r.group_key), 0)
    FROM _pgq_running AS r
    WHERE r.queue = _pgq_begin_limits.queue
      AND r.group_id IS NULL;
END
$_pgq_begin_limits$;

COMMENT ON FUNCTION _pgq_begin_limits(text) IS
    'Make the running jobs of a queue count, which this transaction has marked, and gives its first limit. Returns '
    'nothing. Raises 55P03 if transactions that have claimed jobs stay open.';

-- Jobs that ran when their queue got its first limit, and whose rows were locked then, have no group_id.
CREATE TABLE pgq_uncounted (
    queue    text COLLATE "C" NOT NULL,
    id       bigint           NOT NULL,
    token    bigint           NOT NULL,
    group_id bigint           NOT NULL
);


CREATE INDEX pgq_uncounted_queue ON pgq_uncounted (queue);

-- The table has no key. Without an identity its rows could not be deleted once a publication has the table.
ALTER TABLE pgq_uncounted REPLICA IDENTITY FULL;
COMMENT ON TABLE pgq_uncounted IS
    'Jobs that were running, and locked, when their queue got its first limit: they are counted here while they run.';
COMMENT ON COLUMN pgq_uncounted.queue IS 'The queue.';
COMMENT ON COLUMN pgq_uncounted.id IS 'The job.';
COMMENT ON COLUMN pgq_uncounted.token IS 'Its token: after another claim the job is counted in pgq_running.';
COMMENT ON COLUMN pgq_uncounted.group_id IS 'Number of its group; 0: it has none.';

-- The count begins at the oldest token of the last one, which was made under the lock of the queue. Tokens are drawn
-- under that lock, so they grow from claim to claim. From the start of its range, each claim would walk over the
-- entries of all jobs that have ended while a snapshot is held. The place is in a table and not in a session setting,
-- which any role can forge: a wrong one would break the limit for all.
CREATE FUNCTION _pgq_caps(
    queue text,
    setting pgq_queue_setting,
    since bigint,
    at timestamptz,
    OUT running bigint,
    OUT oldest bigint,
    OUT capped bigint[],
    OUT free bigint[]
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_caps$
DECLARE
    v_cap bigint := _pgq_cap(setting);
    v_counts boolean := num_nonnulls(setting.max_running, v_cap) > 0;
BEGIN
    IF NOT v_counts
       AND NOT EXISTS (SELECT FROM pgq_paused AS p WHERE p.queue = _pgq_caps.queue AND p.group_id <> 0 AND p.until > at)
    THEN
        running := 0;
        capped := '{}';
        free := '{}';
        RETURN;
    END IF;
    SELECT coalesce(sum(g.jobs), 0), CASE WHEN v_counts THEN coalesce(min(g.oldest), 9223372036854775807) END,
           coalesce(array_agg(g.group_id) FILTER (WHERE g.is_capped), '{}'),
           coalesce(array_agg(CASE WHEN g.is_paused THEN 0 ELSE greatest(v_cap - g.jobs, 0) END)
                    FILTER (WHERE g.is_capped), '{}')
    INTO running, oldest, capped, free
    FROM (
        SELECT c.group_id, sum(c.jobs)::bigint AS jobs, min(c.oldest) AS oldest, bool_or(c.jobs = 0) AS is_paused,
               c.group_id <> 0 AND (v_cap IS NOT NULL OR bool_or(c.jobs = 0)) AS is_capped
        FROM (
            SELECT r.group_id, count(*) AS jobs, min(r.token) AS oldest
            FROM pgq_running AS r
            WHERE v_counts
              AND r.queue = _pgq_caps.queue COLLATE "C"
              AND r.token >= coalesce(since, 0)
              AND r.group_id IS NOT NULL
            GROUP BY r.group_id
            UNION ALL
            SELECT u.group_id, 1, NULL
            FROM pgq_uncounted AS u
            CROSS JOIN LATERAL (
                SELECT FROM _pgq_running AS r WHERE r.id = u.id AND r.token = u.token AND r.group_id IS NULL OFFSET 0
            ) AS running
            WHERE v_counts
              AND u.queue = _pgq_caps.queue
            UNION ALL
            SELECT p.group_id, 0, NULL
            FROM pgq_paused AS p
            WHERE p.queue = _pgq_caps.queue AND p.group_id <> 0 AND p.until > at
        ) AS c
        GROUP BY c.group_id
        ORDER BY c.group_id
    ) AS g;
END
$_pgq_caps$;

COMMENT ON FUNCTION _pgq_caps(text, pgq_queue_setting, bigint, timestamptz) IS
    'Count the running jobs of a queue that its limits count, from the token "since" on. Returns how many there are; '
    'the oldest token of them, the greatest number if there is none, NULL if the queue has no such limit; the numbers '
    'of the groups, in order, of which fewer may be taken than the settings say, because some run or the group is '
    'paused; and how many of each of these are free.';

-- width_bucket finds the group by halving.
CREATE FUNCTION _pgq_free(group_id bigint, cap bigint, capped bigint[], free bigint[]) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN capped[width_bucket(group_id, capped)] = group_id THEN free[width_bucket(group_id, capped)]
        ELSE cap
    END;

COMMENT ON FUNCTION _pgq_free(bigint, bigint, bigint[], bigint[]) IS
    'Return how many jobs of a group may be taken (see _pgq_caps), where cap is the number of those of most groups; '
    'NULL: any number.';

-- While a claim waits here, new producers queue behind it, so that they cannot keep it waiting for ever by coming one
-- after the other. A producer that stays in its transaction keeps both waiting for as long as this may take.
CREATE FUNCTION _pgq_await_order(key integer) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET lock_timeout = '20ms'
AS $_pgq_await_order$
BEGIN
    PERFORM pg_advisory_xact_lock('pgq_queue_setting'::regclass::oid::integer, key);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$_pgq_await_order$;

COMMENT ON FUNCTION _pgq_await_order(integer) IS
    'Wait until no enqueue is open in the groups that share a lock, for 20 milliseconds at most, and keep others from '
    'beginning. Returns whether that was reached.';

-- The locks go with the subtransaction: after it, a producer can only draw later ids. The row of a head that another
-- transaction has locked is skipped, and not the head: its group waits.
CREATE FUNCTION _pgq_lock_heads(
    queue text,
    group_ids bigint[],
    max_jobs bigint,
    at timestamptz,
    stops boolean,
    OUT rows tid[],
    OUT bytes bigint,
    OUT suspects bigint,
    OUT last_group bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_heads$
DECLARE
    c_class CONSTANT integer := 'pgq_queue_setting'::regclass::oid::integer;
    v_groups bigint[] := array_remove(group_ids, 0);
    v_first integer := _pgq_order_key(queue, v_groups[1]);
    v_keys integer[];
    v_heads bigint[];
BEGIN
    rows := '{}';
    bytes := 0;
    suspects := 0;
    IF v_groups = '{}' THEN
        RETURN;
    END IF;
    BEGIN
        -- The groups take turns in being the first one.
        IF NOT pg_try_advisory_xact_lock(c_class, v_first) AND NOT _pgq_await_order(v_first) THEN
            v_groups := v_groups[2:];
        END IF;
        v_keys := ARRAY(
            SELECT k.key
            FROM (SELECT DISTINCT _pgq_order_key(queue, g) AS key FROM unnest(v_groups) AS g) AS k
            WHERE pg_try_advisory_xact_lock(c_class, k.key)
        );
        v_heads := ARRAY(
            SELECT head.id
            FROM unnest(v_groups) WITH ORDINALITY AS g (group_id, n)
            CROSS JOIN LATERAL (
                SELECT w.id, w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_lock_heads.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id = g.group_id
                ORDER BY w.id
                LIMIT 1
            ) AS head
            WHERE _pgq_order_key(queue, g.group_id) = ANY (v_keys)
              AND head.ripe_at <= at
              AND NOT (
                  stops
                  AND EXISTS (
                      SELECT
                      FROM pgq_ended AS e
                      WHERE e.queue = _pgq_lock_heads.queue COLLATE "C"
                        AND e.group_id = g.group_id
                        AND e.outcome = 'dead'
                        AND e.id < head.id
                  )
              )
            ORDER BY g.n
            LIMIT max_jobs
        );
        RAISE SQLSTATE 'PGQ00';
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        NULL;
    END;

    SELECT coalesce(array_agg(locked.ctid ORDER BY locked.n), '{}'), coalesce(sum(locked.bytes), 0),
           count(locked.losses), (array_agg(locked.group_id ORDER BY locked.n DESC))[1]
    INTO rows, bytes, suspects, last_group
    FROM (
        SELECT head.*, h.n
        FROM unnest(v_heads) WITH ORDINALITY AS h (id, n)
        CROSS JOIN LATERAL (
            SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                   w.group_id
            FROM pgq_waiting AS w
            WHERE w.id = h.id
              AND w.ripe_at <= at
            FOR UPDATE SKIP LOCKED
        ) AS head
    ) AS locked;
END
$_pgq_lock_heads$;

COMMENT ON FUNCTION _pgq_lock_heads(text, bigint[], bigint, timestamptz, boolean) IS
    'Lock the rows of up to max_jobs jobs of an ordered queue, each the first of one of these groups, of which no job '
    'runs. A first job that is not ripe at a time, or that another transaction has locked, keeps its group waiting; so '
    'does a dead one before it, if stops. Returns their ctids in the order of the groups, the size of their args and '
    'contexts, how many are suspects, and the group of the last row.';

CREATE TABLE pgq_rate (
    queue     text COLLATE "C" NOT NULL,
    group_id  bigint           NOT NULL,
    all_spent timestamptz      NOT NULL
);


CREATE INDEX pgq_rate_spent ON pgq_rate (queue, group_id, all_spent);

-- The table has no key. Without an identity its rows could not be deleted once a publication has the table.
ALTER TABLE pgq_rate REPLICA IDENTITY FULL;
COMMENT ON TABLE pgq_rate IS 'How far the jobs that have started have used the rates of their queues and groups.';
COMMENT ON COLUMN pgq_rate.queue IS 'The queue.';
COMMENT ON COLUMN pgq_rate.group_id IS 'Number of the group, as in pgq_waiting; 0: the queue.';
COMMENT ON COLUMN pgq_rate.all_spent IS
    'Until when the starts so far have used the rate; a time in the past: not at all.';

CREATE FUNCTION _pgq_rate_steps(span interval, rate integer, per interval) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN ceil(extract(epoch FROM greatest(span, interval '0'))::numeric * rate / extract(epoch FROM per)::numeric);

COMMENT ON FUNCTION _pgq_rate_steps(interval, integer, interval) IS
    'Return how many steps of a rate a span takes, rounded up; 0 if it is negative.';

-- Rounded up to a microsecond, so that the sum of many steps is no smaller than that of the rate. 3155760000000000 are a
-- hundred years: burst steps of a slow rate may take longer than a timestamp can have.
CREATE FUNCTION _pgq_span(steps bigint, rate integer, per interval) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN least(ceil(steps * extract(epoch FROM per)::numeric * 1000000 / rate), 3155760000000000)::bigint
        * interval '1 microsecond';

COMMENT ON FUNCTION _pgq_span(bigint, integer, interval) IS
    'Return how long so many steps of a rate are, a hundred years at most.';

CREATE FUNCTION _pgq_may_start(all_spent timestamptz, rate integer, setting pgq_queue_setting, at timestamptz)
    RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN rate IS NOT NULL
            THEN greatest(
                coalesce(setting.burst, 1) - coalesce(_pgq_rate_steps(all_spent - at, rate, setting.per), 0), 0)
    END;

COMMENT ON FUNCTION _pgq_may_start(timestamptz, integer, pgq_queue_setting, timestamptz) IS
    'Return how many jobs may start at a time under a rate; NULL without one.';

-- A time that lies far further ahead than burst steps was written before the clock was set back.
CREATE FUNCTION _pgq_known_spent(
    all_spent timestamptz,
    rate integer,
    setting pgq_queue_setting,
    at timestamptz
) RETURNS timestamptz
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN all_spent <= at + _pgq_span(coalesce(setting.burst, 1), rate, setting.per) + interval '1 minute'
            THEN all_spent
    END;

COMMENT ON FUNCTION _pgq_known_spent(timestamptz, integer, pgq_queue_setting, timestamptz) IS
    'Return until when a rate is used, given what pgq_rate says; NULL if that cannot be so at this time.';

CREATE FUNCTION _pgq_all_spent(setting pgq_queue_setting, group_id bigint, at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_all_spent$
BEGIN
    RETURN (
        SELECT _pgq_known_spent(
                   r.all_spent, CASE WHEN r.group_id = 0 THEN setting.rate ELSE setting.rate_per_group END, setting, at)
        FROM pgq_rate AS r
        WHERE r.queue = setting.queue AND r.group_id = _pgq_all_spent.group_id
        ORDER BY r.all_spent DESC
        LIMIT 1
    );
END
$_pgq_all_spent$;

COMMENT ON FUNCTION _pgq_all_spent(pgq_queue_setting, bigint, timestamptz) IS
    'Return until when the rate of a queue, group 0, or of a group of it, is used at a time; NULL: not at all.';

-- Otherwise the starts under a slow rate would keep jobs waiting long after it has become a fast one.
CREATE FUNCTION _pgq_change_rate(setting pgq_queue_setting, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_change_rate$
BEGIN
    UPDATE pgq_rate AS r
    SET all_spent = at + span.burst
    FROM (
        SELECT r.ctid AS place,
               _pgq_span(
                   coalesce(setting.burst, 1),
                   CASE WHEN r.group_id = 0 THEN setting.rate ELSE setting.rate_per_group END,
                   setting.per) AS burst
        FROM pgq_rate AS r
        WHERE r.queue = setting.queue
        OFFSET 0
    ) AS span
    WHERE r.ctid = span.place
      AND r.all_spent > at + span.burst;
END
$_pgq_change_rate$;

COMMENT ON FUNCTION _pgq_change_rate(pgq_queue_setting, timestamptz) IS
    'Note that a queue and its groups have used no more than the burst of the rates that it has now. This transaction '
    'has the lock of the queue. Returns nothing.';

CREATE FUNCTION _pgq_room_of(
    group_id bigint,
    setting pgq_queue_setting,
    max_jobs bigint,
    cap bigint,
    capped bigint[],
    free bigint[],
    at timestamptz
) RETURNS bigint
    LANGUAGE sql
    VOLATILE
    RETURN CASE group_id
        WHEN 0 THEN max_jobs
        -- least() passes over NULL, which stands for any number.
        ELSE least(
            max_jobs,
            _pgq_free(group_id, cap, capped, free),
            CASE WHEN setting.rate_per_group IS NOT NULL THEN
                _pgq_may_start(_pgq_all_spent(setting, group_id, at), setting.rate_per_group, setting, at)
            END)
    END;

COMMENT ON FUNCTION _pgq_room_of(bigint, pgq_queue_setting, bigint, bigint, bigint[], bigint[], timestamptz) IS
    'Return how many jobs of a group of a queue may be taken at a time, max_jobs at most, given how many of each group '
    'run (see _pgq_caps and _pgq_free). Jobs without a group, group 0, have no limits of their own.';

-- The rows of groups whose time has passed say nothing. Some of them are removed with each claim.
CREATE FUNCTION _pgq_spend(setting pgq_queue_setting, rows tid[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_spend$
BEGIN
    WITH started AS (
        SELECT key.group_id, count(*) AS jobs
        FROM (SELECT w.queue, w.group_id FROM pgq_waiting AS w WHERE w.ctid = ANY (rows) OFFSET 0) AS job
        CROSS JOIN LATERAL (
            SELECT 0::bigint WHERE setting.rate IS NOT NULL
            UNION ALL
            SELECT job.group_id WHERE setting.rate_per_group IS NOT NULL AND job.group_id IS NOT NULL
        ) AS key (group_id)
        WHERE job.queue = setting.queue COLLATE "C"
        GROUP BY key.group_id
    ), spent AS (
        SELECT s.group_id, s.jobs, known.ctid AS place, known.all_spent,
               CASE s.group_id WHEN 0 THEN setting.rate ELSE setting.rate_per_group END AS rate
        FROM started AS s
        LEFT JOIN LATERAL (
            SELECT r.ctid, r.all_spent
            FROM pgq_rate AS r
            WHERE r.queue = setting.queue AND r.group_id = s.group_id
            ORDER BY r.all_spent DESC
            LIMIT 1
        ) AS known ON true
    ), passed AS (
        SELECT next.ctid
        FROM (
            SELECT r.ctid, r.all_spent
            FROM pgq_rate AS r
            WHERE r.queue = setting.queue AND r.group_id > (SELECT max(s.group_id) FROM spent AS s)
            ORDER BY r.group_id
            LIMIT 20
        ) AS next
        WHERE next.all_spent <= at
    ), replaced AS (
        DELETE FROM pgq_rate AS r
        WHERE r.ctid = ANY (ARRAY(SELECT s.place FROM spent AS s UNION ALL SELECT p.ctid FROM passed AS p))
    )
    INSERT INTO pgq_rate (queue, group_id, all_spent)
    SELECT setting.queue, s.group_id,
           greatest(_pgq_known_spent(s.all_spent, s.rate, setting, at), at)
           + _pgq_span(s.jobs, s.rate, setting.per)
    FROM spent AS s;
END
$_pgq_spend$;

COMMENT ON FUNCTION _pgq_spend(pgq_queue_setting, tid[], timestamptz) IS
    'Count the jobs that a claim starts at a time, whose rows in pgq_waiting it has locked, in the rates of their '
    'queue and its groups; those of other queues are passed over. This transaction has the lock of the queue. Returns '
    'nothing.';

CREATE FUNCTION _pgq_group_ripe_at(queue text, group_id bigint, kinds text[], is_ordered boolean) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_group_ripe_at$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    IF is_ordered THEN
        RETURN (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_group_ripe_at.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id = _pgq_group_ripe_at.group_id
            ORDER BY w.id
            LIMIT 1
        );
    ELSIF group_id = 0 THEN
        RETURN (
            SELECT min(lane.ripe_at)
            FROM generate_series(0, 9) AS p (priority)
            CROSS JOIN LATERAL (
                SELECT w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_group_ripe_at.queue COLLATE "C"
                  AND w.group_id IS NULL
                  AND w.priority = p.priority
                  AND (kinds IS NULL OR w.kind = ANY (kinds))
                ORDER BY w.ripe_at, w.id
                LIMIT 1
            ) AS lane
        );
    END IF;
    -- From the heads on: from its start a lane may have the entries of many jobs that are gone.
    RETURN (
        SELECT min(lane.ripe_at)
        FROM (
            SELECT (
                SELECT h.lanes
                FROM pgq_head AS h
                WHERE h.queue = _pgq_group_head(_pgq_group_ripe_at.queue, _pgq_group_ripe_at.group_id)
                  AND h.due < v_now + interval '6 minutes'
                  AND h.due BETWEEN v_now AND v_now + h.rescan_delay + interval '1 second'
                ORDER BY h.due DESC
                LIMIT 1
            ) AS heads
            OFFSET 0
        ) AS known
        CROSS JOIN generate_series(0, 9) AS p (priority)
        LEFT JOIN LATERAL (
            SELECT h.here_ripe_us, h.here_id
            FROM unnest(known.heads) AS h
            WHERE h.priority = p.priority
        ) AS head ON true
        CROSS JOIN LATERAL (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_group_ripe_at.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id = _pgq_group_ripe_at.group_id
              AND w.priority = p.priority
              AND (w.ripe_at, w.id) > (_pgq_lane_start(head.here_ripe_us), coalesce(head.here_id, 0))
              AND (kinds IS NULL OR w.kind = ANY (kinds))
            ORDER BY w.ripe_at, w.id
            LIMIT 1
        ) AS lane
    );
END
$_pgq_group_ripe_at$;

COMMENT ON FUNCTION _pgq_group_ripe_at(text, bigint, text[], boolean) IS
    'Return when the first job of a group of a queue, and of one of these kinds, or any if these are NULL, is or was '
    'ripe; the first one enqueued, of any kind, if the queue is ordered; NULL if none waits. Group 0 stands for the '
    'jobs without a group.';

CREATE FUNCTION _pgq_grouped_ripe_at(queues text[], kinds text[], at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_grouped_ripe_at$
DECLARE
    v_queue text;
    v_list record;
    v_groups bigint[];
    v_group_id bigint;
    v_ripe_at timestamptz;
    v_until timestamptz;
    v_is_ordered boolean;
BEGIN
    FOREACH v_queue IN ARRAY queues LOOP
        CONTINUE WHEN _pgq_marks() & _pgq_mark_of(v_queue) = 0;
        v_is_ordered := _pgq_is_ordered(v_queue);
        -- The way from group to group passes all entries of jobs that are gone, so it leaves out the groups that the
        -- session knows.
        v_list := _pgq_known_groups(v_queue, clock_timestamp());
        v_groups := array_remove(v_list.group_ids, 0) || v_list.idle;
        v_groups := v_groups || _pgq_groups_between(v_queue, v_groups, NULL) || _pgq_room();
        FOREACH v_group_id IN ARRAY v_groups LOOP
            v_until := (
                SELECT p.until
                FROM pgq_paused AS p
                WHERE p.queue = v_queue COLLATE "C" AND p.group_id = v_group_id AND p.until > at);
            CONTINUE WHEN v_until = 'infinity';
            v_ripe_at := least(
                v_ripe_at, greatest(v_until, _pgq_group_ripe_at(v_queue, v_group_id, kinds, v_is_ordered)));
            IF v_ripe_at <= at THEN
                RETURN v_ripe_at;
            END IF;
        END LOOP;
    END LOOP;
    RETURN v_ripe_at;
END
$_pgq_grouped_ripe_at$;

COMMENT ON FUNCTION _pgq_grouped_ripe_at(text[], text[], timestamptz) IS
    'Return when the first waiting job of these queues that has a group, and is of one of these kinds, or any if these '
    'are NULL, is ripe and its group not paused; NULL if there is none, or only such as are paused until they are '
    'resumed.';

CREATE FUNCTION _pgq_has_waiting(queue text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_has_waiting$
BEGIN
    RETURN EXISTS (
            SELECT FROM pgq_waiting AS w WHERE w.queue = _pgq_has_waiting.queue COLLATE "C" AND w.group_id IS NULL)
        OR EXISTS (
            SELECT
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_has_waiting.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id < _pgq_room());
END
$_pgq_has_waiting$;

COMMENT ON FUNCTION _pgq_has_waiting(text) IS
    'Return whether jobs wait in a queue, not counting those in its waiting room.';

CREATE FUNCTION _pgq_leave_room(queue text, max_jobs bigint, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_leave_room$
DECLARE
    v_rows tid[];
BEGIN
    -- Most queues have an empty room: one look tells.
    IF NOT EXISTS (
        SELECT
        FROM pgq_waiting AS w
        WHERE w.queue = _pgq_leave_room.queue COLLATE "C"
          AND w.group_id IS NOT NULL
          AND w.group_id = _pgq_room()
    ) THEN
        RETURN;
    END IF;
    v_rows := ARRAY(
        SELECT ripe.ctid
        FROM generate_series(0, 9) AS lane (priority)
        CROSS JOIN LATERAL (
            SELECT w.ctid
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_leave_room.queue COLLATE "C"
              AND w.group_id IS NOT NULL
              AND w.group_id = _pgq_room()
              AND w.priority = lane.priority
              AND w.ripe_at <= at
            ORDER BY w.ripe_at, w.id
            LIMIT max_jobs
            FOR UPDATE SKIP LOCKED
        ) AS ripe
        LIMIT max_jobs
    );
    IF v_rows <> '{}' THEN
        UPDATE pgq_waiting AS w SET group_id = _pgq_group_id(w.group_key) WHERE w.ctid = ANY (v_rows);
    END IF;
END
$_pgq_leave_room$;

COMMENT ON FUNCTION _pgq_leave_room(text, bigint, timestamptz) IS
    'Move up to max_jobs jobs of the waiting room of a queue that are ripe at a time to their groups. Returns nothing.';

-- A look, which locks nothing: what it says of limits may have changed when a claim comes. It looks at a thousand
-- groups at most.
CREATE FUNCTION _pgq_turn_at(queue text, at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_turn_at$
DECLARE
    v_setting pgq_queue_setting;
    v_turn record;
    v_caps record;
    v_list record;
    v_spent timestamptz;
    v_token_at timestamptz := at;
    v_groups record;
    v_soonest timestamptz;
BEGIN
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = _pgq_turn_at.queue;
    v_turn := _pgq_turn(queue);
    v_caps := _pgq_caps(queue, v_setting, v_turn.oldest, at);
    IF v_caps.running >= v_setting.max_running THEN
        RETURN NULL;
    END IF;
    IF v_setting.rate IS NOT NULL THEN
        v_spent := _pgq_all_spent(v_setting, 0, at);
        IF _pgq_may_start(v_spent, v_setting.rate, v_setting, at) = 0 THEN
            v_token_at := v_spent - _pgq_span(coalesce(v_setting.burst, 1) - 1, v_setting.rate, v_setting.per);
        END IF;
    END IF;
    v_list := _pgq_known_groups(queue, clock_timestamp());
    v_groups := _pgq_find_groups(
        queue, v_setting, v_list.group_ids, coalesce(_pgq_reserved_turn(queue), v_turn.group_id, 0), NULL, 1000, 1000,
        1, v_caps.capped, v_caps.free, at);

    SELECT min(soonest.ripe_at) INTO v_soonest
    FROM (
        SELECT _pgq_group_ripe_at(queue, g.group_id, NULL, v_setting.ordered) AS ripe_at
        FROM unnest(array_remove(v_groups.group_ids, 0)) AS g (group_id)
        UNION ALL
        SELECT _pgq_group_ripe_at(queue, 0, NULL, false)
        UNION ALL
        SELECT _pgq_group_ripe_at(queue, _pgq_room(), NULL, false)
    ) AS soonest;
    IF v_groups.last_seen IS NOT NULL AND (v_soonest > at) IS NOT FALSE THEN
        -- There are more groups: the next claims go on round them.
        v_soonest := least(v_soonest, at + interval '50 milliseconds');
    END IF;
    -- The tokens of groups that wait for them.
    IF v_setting.rate_per_group IS NOT NULL THEN
        SELECT least(v_soonest, min(s.token_at)) INTO v_soonest
        FROM (
            SELECT r.all_spent - _pgq_span(
                       coalesce(v_setting.burst, 1) - 1, v_setting.rate_per_group, v_setting.per) AS token_at,
                   r.group_id
            FROM pgq_rate AS r
            WHERE r.queue = _pgq_turn_at.queue AND r.group_id > 0 AND r.all_spent > at
            ORDER BY r.group_id
            LIMIT 1000
        ) AS s
        WHERE s.token_at > at
          AND EXISTS (
              SELECT
              FROM pgq_waiting AS w
              WHERE w.queue = _pgq_turn_at.queue COLLATE "C" AND w.group_id IS NOT NULL AND w.group_id = s.group_id);
    END IF;
    RETURN greatest(v_soonest, CASE WHEN v_soonest IS NOT NULL THEN v_token_at END);
END
$_pgq_turn_at$;

COMMENT ON FUNCTION _pgq_turn_at(text, timestamptz) IS
    'Return when the next job of a queue with groups or limits may be claimed, as far as that is known at a time: now '
    'or before, later, or NULL if none waits, or only such as wait for the end of others or of a pause.';

-- Rows are inserted and deleted, but never updated, and the newest is the first in the index, however many dead ones a
-- snapshot keeps. Two claims that run at the same time may both leave theirs: the one with the greater token counts.
CREATE UNLOGGED TABLE pgq_turn (
    queue    text COLLATE "C" NOT NULL,
    token    bigint           NOT NULL,
    group_id bigint           NOT NULL,
    oldest   bigint
);


CREATE INDEX pgq_turn_token ON pgq_turn (queue, token);

COMMENT ON TABLE pgq_turn IS
    'Where the next claim from a queue with groups or limits begins. Empty after a crash: it begins anywhere.';
COMMENT ON COLUMN pgq_turn.queue IS 'The queue.';
COMMENT ON COLUMN pgq_turn.token IS 'The token of the claim that has left the row; the greatest of a queue counts.';
COMMENT ON COLUMN pgq_turn.group_id IS 'Number of the group that was served last; 0: jobs without a group.';
COMMENT ON COLUMN pgq_turn.oldest IS
    'No job that the limits of the queue count has a smaller token; NULL: not known, because the queue had no limits.';

-- An insert meets rows that the snapshot of the transaction does not show, and then raises 40001. It is undone.
CREATE FUNCTION _pgq_check_snapshot(queues text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_snapshot$
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        BEGIN
            INSERT INTO pgq_queue_setting (queue)
            SELECT DISTINCT q.queue FROM unnest(queues) AS q (queue)
            WHERE _pgq_marks() & _pgq_mark_of(q.queue) <> 0
            ON CONFLICT ON CONSTRAINT pgq_queue_setting_pkey DO NOTHING;
            RAISE SQLSTATE 'PGQ00';
        EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
            NULL;
        END;
    END IF;
END
$_pgq_check_snapshot$;

COMMENT ON FUNCTION _pgq_check_snapshot(text[]) IS
    'Check that this transaction sees the present settings of these queues. Returns nothing. Raises 40001 in an '
    'isolation level above READ COMMITTED if they have changed since its snapshot.';

-- A queue stays special until a claim has found no group in it: under a held snapshot, the look for the first of its
-- groups would read the entries of many jobs that are gone.
CREATE FUNCTION _pgq_look_at_queues(
    queues text[],
    at timestamptz,
    OUT open text[],
    OUT special text[],
    OUT lease interval,
    OUT has_defaults boolean,
    OUT keeps boolean
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_look_at_queues$
BEGIN
    PERFORM _pgq_check_snapshot(queues);
    SELECT coalesce(array_agg(q.queue) FILTER (WHERE looked.is_open IS NOT FALSE), '{}'),
           coalesce(array_agg(q.queue) FILTER (WHERE looked.is_open AND looked.is_special), '{}'),
           max(looked.lease), bool_or(looked.has_defaults), bool_or(looked.keeps)
    INTO open, special, lease, has_defaults, keeps
    FROM unnest(queues) AS q (queue)
    LEFT JOIN LATERAL (
        SELECT NOT EXISTS (
                   SELECT
                   FROM pgq_paused AS p
                   WHERE p.queue = q.queue COLLATE "C" AND p.group_id = 0 AND p.until > at) AS is_open,
               setting.lease,
               num_nonnulls(setting.max_retries, setting.backoff, setting.backoff_cap, setting.keep_done) > 0
                   AS has_defaults,
               setting.keep_done IS NOT NULL AS keeps,
               _pgq_has_limits(setting)
               OR (SELECT t.token FROM pgq_turn AS t WHERE t.queue = q.queue ORDER BY t.token DESC LIMIT 1) IS NOT NULL
               OR EXISTS (
                   SELECT FROM pgq_waiting AS w WHERE w.queue = q.queue COLLATE "C" AND w.group_id IS NOT NULL)
               AS is_special
        FROM (SELECT) AS one
        LEFT JOIN pgq_queue_setting AS setting ON setting.queue = q.queue COLLATE "C"
        WHERE _pgq_marks() & _pgq_mark_of(q.queue) <> 0
        OFFSET 0
    ) AS looked ON true;
END
$_pgq_look_at_queues$;

COMMENT ON FUNCTION _pgq_look_at_queues(text[], timestamptz) IS
    'Return those of these queues, in their order, that are not paused at a time; those of them that are special: they '
    'have limits, or jobs with a group wait in them or did, and claims take from them in turn; the longest lease that '
    'the queues have among their settings, the paused ones, too; whether one has settings for its jobs; and whether '
    'one keeps all that is done. Raises 40001 as _pgq_check_snapshot does.';

CREATE FUNCTION _pgq_turn(queue text, OUT place tid, OUT group_id bigint, OUT oldest bigint)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_turn$
BEGIN
    SELECT t.ctid, t.group_id, t.oldest INTO place, group_id, oldest
    FROM pgq_turn AS t
    WHERE t.queue = _pgq_turn.queue
    ORDER BY t.token DESC
    LIMIT 1;
END
$_pgq_turn$;

COMMENT ON FUNCTION _pgq_turn(text) IS
    'Return which group of a queue was served last, and where the count of its running jobs begins, with the ctid of '
    'the row that says so; NULLs if nothing is known.';

-- No session waits for a row of another one. A session of a stricter isolation level removes no row, because that could
-- fail. Claims at the same time leave old rows behind the newest; these are removed now and then.
CREATE FUNCTION _pgq_end_turn(queue text, place tid, token bigint, group_id bigint, oldest bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_end_turn$
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RETURN;
    END IF;
    DELETE FROM pgq_turn AS t
    WHERE t.ctid = ANY (ARRAY(SELECT o.ctid FROM pgq_turn AS o WHERE o.ctid = place FOR UPDATE SKIP LOCKED));
    IF random() < 0.005 OR token IS NULL THEN
        DELETE FROM pgq_turn AS t
        WHERE t.ctid = ANY (ARRAY(
            SELECT o.ctid FROM pgq_turn AS o WHERE o.queue = _pgq_end_turn.queue LIMIT 1000 FOR UPDATE SKIP LOCKED));
    END IF;
    IF token IS NOT NULL THEN
        INSERT INTO pgq_turn VALUES (queue, token, group_id, oldest);
    END IF;
END
$_pgq_end_turn$;

COMMENT ON FUNCTION _pgq_end_turn(text, tid, bigint, bigint, bigint) IS
    'Note which group of a queue a claim has served last, and where the count of its running jobs begins, in place of '
    'the row at a ctid. NULL for token: the queue has neither groups nor limits, and nothing is noted. Returns '
    'nothing.';

-- What is left of a mixed list: runs of queues without groups or limits are claimed together, as always.
CREATE FUNCTION _pgq_lock_in_turns(
    queues text[],
    special text[],
    max_jobs bigint,
    max_bytes bigint,
    INOUT at timestamptz,
    OUT rows tid[],
    OUT token bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_in_turns$
DECLARE
    -- For one queue, the value of _pgq_digest, without a query.
    v_digest text := CASE cardinality(queues)
        WHEN 1 THEN '1 ' || hashtextextended(queues[1] COLLATE "C", 0)
        ELSE _pgq_digest(queues)
    END;
    v_next_due timestamptz;
    v_run text[] := '{}';
    v_queue text;
    v_part record;
    v_waits boolean := true;
    v_bytes bigint := 0;
    v_suspects bigint := 0;
    v_turns pgq_turn[] := '{}';
    v_places tid[] := '{}';
BEGIN
    IF _pgq_is_bare(v_digest, _pgq_microseconds(at)) IS NOT TRUE THEN
        v_next_due := _pgq_maintain(at);
        PERFORM set_config(
            _pgq_bare_setting(),
            v_digest || ' ' || _pgq_microseconds(greatest(at, least(v_next_due, at + interval '10 seconds'))),
            false);
    END IF;
    rows := '{}';
    FOREACH v_queue IN ARRAY queues || ARRAY[NULL] LOOP
        IF NOT v_queue = ANY (special) THEN
            v_run := v_run || v_queue;
            CONTINUE;
        END IF;
        IF v_run <> '{}' THEN
            SELECT r.rows, coalesce(r.bytes, 0) AS bytes INTO v_part
            FROM _pgq_lock_ripe(v_run, max_jobs - cardinality(_pgq_lock_in_turns.rows), max_bytes - v_bytes, at) AS r;
            rows := rows || v_part.rows;
            v_bytes := v_bytes + v_part.bytes;
            v_suspects := v_suspects + (
                SELECT count(w.losses)
                FROM (SELECT o.losses FROM pgq_waiting AS o WHERE o.ctid = ANY (v_part.rows) OFFSET 0) AS w);
            EXIT WHEN cardinality(rows) >= max_jobs OR v_bytes >= max_bytes OR v_suspects > 0;
            v_run := '{}';
        END IF;
        EXIT WHEN v_queue IS NULL;
        v_part := _pgq_lock_next(v_queue, max_jobs - cardinality(rows), at);
        IF v_part.rows IS NULL THEN
            v_part := _pgq_lock_in_turn(v_queue, max_jobs - cardinality(rows), at, v_waits);
        END IF;
        rows := rows || v_part.rows;
        v_bytes := v_bytes + v_part.bytes;
        v_suspects := v_suspects + v_part.suspects;
        IF v_part.locked_at IS NOT NULL THEN
            -- With the lock of a queue, a claim waits for no other.
            v_waits := false;
            at := greatest(at, v_part.locked_at);
        END IF;
        IF NOT v_part.is_noted
           AND (v_part.rows <> '{}' OR v_part.last_group IS NULL AND v_part.place IS NOT NULL) THEN
            v_turns := v_turns || ROW(v_queue, NULL, v_part.last_group, v_part.oldest)::pgq_turn;
            v_places := v_places || coalesce(v_part.place, '(0,0)');
        END IF;
        EXIT WHEN cardinality(rows) >= max_jobs OR v_bytes >= max_bytes OR v_suspects > 0;
    END LOOP;
    IF v_bytes > max_bytes OR v_suspects > 0 THEN
        rows := _pgq_cut(rows, max_bytes);
    END IF;
    IF rows <> '{}' THEN
        -- Drawn while the rows, and the queues with limits, are locked.
        token := nextval('pgq_token');
        IF token < _pgq_microseconds(at) - 1000000 THEN
            token := _pgq_move_token(_pgq_microseconds(at));
        END IF;
    END IF;
    IF v_turns <> '{}' THEN
        PERFORM _pgq_end_turn(
            t.queue, t.place, CASE WHEN t.group_id IS NOT NULL THEN _pgq_lock_in_turns.token END, t.group_id,
            CASE WHEN t.oldest IS NOT NULL THEN least(t.oldest, _pgq_lock_in_turns.token) END)
        FROM unnest(v_turns, v_places) AS t (queue, token, group_id, oldest, place)
        WHERE t.group_id IS NULL OR rows <> '{}';
        PERFORM _pgq_spend(s, rows, at)
        FROM unnest(v_turns) AS t
        JOIN pgq_queue_setting AS s ON s.queue = t.queue
        WHERE num_nonnulls(s.rate, s.rate_per_group) > 0;
    END IF;
END
$_pgq_lock_in_turns$;

COMMENT ON FUNCTION _pgq_lock_in_turns(text[], text[], bigint, bigint, timestamptz) IS
    'Do the maintenance of a claim, and lock the rows of up to max_jobs jobs of these queues, each named once, that '
    'are ripe at a time, and no more once their args and contexts reach max_bytes; a suspect alone: from the special '
    'queues in turn, and from the others between them as always. Returns their ctids, in the order in which the jobs '
    'are to be returned, and the token and the time of the claim, which is later than the given one if it has waited '
    'for a queue with limits.';

-- The plain statements of the claims sort by the columns of a job. Here the order is that in which the rows were taken.
CREATE FUNCTION _pgq_move_in_turn(rows tid[], token bigint, at timestamptz, lease interval, worker text)
    RETURNS SETOF pgq_running
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_nestloop = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_move_in_turn$
BEGIN
    IF cardinality(rows) = 1 THEN
        RETURN QUERY
        WITH taken AS (
            DELETE FROM pgq_waiting AS w
            WHERE w.ctid = ANY (rows)
            RETURNING w.*
        ), counted AS (
            INSERT INTO pgq_count (queue, kind, event, jobs, waited)
            SELECT t.queue, t.kind, 'claimed', 1, _pgq_move_in_turn.at - t.ripe_at FROM taken AS t
        )
        INSERT INTO pgq_running AS r (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
        )
        SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1,
               coalesce(t.max_retries, (t.setting).max_retries, 10), coalesce(t.backoff, (t.setting).backoff),
               coalesce(t.backoff_cap, (t.setting).backoff_cap), t.dedup, t.dedup_key, t.enqueued_at, t.context,
               _pgq_move_in_turn.token, at + _pgq_move_in_turn.lease, _pgq_move_in_turn.worker, at, t.losses,
               coalesce(
                   t.newest_error,
                   CASE WHEN (t.setting).keep_done IS NOT NULL OR _pgq_is_timed(_pgq_move_in_turn.token) THEN 0 END),
               t.group_key, CASE WHEN _pgq_has_limits(t.setting) THEN coalesce(t.group_id, 0) END
        FROM (
            -- Without nested loops, a join would be one by hashing. OFFSET 0 is a fence: one look-up.
            SELECT o.*, (SELECT s FROM pgq_queue_setting AS s WHERE s.queue = o.queue COLLATE "C") AS setting
            FROM taken AS o
            OFFSET 0
        ) AS t
        RETURNING r.*;
        RETURN;
    END IF;
    RETURN QUERY
    WITH taken AS (
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (rows)
        RETURNING w.ctid AS place, w.*
    ), counted AS (
        INSERT INTO pgq_count (queue, kind, event, jobs, waited)
        SELECT t.queue, t.kind, 'claimed', count(*), sum(_pgq_move_in_turn.at - t.ripe_at)
        FROM taken AS t
        GROUP BY t.queue, t.kind
    )
    INSERT INTO pgq_running AS r (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
    )
    SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1,
           coalesce(t.max_retries, s.max_retries, 10), coalesce(t.backoff, s.backoff),
           coalesce(t.backoff_cap, s.backoff_cap), t.dedup, t.dedup_key, t.enqueued_at, t.context,
           _pgq_move_in_turn.token, at + _pgq_move_in_turn.lease, _pgq_move_in_turn.worker, at, t.losses,
           coalesce(
               t.newest_error,
               CASE WHEN s.keep_done IS NOT NULL OR _pgq_is_timed(_pgq_move_in_turn.token) THEN 0 END),
           t.group_key,
           CASE WHEN _pgq_has_limits(s) THEN coalesce(t.group_id, 0) END
    FROM taken AS t
    JOIN unnest(rows) WITH ORDINALITY AS o (place, n) USING (place)
    LEFT JOIN pgq_queue_setting AS s ON s.queue = t.queue COLLATE "C"
    ORDER BY o.n
    RETURNING r.*;
END
$_pgq_move_in_turn$;

COMMENT ON FUNCTION _pgq_move_in_turn(tid[], bigint, timestamptz, interval, text) IS
    'Move jobs whose rows were locked in an earlier statement from pgq_waiting to pgq_running; the limits of their '
    'queues count them from then on. Returns the rows, in the given order.';

CREATE FUNCTION _pgq_lock_next(
    queue text,
    max_jobs bigint,
    at timestamptz,
    OUT rows tid[],
    OUT bytes bigint,
    OUT suspects bigint,
    OUT locked_at timestamptz,
    OUT place tid,
    OUT is_noted boolean,
    OUT last_group bigint,
    OUT oldest bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_incremental_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_next$
DECLARE
    v_start bigint;
    v_turn bigint;
    v_firsts tid[];
    v_locked record;
    v_read bigint;
    v_list record;
    v_has_room boolean;
BEGIN
    SELECT turn.ctid, coalesce(turn.group_id, 0),
           EXISTS (
               SELECT
               FROM pgq_waiting AS w
               WHERE w.queue = _pgq_lock_next.queue COLLATE "C"
                 AND w.group_id IS NOT NULL
                 AND w.group_id = _pgq_room())
    INTO place, v_start, v_has_room
    FROM (SELECT) AS usual
    LEFT JOIN LATERAL (
        SELECT t.ctid, t.group_id
        FROM pgq_turn AS t
        WHERE t.queue = _pgq_lock_next.queue
        ORDER BY t.token DESC
        LIMIT 1
    ) AS turn ON true
    WHERE coalesce(current_setting(_pgq_groups_setting(_pgq_lock_next.queue), true), '') = ''
      AND NOT EXISTS (
          SELECT FROM pgq_queue_setting AS s WHERE s.queue = _pgq_lock_next.queue AND _pgq_has_limits(s))
      AND NOT EXISTS (SELECT FROM pgq_paused AS p WHERE p.queue = _pgq_lock_next.queue AND p.group_id <> 0);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF v_has_room THEN
        PERFORM _pgq_leave_room(queue, max_jobs + 50, at);
    END IF;
    v_read := _pgq_tuples_read();
    BEGIN
        -- As in _pgq_reserve_groups.
        IF pg_try_advisory_xact_lock('pgq_turn_0'::regclass::oid::integer, hashtext(queue COLLATE "C")) THEN
            v_turn := _pgq_reserved_turn(queue);
            IF max_jobs = 1 THEN
                SELECT w.group_id, ARRAY[w.ctid] INTO last_group, v_firsts
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_lock_next.queue COLLATE "C"
                  AND w.group_id IS NOT NULL
                  AND w.group_id > coalesce(v_turn, v_start)
                  AND w.group_id < _pgq_room()
                ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                LIMIT 1;
            ELSE
                WITH RECURSIVE step (group_id, place, n) AS (
                    SELECT coalesce(v_turn, v_start), NULL::tid, 0
                    UNION ALL
                    SELECT next.group_id, next.ctid, step.n + 1
                    FROM step
                    CROSS JOIN LATERAL (
                        SELECT w.group_id, w.ctid
                        FROM pgq_waiting AS w
                        WHERE w.queue = _pgq_lock_next.queue COLLATE "C"
                          AND w.group_id IS NOT NULL
                          AND w.group_id > step.group_id
                          AND w.group_id < _pgq_room()
                        ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                        LIMIT 1
                    ) AS next
                    WHERE step.n < max_jobs
                )
                SELECT max(s.group_id), array_agg(s.place) INTO last_group, v_firsts FROM step AS s WHERE s.n > 0;
            END IF;
            IF cardinality(v_firsts) = max_jobs THEN
                PERFORM setval(_pgq_turn_sequence(queue), _pgq_turn_value(queue, last_group));
            END IF;
            RAISE SQLSTATE 'PGQ00';
        END IF;
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        NULL;
    END;
    IF (cardinality(v_firsts) = max_jobs) IS NOT TRUE THEN
        RETURN;
    END IF;
    IF max_jobs = 1 THEN
        SELECT ARRAY[w.ctid], pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0),
               (w.losses IS NOT NULL)::integer
        INTO rows, bytes, suspects
        FROM pgq_waiting AS w
        WHERE w.ctid = v_firsts[1]
          AND w.ripe_at <= at
        FOR UPDATE SKIP LOCKED;
    ELSE
        v_locked := _pgq_lock_firsts(v_firsts, at);
        rows := v_locked.rows;
        bytes := v_locked.bytes;
        suspects := v_locked.suspects;
    END IF;
    IF (cardinality(rows) = max_jobs) IS NOT TRUE THEN
        rows := NULL;
        PERFORM _pgq_return_turn(queue, last_group, coalesce(v_turn, v_start));
        RETURN;
    END IF;
    is_noted := v_turn IS NOT NULL AND place IS NOT NULL;
    IF (_pgq_tuples_read() - v_read > 100 + 5 * max_jobs) IS NOT FALSE THEN
        v_list := _pgq_look_for_groups(queue, '{}', '{}', NULL, '{}', '{}');
        PERFORM _pgq_keep_groups(queue, v_list.group_ids, v_list.idle, v_list.look_us, v_list.full_look_us);
    END IF;
END
$_pgq_lock_next$;

COMMENT ON FUNCTION _pgq_lock_next(text, bigint, timestamptz) IS
    'Do what _pgq_lock_in_turn does for a claim of max_jobs jobs that are ripe at a time, where one look at each of as '
    'many groups is enough. NULL for rows: it is not, and the turn is as before. The queue has limits, or had a paused '
    'group; the session keeps a list of its groups; another claim moves the turn at this moment; fewer groups follow; '
    'or the first job of one of them is locked or not ripe.';

CREATE SEQUENCE pgq_turn_0 MINVALUE 0 START 0;


CREATE SEQUENCE pgq_turn_1 MINVALUE 0 START 0;


CREATE SEQUENCE pgq_turn_2 MINVALUE 0 START 0;


CREATE SEQUENCE pgq_turn_3 MINVALUE 0 START 0;


CREATE SEQUENCE pgq_turn_4 MINVALUE 0 START 0;


CREATE SEQUENCE pgq_turn_5 MINVALUE 0 START 0;


CREATE SEQUENCE pgq_turn_6 MINVALUE 0 START 0;


CREATE SEQUENCE pgq_turn_7 MINVALUE 0 START 0;

COMMENT ON SEQUENCE pgq_turn_0 IS
    'Whose turn it is in a queue with groups: 15 bits of a hash of its name, and the upper 48 bits of the number of '
    'the group that was reserved last. The queues share pgq_turn_0 to pgq_turn_7.';
COMMENT ON SEQUENCE pgq_turn_1 IS 'As pgq_turn_0.';
COMMENT ON SEQUENCE pgq_turn_2 IS 'As pgq_turn_0.';
COMMENT ON SEQUENCE pgq_turn_3 IS 'As pgq_turn_0.';
COMMENT ON SEQUENCE pgq_turn_4 IS 'As pgq_turn_0.';
COMMENT ON SEQUENCE pgq_turn_5 IS 'As pgq_turn_0.';
COMMENT ON SEQUENCE pgq_turn_6 IS 'As pgq_turn_0.';
COMMENT ON SEQUENCE pgq_turn_7 IS 'As pgq_turn_0.';

CREATE FUNCTION _pgq_turn_sequence(queue text) RETURNS regclass
    LANGUAGE sql
    STABLE
    RETURN ('pgq_turn_' || (hashtext(queue COLLATE "C") & 7))::regclass;

COMMENT ON FUNCTION _pgq_turn_sequence(text) IS
    'Return the sequence in which the turn of a queue is.';

CREATE FUNCTION _pgq_turn_value(queue text, group_id bigint) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN ((hashtextextended(queue COLLATE "C", 0) & 32767) << 48) | (group_id >> 15);

COMMENT ON FUNCTION _pgq_turn_value(text, bigint) IS
    'Return the value that says that a group of a queue was reserved last.';

-- The lower bits of the number are lost: a group that differs from the reserved one in these only is passed over once.
CREATE FUNCTION _pgq_reserved_turn(queue text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_reserved_turn$
DECLARE
    v_value bigint := pg_sequence_last_value(_pgq_turn_sequence(queue));
BEGIN
    RETURN CASE
        WHEN v_value >> 48 = hashtextextended(queue COLLATE "C", 0) & 32767 THEN
            ((v_value & 281474976710655) << 15) | 32767
    END;
END
$_pgq_reserved_turn$;

COMMENT ON FUNCTION _pgq_reserved_turn(text) IS
    'Return the group of a queue that was reserved last, as the greatest number with its upper 48 bits; NULL if the '
    'sequence has the value of another queue, or none.';

-- The lock keeps two claims from reserving the same groups. Any role can take it and keep it: after 20 milliseconds a
-- claim goes on without. The lock ends with a subtransaction, so an error leaves none behind, and a transaction that
-- stays open keeps no other claim waiting.
CREATE FUNCTION _pgq_reserve_groups(
    queue text,
    setting pgq_queue_setting,
    list bigint[],
    INOUT start bigint,
    seen bigint,
    max_groups bigint,
    max_steps bigint,
    max_jobs bigint,
    capped bigint[],
    free bigint[],
    at timestamptz,
    OUT group_ids bigint[],
    OUT priorities smallint[],
    OUT rooms bigint[],
    OUT firsts tid[],
    OUT last_seen bigint,
    OUT steps bigint,
    OUT was_shared boolean,
    OUT reserved bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_reserve_groups$
DECLARE
    c_class CONSTANT integer := 'pgq_turn_0'::regclass::oid::integer;
    v_sequence CONSTANT regclass := _pgq_turn_sequence(queue);
    v_value bigint;
    v_turn bigint;
    v_start bigint := start;
    v_groups record;
BEGIN
    BEGIN
        FOR v_try IN 1..20 LOOP
            EXIT WHEN pg_try_advisory_xact_lock(c_class, hashtext(queue COLLATE "C"));
            PERFORM pg_sleep(0.001);
        END LOOP;
        FOR v_try IN 1..5 LOOP
            v_value := pg_sequence_last_value(v_sequence);
            v_turn := _pgq_reserved_turn(queue);
            IF seen IS NULL THEN
                v_start := coalesce(v_turn, start);
            ELSIF (v_turn <= start, v_turn) > (seen <= start, seen) THEN
                -- Other claims have come further meanwhile.
                seen := v_turn;
            END IF;
            v_groups := _pgq_find_groups(
                queue, setting, list, v_start, seen, max_groups, max_steps, max_jobs, capped, free, at);
            -- Without the lock, another claim may have reserved these groups meanwhile.
            EXIT WHEN pg_sequence_last_value(v_sequence) IS NOT DISTINCT FROM v_value;
        END LOOP;
        -- After a whole lap the next one begins a group later.
        reserved := coalesce(v_groups.last_seen, v_groups.group_ids[1], v_start);
        PERFORM setval(v_sequence, _pgq_turn_value(queue, reserved));
        RAISE SQLSTATE 'PGQ00';
    EXCEPTION WHEN SQLSTATE 'PGQ00' THEN
        NULL;
    END;
    was_shared := v_turn IS NOT NULL;
    start := v_start;
    group_ids := v_groups.group_ids;
    priorities := v_groups.priorities;
    rooms := v_groups.rooms;
    firsts := v_groups.firsts;
    last_seen := v_groups.last_seen;
    steps := v_groups.steps;
END
$_pgq_reserve_groups$;

COMMENT ON FUNCTION _pgq_reserve_groups(
    text, pgq_queue_setting, bigint[], bigint, bigint, bigint, bigint, bigint, bigint[], bigint[], timestamptz
) IS
    'Return what _pgq_find_groups does, and move the turn of the queue past these groups. If "seen" is NULL, the lap '
    'begins at that turn, or at "start" if it is not known. Returns that start, too, whether the turn was known, and '
    'the group that is reserved last.';

CREATE FUNCTION _pgq_return_turn(queue text, reserved bigint, served bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_return_turn$
BEGIN
    IF served <> reserved AND pg_sequence_last_value(_pgq_turn_sequence(queue)) = _pgq_turn_value(queue, reserved) THEN
        PERFORM setval(_pgq_turn_sequence(queue), _pgq_turn_value(queue, served));
    END IF;
END
$_pgq_return_turn$;

COMMENT ON FUNCTION _pgq_return_turn(text, bigint, bigint) IS
    'Move the turn of a queue back to the group that a claim has served last, unless another claim has moved it since '
    'this one has reserved more. Returns nothing.';

CREATE FUNCTION _pgq_add_error(
    job pgq_running,
    at timestamptz,
    error text,
    declined integer DEFAULT NULL
) RETURNS integer
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_add_error$
DECLARE
    c_kept CONSTANT integer := 10;
    v_number integer := greatest(job.newest_error, 0) + 1;
BEGIN
    INSERT INTO pgq_error (id, number, attempt, at, worker, error, declined)
    VALUES (job.id, v_number, job.attempt, at, job.worker, left(error, 4000), declined);

    IF v_number > c_kept THEN
        DELETE FROM pgq_error AS e WHERE e.id = job.id AND e.number = v_number - c_kept;
    END IF;
    RETURN v_number;
END
$_pgq_add_error$;

COMMENT ON FUNCTION _pgq_add_error(pgq_running, timestamptz, text, integer) IS
    'Add an error to those of a job, cut to 4000 characters, and delete the eleventh. Returns its number, which the '
    'caller writes to newest_error of the job.';

-- The order is that of time. Errors of the same time stay in their own order, those of the job before those of the
-- twin. All take new numbers, greater than the numbers of before, so that no row meets the number of another one.
CREATE FUNCTION _pgq_merge_errors(id bigint, twin bigint, newest_error integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_merge_errors$
DECLARE
    c_kept CONSTANT integer := 10;
BEGIN
    UPDATE pgq_error AS e
    SET id = twin, number = _pgq_merge_errors.newest_error + 1 - kept.n
    FROM (
        SELECT o.ctid, row_number() OVER (ORDER BY o.at DESC, o.id = twin, o.number DESC)::integer AS n
        FROM pgq_error AS o
        WHERE o.id IN (_pgq_merge_errors.id, twin)
        ORDER BY n
        LIMIT c_kept
    ) AS kept
    WHERE e.ctid = kept.ctid;

    DELETE FROM pgq_error AS e
    WHERE e.id IN (_pgq_merge_errors.id, twin)
      AND e.number <= _pgq_merge_errors.newest_error - c_kept;
END
$_pgq_merge_errors$;

COMMENT ON FUNCTION _pgq_merge_errors(bigint, bigint, integer) IS
    'Hand the errors of a job over to its twin, which keeps the newest ten of both, newest first, up to the number '
    'newest_error. This must be greater by ten than the numbers of both. Returns nothing.';

CREATE FUNCTION _pgq_delete_beside(ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_beside$
BEGIN
    DELETE FROM pgq_error AS e WHERE e.id = ANY (ids);
    DELETE FROM pgq_saved AS s WHERE s.id = ANY (ids);
    DELETE FROM pgq_job_signal AS s WHERE s.id = ANY (ids);
    DELETE FROM pgq_signal_wait AS s WHERE s.id = ANY (ids);
END
$_pgq_delete_beside$;

COMMENT ON FUNCTION _pgq_delete_beside(bigint[]) IS
    'Delete all errors of jobs that are gone, what they have saved, their signals, and what they have waited for. '
    'Returns nothing.';

CREATE FUNCTION _pgq_raise_lease_lost(id bigint, token bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_raise_lease_lost$
BEGIN
    RAISE EXCEPTION 'job % is not held under token %', coalesce(id::text, 'null'), coalesce(token::text, 'null')
        USING ERRCODE = 'PGQ02',
              HINT = 'Stop working on the job and roll back what was done for it: the job or its lease has ended.';
END
$_pgq_raise_lease_lost$;

COMMENT ON FUNCTION _pgq_raise_lease_lost(bigint, bigint) IS
    'Raise PGQ02: the job is not held under this token.';

CREATE FUNCTION _pgq_check_pairs(ids bigint[], tokens bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_pairs$
BEGIN
    IF ids IS NULL OR tokens IS NULL THEN
        RAISE EXCEPTION 'ids or tokens is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass two arrays of the same length, empty if there are no jobs.';
    END IF;
    IF cardinality(ids) <> cardinality(tokens) THEN
        RAISE EXCEPTION 'there are % ids but % tokens', cardinality(ids), cardinality(tokens)
            USING ERRCODE = 'array_subscript_error',
                  HINT = 'Pass the token of each job at the same place as its id.';
    END IF;
END
$_pgq_check_pairs$;

COMMENT ON FUNCTION _pgq_check_pairs(bigint[], bigint[]) IS
    'Check arrays of ids and tokens. Returns nothing. Raises 22004 for NULL, 2202E for different lengths.';

-- The only way out of pgq_running for the worker that holds the job.
CREATE OR REPLACE FUNCTION _pgq_take(id bigint, token bigint) RETURNS pgq_running
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_take$
DECLARE
    v_allowed text[];
    v_job pgq_running;
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    FOR v_try IN 1..2 LOOP
        DELETE FROM pgq_running AS r
        WHERE r.id = _pgq_take.id
          AND r.token = _pgq_take.token
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        RETURNING r.* INTO v_job;
        IF FOUND THEN
            RETURN v_job;
        END IF;
        IF v_try = 1 THEN
            PERFORM _pgq_unpack_jobs(ARRAY[id], ARRAY[token], v_allowed);
        END IF;
    END LOOP;
    PERFORM _pgq_raise_lease_lost(id, token);
END
$_pgq_take$;

COMMENT ON FUNCTION _pgq_take(bigint, bigint) IS
    'Remove a running job from pgq_running. Returns its row. Raises PGQ02 if the job is not held under this token, or '
    'is in a queue that the calling role may not use.';

CREATE FUNCTION _pgq_end(job pgq_running, outcome text, at timestamptz, result jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_end$
BEGIN
    INSERT INTO pgq_ended (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, outcome, result, worker, ended_at, losses, newest_error, group_key, group_id, claimed_at
    )
    VALUES (
        job.id, job.queue, job.kind, job.args, job.priority, job.ripe_at, job.attempt, job.max_retries, job.backoff,
        job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, job.context, outcome, result, job.worker, at,
        abs(job.losses), nullif(job.newest_error, 0), job.group_key, _pgq_group_id(job.group_key), job.claimed_at
    );
    IF outcome <> 'done' THEN
        INSERT INTO pgq_count (queue, kind, event, jobs)
        VALUES (job.queue, job.kind, CASE outcome WHEN 'cancelled' THEN 'stopped' ELSE outcome END, 1);
    ELSIF _pgq_is_timed(job.token) THEN
        INSERT INTO pgq_count (queue, kind, event, jobs, ran)
        VALUES (job.queue, job.kind, 'timed', 64, (at - job.claimed_at) * 64);
    END IF;
    PERFORM _pgq_tell_end(job.id, CASE outcome WHEN 'done' THEN outcome ELSE 'failed' END);
    IF job.group_id IS NOT NULL THEN
        PERFORM _pgq_wake_next(job.queue, ARRAY[job.group_id]);
    END IF;
END
$_pgq_end$;

COMMENT ON FUNCTION _pgq_end(pgq_running, text, timestamptz, jsonb) IS
    'Put a job that was just removed from pgq_running into pgq_ended, unblock or cancel those that wait for it, and '
    'wake a worker if its place lets another job start. Returns nothing.';

-- The twin is a later event, so its settings and its priority decide. What the other job has learned stays: without
-- its attempts, a job that fails each time while a twin is enqueued would never be dead.
--
-- A job that has nothing to tell leaves the twin unlocked. The update changes no key column, so it does not wait for
-- producers that have only locked the twin (FOR KEY SHARE), and their locks outlive it.
CREATE FUNCTION _pgq_merge(
    id bigint,
    signature uuid,
    ripe_at timestamptz,
    attempt integer,
    losses smallint,
    newest_error integer
) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_merge$
DECLARE
    v_delayed boolean := ripe_at > pgq_now();
    v_has_signals boolean := _pgq_note_merge(id, signature);
    v_twin record;
BEGIN
    IF attempt = 0 AND newest_error IS NULL AND losses IS NULL AND NOT v_delayed AND NOT v_has_signals
       AND NOT (_pgq_has_needs() AND _pgq_is_needed(id)) THEN
        RETURN _pgq_tell_end(id, NULL) IS NOT NULL;
    END IF;

    UPDATE pgq_waiting AS w
    SET attempt = greatest(w.attempt, _pgq_merge.attempt),
        newest_error = CASE
            WHEN _pgq_merge.newest_error > 0 THEN greatest(w.newest_error, _pgq_merge.newest_error) + 10
            WHEN w.newest_error > 0 THEN w.newest_error
            ELSE coalesce(_pgq_merge.newest_error, w.newest_error)
        END,
        ripe_at = CASE WHEN v_delayed THEN greatest(w.ripe_at, _pgq_merge.ripe_at) ELSE w.ripe_at END,
        losses = greatest(w.losses, _pgq_merge.losses)
    WHERE w.signature = _pgq_merge.signature
    RETURNING w.id, w.newest_error INTO v_twin;
    IF NOT FOUND THEN
        -- The job waits after all, and its signals are its own.
        DELETE FROM pgq_merged AS m WHERE m.id = _pgq_merge.id;
        RETURN false;
    END IF;
    IF newest_error > 0 THEN
        PERFORM _pgq_merge_errors(_pgq_merge.id, v_twin.id, v_twin.newest_error);
    END IF;
    IF newest_error IS NOT NULL OR v_has_signals THEN
        PERFORM _pgq_hand_over(_pgq_merge.id, v_twin.id);
        PERFORM _pgq_hand_over_signals(_pgq_merge.id, v_twin.id);
    END IF;
    IF _pgq_has_needs() THEN
        PERFORM _pgq_hand_over_needs(_pgq_merge.id, v_twin.id);
    END IF;
    RETURN _pgq_tell_end(id, NULL) IS NOT NULL;
END
$_pgq_merge$;

COMMENT ON FUNCTION _pgq_merge(bigint, uuid, timestamptz, integer, smallint, integer) IS
    'Merge a job into its waiting twin: the twin keeps the larger number of attempts and of losses, the newest ten '
    'errors of both, the later ripe_at, unless that of the job has passed, what the job has saved, unless it has saved '
    'something itself, and its signals. Blocked jobs that wait for the job then wait for the twin. Returns true, or '
    'false if no twin is waiting any more.';

-- Otherwise a merge would put the work of a job behind the jobs that were enqueued after it.
CREATE FUNCTION _pgq_keep_place(job pgq_running) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_keep_place$
DECLARE
    v_twin bigint;
BEGIN
    IF NOT _pgq_is_ordered(job.queue) THEN
        RETURN false;
    END IF;
    SELECT w.id INTO v_twin
    FROM pgq_waiting AS w
    WHERE w.signature = _pgq_signature(job.queue, job.kind, job.args, job.dedup_key)
      AND w.id > job.id
      AND w.group_id = _pgq_group_id(job.group_key)
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE pgq_waiting AS w SET id = job.id WHERE w.id = v_twin;
    UPDATE pgq_error AS e SET id = job.id WHERE e.id = v_twin;
    UPDATE pgq_saved AS s SET id = job.id WHERE s.id = v_twin;
    UPDATE pgq_job_signal AS s SET id = job.id WHERE s.id = v_twin;
    UPDATE pgq_signal_wait AS s SET id = job.id WHERE s.id = v_twin;
    UPDATE pgq_merged AS m SET id = v_twin, twin = job.id WHERE m.id = job.id;
    IF _pgq_has_needs() THEN
        PERFORM _pgq_hand_over_needs(v_twin, job.id);
    END IF;
    RETURN true;
END
$_pgq_keep_place$;

COMMENT ON FUNCTION _pgq_keep_place(pgq_running) IS
    'If a job that has just merged into a twin is in an ordered queue, and the twin later in the same group, give the '
    'twin the id of the job, and with it its place. Returns whether that was so.';

-- Every way back to waiting goes through here, so no request to cancel the job is missed. May wait for the open
-- transaction of a producer that has inserted or updated a twin.
CREATE FUNCTION _pgq_requeue(
    job pgq_running,
    ripe_at timestamptz,
    attempt integer,
    merge boolean DEFAULT true
) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_requeue$
DECLARE
    v_group_id bigint;
    -- An attempt that is not counted is taken back, any other one has failed.
    v_event text := CASE WHEN attempt < job.attempt THEN 'returned' ELSE 'failed' END;
    v_has_kept boolean;
BEGIN
    IF _pgq_take_cancel_request(job.id) THEN
        job.attempt := attempt;
        PERFORM _pgq_end(job, 'cancelled', pgq_now(), NULL);
        RETURN 'cancelled';
    END IF;

    IF job.group_key IS NOT NULL THEN
        v_group_id := _pgq_place(job.queue, job.group_key, ripe_at <= pgq_now());
    END IF;
    -- One pass, unless a worker claims the twin between the two statements: then the job waits after all.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id, signature
        )
        VALUES (
            job.id, job.queue, job.kind, job.args, job.priority, ripe_at, attempt, job.max_retries,
            coalesce(job.backoff, '1 minute'), coalesce(job.backoff_cap, '1 hour'), job.dedup, job.dedup_key,
            job.enqueued_at, job.context, abs(job.losses), nullif(job.newest_error, 0), job.group_key,
            v_group_id,
            CASE WHEN job.dedup THEN _pgq_signature(job.queue, job.kind, job.args, job.dedup_key) END
        )
        ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING;
        IF FOUND THEN
            INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (job.queue, job.kind, v_event, 1);
            IF _pgq_is_soon(ripe_at, pgq_now()) THEN
                PERFORM _pgq_wake(job.queue, (ripe_at <= pgq_now())::integer);
            ELSIF job.group_id IS NOT NULL THEN
                PERFORM _pgq_wake_next(job.queue, ARRAY[job.group_id]);
            END IF;
            RETURN 'waiting';
        END IF;

        IF NOT merge THEN
            RETURN NULL;
        END IF;
        IF _pgq_merge(
            job.id, _pgq_signature(job.queue, job.kind, job.args, job.dedup_key), ripe_at, attempt, abs(job.losses),
            nullif(job.newest_error, 0)
        ) THEN
            INSERT INTO pgq_count (queue, kind, event, jobs)
            VALUES (job.queue, job.kind, v_event, 1), (job.queue, job.kind, 'merged', 1);
            v_has_kept := job.group_key IS NOT NULL AND _pgq_keep_place(job);
            IF job.group_id IS NOT NULL THEN
                PERFORM _pgq_wake_next(job.queue, ARRAY[job.group_id]);
            END IF;
            RETURN CASE WHEN v_has_kept THEN 'waiting' ELSE 'merged' END;
        END IF;
    END LOOP;
END
$_pgq_requeue$;

COMMENT ON FUNCTION _pgq_requeue(pgq_running, timestamptz, integer, boolean) IS
    'Put a job that was just removed from pgq_running back into pgq_waiting, and wake a worker if it is ripe, or if '
    'its place lets another job start. Returns waiting; merged if it has merged with a twin that was waiting (in an '
    'ordered queue, the twin may take the place of the job: then waiting); or cancelled if pgq_cancel has requested '
    'that: it has ended. With merge false, returns NULL instead of merging: the job is in no table, and the caller '
    'must call again.';

CREATE FUNCTION _pgq_record_failure(
    job pgq_running,
    at timestamptz,
    error text,
    retry boolean,
    ripe_at timestamptz
) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_record_failure$
DECLARE
    v_outcome text;
BEGIN
    job.newest_error := _pgq_add_error(job, at, error);
    IF job.attempt > job.max_retries OR NOT retry THEN
        v_outcome := CASE WHEN _pgq_take_cancel_request(job.id) THEN 'cancelled' ELSE 'dead' END;
        PERFORM _pgq_end(job, v_outcome, at, NULL);
    ELSE
        v_outcome := _pgq_requeue(job, ripe_at, job.attempt);
    END IF;
    RETURN CASE v_outcome WHEN 'waiting' THEN 'retry' ELSE v_outcome END;
END
$_pgq_record_failure$;

COMMENT ON FUNCTION _pgq_record_failure(pgq_running, timestamptz, text, boolean, timestamptz) IS
    'Record the error of a failed attempt. Then put the job back, ripe at ripe_at, or end it as dead if its retries '
    'are used up or retry is false, and as cancelled if pgq_cancel has requested that. Returns retry, merged, dead or '
    'cancelled.';

-- Only for jobs with newest_error, because a look at the settings would cost all others. The time is that of the end.
CREATE FUNCTION _pgq_keep_done(jobs pgq_running[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_keep_done$
DECLARE
    v_now timestamptz := pgq_now();
    v_deleted bigint[];
BEGIN
    INSERT INTO pgq_count (queue, kind, event, jobs, ran)
    SELECT j.queue, j.kind, 'timed', count(*) * 64, sum(v_now - j.claimed_at) * 64
    FROM unnest(jobs) AS j
    WHERE _pgq_is_timed(j.token)
    GROUP BY j.queue, j.kind;
    WITH kept AS (
        INSERT INTO pgq_ended (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, outcome, worker, ended_at, losses, newest_error, group_key, group_id, claimed_at
        )
        SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, j.max_retries, j.backoff,
               j.backoff_cap, j.dedup, j.dedup_key, j.enqueued_at, j.context, 'done', j.worker, v_now, abs(j.losses),
               nullif(j.newest_error, 0), j.group_key, _pgq_group_id(j.group_key), j.claimed_at
        FROM unnest(jobs) AS j
        JOIN pgq_queue_setting AS s ON s.queue = j.queue COLLATE "C"
        WHERE s.keep_done IS NOT NULL
        RETURNING id
    )
    SELECT array_agg(j.id) INTO v_deleted
    FROM unnest(jobs) AS j
    WHERE j.newest_error <> 0
      AND j.id NOT IN (SELECT k.id FROM kept AS k);
    IF v_deleted IS NOT NULL THEN
        PERFORM _pgq_delete_beside(v_deleted);
    END IF;
END
$_pgq_keep_done$;

COMMENT ON FUNCTION _pgq_keep_done(pgq_running[]) IS
    'Put jobs that are done without a result, and were just removed from pgq_running, into pgq_ended if their queues '
    'keep all that is done, and delete what stands beside the others; count the times that are counted. Returns '
    'nothing.';

CREATE FUNCTION pgq_complete(
    id bigint,
    token bigint,
    result jsonb DEFAULT NULL,
    note text DEFAULT NULL,
    transaction text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_complete$
DECLARE
    v_allowed text[];
    v_job pgq_running;
    v_now timestamptz;
BEGIN
    -- The usual case needs one look-up, and nothing of the row: to take it as a whole costs as much again. Conditions
    -- stand together, because each IF costs more than what it tests.
    IF result IS NULL AND note IS NULL AND (transaction = pg_current_xact_id()::text) IS NOT FALSE THEN
        UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
        IF NOT _pgq_acts_as_owner() THEN
            v_allowed := _pgq_allowed_queues('worker');
        END IF;
        DELETE FROM pgq_running AS r
        WHERE r.id = pgq_complete.id
          AND r.token = pgq_complete.token
          AND r.newest_error IS NULL
          AND r.group_id IS NULL
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed));
        IF FOUND AND NOT _pgq_is_awaited() THEN
            RETURN;
        ELSIF FOUND THEN
            PERFORM _pgq_tell_end(id, 'done');
            RETURN;
        END IF;
    END IF;
    IF transaction <> pg_current_xact_id()::text THEN
        RAISE EXCEPTION 'transaction % has ended', transaction
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Do not end the transaction that holds the job before it completes the job.';
    END IF;
    IF octet_length(result::text) > 1048576 THEN
        RAISE EXCEPTION 'result takes % bytes as text, more than 1048576', octet_length(result::text)
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store large data in a table of your own and return a reference to it.';
    END IF;

    v_job := _pgq_take(id, token);
    IF result IS NOT NULL OR note IS NOT NULL THEN
        v_now := pgq_now();
        IF note IS NOT NULL THEN
            v_job.newest_error := _pgq_add_error(v_job, v_now, note);
        END IF;
        PERFORM _pgq_end(v_job, 'done', v_now, result);
        RETURN;
    END IF;
    PERFORM _pgq_tell_end(id, 'done');
    IF v_job.newest_error IS NOT NULL THEN
        PERFORM _pgq_keep_done(ARRAY[v_job]);
    END IF;
    IF v_job.group_id IS NOT NULL THEN
        PERFORM _pgq_wake_next(v_job.queue, ARRAY[v_job.group_id]);
    END IF;
END
$pgq_complete$;

COMMENT ON FUNCTION pgq_complete(bigint, bigint, jsonb, text, text) IS
    'End a running job that is done. Returns nothing. Without a result and a note the job is deleted, unless its queue '
    'has keep_done among its settings (see pgq_configure); with either it is kept in pgq_ended as done. Call it in the '
    'transaction that writes the effects of the job, and they happen exactly once: if the lease is lost, it raises '
    'PGQ02 and the writes roll back. NULL for result means none; the JSON null is a result. The note is kept as the '
    'newest of the errors, cut to 4000 characters, for what went wrong although the work is done, such as a result '
    'that cannot be stored. With the id of a transaction, as text from pg_current_xact_id, the job ends in that '
    'transaction only: after a COMMIT or ROLLBACK that has come in between, the call raises 25000. Raises PGQ02 if the '
    'job is not held under this token, or for a NULL id or token; 54000 for a result of more than 1 MiB as text.';

CREATE FUNCTION _pgq_complete_packed(token bigint, ids bigint[], tokens bigint[], allowed text[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_complete_packed$
DECLARE
    v_batch record;
    v_done bigint[];
BEGIN
    SELECT b.ids, b.queues, b.kinds, b.ripe_ats, b.claimed_at, b.gone INTO v_batch
    FROM pgq_running_batch AS b
    WHERE b.token = _pgq_complete_packed.token
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;

    v_done := ARRAY(
        SELECT j.id
        FROM unnest(v_batch.ids, v_batch.queues) AS j (id, queue)
        WHERE j.id IN (SELECT u.id FROM unnest(ids, tokens) AS u (id, token)
                       WHERE u.token = _pgq_complete_packed.token)
          AND j.id NOT IN (SELECT g.id FROM unnest(v_batch.gone) AS g (id))
          AND (allowed IS NULL OR j.queue = ANY (allowed))
    );
    IF cardinality(v_batch.gone) + cardinality(v_done) = cardinality(v_batch.ids) THEN
        DELETE FROM pgq_running_batch AS b WHERE b.token = _pgq_complete_packed.token;
        PERFORM _pgq_count_batch(
            token, v_batch.queues, v_batch.kinds, v_batch.ripe_ats, v_batch.claimed_at, pgq_now());
    ELSIF v_done <> '{}' THEN
        UPDATE pgq_running_batch AS b SET gone = b.gone || v_done WHERE b.token = _pgq_complete_packed.token;
    END IF;
    RETURN v_done;
END
$_pgq_complete_packed$;

COMMENT ON FUNCTION _pgq_complete_packed(bigint, bigint[], bigint[], text[]) IS
    'End those of these jobs that run in the packed batch with a token, in queues that are allowed, or any if these '
    'are NULL. Returns their ids.';

-- Packed batches first, in the order of tokens, then rows in the order of ids: a job moves from its batch to
-- pgq_running and never back, so it is found in one of the two statements.
CREATE FUNCTION _pgq_complete_held(
    ids bigint[],
    tokens bigint[],
    allowed text[],
    OUT ended bigint[],
    OUT freed_queues text[],
    OUT freed_groups bigint[]
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_complete_held$
DECLARE
    v_tokens bigint[];
    v_token bigint;
    v_packed bigint[] := '{}';
    v_rows tid[];
    v_failed bigint;
    v_jobs pgq_running[];
    v_queues text[];
    v_kinds text[];
    v_ripe_ats timestamptz[];
    v_claimed_at timestamptz;
BEGIN
    IF (cardinality(ids) = cardinality(tokens)) IS NOT TRUE THEN
        PERFORM _pgq_check_pairs(ids, tokens);
    END IF;

    -- The usual case: all jobs of one batch, in the order in which they were claimed.
    IF tokens = array_fill(tokens[1], ARRAY[cardinality(tokens)]) THEN
        DELETE FROM pgq_running_batch AS b
        WHERE b.token = tokens[1]
          AND b.ids = _pgq_complete_held.ids
          AND b.gone = '{}'
          AND (allowed IS NULL OR b.queues <@ allowed)
        RETURNING b.queues, b.kinds, b.ripe_ats, b.claimed_at INTO v_queues, v_kinds, v_ripe_ats, v_claimed_at;
        IF FOUND THEN
            -- The usual case of _pgq_count_batch, without the call.
            IF v_kinds[1] = ALL (v_kinds COLLATE "C") AND v_queues[1] = ALL (v_queues COLLATE "C") THEN
                INSERT INTO pgq_count (queue, kind, event, jobs, waited, ran)
                VALUES (v_queues[1], v_kinds[1], 'packed', cardinality(ids),
                        (v_claimed_at - v_ripe_ats[1 + tokens[1] % cardinality(ids)]) * cardinality(ids),
                        (pgq_now() - v_claimed_at) * cardinality(ids));
            ELSE
                PERFORM _pgq_count_batch(tokens[1], v_queues, v_kinds, v_ripe_ats, v_claimed_at, pgq_now());
            END IF;
            ended := CASE WHEN _pgq_tell_ends(ids, 'done') IS NOT NULL THEN ids END;
            RETURN;
        END IF;
        v_tokens := tokens[1:1];
    ELSE
        v_tokens := ARRAY(SELECT DISTINCT t.token FROM unnest(tokens) AS t (token) ORDER BY t.token);
    END IF;
    FOREACH v_token IN ARRAY v_tokens LOOP
        v_packed := v_packed || _pgq_complete_packed(v_token, ids, tokens, allowed);
    END LOOP;
    IF cardinality(v_packed) = cardinality(ids) THEN
        ended := CASE WHEN _pgq_tell_ends(v_packed, 'done') IS NOT NULL THEN v_packed END;
        RETURN;
    END IF;

    -- One look-up in the primary key for each pair, in the order of ids: a subquery that locks is never turned into a
    -- join, whose order would depend on the statistics. The DELETE is a statement of its own, as in a claim. It returns
    -- nothing, because it would read each row again for that.
    SELECT coalesce(array_agg(held.ctid), '{}'), coalesce(array_agg(held.id), '{}'), count(held.newest_error),
           array_agg(held.queue) FILTER (WHERE held.group_id IS NOT NULL),
           array_agg(held.group_id) FILTER (WHERE held.group_id IS NOT NULL)
    INTO v_rows, ended, v_failed, freed_queues, freed_groups
    FROM (
        SELECT DISTINCT u.id, u.token
        FROM unnest(ids, tokens) AS u (id, token)
        ORDER BY u.id, u.token
    ) AS given
    CROSS JOIN LATERAL (
        SELECT r.ctid, r.id, r.queue, r.newest_error, r.group_id
        FROM pgq_running AS r
        WHERE r.id = given.id
          AND r.token = given.token
          AND (allowed IS NULL OR r.queue = ANY (allowed))
        FOR UPDATE
    ) AS held;
    IF v_failed > 0 THEN
        v_jobs := ARRAY(
            SELECT r
            FROM pgq_running AS r
            WHERE r.ctid = ANY (v_rows)
              AND r.newest_error IS NOT NULL
        );
    END IF;
    DELETE FROM pgq_running AS r WHERE r.ctid = ANY (v_rows);
    IF v_jobs IS NOT NULL THEN
        PERFORM _pgq_keep_done(v_jobs);
    END IF;
    ended := v_packed || ended;
    ended := CASE WHEN _pgq_tell_ends(ended, 'done') IS NOT NULL THEN ended END;
END
$_pgq_complete_held$;

COMMENT ON FUNCTION _pgq_complete_held(bigint[], bigint[], text[]) IS
    'End running jobs that are done, without a result, each under its token, in queues that are allowed, or any if '
    'these are NULL. Returns the ids of the jobs that were ended, and the queues and groups of those that the limits '
    'of their queues have counted, as _pgq_wake_places takes them; NULL if there are none. Raises what '
    '_pgq_check_pairs does.';

CREATE OR REPLACE FUNCTION pgq_complete_many(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_complete_many$
DECLARE
    v_settled record := _pgq_complete_held(ids, tokens, _pgq_allowed_queues('worker'));
BEGIN
    IF v_settled.freed_queues IS NOT NULL THEN
        PERFORM _pgq_wake_places(v_settled.freed_queues, v_settled.freed_groups);
    END IF;
    RETURN QUERY SELECT e.id FROM unnest(v_settled.ended) AS e (id);
END
$pgq_complete_many$;

COMMENT ON FUNCTION pgq_complete_many(bigint[], bigint[]) IS
    'End running jobs that are done, without a result, each under its token, as pgq_complete does. Returns the ids of '
    'the jobs that were ended, in any order; a job whose id is missing was not held under its token, and what was done '
    'for it must be rolled back. A pair with a NULL ends no job; NULL for ids or tokens raises 22004, arrays of '
    'different lengths raise 2202E.';

CREATE OR REPLACE FUNCTION pgq_hold(id bigint, token bigint) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_hold$
DECLARE
    v_allowed text[];
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    PERFORM
    FROM pgq_running AS r
    WHERE r.id = pgq_hold.id
      AND r.token = pgq_hold.token
      AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
    FOR UPDATE;
    IF NOT FOUND THEN
        -- It may run in a packed batch.
        PERFORM pgq_hold_many(ARRAY[id], ARRAY[token]);
        IF NOT FOUND THEN
            PERFORM _pgq_raise_lease_lost(id, token);
        END IF;
    END IF;
END
$pgq_hold$;

COMMENT ON FUNCTION pgq_hold(bigint, bigint) IS
    'Lock a running job until the end of the transaction, so that no other worker takes it, even if its lease ends '
    'meanwhile. Returns nothing. Where pgq_claim_batch has packed the job, calls for the other jobs of its batch wait '
    'for the transaction, too. Raises PGQ02 if the job is not held under this token, or for a NULL id or token.';

CREATE FUNCTION pgq_hold_many(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_hold_many$
DECLARE
    v_allowed text[];
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    PERFORM _pgq_check_pairs(ids, tokens);
    PERFORM _pgq_unpack_jobs(ids, tokens, v_allowed);

    -- One look-up for each pair, in the order of ids, as in pgq_complete_many.
    RETURN QUERY
    SELECT held.id
    FROM (
        SELECT u.id, u.token
        FROM unnest(ids, tokens) AS u (id, token)
        ORDER BY u.id
    ) AS given
    CROSS JOIN LATERAL (
        SELECT r.id
        FROM pgq_running AS r
        WHERE r.id = given.id
          AND r.token = given.token
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        FOR UPDATE
    ) AS held;
END
$pgq_hold_many$;

COMMENT ON FUNCTION pgq_hold_many(bigint[], bigint[]) IS
    'Lock running jobs until the end of the transaction, as pgq_hold does, each under its token. Returns the ids of '
    'the jobs that are locked; a job whose id is missing is not held under its token, and no work must begin for it. '
    'NULL for ids or tokens raises 22004, arrays of different lengths raise 2202E.';

-- Exponent and result are clamped, so that nothing overflows: 3155760000 seconds are a hundred years.
CREATE FUNCTION pgq_backoff(
    attempt bigint,
    base interval DEFAULT '1 minute',
    cap interval DEFAULT '1 hour'
) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN make_interval(secs => greatest(0, least(
        3155760000,
        extract(epoch FROM cap)::double precision,
        extract(epoch FROM base)::double precision * 2::double precision ^ least(greatest(attempt, 1) - 1, 60)
    )));

COMMENT ON FUNCTION pgq_backoff(bigint, interval, interval) IS
    'Return the delay after a failed attempt: base * 2^(attempt-1), at least 0, at most cap and at most 100 years. '
    'NULL for attempt means the first one, NULL for base the longest delay, NULL for cap no limit but the 100 years.';

CREATE OR REPLACE FUNCTION pgq_fail(
    id bigint,
    token bigint,
    error text DEFAULT NULL,
    retry_in interval DEFAULT NULL,
    retry boolean DEFAULT true,
    OUT outcome text,
    OUT ripe_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_fail$
DECLARE
    v_now timestamptz := pgq_now();
    v_job pgq_running;
    v_jitter double precision := CASE WHEN current_setting('pgq.jitter', true) = '0' THEN 0 ELSE 0.1 END;
BEGIN
    IF NOT _pgq_is_in_range(retry_in, v_now, '100 years') THEN
        RAISE EXCEPTION 'retry_in % is out of range', retry_in
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years, or NULL for the backoff of the job.';
    END IF;

    v_job := _pgq_take(id, token);
    -- The handler has ended the attempt, and the process lives.
    v_job.losses := NULL;

    IF retry IS NOT false THEN
        ripe_at := v_now + coalesce(
            retry_in,
            pgq_backoff(v_job.attempt, coalesce(v_job.backoff, '1 minute'), coalesce(v_job.backoff_cap, '1 hour'))
            * (1 + v_jitter * (2 * random() - 1))
        );
    END IF;
    outcome := _pgq_record_failure(v_job, v_now, error, retry IS NOT false, ripe_at);
    IF outcome <> 'retry' THEN
        ripe_at := NULL;
    END IF;
END
$pgq_fail$;

COMMENT ON FUNCTION pgq_fail(bigint, bigint, text, interval, boolean) IS
    'End an attempt that has failed, and keep the first 4000 characters of error with the job. Returns outcome and '
    'ripe_at. outcome is cancelled if pgq_cancel has requested that, dead if the retries are used up or retry is '
    'false, merged if a twin is waiting, and retry otherwise. A twin that the job merges into keeps its settings and '
    'its priority, but takes over the attempts if the job has had more, the errors, and the time of the next attempt '
    'if that is later. The job is not a suspect any more (see pgq_claim). ripe_at is the time from which the job is '
    'ripe again, now + retry_in; NULL unless outcome is retry. NULL for retry_in means the backoff of the job, varied '
    'by up to 10 % either way unless the setting pgq.jitter is 0; NULL for retry means true, NULL for error none. '
    'Raises PGQ02 if the job is not held under this token, or for a NULL id or token; 22023 for a retry_in out of '
    'range.';

CREATE FUNCTION pgq_cancel_claimed(id bigint, token bigint, reason text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_cancel_claimed$
DECLARE
    v_now timestamptz := pgq_now();
    v_job pgq_running;
BEGIN
    v_job := _pgq_take(id, token);
    PERFORM _pgq_take_cancel_request(id);
    v_job.newest_error := _pgq_add_error(v_job, v_now, reason);
    PERFORM _pgq_end(v_job, 'cancelled', v_now, NULL);
END
$pgq_cancel_claimed$;

COMMENT ON FUNCTION pgq_cancel_claimed(bigint, bigint, text) IS
    'End a running job that its worker gives up, on purpose or because pgq_cancel has requested it; it is kept in '
    'pgq_ended as cancelled, with the first 4000 characters of reason as its newest error. Returns nothing. NULL for '
    'reason means none. Raises PGQ02 if the job is not held under this token, or for a NULL id or token.';

CREATE OR REPLACE FUNCTION pgq_extend(id bigint, token bigint, lease interval DEFAULT '5 minutes') RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_extend$
DECLARE
    v_until timestamptz := _pgq_lease_end(pgq_now(), lease);
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_row tid;
BEGIN
    SELECT r.ctid INTO v_row
    FROM pgq_running AS r
    WHERE r.id = pgq_extend.id
      AND r.token = pgq_extend.token
      AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
    FOR NO KEY UPDATE SKIP LOCKED;

    IF FOUND THEN
        UPDATE pgq_running AS r
        SET lease_until = greatest(r.lease_until, v_until)
        WHERE r.ctid = v_row
        RETURNING r.lease_until INTO v_until;
        RETURN v_until;
    END IF;

    SELECT b.ctid INTO v_row
    FROM pgq_running_batch AS b
    WHERE b.token = pgq_extend.token
      AND EXISTS (
          SELECT
          FROM unnest(b.ids, b.queues) AS j (id, queue)
          WHERE j.id = pgq_extend.id
            AND j.id <> ALL (b.gone)
            AND (v_allowed IS NULL OR j.queue = ANY (v_allowed))
      )
    FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE pgq_running_batch AS b
        SET lease_until = greatest(b.lease_until, v_until)
        WHERE b.ctid = v_row
        RETURNING b.lease_until INTO v_until;
        RETURN v_until;
    END IF;

    -- Either the row is locked by pgq_hold, which protects the job as a lease does, or it is not there.
    SELECT r.lease_until INTO v_until
    FROM _pgq_running AS r
    WHERE r.id = pgq_extend.id
      AND r.token = pgq_extend.token
      AND (v_allowed IS NULL OR r.queue = ANY (v_allowed));
    IF NOT FOUND THEN
        PERFORM _pgq_raise_lease_lost(id, token);
    END IF;
    RETURN v_until;
END
$pgq_extend$;

COMMENT ON FUNCTION pgq_extend(bigint, bigint, interval) IS
    'Extend the lease on a running job to the interval lease from now; a lease that ends later stays as it is. Returns '
    'when the lease ends. A job that is locked (see pgq_hold) needs no lease and is left as it is. The jobs of a batch '
    'that pgq_claim_batch has packed have their lease in common: it is extended for all of them. NULL for lease raises '
    '22004. Raises PGQ02 if the job is not held under this token, or for a NULL id or token; 22023 for a lease that is '
    'zero, negative or longer than a year.';

CREATE FUNCTION pgq_snooze(
    id bigint,
    token bigint,
    until timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL,
    whole_group boolean DEFAULT false
) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_snooze$
DECLARE
    v_now timestamptz := pgq_now();
    v_until timestamptz;
    v_job pgq_running;
    v_outcome text;
BEGIN
    IF (until IS NULL) = (delay IS NULL) THEN
        RAISE EXCEPTION '% given',
              CASE WHEN until IS NULL THEN 'neither until nor delay is' ELSE 'both until and delay are' END
            USING ERRCODE = CASE WHEN until IS NULL THEN '22004' ELSE '22023' END,
                  HINT = 'Give the time of the next attempt or the delay before it, or use pgq_release for no delay.';
    END IF;
    IF NOT _pgq_is_in_range(delay, v_now, '100 years') THEN
        RAISE EXCEPTION 'delay % is out of range', delay
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years.';
    END IF;
    IF until NOT BETWEEN v_now - interval '100 years' AND v_now + interval '100 years' THEN
        RAISE EXCEPTION 'until % is out of range', until
            USING ERRCODE = 'datetime_field_overflow',
                  HINT = 'Give a time within a hundred years of now.';
    END IF;
    v_until := coalesce(until, v_now + delay);

    v_job := _pgq_take(id, token);
    v_outcome := _pgq_requeue(v_job, v_until, v_job.attempt - 1);
    IF whole_group AND v_job.group_key IS NOT NULL AND v_until > v_now THEN
        PERFORM _pgq_pause_group(v_job.queue, v_job.group_key, v_until, v_now);
    END IF;
    RETURN CASE v_outcome WHEN 'waiting' THEN 'snoozed' ELSE v_outcome END;
END
$pgq_snooze$;

COMMENT ON FUNCTION pgq_snooze(bigint, bigint, timestamptz, interval, boolean) IS
    'Put a running job back until a time, or for a delay; the attempt does not count. Returns snoozed, or merged if a '
    'twin is waiting: the twin then waits as long, at least, and takes over earlier attempts and errors. Returns '
    'cancelled if pgq_cancel has requested that: the job has ended. With whole_group no other job of its group is '
    'claimed before that time either, as after the reply of a service that this customer is to wait; pgq_resume ends '
    'that. Exactly one of until and delay must be given; NULL for both raises 22004, and NULL for whole_group means '
    'false. Raises PGQ02 if the job is not held under this token, or for a NULL id or token; 22008 for '
    'a time out of range; 22023 for a delay out of range, or if both are given.';

CREATE OR REPLACE FUNCTION pgq_release(id bigint, token bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_release$
DECLARE
    v_job pgq_running;
    v_outcome text;
BEGIN
    v_job := _pgq_take(id, token);
    v_outcome := _pgq_requeue(v_job, v_job.ripe_at, v_job.attempt - 1);
    RETURN CASE v_outcome WHEN 'waiting' THEN 'released' ELSE v_outcome END;
END
$pgq_release$;

COMMENT ON FUNCTION pgq_release(bigint, bigint) IS
    'Put a running job back at its old place, ripe at once; the attempt does not count. Returns released, or merged if '
    'a twin is waiting: the twin keeps its time, and takes over earlier attempts and errors. Returns cancelled if '
    'pgq_cancel has requested that: the job has ended. Raises PGQ02 if the job is not held under this token, or for a '
    'NULL id or token.';

CREATE FUNCTION pgq_decline(id bigint, token bigint, OUT outcome text, OUT ripe_at timestamptz)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_decline$
DECLARE
    v_now timestamptz := pgq_now();
    v_jitter double precision := CASE WHEN current_setting('pgq.jitter', true) = '0' THEN 0 ELSE 0.1 END;
    v_job pgq_running;
    v_declined integer;
BEGIN
    v_job := _pgq_take(id, token);

    -- A new note takes the place of the last one, unless the job has failed since.
    UPDATE pgq_error AS e
    SET attempt = v_job.attempt, at = v_now, worker = v_job.worker, declined = e.declined + 1
    WHERE e.id = v_job.id
      AND e.number = v_job.newest_error
      AND e.declined IS NOT NULL
    RETURNING e.declined INTO v_declined;
    IF NOT FOUND THEN
        v_declined := 1;
        v_job.newest_error := _pgq_add_error(
            v_job, v_now, format('the worker has no handler for kind "%s"', v_job.kind), v_declined);
    END IF;

    ripe_at := v_now + pgq_backoff(v_declined, '30 seconds', '10 minutes') * (1 + v_jitter * (2 * random() - 1));
    outcome := _pgq_requeue(v_job, ripe_at, v_job.attempt - 1);
    outcome := CASE outcome WHEN 'waiting' THEN 'declined' ELSE outcome END;
    IF outcome <> 'declined' THEN
        ripe_at := NULL;
    END IF;
END
$pgq_decline$;

COMMENT ON FUNCTION pgq_decline(bigint, bigint) IS
    'Put a running job back because its worker has no handler for its kind; the attempt does not count. The job waits '
    'for 30 seconds, and twice as long each time that it is declined again, up to 10 minutes, varied by up to 10 % '
    'either way unless the setting pgq.jitter is 0. A note among its errors says so, and counts how often in '
    '"declined". Returns outcome and ripe_at. outcome is cancelled if pgq_cancel has requested that, merged if a twin '
    'is waiting, and declined otherwise. A twin that the job merges into waits as long, at least, and takes over '
    'earlier attempts and errors. ripe_at is NULL unless outcome is declined. Raises PGQ02 if the job is not held '
    'under this token, or for a NULL id or token.';

CREATE FUNCTION _pgq_count_loss(losses smallint) RETURNS smallint
    LANGUAGE sql
    IMMUTABLE
    RETURN (CASE WHEN losses < 0 THEN losses ELSE -1 - coalesce(losses, 0) END)::smallint;

COMMENT ON FUNCTION _pgq_count_loss(smallint) IS
    'Return the value of pgq_running.losses after one more loss together with others: a negative number. The number of '
    'a job that was found lost before stays as it is.';

-- The only job of a worker that serves other databases, too, was perhaps lost together with theirs; a suspect was not,
-- because it runs while the process holds no other job.
--
-- Without a name only the token tells what one client held. Where several clients share a name, jobs may look as if
-- lost together that were not; c_uncounted in _pgq_expire_leases limits how often that takes an attempt back.
--
-- A row that a live transaction has locked counts as one of the set, and stays as it is; so do the jobs of a batch. A
-- job whose lease the sweep has ended is left out: the sweep has decided whether it was lost together with others.
CREATE FUNCTION _pgq_mark_lost(ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_mark_lost$
DECLARE
    v_tokens bigint[];
    v_workers text[];
BEGIN
    SELECT array_agg(DISTINCT r.token), array_agg(DISTINCT r.worker) FILTER (WHERE r.worker IS NOT NULL)
    INTO v_tokens, v_workers
    FROM pgq_running AS r
    WHERE r.id = ANY (ids)
      AND r.lease_until > r.claimed_at
      AND coalesce(r.losses, 0) >= 0;
    IF v_tokens IS NULL THEN
        RETURN;
    END IF;

    v_tokens := ARRAY(
        SELECT r.token FROM _pgq_running AS r WHERE r.token = ANY (v_tokens) GROUP BY r.token HAVING count(*) > 1);
    v_workers := ARRAY(
        SELECT r.worker FROM _pgq_running AS r WHERE r.worker = ANY (v_workers)
        GROUP BY r.worker
        HAVING count(*) > 1 OR (bool_and(r.losses IS NULL)
                                AND EXISTS (SELECT FROM pgq_worker_session AS w WHERE w.name = r.worker AND w.shares)));
    PERFORM _pgq_unpack(ARRAY(
        SELECT b.token
        FROM pgq_running_batch AS b
        WHERE (b.token = ANY (v_tokens) OR b.worker = ANY (v_workers))
          AND b.lease_until > b.claimed_at
        FOR UPDATE SKIP LOCKED));

    UPDATE pgq_running AS r
    SET losses = _pgq_count_loss(r.losses)
    WHERE r.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM pgq_running AS o
        WHERE (o.token = ANY (v_tokens) OR o.worker = ANY (v_workers))
          AND o.lease_until > o.claimed_at
          AND coalesce(o.losses, 0) >= 0
        FOR UPDATE SKIP LOCKED));
END
$_pgq_mark_lost$;

COMMENT ON FUNCTION _pgq_mark_lost(bigint[]) IS
    'Mark the running jobs that are lost together, given some whose leases have ended: all with the same token, or '
    'with the same name of a worker, if there are several or the worker serves other databases, too. Returns nothing.';

-- Waits if another transaction has inserted the same request, and not committed yet.
CREATE FUNCTION _pgq_request_cancel(id bigint, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_request_cancel$
BEGIN
    INSERT INTO pgq_cancel_request (id, requested_at)
    VALUES (_pgq_request_cancel.id, at)
    ON CONFLICT DO NOTHING;
EXCEPTION
    WHEN lock_not_available THEN
        RAISE EXCEPTION 'another transaction is cancelling job %', _pgq_request_cancel.id
            USING ERRCODE = 'lock_not_available',
                  HINT = 'Try again when that transaction has ended.';
END
$_pgq_request_cancel$;

COMMENT ON FUNCTION _pgq_request_cancel(bigint, timestamptz) IS
    'Request to cancel a running job, unless that is requested already. Returns nothing. Raises 55P03 if that takes '
    'longer than the lock_timeout.';

-- A function of its own, so that only a call that waits has a subtransaction: a transaction that cancels many jobs
-- should have few of them.
CREATE FUNCTION _pgq_await_waiting(id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_await_waiting$
BEGIN
    PERFORM FROM pgq_waiting AS w WHERE w.id = _pgq_await_waiting.id FOR UPDATE;
EXCEPTION
    WHEN lock_not_available THEN
        RAISE EXCEPTION 'another transaction has locked job %', _pgq_await_waiting.id
            USING ERRCODE = 'lock_not_available',
                  HINT = 'Try again when that transaction has ended: it claims the job, or has enqueued a duplicate.';
END
$_pgq_await_waiting$;

COMMENT ON FUNCTION _pgq_await_waiting(bigint) IS
    'Wait for the lock on a waiting job. Returns nothing. Raises 55P03 if that takes longer than the lock_timeout.';

CREATE FUNCTION _pgq_take_cancel_request(id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_take_cancel_request$
BEGIN
    DELETE FROM pgq_cancel_request AS c WHERE c.id = _pgq_take_cancel_request.id;
    RETURN FOUND;
END
$_pgq_take_cancel_request$;

COMMENT ON FUNCTION _pgq_take_cancel_request(bigint) IS
    'Remove the request to cancel a job. Returns whether there was one.';

CREATE FUNCTION _pgq_cancel_waiting(job pgq_waiting, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_cancel_waiting$
BEGIN
    job := _pgq_with_defaults(job);
    INSERT INTO pgq_ended (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, outcome, ended_at, losses, newest_error, group_key, group_id
    )
    VALUES (
        job.id, job.queue, job.kind, job.args, job.priority, job.ripe_at, job.attempt, job.max_retries, job.backoff,
        job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, job.context, 'cancelled', at, job.losses,
        nullif(job.newest_error, 0), job.group_key, _pgq_group_id(job.group_key)
    );
    INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (job.queue, job.kind, 'cancelled', 1);
    PERFORM _pgq_take_cancel_request(job.id), _pgq_tell_end(job.id, 'failed');
END
$_pgq_cancel_waiting$;

COMMENT ON FUNCTION _pgq_cancel_waiting(pgq_waiting, timestamptz) IS
    'Put a job that was just removed from pgq_waiting into pgq_ended as cancelled. Returns nothing.';

-- The subqueries leave the planner one plan: a look-up in each primary key, however many rows it believes there are.
CREATE FUNCTION pgq_cancel_requested(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_cancel_requested$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
BEGIN
    PERFORM _pgq_check_pairs(ids, tokens);

    RETURN QUERY
    SELECT given.id
    FROM unnest(ids, tokens) AS given (id, token)
    WHERE (SELECT true FROM pgq_cancel_request AS c WHERE c.id = given.id)
      AND (
          SELECT true
          FROM _pgq_running AS r
          WHERE r.id = given.id
            AND r.token = given.token
            AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
      );
END
$pgq_cancel_requested$;

COMMENT ON FUNCTION pgq_cancel_requested(bigint[], bigint[]) IS
    'Return which of these running jobs, each held under its token, pgq_cancel has requested to cancel. Their worker '
    'stops working on them, and calls pgq_cancel_claimed. Waits for no lock, and is cheap: call it about once a second '
    'while jobs run. NULL for ids or tokens raises 22004, arrays of different lengths raise 2202E.';

-- Claims call it, so it waits for no lock and reads fifty requests at most, from a random one on if there are more.
CREATE FUNCTION _pgq_settle_cancel_requests(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_cancel_requests$
DECLARE
    v_ids bigint[] := ARRAY(SELECT c.id FROM pgq_cancel_request AS c ORDER BY c.id LIMIT 51);
    v_last bigint;
    v_job pgq_waiting;
BEGIN
    IF v_ids = '{}' THEN
        RETURN;
    END IF;
    IF cardinality(v_ids) > 50 THEN
        v_last := (SELECT max(c.id) FROM pgq_cancel_request AS c);
        v_ids := ARRAY(
            SELECT c.id
            FROM pgq_cancel_request AS c
            WHERE c.id >= v_ids[1] + floor(random() * (v_last - v_ids[1] + 1))::bigint
            ORDER BY c.id
            LIMIT 50
        );
    END IF;

    -- Requests that were committed too late for a way back to waiting: end the jobs while they wait.
    FOR v_job IN
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_waiting AS o
            WHERE o.id = ANY (v_ids)
              AND EXISTS (SELECT FROM pgq_cancel_request AS c WHERE c.id = o.id)
            FOR UPDATE SKIP LOCKED))
        RETURNING w.*
    LOOP
        PERFORM _pgq_cancel_waiting(v_job, at);
    END LOOP;

    -- Requests of jobs that have ended. In one statement, so that a job that is just being claimed or put back is seen
    -- on one side or the other.
    WITH running AS MATERIALIZED (
        SELECT r.id FROM _pgq_running AS r WHERE r.id = ANY (v_ids)
    )
    DELETE FROM pgq_cancel_request AS c
    WHERE c.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM pgq_cancel_request AS o
        WHERE o.id = ANY (v_ids)
          AND NOT EXISTS (SELECT FROM pgq_waiting AS w WHERE w.id = o.id)
          AND o.id NOT IN (SELECT r.id FROM running AS r)
        FOR UPDATE SKIP LOCKED));
END
$_pgq_settle_cancel_requests$;

COMMENT ON FUNCTION _pgq_settle_cancel_requests(timestamptz) IS
    'End waiting jobs whose cancellation is requested, and remove requests of jobs that have ended, up to 50. Returns '
    'nothing.';

CREATE FUNCTION _pgq_cancelled_with(ids bigint[], among bigint[], max_jobs integer) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_cancelled_with$
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE gone (id) AS (
            SELECT i.id FROM unnest(ids) AS i (id)
            UNION
            SELECT n.job
            FROM gone AS g
            -- OFFSET 0: a look-up in the index for each job, whatever the planner believes.
            CROSS JOIN LATERAL (SELECT o.job FROM pgq_need AS o WHERE o.needs = g.id OFFSET 0) AS n
            WHERE (SELECT b.after_failed FROM pgq_blocked AS b WHERE b.id = n.job) = 'cancel'
              AND (among IS NULL OR n.job IN (SELECT a FROM unnest(among) AS a))
        )
        SELECT g.id FROM gone AS g OFFSET cardinality(ids) LIMIT max_jobs);
END
$_pgq_cancelled_with$;

COMMENT ON FUNCTION _pgq_cancelled_with(bigint[], bigint[], integer) IS
    'Return the blocked jobs that are cancelled when these, which are different jobs, are: directly or not, the '
    'nearest first, up to max_jobs, or all if this is NULL. Those that are not among the given ones, unless these are '
    'NULL, are left out, and what is only behind them.';

-- A job that has been locked is not locked for the first time by another transaction, which would look for what is left
-- before this one has committed. The jobs that wait for these are locked in the order of ids, for 100 milliseconds at
-- most. Those that wait for what is cancelled are locked only if that takes no wait: maintenance finds the others by
-- the notes of what they wait for.
CREATE FUNCTION _pgq_settle_needs(
    ids bigint[],
    outcome text,
    at timestamptz,
    max_jobs integer,
    job bigint DEFAULT NULL
) RETURNS integer
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_settle_needs$
DECLARE
    v_needs tid[];
    v_jobs bigint[];
    v_cancelled bigint[];
    v_further bigint[];
    v_count integer;
BEGIN
    SELECT array_agg(d.ctid), array_agg(DISTINCT d.job)
    INTO v_needs, v_jobs
    FROM (
        SELECT n.ctid, n.job
        FROM pgq_need AS n
        WHERE n.needs = ANY (ids)
          AND (_pgq_settle_needs.job IS NULL OR n.job = _pgq_settle_needs.job)
          AND (outcome <> 'failed'
               OR (SELECT b.after_failed FROM pgq_blocked AS b WHERE b.id = n.job) IS DISTINCT FROM 'wait')
        LIMIT max_jobs
    ) AS d;
    IF v_jobs IS NULL THEN
        RETURN 0;
    END IF;
    v_count := cardinality(v_needs);
    v_jobs := ARRAY(SELECT b.id FROM pgq_blocked AS b WHERE b.id = ANY (v_jobs) ORDER BY b.id FOR UPDATE);

    v_cancelled := ARRAY(
        SELECT b.id
        FROM pgq_blocked AS b
        WHERE b.id = ANY (v_jobs)
          AND CASE outcome WHEN 'failed' THEN b.after_failed = 'cancel' WHEN 'purged' THEN b.after_failed <> 'run' END);
    IF v_cancelled <> '{}' THEN
        IF v_count < max_jobs THEN
            v_further := _pgq_cancelled_with(v_cancelled, NULL, max_jobs - v_count);
            IF v_further <> '{}' THEN
                v_further := ARRAY(
                    SELECT b.id FROM pgq_blocked AS b WHERE b.id = ANY (v_further) ORDER BY b.id FOR UPDATE SKIP LOCKED);
                v_further := _pgq_cancelled_with(v_cancelled, v_further, NULL);
                v_cancelled := v_cancelled || v_further;
                v_count := v_count + cardinality(v_further);
            END IF;
        END IF;
        PERFORM _pgq_cancel_blocked(v_cancelled, ids || v_cancelled, at);
        INSERT INTO pgq_need_ended (id, outcome)
        SELECT c.id, 'failed'
        FROM unnest(v_cancelled) AS c (id)
        WHERE (SELECT true FROM pgq_need AS n WHERE n.needs = c.id LIMIT 1)
        ON CONFLICT ON CONSTRAINT pgq_need_ended_pkey DO NOTHING;
    END IF;

    WITH met AS (
        DELETE FROM pgq_need AS n WHERE n.ctid = ANY (v_needs) AND n.needs = ANY (ids) RETURNING n.job, n.needs
    )
    INSERT INTO pgq_batch (id, queue, jobs, failed, given_up, at)
    SELECT m.job, b.queue, 0, array_agg(m.needs), 0, _pgq_settle_needs.at
    FROM met AS m
    CROSS JOIN LATERAL (SELECT o.queue FROM pgq_batch AS o WHERE o.id = m.job LIMIT 1) AS b
    WHERE outcome = 'failed'
    GROUP BY m.job, b.queue;
    -- In a statement of its own, which sees what those have removed that had the jobs locked before. From the last need
    -- on: jobs mostly end in the order of their ids, and dead entries lie before those that are left.
    PERFORM _pgq_unblock(
        ARRAY(
            SELECT j.id
            FROM unnest(v_jobs) AS j (id)
            WHERE j.id <> ALL (v_cancelled)
              AND (SELECT true FROM pgq_need AS n WHERE n.job = j.id ORDER BY n.needs DESC LIMIT 1) IS NULL),
        at);
    RETURN v_count;
END
$_pgq_settle_needs$;

COMMENT ON FUNCTION _pgq_settle_needs(bigint[], text, timestamptz, integer, bigint) IS
    'Unblock or cancel blocked jobs that wait for these jobs, which have ended in one of the ways of pgq_need_ended: '
    'up to max_jobs of them, or only one; and cancel those that wait for what is cancelled, directly or not, as long '
    'as all together are not more. Returns how many needs were met and further jobs cancelled: fewer than max_jobs if '
    'no job waits for these any more. Raises 55P03 if another transaction has locked one of the jobs that wait for '
    'these, or a twin, for too long.';

-- A caller in REPEATABLE READ does not see what other transactions remove meanwhile.
CREATE FUNCTION _pgq_settle_ends(ids bigint[], outcome text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_ends$
DECLARE
    c_most CONSTANT integer := 1000;
    v_needed bigint[] := ARRAY(
        SELECT e.id
        FROM unnest(ids) AS e (id)
        WHERE (SELECT true FROM pgq_need AS n WHERE n.needs = e.id LIMIT 1));
BEGIN
    IF v_needed = '{}' THEN
        RETURN false;
    END IF;
    IF current_setting('transaction_isolation') = 'read committed' THEN
        BEGIN
            IF _pgq_settle_needs(v_needed, outcome, pgq_now(), c_most) < c_most THEN
                RETURN true;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        END;
    END IF;
    INSERT INTO pgq_need_ended AS o (id, outcome)
    SELECT e.id, _pgq_settle_ends.outcome
    FROM unnest(v_needed) AS e (id)
    ON CONFLICT ON CONSTRAINT pgq_need_ended_pkey DO UPDATE SET outcome = excluded.outcome;
    RETURN true;
END
$_pgq_settle_ends$;

COMMENT ON FUNCTION _pgq_settle_ends(bigint[], text) IS
    'Unblock or cancel the blocked jobs that wait for these jobs, which this transaction has ended, or leave some to '
    'maintenance. outcome is one of those of pgq_need_ended. Returns whether any waits for them.';

CREATE FUNCTION _pgq_is_needed(id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_is_needed$
BEGIN
    RETURN EXISTS (SELECT FROM pgq_need AS n WHERE n.needs = _pgq_is_needed.id);
END
$_pgq_is_needed$;

COMMENT ON FUNCTION _pgq_is_needed(bigint) IS 'Return whether a blocked job waits for this one.';

CREATE FUNCTION _pgq_hand_over_needs(id bigint, survivor bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_hand_over_needs$
BEGIN
    WITH moved AS (
        DELETE FROM pgq_need AS n WHERE n.needs = _pgq_hand_over_needs.id RETURNING n.job
    )
    INSERT INTO pgq_need (job, needs)
    SELECT m.job, survivor FROM moved AS m
    ON CONFLICT ON CONSTRAINT pgq_need_pkey DO NOTHING;
END
$_pgq_hand_over_needs$;

COMMENT ON FUNCTION _pgq_hand_over_needs(bigint, bigint) IS
    'Let the blocked jobs that wait for one job wait for another one, into which it has merged. Returns nothing.';

CREATE FUNCTION _pgq_settle_purged(failed bigint[], not_done bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_settle_purged$
BEGIN
    IF failed IS NOT NULL THEN
        PERFORM _pgq_delete_beside(failed);
    END IF;
    -- Nothing can retry these any more.
    IF not_done IS NOT NULL AND _pgq_has_needs() THEN
        PERFORM _pgq_settle_ends(not_done, 'purged');
    END IF;
END
$_pgq_settle_purged$;

COMMENT ON FUNCTION _pgq_settle_purged(bigint[], bigint[]) IS
    'Settle what belongs to purged jobs: delete what stands beside those that have errors or something saved, and tell '
    'the jobs that wait for those that were not done. NULL: there are none. Returns nothing.';

-- The caller has locked these jobs, and removed what they waited for. Their places in the lanes of their queues are
-- those of jobs that become ripe now, because heads may have passed earlier ones.
CREATE FUNCTION _pgq_unblock(ids bigint[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_unblock$
DECLARE
    v_jobs pgq_waiting[];
    v_job pgq_waiting;
    v_added bigint[];
    v_queue record;
BEGIN
    WITH freed AS (
        DELETE FROM pgq_blocked AS b WHERE b.id = ANY (ids) RETURNING b.*
    )
    SELECT array_agg(
               ROW(
                   f.id, f.queue, f.kind, f.args, f.priority, greatest(f.ripe_at, at), f.attempt, f.max_retries,
                   f.backoff, f.backoff_cap, f.dedup, f.dedup_key, f.enqueued_at, f.context,
                   CASE WHEN f.dedup THEN _pgq_signature(f.queue, f.kind, f.args, f.dedup_key) END, f.losses,
                   f.newest_error, f.group_key, _pgq_place(f.queue, f.group_key, f.ripe_at <= at)
               )::pgq_waiting
               -- In the order of pgq_enqueue_many, so that two calls do not deadlock.
               ORDER BY hashtextextended(coalesce(f.dedup_key, f.args::text), 0), f.kind COLLATE "C",
                        f.queue COLLATE "C", f.id)
    INTO v_jobs
    FROM freed AS f;
    IF v_jobs IS NULL THEN
        RETURN;
    END IF;

    -- One pass, unless a worker claims a twin between the two statements.
    LOOP
        WITH added AS (
            INSERT INTO pgq_waiting (
                id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
                enqueued_at, context, losses, newest_error, group_key, group_id, signature
            )
            SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, j.max_retries, j.backoff,
                   j.backoff_cap, j.dedup, j.dedup_key, j.enqueued_at, j.context, j.losses, j.newest_error,
                   j.group_key, j.group_id, j.signature
            FROM unnest(v_jobs) AS j
            ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING
            RETURNING id
        )
        SELECT coalesce(array_agg(a.id), '{}') INTO v_added FROM added AS a;

        FOR v_queue IN
            SELECT j.queue AS name, count(*) FILTER (WHERE j.ripe_at <= at) AS ripe
            FROM unnest(v_jobs) AS j
            WHERE j.id = ANY (v_added)
              AND _pgq_is_soon(j.ripe_at, at)
            GROUP BY j.queue
        LOOP
            PERFORM _pgq_wake(v_queue.name, v_queue.ripe);
        END LOOP;
        EXIT WHEN cardinality(v_added) = cardinality(v_jobs);

        v_jobs := ARRAY(SELECT j FROM unnest(v_jobs) AS j WHERE j.id <> ALL (v_added));
        FOREACH v_job IN ARRAY v_jobs LOOP
            IF _pgq_merge(
                v_job.id, v_job.signature, v_job.ripe_at, v_job.attempt, v_job.losses, v_job.newest_error
            ) THEN
                v_added := v_added || v_job.id;
                INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (v_job.queue, v_job.kind, 'merged', 1);
            END IF;
        END LOOP;
        v_jobs := ARRAY(SELECT j FROM unnest(v_jobs) AS j WHERE j.id <> ALL (v_added));
        EXIT WHEN v_jobs = '{}';
    END LOOP;
END
$_pgq_unblock$;

COMMENT ON FUNCTION _pgq_unblock(bigint[], timestamptz) IS
    'Move blocked jobs to pgq_waiting, where a job merges with a twin that waits, and wake workers. Returns nothing.';

CREATE FUNCTION _pgq_cancel_blocked(ids bigint[], causes bigint[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_cancel_blocked$
BEGIN
    WITH gone AS (
        DELETE FROM pgq_blocked AS b WHERE b.id = ANY (ids) RETURNING b.*
    ), error AS (
        INSERT INTO pgq_error (id, number, attempt, at, error)
        SELECT g.id, 1, g.attempt, at,
               format('job %s, after which this one was to run, is dead or cancelled',
                      (SELECT min(n.needs) FILTER (WHERE n.needs IN (SELECT c FROM unnest(causes) AS c))
                       FROM pgq_need AS n
                       WHERE n.job = g.id))
        FROM gone AS g
        WHERE causes IS NOT NULL
    ), counted AS (
        INSERT INTO pgq_count (queue, kind, event, jobs)
        SELECT g.queue, g.kind, 'cancelled', count(*) FROM gone AS g GROUP BY g.queue, g.kind
    )
    INSERT INTO pgq_ended (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, outcome, ended_at, losses, newest_error, group_key, group_id
    )
    SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, coalesce(j.max_retries, s.max_retries, 10),
           coalesce(j.backoff, s.backoff, '1 minute'), coalesce(j.backoff_cap, s.backoff_cap, '1 hour'), j.dedup,
           j.dedup_key, j.enqueued_at, j.context, 'cancelled', at, j.losses, CASE WHEN causes IS NOT NULL THEN 1 END,
           j.group_key, _pgq_group_id(j.group_key)
    FROM gone AS j
    LEFT JOIN pgq_queue_setting AS s ON s.queue = j.queue COLLATE "C";

    WITH left_over AS (
        DELETE FROM pgq_need AS n WHERE n.job = ANY (ids) RETURNING n.job
    )
    INSERT INTO pgq_batch (id, queue, jobs, failed, given_up, at)
    SELECT l.job, b.queue, 0, '{}', count(*), _pgq_cancel_blocked.at
    FROM left_over AS l
    CROSS JOIN LATERAL (SELECT o.queue FROM pgq_batch AS o WHERE o.id = l.job LIMIT 1) AS b
    GROUP BY l.job, b.queue;
END
$_pgq_cancel_blocked$;

COMMENT ON FUNCTION _pgq_cancel_blocked(bigint[], bigint[], timestamptz) IS
    'End blocked jobs, which the caller has locked, as cancelled: because of one of these causes, which becomes their '
    'error, or, if these are NULL, because an operator cancels them. Returns nothing.';

CREATE FUNCTION _pgq_saved(id bigint) RETURNS jsonb
    LANGUAGE plpgsql
    STABLE
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_saved$
BEGIN
    RETURN (SELECT s.saved FROM pgq_saved AS s WHERE s.id = _pgq_saved.id);
END
$_pgq_saved$;

COMMENT ON FUNCTION _pgq_saved(bigint) IS 'Return what a job has saved, or NULL.';

CREATE FUNCTION _pgq_saved_texts(ids bigint[]) RETURNS text[]
    LANGUAGE plpgsql
    STABLE
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_saved_texts$
DECLARE
    v_texts text[] := ARRAY(
        SELECT (SELECT s.saved::text FROM pgq_saved AS s WHERE s.id = u.id)
        FROM unnest(ids) WITH ORDINALITY AS u (id, n)
        ORDER BY u.n
    );
BEGIN
    RETURN CASE WHEN array_remove(v_texts, NULL) <> '{}' THEN v_texts END;
END
$_pgq_saved_texts$;

COMMENT ON FUNCTION _pgq_saved_texts(bigint[]) IS
    'Return what these jobs have saved, as the text of JSON, in the given order; NULL if no job has saved anything.';

CREATE FUNCTION _pgq_hand_over(id bigint, twin bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_hand_over$
BEGIN
    UPDATE pgq_saved AS s
    SET id = twin
    WHERE s.id = _pgq_hand_over.id
      AND NOT EXISTS (SELECT FROM pgq_saved AS t WHERE t.id = twin);
    IF NOT FOUND THEN
        DELETE FROM pgq_saved AS s WHERE s.id = _pgq_hand_over.id;
    END IF;
END
$_pgq_hand_over$;

COMMENT ON FUNCTION _pgq_hand_over(bigint, bigint) IS
    'Hand over what a job has saved to the twin of its merge, whose row this transaction has locked, unless the twin '
    'has saved something itself. Returns nothing.';

-- The stamp is made once: a job that saves at each of its steps is not written anew for it.
CREATE FUNCTION pgq_save(id bigint, token bigint, saved jsonb, transaction text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_save$
#variable_conflict use_column
DECLARE
    v_allowed text[];
    v_newest_error integer;
BEGIN
    IF transaction <> pg_current_xact_id()::text THEN
        RAISE EXCEPTION 'transaction % has ended', transaction
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Do not end the transaction that holds the job before it saves with the job.';
    END IF;
    IF octet_length(saved::text) > 1048576 THEN
        RAISE EXCEPTION 'saved takes % bytes as text, more than 1048576', octet_length(saved::text)
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store large data in a table of your own and save a reference to it.';
    END IF;
    -- What pgq_hold does, without the cost of a call.
    UNLISTEN pgq_nothing;
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    SELECT r.newest_error INTO v_newest_error
    FROM pgq_running AS r
    WHERE r.id = pgq_save.id
      AND r.token = pgq_save.token
      AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
    FOR UPDATE;
    IF NOT FOUND THEN
        -- It may run in a packed batch.
        PERFORM pgq_hold(id, token);
        SELECT r.newest_error INTO v_newest_error FROM pgq_running AS r WHERE r.id = pgq_save.id;
    END IF;

    IF saved IS NULL THEN
        DELETE FROM pgq_saved AS s WHERE s.id = pgq_save.id;
        RETURN;
    END IF;
    IF coalesce(v_newest_error, 0) = 0 THEN
        UPDATE pgq_running AS r SET newest_error = -1 WHERE r.id = pgq_save.id;
    END IF;
    INSERT INTO pgq_saved (id, saved)
    VALUES (pgq_save.id, pgq_save.saved)
    ON CONFLICT (id) DO UPDATE SET saved = excluded.saved;
END
$pgq_save$;

COMMENT ON FUNCTION pgq_save(bigint, bigint, jsonb, text) IS
    'Save something with a running job: progress, or what its steps have returned. Returns nothing. It takes the place '
    'of what the job has saved before, and NULL removes that. It is kept until the job is deleted, through retries, '
    'snoozes, lost workers and pgq_retry: each claim returns it, and pgq_jobs shows it. Call it in the transaction '
    'that writes the effects of a step, and no later attempt need repeat the step. A job that merges hands it over to '
    'the twin, unless the twin has saved something itself. The job is locked until the end of the transaction, as by '
    'pgq_hold. Give transaction as for pgq_complete, where the handler of the job could have ended the transaction '
    'itself; NULL: it is not checked. Raises PGQ02 if the job is not held under this token, or for a NULL id or token; '
    '54000 for more than 1 MiB as text; 25000 in another transaction.';

-- One statement for the jobs that are in none of the small tables, because one that moves meanwhile must be seen on one
-- side or the other.
CREATE FUNCTION _pgq_settle_over(ids bigint[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_settle_over$
DECLARE
    c_most CONSTANT integer := 500;
    c_many CONSTANT bigint := 500;
    v_failed bigint[];
    v_merged bigint;
BEGIN
    ids := ARRAY(
        SELECT i.id
        FROM unnest(ids) AS i (id)
        WHERE (SELECT true FROM pgq_waiting AS w WHERE w.id = i.id) IS NULL
          AND (SELECT true FROM pgq_blocked AS b WHERE b.id = i.id) IS NULL
          AND (SELECT true FROM pgq_running AS r WHERE r.id = i.id) IS NULL);
    IF ids = '{}' THEN
        RETURN;
    END IF;
    WITH running AS MATERIALIZED (
        SELECT r.id FROM _pgq_running AS r WHERE r.id = ANY (ids)
    )
    SELECT array_agg(i.id), array_agg(i.id) FILTER (WHERE e.outcome IN ('dead', 'cancelled'))
    INTO ids, v_failed
    FROM unnest(ids) AS i (id)
    LEFT JOIN pgq_ended AS e ON e.id = i.id
    WHERE (SELECT true FROM pgq_waiting AS w WHERE w.id = i.id) IS NULL
      AND (SELECT true FROM pgq_blocked AS b WHERE b.id = i.id) IS NULL
      AND i.id NOT IN (SELECT r.id FROM running AS r);
    IF v_failed IS NOT NULL THEN
        ids := ARRAY(SELECT i.id FROM unnest(ids) AS i (id) WHERE i.id <> ALL (v_failed));
        -- Jobs that wait until a dead one is retried may be many, and stay for weeks. Where the first ones all do, the
        -- others are read in one look in fifty.
        v_failed := ARRAY(
            SELECT f.id
            FROM unnest(v_failed) AS f (id)
            WHERE random() < 0.02
               OR (
                   SELECT count(*) < c_many OR bool_or(first.after_failed IS DISTINCT FROM 'wait')
                   FROM (
                       SELECT (SELECT b.after_failed FROM pgq_blocked AS b WHERE b.id = n.job) AS after_failed
                       FROM pgq_need AS n
                       WHERE n.needs = f.id
                       LIMIT c_many
                   ) AS first));
        PERFORM _pgq_settle_needs(v_failed, 'failed', at, c_most);
    END IF;
    -- A job that merged while one that is to run after it was enqueued: the twin takes its place.
    FOR v_merged IN SELECT m.id FROM pgq_merged AS m WHERE m.id = ANY (ids) LOOP
        PERFORM _pgq_hand_over_needs(v_merged, _pgq_survivor(v_merged));
        ids := array_remove(ids, v_merged);
    END LOOP;
    IF ids <> '{}' THEN
        PERFORM _pgq_settle_needs(ids, 'done', at, c_most);
    END IF;
END
$_pgq_settle_over$;

COMMENT ON FUNCTION _pgq_settle_over(bigint[], timestamptz) IS
    'Unblock or cancel blocked jobs that wait for those of these jobs that have ended, and let those that wait for one '
    'that has merged wait for its twin. Returns nothing. Raises what _pgq_settle_needs does.';

CREATE FUNCTION _pgq_needs_setting() RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.needs_' || 'pgq_need'::regclass::oid;

COMMENT ON FUNCTION _pgq_needs_setting() IS
    'Return the name of the setting in which a session keeps how far it has looked at needs.';

-- A forged setting makes a session look elsewhere, and no other.
CREATE FUNCTION _pgq_look_at_needs() RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_look_at_needs$
DECLARE
    c_most CONSTANT integer := 200;
    v_text text := current_setting(_pgq_needs_setting(), true);
    v_from bigint := CASE WHEN v_text ~ '^[0-9]{1,18}$' THEN v_text::bigint
                          ELSE floor(random() * (SELECT max(n.needs) FROM pgq_need AS n)) END;
    v_ids bigint[];
BEGIN
    v_ids := ARRAY(
        WITH RECURSIVE found (id, n) AS (
            SELECT (SELECT min(f.needs) FROM pgq_need AS f WHERE f.needs > v_from), 1
            UNION ALL
            SELECT (SELECT min(f.needs) FROM pgq_need AS f WHERE f.needs > found.id), found.n + 1
            FROM found
            WHERE found.n < c_most AND found.id IS NOT NULL
        )
        SELECT found.id FROM found WHERE found.id IS NOT NULL);
    IF cardinality(v_ids) = c_most THEN
        v_from := v_ids[c_most];
    ELSIF v_from > 0 THEN
        -- The end: the next look begins at the first one.
        v_from := 0;
    END IF;
    PERFORM set_config(_pgq_needs_setting(), v_from::text, false);
    RETURN v_ids;
END
$_pgq_look_at_needs$;

COMMENT ON FUNCTION _pgq_look_at_needs() IS
    'Return the next 200 jobs, in the order of ids, that blocked jobs wait for; after the last one, from the first on.';

-- A table lock that other roles cannot take. The error ends a subtransaction and with it the lock.
-- No rollback undoes the reset, but one may bring back the needs that this transaction has removed: where it has written
-- to the table, a later call resets.
CREATE FUNCTION _pgq_reset_needed() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_reset_needed$
BEGIN
    BEGIN
        LOCK TABLE pgq_need IN SHARE MODE NOWAIT;
        IF NOT EXISTS (SELECT FROM pgq_need) AND NOT EXISTS (SELECT FROM pgq_need_ended) AND NOT EXISTS (
            SELECT
            FROM pg_locks AS l
            WHERE l.locktype = 'relation'
              AND l.relation = 'pgq_need'::regclass
              AND l.pid = pg_backend_pid()
              AND l.mode = 'RowExclusiveLock'
        ) THEN
            PERFORM setval('pgq_needed', 1, false);
        END IF;
        RAISE SQLSTATE 'PGQ00';
    EXCEPTION WHEN SQLSTATE 'PGQ00' OR lock_not_available THEN
        RETURN;
    END;
END
$_pgq_reset_needed$;

COMMENT ON FUNCTION _pgq_reset_needed() IS
    'Let _pgq_has_needs return false again if no job is blocked, and none is being enqueued so. Returns nothing.';

-- What claims do once a second in each session, while jobs are blocked. A thousand jobs take a tenth of a second.
CREATE FUNCTION _pgq_settle_blocked(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_settle_blocked$
BEGIN
    IF NOT _pgq_has_needs() OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pgq_need) AND NOT EXISTS (SELECT FROM pgq_need_ended) THEN
        PERFORM _pgq_reset_needed();
        RETURN;
    END IF;
    BEGIN
        PERFORM _pgq_settle_notes(at, 1000);
    EXCEPTION WHEN lock_not_available THEN
        PERFORM _pgq_settle_singly(at);
    END;
    BEGIN
        PERFORM _pgq_settle_over(_pgq_look_at_needs(), at);
    EXCEPTION WHEN lock_not_available THEN
        NULL;  -- a later look finds them again
    END;
END
$_pgq_settle_blocked$;

COMMENT ON FUNCTION _pgq_settle_blocked(timestamptz) IS
    'Unblock or cancel blocked jobs whose prerequisites are over, up to some hundreds. Waits for a lock for 100 ms at '
    'most, four times. Returns nothing.';

CREATE FUNCTION _pgq_settle_notes(at timestamptz, max_jobs integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_notes$
DECLARE
    v_left integer := max_jobs;
    v_note record;
    v_ids bigint[];
    v_count integer;
BEGIN
    WHILE v_left > 0 LOOP
        SELECT o.outcome, array_agg(o.id) AS ids INTO v_note
        FROM (SELECT n.id, n.outcome FROM pgq_need_ended AS n LIMIT 100 FOR UPDATE SKIP LOCKED) AS o
        GROUP BY o.outcome
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        -- A dead job that was retried since is alive.
        v_ids := v_note.ids;
        IF v_note.outcome = 'failed' THEN
            v_ids := ARRAY(
                SELECT e.id FROM pgq_ended AS e WHERE e.id = ANY (v_ids) AND e.outcome IN ('dead', 'cancelled'));
        END IF;
        v_count := _pgq_settle_needs(v_ids, v_note.outcome, at, v_left);
        IF v_count < v_left THEN
            DELETE FROM pgq_need_ended AS n WHERE n.id = ANY (v_note.ids);
        END IF;
        -- A call for one job takes as long as several jobs of a long list.
        v_left := v_left - greatest(v_count, 2);
    END LOOP;
END
$_pgq_settle_notes$;

COMMENT ON FUNCTION _pgq_settle_notes(timestamptz, integer) IS
    'Unblock or cancel blocked jobs that wait for jobs in pgq_need_ended, about max_jobs of them. Returns nothing. '
    'Raises what _pgq_settle_needs does.';

-- One by one, because one of them is locked. Each takes a subtransaction.
CREATE FUNCTION _pgq_settle_singly(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_singly$
DECLARE
    v_need record;
    v_locked integer := 0;
BEGIN
    FOR v_need IN
        SELECT n.job, n.needs, o.outcome
        FROM (
            SELECT e.id, e.outcome
            FROM pgq_need_ended AS e
            WHERE e.outcome <> 'failed'
               OR (SELECT d.outcome FROM pgq_ended AS d WHERE d.id = e.id) IN ('dead', 'cancelled')
            ORDER BY random()
            LIMIT 20
        ) AS o
        CROSS JOIN LATERAL (
            SELECT i.job, i.needs FROM pgq_need AS i WHERE i.needs = o.id ORDER BY random() LIMIT 20
        ) AS n
        ORDER BY random()
        LIMIT 20
    LOOP
        BEGIN
            PERFORM _pgq_settle_needs(ARRAY[v_need.needs], v_need.outcome, at, 1, v_need.job);
        EXCEPTION WHEN lock_not_available THEN
            v_locked := v_locked + 1;
        END;
        EXIT WHEN v_locked = 2;
    END LOOP;
END
$_pgq_settle_singly$;

COMMENT ON FUNCTION _pgq_settle_singly(timestamptz) IS
    'Unblock or cancel up to 20 blocked jobs that wait for jobs in pgq_need_ended, in any order; it ends at the second '
    'one that is locked. Returns nothing.';

CREATE FUNCTION _pgq_wait_class() RETURNS integer
    LANGUAGE sql
    STABLE
    RETURN 'pgq_signal_wait'::regclass::oid::integer;

COMMENT ON FUNCTION _pgq_wait_class() IS 'Return the first part of the advisory locks of jobs that begin to wait.';

-- 1024 locks for all jobs, so that a transaction that lets many jobs wait does not fill the table of locks. Maintenance
-- has a lock for an instant only, but any role can take one and keep it.
CREATE FUNCTION _pgq_enter_wait(id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enter_wait$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RETURN false;
    END IF;
    FOR v_try IN 1..20 LOOP
        IF pg_try_advisory_xact_lock_shared(_pgq_wait_class(), (id & 1023)::integer) THEN
            RETURN true;
        END IF;
        PERFORM pg_sleep(0.001);
    END LOOP;
    RETURN false;
END
$_pgq_enter_wait$;

COMMENT ON FUNCTION _pgq_enter_wait(bigint) IS
    'Announce, until the end of the transaction, that it lets a job wait for a signal. Returns whether the next '
    'statement sees each signal that maintenance will not look at again.';

CREATE FUNCTION _pgq_survivor(id bigint) RETURNS bigint
    LANGUAGE plpgsql
    STABLE
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_survivor$
DECLARE
    v_twin bigint;
BEGIN
    LOOP
        SELECT m.twin INTO v_twin FROM pgq_merged AS m WHERE m.id = _pgq_survivor.id;
        IF NOT FOUND THEN
            RETURN id;
        END IF;
        id := v_twin;
    END LOOP;
END
$_pgq_survivor$;

COMMENT ON FUNCTION _pgq_survivor(bigint) IS
    'Return the number of the job with which a job has merged in the end, or its own number.';

CREATE FUNCTION _pgq_wake_waiting(id bigint, name text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_wake_waiting$
DECLARE
    v_now timestamptz := pgq_now();
    v_job record;
BEGIN
    SELECT w.queue, w.group_key INTO v_job
    FROM pgq_waiting AS w
    WHERE w.id = _pgq_wake_waiting.id
      AND w.ripe_at > v_now
      AND w.ripe_at = (SELECT s.until FROM pgq_signal_wait AS s WHERE s.id = w.id AND s.name = _pgq_wake_waiting.name)
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE pgq_waiting AS w
    SET ripe_at = v_now, group_id = _pgq_place(v_job.queue, v_job.group_key, true)
    WHERE w.id = _pgq_wake_waiting.id;
    PERFORM _pgq_wake(v_job.queue, 1);
    RETURN true;
END
$_pgq_wake_waiting$;

COMMENT ON FUNCTION _pgq_wake_waiting(bigint, text) IS
    'Make a job ripe that waits for a signal, and wake a worker. Returns whether it has waited for it. Waits for no '
    'lock.';

-- A signal, or a job that is to run after this one, may not be committed yet, and a signal may be sent later. Where none
-- was ever sent, this looks for none.
CREATE FUNCTION _pgq_note_merge(id bigint, signature uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_note_merge$
BEGIN
    IF pg_relation_size('pgq_job_signal') = 0 AND NOT _pgq_has_needs() THEN
        RETURN false;
    END IF;
    INSERT INTO pgq_merged (id, twin)
    SELECT _pgq_note_merge.id, w.id
    FROM pgq_waiting AS w
    WHERE w.signature = _pgq_note_merge.signature
    ON CONFLICT ON CONSTRAINT pgq_merged_pkey DO UPDATE SET twin = excluded.twin;
    RETURN EXISTS (SELECT FROM pgq_job_signal AS s WHERE s.id = _pgq_note_merge.id);
END
$_pgq_note_merge$;

COMMENT ON FUNCTION _pgq_note_merge(bigint, uuid) IS
    'Note with which waiting twin a job merges, if signals are in use or any job may be blocked. Returns whether it has '
    'got any signal.';

CREATE FUNCTION _pgq_hand_over_signals(id bigint, twin bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_hand_over_signals$
DECLARE
    v_soon timestamptz := pgq_now() + interval '1 second';
BEGIN
    INSERT INTO pgq_job_signal (id, name, payload, sent_at, unseen)
    SELECT _pgq_hand_over_signals.twin, s.name, s.payload, s.sent_at, true
    FROM pgq_job_signal AS s
    WHERE s.id = _pgq_hand_over_signals.id
    ON CONFLICT DO NOTHING;
    DELETE FROM pgq_job_signal AS s WHERE s.id = _pgq_hand_over_signals.id;

    IF NOT EXISTS (SELECT FROM pgq_signal_wait AS s WHERE s.id = _pgq_hand_over_signals.id) THEN
        RETURN;
    END IF;
    UPDATE pgq_signal_wait AS s
    SET id = _pgq_hand_over_signals.twin
    WHERE s.id = _pgq_hand_over_signals.id
      AND NOT EXISTS (
          SELECT FROM pgq_signal_wait AS t WHERE t.id = _pgq_hand_over_signals.twin AND t.name = s.name);
    DELETE FROM pgq_signal_wait AS s WHERE s.id = _pgq_hand_over_signals.id;
    -- The twin may have got the signal already.
    IF NOT _pgq_enter_wait(twin) THEN
        UPDATE pgq_waiting AS w
        SET ripe_at = v_soon
        WHERE w.id = _pgq_hand_over_signals.twin
          AND w.ripe_at > v_soon
          AND w.ripe_at IN (SELECT s.until FROM pgq_signal_wait AS s WHERE s.id = w.id);
    END IF;
    PERFORM _pgq_wake_waiting(twin, s.name)
    FROM pgq_job_signal AS s
    WHERE s.id = _pgq_hand_over_signals.twin;
END
$_pgq_hand_over_signals$;

COMMENT ON FUNCTION _pgq_hand_over_signals(bigint, bigint) IS
    'Hand over the signals of a job, and what it waits for, to the twin of its merge, whose row this transaction has '
    'locked; the twin keeps its own of the same name. Returns nothing.';

-- Claims call it, so it waits for no lock.
CREATE FUNCTION _pgq_settle_signals() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_signals$
DECLARE
    c_step CONSTANT integer := 200;
    v_start bigint := 0;
    v_signal record;
    v_key integer;
    v_survivor bigint;
BEGIN
    IF (pg_relation_size('pgq_job_signal') = 0 AND pg_relation_size('pgq_merged') = 0)
       OR current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RETURN;
    END IF;
    -- From a random one on, if there are more than one call looks at.
    IF (SELECT count(*) FROM (SELECT FROM pgq_job_signal AS s WHERE s.unseen LIMIT c_step + 1) AS u) > c_step THEN
        SELECT s.first + floor(random() * (s.last - s.first + 1))::bigint INTO v_start
        FROM (SELECT min(u.id) AS first, max(u.id) AS last FROM pgq_job_signal AS u WHERE u.unseen) AS s;
    END IF;
    FOR v_signal IN
        SELECT s.id, s.name, s.payload, s.sent_at
        FROM pgq_job_signal AS s
        WHERE s.unseen
          AND s.id >= v_start
        ORDER BY s.id
        LIMIT c_step
        FOR UPDATE SKIP LOCKED
    LOOP
        v_survivor := _pgq_survivor(v_signal.id);
        -- While a transaction is open that lets the job wait, its row cannot be seen.
        v_key := (v_survivor & 1023)::integer;
        CONTINUE WHEN NOT pg_try_advisory_lock(_pgq_wait_class(), v_key);
        PERFORM pg_advisory_unlock(_pgq_wait_class(), v_key);
        IF v_survivor <> v_signal.id THEN
            DELETE FROM pgq_job_signal AS s WHERE s.id = v_signal.id AND s.name = v_signal.name;
            INSERT INTO pgq_job_signal (id, name, payload, sent_at, unseen)
            VALUES (v_survivor, v_signal.name, v_signal.payload, v_signal.sent_at, true)
            ON CONFLICT DO NOTHING;
        END IF;
        PERFORM _pgq_wake_waiting(v_survivor, v_signal.name);
        -- Another transaction may have the job locked that waits.
        UPDATE pgq_job_signal AS s
        SET unseen = false
        WHERE s.id = v_survivor
          AND s.name = v_signal.name
          AND NOT EXISTS (
              SELECT
              FROM pgq_waiting AS w
              JOIN pgq_signal_wait AS t ON t.id = w.id AND t.until = w.ripe_at
              WHERE w.id = v_survivor
                AND w.ripe_at > pgq_now()
                AND t.name = v_signal.name
          );
    END LOOP;
END
$_pgq_settle_signals$;

COMMENT ON FUNCTION _pgq_settle_signals() IS
    'Make jobs ripe that wait for signals which were sent while they began to wait, and hand over signals of jobs that '
    'have merged meanwhile, up to 200. Returns nothing.';

-- A job that is done may leave signals behind: completing it does not look for them, as it does not look for requests
-- to cancel. It reads from a random row on.
CREATE FUNCTION _pgq_delete_lost_signals() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_lost_signals$
DECLARE
    c_step CONSTANT integer := 50;
    v_signals bigint[];
    v_merged bigint[];
    v_jobs bigint[];
BEGIN
    IF pg_relation_size('pgq_job_signal') > 0 THEN
        v_signals := ARRAY(
            SELECT s.id
            FROM pgq_job_signal AS s
            WHERE s.id >= (
                SELECT min(i.id) + floor(random() * (max(i.id) - min(i.id) - c_step + 1))::bigint
                FROM pgq_job_signal AS i)
            ORDER BY s.id
            LIMIT c_step
        );
    END IF;
    IF pg_relation_size('pgq_merged') > 0 THEN
        v_merged := ARRAY(
            SELECT m.id
            FROM pgq_merged AS m
            WHERE m.id >= (
                SELECT min(i.id) + floor(random() * (max(i.id) - min(i.id) - c_step + 1))::bigint FROM pgq_merged AS i)
            ORDER BY m.id
            LIMIT c_step
        );
    END IF;
    v_jobs := v_signals || ARRAY(SELECT m.twin FROM pgq_merged AS m WHERE m.id = ANY (v_merged));
    IF v_jobs IS NULL OR v_jobs = '{}' THEN
        RETURN;
    END IF;

    -- In one statement, so that a job that is just being claimed or put back is seen on one side or the other.
    WITH gone AS MATERIALIZED (
        SELECT j.id
        FROM unnest(v_jobs) AS j (id)
        WHERE NOT EXISTS (SELECT FROM pgq_waiting AS w WHERE w.id = j.id)
          AND NOT EXISTS (SELECT FROM pgq_blocked AS b WHERE b.id = j.id)
          AND NOT EXISTS (SELECT FROM pgq_ended AS e WHERE e.id = j.id)
          AND NOT EXISTS (SELECT FROM pgq_merged AS m WHERE m.id = j.id)
          AND j.id NOT IN (SELECT r.id FROM _pgq_running AS r WHERE r.id = ANY (v_jobs))
    ), signals AS (
        DELETE FROM pgq_job_signal AS s
        WHERE s.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_job_signal AS o
            WHERE o.id IN (SELECT g.id FROM gone AS g)
              AND NOT o.unseen
            FOR UPDATE SKIP LOCKED))
    )
    DELETE FROM pgq_merged AS m
    WHERE m.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM pgq_merged AS o
        WHERE o.id = ANY (v_merged)
          AND o.twin IN (SELECT g.id FROM gone AS g)
        FOR UPDATE SKIP LOCKED));
END
$_pgq_delete_lost_signals$;

COMMENT ON FUNCTION _pgq_delete_lost_signals() IS
    'Delete signals of jobs that are gone, and what is noted of merges with them, of 50 each. Returns nothing.';

CREATE FUNCTION _pgq_check_signal(name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_signal$
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION 'name is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name the signal, such as approved.';
    END IF;
    IF NOT _pgq_is_name(name) THEN
        RAISE EXCEPTION 'signal "%" is not a name', left(name, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes without the character U+001F.';
    END IF;
END
$_pgq_check_signal$;

COMMENT ON FUNCTION _pgq_check_signal(text) IS
    'Check the name of a signal. Returns nothing. Raises 22004 for NULL, 22023 for what is not a name.';

CREATE FUNCTION pgq_signal(id bigint, name text, payload jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_signal$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_named_queues();
    v_id bigint := _pgq_survivor(id);
    v_state text;
BEGIN
    PERFORM _pgq_check_signal(name);
    IF octet_length(payload::text) > 1048576 THEN
        RAISE EXCEPTION 'payload takes % bytes as text, more than 1048576', octet_length(payload::text)
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store large data in a table of your own and send a reference to it.';
    END IF;
    -- One statement, so that a job that moves meanwhile is seen on one side or the other.
    SELECT j.state INTO v_state
    FROM (
        SELECT 'waiting' AS state, w.queue FROM pgq_waiting AS w WHERE w.id = v_id
        UNION ALL
        SELECT 'blocked', b.queue FROM pgq_blocked AS b WHERE b.id = v_id
        UNION ALL
        SELECT e.outcome, e.queue FROM pgq_ended AS e WHERE e.id = v_id
        UNION ALL
        SELECT 'running', r.queue FROM _pgq_running AS r WHERE r.id = v_id
        LIMIT 1
    ) AS j
    WHERE v_allowed IS NULL OR j.queue = ANY (v_allowed);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no job %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'Pass the id that an enqueue has returned; a job that was completed without a result is gone.';
    END IF;
    IF v_state NOT IN ('waiting', 'blocked', 'running') THEN
        RAISE EXCEPTION 'job % is % and gets no signal', v_id, v_state
            USING ERRCODE = 'PGQ03',
                  HINT = 'Send a signal only to a job that waits, is blocked or runs.';
    END IF;

    INSERT INTO pgq_job_signal (id, name, payload, sent_at, unseen)
    VALUES (v_id, pgq_signal.name, pgq_signal.payload, v_now, true)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF _pgq_wake_waiting(v_id, name) THEN
        UPDATE pgq_job_signal AS s SET unseen = false WHERE s.id = v_id AND s.name = pgq_signal.name;
    END IF;
    RETURN true;
END
$pgq_signal$;

COMMENT ON FUNCTION pgq_signal(bigint, text, jsonb) IS
    'Send a signal to a waiting, blocked or running job, in the transaction of the caller, before or after the job '
    'waits for it (see pgq_wait_signal). Returns true, or false if the job has got a signal with this name already: '
    'the first one is kept. A job that waits for it is ripe when the transaction commits; one that just begins to '
    'wait, within two seconds. The signal is kept with the job until the job is deleted. If the job has merged with a '
    'twin, the twin gets it. NULL for payload means none. Waits for no transaction of a worker; for another one that '
    'sends the job a signal with the same name, until that ends. Raises PGQ01 if there is no such job, if it is in a '
    'queue that the calling role may use neither as producer nor as admin, or for a NULL id; PGQ03 for a job that has '
    'ended; 22004 for a NULL name, 22023 for a bad one, 54000 for a payload of more than 1 MiB as text.';

CREATE FUNCTION pgq_signal_key(queue text, kind text, dedup_key text, name text, payload jsonb DEFAULT NULL)
    RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_signal_key$
DECLARE
    v_allowed text[] := _pgq_named_queues();
    v_id bigint;
BEGIN
    IF num_nulls(queue, kind, dedup_key) > 0 THEN
        RAISE EXCEPTION 'queue, kind or dedup_key is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass what the job was enqueued with, or call pgq_signal with its id.';
    END IF;
    IF queue <> ALL (v_allowed) THEN
        PERFORM _pgq_raise_denied(queue, 'producer');
    END IF;
    v_id := (
        SELECT w.id
        FROM pgq_waiting AS w
        WHERE w.signature = _pgq_signature(
            pgq_signal_key.queue, pgq_signal_key.kind, '{}', pgq_signal_key.dedup_key)
    );
    v_id := coalesce(v_id, (
        SELECT min(r.id)
        FROM _pgq_running AS r
        WHERE r.queue = pgq_signal_key.queue
          AND r.kind = pgq_signal_key.kind
          AND r.dedup_key = pgq_signal_key.dedup_key
    ));
    IF v_id IS NULL THEN
        RAISE EXCEPTION 'there is no job of kind "%" with this dedup_key in queue "%"',
              left(kind, 200), left(queue, 200)
            USING ERRCODE = 'PGQ01',
                  HINT = 'Enqueue the job first; one that has ended gets no signal.';
    END IF;
    PERFORM pgq_signal(v_id, name, payload);
    RETURN v_id;
END
$pgq_signal_key$;

COMMENT ON FUNCTION pgq_signal_key(text, text, text, text, jsonb) IS
    'Send a signal, as pgq_signal does, to the job of this queue and kind that was enqueued with this dedup_key. '
    'Returns its id. If one waits and others run, it is the one that waits: another one that needs the signal merges '
    'with it. Of several that run, it is the one with the smallest id. To find a running one, all running jobs are '
    'read. Raises PGQ01 if none waits or runs, 42501 for a queue that the calling role may use neither as producer nor '
    'as admin, 22004 for NULL, and what pgq_signal raises.';

CREATE FUNCTION pgq_wait_signal(
    id bigint,
    token bigint,
    name text,
    timeout interval DEFAULT NULL,
    OUT outcome text,
    OUT payload jsonb,
    OUT until timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_wait_signal$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_is_sure boolean;
    v_job pgq_running;
BEGIN
    PERFORM _pgq_check_signal(name);
    IF NOT _pgq_is_in_range(timeout, v_now, '100 years') THEN
        RAISE EXCEPTION 'timeout % is out of range', timeout
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years, or NULL to wait for as long as it takes.';
    END IF;
    PERFORM pgq_hold(id, token);
    v_is_sure := _pgq_enter_wait(id);

    SELECT s.payload INTO pgq_wait_signal.payload
    FROM pgq_job_signal AS s
    WHERE s.id = pgq_wait_signal.id AND s.name = pgq_wait_signal.name;
    IF FOUND THEN
        DELETE FROM pgq_signal_wait AS w WHERE w.id = pgq_wait_signal.id AND w.name = pgq_wait_signal.name;
        outcome := 'received';
        RETURN;
    END IF;
    SELECT w.until INTO pgq_wait_signal.until
    FROM pgq_signal_wait AS w
    WHERE w.id = pgq_wait_signal.id AND w.name = pgq_wait_signal.name;
    IF until <= v_now OR timeout = interval '0' THEN
        outcome := 'timeout';
        RETURN;
    END IF;
    IF until IS NULL THEN
        until := v_now + coalesce(timeout, '100 years');
        INSERT INTO pgq_signal_wait (id, name, until)
        VALUES (pgq_wait_signal.id, pgq_wait_signal.name, pgq_wait_signal.until);
    END IF;

    v_job := _pgq_take(id, token);
    IF coalesce(v_job.newest_error, 0) = 0 THEN
        v_job.newest_error := -1;
    END IF;
    outcome := _pgq_requeue(
        v_job, CASE WHEN v_is_sure THEN until ELSE least(until, v_now + interval '1 second') END, v_job.attempt - 1);
END
$pgq_wait_signal$;

COMMENT ON FUNCTION pgq_wait_signal(bigint, bigint, text, interval) IS
    'Let a running job wait for a signal. Returns received, and its payload, if the job has got it. Otherwise the job '
    'is put back until it gets it, or until the timeout is over, whichever is first; the attempt does not count. Then '
    'outcome is waiting, or merged if a twin was waiting, or cancelled if pgq_cancel has requested that; until is when '
    'the timeout is over. The worker lets go of the job. In its next attempt it calls this function again, which then '
    'returns received, or timeout if that is over. The timeout begins with the first call for the job and this name; '
    'later ones change nothing. NULL for timeout waits as long as it takes; with 0 the call only reads the signal, and '
    'returns timeout if there is none. Raises PGQ02 if the job is not held under this token, or for a NULL id or '
    'token; 22004 for a NULL name, 22023 for a bad one or a timeout out of range.';

CREATE FUNCTION _pgq_channel(queue text, slot integer) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq_' || 'pgq_waiting'::regclass::oid || '_' || md5(queue) || '_' || slot;

COMMENT ON FUNCTION _pgq_channel(text, integer) IS
    'Return the channel on which the session in a slot of a queue is notified.';

CREATE FUNCTION _pgq_slot_key(queue text, slot integer) RETURNS integer
    LANGUAGE sql
    IMMUTABLE
    RETURN hashtext(slot || '/' || queue);

COMMENT ON FUNCTION _pgq_slot_key(text, integer) IS
    'Return the second part of the key of the advisory lock for a slot of a queue.';

-- A session asks at least once a second when the next job is ripe, so it need not be notified of a job that is ripe
-- later.
CREATE FUNCTION _pgq_is_soon(ripe_at timestamptz, at timestamptz) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN ripe_at <= at OR ripe_at <= at + interval '2 seconds';

COMMENT ON FUNCTION _pgq_is_soon(timestamptz, timestamptz) IS
    'Return whether a job with this ripe_at is to wake a session: it is ripe at a time, or within 2 seconds.';

-- Slots are tried in shared mode, so sessions that try the same one do not disturb each other; the shared slot, which
-- sleeping sessions hold in shared mode, is tried exclusively. The first slot is random: so a woken session that is
-- stuck delays few other jobs, and the calls of one transaction wake several sessions.
CREATE FUNCTION _pgq_wake_sleepers(queue text, jobs bigint) RETURNS boolean
    LANGUAGE plpgsql
    STRICT
    SET search_path FROM CURRENT
AS $_pgq_wake_sleepers$
DECLARE
    c_class CONSTANT integer := 'pgq_waiting'::regclass::oid::integer;
    v_first CONSTANT integer := floor(random() * 16);
    v_left bigint := greatest(jobs, 1);
    v_queue text;
    v_slot integer;
    v_key integer;
    v_free boolean;
BEGIN
    FOREACH v_queue IN ARRAY ARRAY[queue, ''] LOOP
        EXIT WHEN v_left <= 0;
        FOR v_n IN 0..16 LOOP
            v_slot := CASE WHEN v_n < 16 THEN (v_first + v_n) % 16 ELSE 16 END;
            v_key := _pgq_slot_key(v_queue, v_slot);
            IF v_n < 16 THEN
                v_free := pg_try_advisory_lock_shared(c_class, v_key) AND pg_advisory_unlock_shared(c_class, v_key);
            ELSE
                v_free := pg_try_advisory_lock(c_class, v_key) AND pg_advisory_unlock(c_class, v_key);
            END IF;
            IF NOT v_free THEN
                PERFORM pg_notify(_pgq_channel(v_queue, v_slot), CASE WHEN jobs = 0 THEN 'later' ELSE '' END);
                v_left := v_left - 1;
                EXIT WHEN v_left = 0 AND v_queue <> '';
            END IF;
        END LOOP;
    END LOOP;
    RETURN v_left < greatest(jobs, 1);
END
$_pgq_wake_sleepers$;

COMMENT ON FUNCTION _pgq_wake_sleepers(text, bigint) IS
    'Notify as many sleeping sessions of this queue as there are ripe jobs when this transaction commits; if there are '
    'fewer of them, all sessions of many queues, too. 0 means that a job is ripe soon: as for one job, but with the '
    'payload "later". NULL: notify none. Returns whether a session sleeps.';

-- An expression, so that PostgreSQL inlines it, and evaluates jobs only where a session may sleep.
CREATE FUNCTION _pgq_wake(queue text, jobs bigint DEFAULT 1) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN pg_try_advisory_lock('pgq_waiting'::regclass::oid::integer, hashtext(queue) & 63) THEN
            NOT pg_advisory_unlock('pgq_waiting'::regclass::oid::integer, hashtext(queue) & 63)
        ELSE
            _pgq_wake_sleepers(queue, jobs)
    END;

COMMENT ON FUNCTION _pgq_wake(text, bigint) IS
    'If sessions sleep for a queue, call _pgq_wake_sleepers. Returns whether one sleeps.';

CREATE FUNCTION _pgq_may_start_next(queue text, group_ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_may_start_next$
DECLARE
    v_now timestamptz := pgq_now();
    v_setting pgq_queue_setting;
    v_caps record;
    v_room bigint;
    v_jobs bigint;
BEGIN
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = _pgq_may_start_next.queue;
    IF num_nonnulls(v_setting.max_running, _pgq_cap(v_setting)) = 0
       OR EXISTS (
           SELECT FROM pgq_paused AS p WHERE p.queue = _pgq_may_start_next.queue AND p.group_id = 0 AND p.until > v_now)
    THEN
        RETURN NULL;
    END IF;
    v_caps := _pgq_caps(queue, v_setting, (_pgq_turn(queue)).oldest, v_now);
    v_room := v_setting.max_running - v_caps.running;
    IF v_room <= 0 THEN
        RETURN NULL;
    END IF;

    -- The queue was full, so a job of any group may have waited for the place. Otherwise only one of the same group.
    IF coalesce(v_room <= cardinality(group_ids), false)
       AND (_pgq_has_waiting(queue) OR _pgq_group_ripe_at(queue, _pgq_room(), NULL, false) <= v_now) THEN
        RETURN v_room;
    END IF;
    SELECT count(*) INTO v_jobs
    FROM (SELECT DISTINCT unnest(group_ids)) AS g (group_id)
    WHERE g.group_id <> 0
      AND _pgq_free(g.group_id, _pgq_cap(v_setting), v_caps.capped, v_caps.free) > 0
      AND _pgq_group_ripe_at(queue, g.group_id, NULL, coalesce(v_setting.ordered, false)) <= v_now;
    RETURN nullif(least(v_jobs, v_room), 0);
END
$_pgq_may_start_next$;

COMMENT ON FUNCTION _pgq_may_start_next(text, bigint[]) IS
    'Given the groups of jobs of a queue that have just ended, and that its limits have counted, return how many '
    'sessions to wake because a job may start in the place of one of them; NULL: none.';

-- An expression, as _pgq_wake is.
CREATE FUNCTION _pgq_wake_next(queue text, group_ids bigint[]) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN _pgq_wake(queue, _pgq_may_start_next(queue, group_ids));

COMMENT ON FUNCTION _pgq_wake_next(text, bigint[]) IS
    'Wake sessions that sleep for this queue, as many as _pgq_may_start_next says for these groups. Returns whether '
    'one sleeps; NULL if none is woken.';

CREATE FUNCTION _pgq_wake_places(queues text[], group_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_wake_places$
BEGIN
    PERFORM _pgq_wake_next(p.queue, p.group_ids)
    FROM (
        SELECT f.queue, array_agg(f.group_id) AS group_ids
        FROM unnest(queues, _pgq_wake_places.group_ids) AS f (queue, group_id)
        GROUP BY f.queue
    ) AS p;
END
$_pgq_wake_places$;

COMMENT ON FUNCTION _pgq_wake_places(text[], bigint[]) IS
    'Call _pgq_wake_next for each queue of jobs that have just ended, given their queues and groups. Returns nothing.';

CREATE OR REPLACE VIEW _pgq_presence AS
SELECT l.objid::integer AS number, l.pid
FROM pg_locks AS l
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND l.classid = 'pgq_worker_session'::regclass
  AND l.objsubid = 2
  AND l.mode = 'ExclusiveLock'
  AND l.granted;

COMMENT ON VIEW _pgq_presence IS
    'The workers that are present: their numbers, and the server process ids of their sessions.';

CREATE FUNCTION pgq_register(
    worker text,
    queues text[] DEFAULT '{default}',
    host text DEFAULT NULL,
    pid bigint DEFAULT NULL,
    kinds text[] DEFAULT NULL,
    shares boolean DEFAULT false
) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_register$
DECLARE
    c_class CONSTANT integer := 'pgq_worker_session'::regclass::oid::integer;
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_number integer;
    v_mine boolean;
BEGIN
    IF worker IS NULL THEN
        RAISE EXCEPTION 'worker is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give a name that no other process ever has, and claim under the same name.';
    END IF;
    IF octet_length(worker) NOT BETWEEN 1 AND 200 OR octet_length(host) > 200 THEN
        RAISE EXCEPTION 'worker is empty, or worker or host takes more than 200 bytes'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes, such as the host, the process id and something random.';
    END IF;
    IF pid NOT BETWEEN 0 AND 2147483647 THEN
        RAISE EXCEPTION 'pid % is out of range', pid
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give the number of the process, from 0 to 2147483647, or leave the argument out.';
    END IF;
    IF shares IS NULL THEN
        RAISE EXCEPTION 'shares is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Say true if the process of the worker also serves other databases, or leave the argument out.';
    END IF;
    IF EXISTS (SELECT FROM unnest(kinds) AS k WHERE k IS NULL) THEN
        RAISE EXCEPTION 'one of the kinds is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name each kind that the worker has a handler for, or leave the argument out.';
    END IF;
    IF queues IS DISTINCT FROM '{}' THEN
        PERFORM _pgq_check_claim(queues, 0, NULL);
    END IF;

    -- A session that takes over a name keeps the jobs that were claimed under it, so its role must be allowed all their
    -- queues.
    INSERT INTO pgq_worker_session AS w (name, queues, host, pid, registered_at, allowed_queues, kinds, shares)
    VALUES (worker, queues, host, pid, pgq_now(), v_allowed, kinds, shares)
    ON CONFLICT ON CONSTRAINT pgq_worker_session_pkey DO UPDATE
    SET queues = excluded.queues, host = excluded.host, pid = excluded.pid, gone_at = NULL,
        allowed_queues = excluded.allowed_queues, kinds = excluded.kinds, lost_several = false,
        shares = excluded.shares
    WHERE v_allowed IS NULL OR w.allowed_queues <@ v_allowed
    RETURNING w.number INTO v_number;

    -- Session locks are counted: a second one would outlive pgq_unregister.
    v_mine := EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = v_number AND p.pid = pg_backend_pid());
    -- The sweep holds this lock for an instant.
    FOR v_try IN 1..20 LOOP
        EXIT WHEN v_mine OR v_number IS NULL;
        v_mine := pg_try_advisory_lock(c_class, v_number);
        IF NOT v_mine THEN
            PERFORM pg_sleep(0.005);
        END IF;
    END LOOP;
    IF NOT v_mine THEN
        RAISE EXCEPTION 'worker "%" is registered by another session', worker
            USING ERRCODE = 'PGQ03',
                  HINT = 'Use another name; after a lost connection, try again when the server has noticed the loss.';
    END IF;
END
$pgq_register$;

COMMENT ON FUNCTION pgq_register(text, text[], text, bigint, text[], boolean) IS
    'Register a worker, which is then present for as long as this session lives. Run nothing in the session that '
    'takes long: while a statement runs, the server does not notice that the client is gone. Returns nothing. If the '
    'session ends without pgq_unregister, the next claims of other sessions, usually within two seconds, end the '
    'leases on jobs that were claimed under the name (the argument worker of pgq_claim). The name must belong to one '
    'process: registering it again in a new session brings the worker back with its jobs. host and pid are shown in '
    'pgq_workers; NULL means unknown. kinds are those that the worker has handlers for: so pgq_stats shows which '
    'kinds no worker handles; NULL means that the worker does not tell. shares says that the process of the worker '
    'also serves other databases: where it is lost with a single job of this one, that counts as a loss together with '
    'others. NULL for worker, queues or shares, or one of the queues or kinds, raises 22004. A worker that finds its '
    'queues by pgq_queues_to_serve registers those that it knows, perhaps none, and registers again in the same '
    'session when it knows more. Raises PGQ03 while another session has the name, or if a role with other queues has '
    'registered it; 22023 for a bad value, 42501 for a queue that the calling role may not use.';

CREATE FUNCTION pgq_unregister(worker text) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_unregister$
DECLARE
    v_number integer;
BEGIN
    PERFORM _pgq_refuse_in_maintenance();

    DELETE FROM pgq_worker_session AS w
    WHERE w.name = pgq_unregister.worker
      AND EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = w.number AND p.pid = pg_backend_pid())
    RETURNING w.number INTO v_number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    RETURN pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, v_number);
END
$pgq_unregister$;

COMMENT ON FUNCTION pgq_unregister(text) IS
    'Remove a worker that stops; jobs that it still holds keep their leases. Returns true, or false if this session '
    'has not registered the worker, or for NULL.';

-- It waits for no running job. Jobs go back as pgq_enqueue_many enqueues: first those without a twin, in the order in
-- which it inserts, then the others into their twins, in the order of signatures; so the two do not deadlock. The
-- lock_timeout of the session limits each wait for a twin that is not committed yet, as in the other calls.
CREATE FUNCTION pgq_reconcile(worker text, ids bigint[], tokens bigint[]) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_reconcile$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_job pgq_running;
    v_merging pgq_running[] := '{}';
    v_count bigint := 0;
BEGIN
    PERFORM _pgq_check_pairs(ids, tokens);
    IF NOT EXISTS (
        SELECT FROM pgq_worker_session AS w JOIN _pgq_presence AS p USING (number)
        WHERE w.name = pgq_reconcile.worker AND p.pid = pg_backend_pid()
    ) THEN
        RAISE EXCEPTION 'worker "%" is not registered by this session', worker
            USING ERRCODE = 'PGQ03',
                  HINT = 'Call pgq_register first, in the same session.';
    END IF;

    PERFORM _pgq_unpack(ARRAY(
        SELECT b.token
        FROM pgq_running_batch AS b
        WHERE b.worker = pgq_reconcile.worker
          AND EXISTS (
              SELECT
              FROM unnest(b.ids, b.queues) AS j (id, queue)
              WHERE j.id <> ALL (b.gone)
                AND NOT EXISTS (SELECT FROM unnest(pgq_reconcile.ids, tokens) AS known (id, token)
                                WHERE known.id = j.id AND known.token = b.token)
                AND (v_allowed IS NULL OR j.queue = ANY (v_allowed))
          )
        FOR UPDATE SKIP LOCKED));
    FOR v_job IN
        SELECT r.*
        FROM pgq_running AS r
        WHERE r.worker = pgq_reconcile.worker
          AND NOT EXISTS (
              SELECT FROM unnest(ids, tokens) AS known (id, token) WHERE known.id = r.id AND known.token = r.token)
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        ORDER BY hashtextextended(coalesce(r.dedup_key, r.args::text), 0), r.kind, r.queue, r.id
        FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM pgq_running AS r WHERE r.id = v_job.id;
        IF _pgq_requeue(v_job, v_job.ripe_at, v_job.attempt - 1, merge => false) IS NULL THEN
            v_merging := v_merging || v_job;
        END IF;
        v_count := v_count + 1;
    END LOOP;
    FOR v_job IN
        SELECT m.* FROM unnest(v_merging) AS m ORDER BY _pgq_signature(m.queue, m.kind, m.args, m.dedup_key), m.id
    LOOP
        PERFORM _pgq_requeue(v_job, v_job.ripe_at, v_job.attempt - 1);
    END LOOP;
    RETURN v_count;
END
$pgq_reconcile$;

COMMENT ON FUNCTION pgq_reconcile(text, bigint[], bigint[]) IS
    'Give back the jobs that were claimed under the name of a worker but are not among these ids and tokens, as '
    'pgq_release does. Returns how many. It is for a worker whose connection was lost during a claim; call it only '
    'while no claim under the name is in progress. NULL for ids or tokens raises 22004. Raises PGQ03 if this session '
    'has not registered the worker, or for NULL; 2202E for arrays of different lengths.';

-- Claims call it, so the number of jobs and the wait for locks are bounded. Each job takes a subtransaction; 50 of them
-- stay below the 64 that a backend can show to others without a look-up on disk.
CREATE FUNCTION _pgq_expire_leases(at timestamptz) RETURNS integer
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_expire_leases$
DECLARE
    c_uncounted CONSTANT integer := 5;
    v_ids bigint[];
    v_tokens bigint[];
    v_job pgq_running;
    v_count integer := 0;
BEGIN
    -- Batches are unpacked one by one, until there are enough jobs.
    LOOP
        v_ids := ARRAY(
            SELECT r.id
            FROM pgq_running AS r
            WHERE r.lease_until < at
            ORDER BY r.lease_until
            LIMIT 50
            FOR UPDATE SKIP LOCKED
        );
        EXIT WHEN cardinality(v_ids) = 50;
        v_tokens := ARRAY(
            SELECT b.token
            FROM pgq_running_batch AS b
            WHERE b.lease_until < at
            ORDER BY b.lease_until
            LIMIT 1
            FOR UPDATE SKIP LOCKED
        );
        EXIT WHEN v_tokens = '{}';
        PERFORM _pgq_unpack(v_tokens);
    END LOOP;
    IF v_ids = '{}' THEN
        RETURN 0;
    END IF;
    PERFORM _pgq_mark_lost(v_ids);

    FOR v_job IN SELECT r.* FROM pgq_running AS r WHERE r.id = ANY (v_ids) ORDER BY r.lease_until LOOP
        v_count := v_count + 1;
        BEGIN
            DELETE FROM pgq_running AS r WHERE r.id = v_job.id;
            IF v_job.losses BETWEEN -c_uncounted AND -1 THEN
                -- Ripe from now on, and not from before: the head of its lane may have passed its old place.
                PERFORM _pgq_requeue(v_job, at, v_job.attempt - 1);
            ELSE
                IF v_job.losses < 0 THEN
                    v_job.losses := c_uncounted;
                END IF;
                -- The jobs of a crashed worker are ripe at once, but a job that loses worker after worker is delayed
                -- more and more.
                PERFORM _pgq_record_failure(
                    v_job,
                    at,
                    CASE WHEN v_job.lease_until > v_job.claimed_at THEN 'the lease ran out' ELSE 'the worker is gone'
                    END,
                    true,
                    CASE WHEN v_job.attempt = 1 THEN at
                         ELSE at + pgq_backoff(
                             v_job.attempt - 1, coalesce(v_job.backoff, '1 minute'),
                             coalesce(v_job.backoff_cap, '1 hour'))
                    END
                );
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            -- The open transaction of a producer holds a twin, so it is not known yet whether the two merge. Postpone
            -- the job, so that it does not stand before other expired ones.
            UPDATE pgq_running AS r SET lease_until = at + interval '1 second' WHERE r.id = v_job.id;
        END;
    END LOOP;
    RETURN v_count;
END
$_pgq_expire_leases$;

COMMENT ON FUNCTION _pgq_expire_leases(timestamptz) IS
    'Put back, or end as dead or cancelled, up to 50 jobs whose lease ended before a time. One that was lost together '
    'with others goes back without its attempt counted, five times at most. Returns how many jobs it has taken back.';

-- Right after a start of the server, or a promotion, no worker is present, so workers have five seconds to reconnect.
-- A promotion starts no server, but leaves pgq_head empty, as a crash does, and the first claim writes the row of the
-- queue U+001F. A time that lies further ahead was kept before the clock was set back.
CREATE FUNCTION _pgq_workers_reconnect() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_workers_reconnect$
DECLARE
    c_time CONSTANT interval := '5 seconds';
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN v_now BETWEEN pg_postmaster_start_time() AND pg_postmaster_start_time() + c_time
        OR EXISTS (
            SELECT FROM pgq_head AS h
            WHERE h.queue = E'\x1f' AND h.due BETWEEN v_now AND v_now + c_time
        );
END
$_pgq_workers_reconnect$;

COMMENT ON FUNCTION _pgq_workers_reconnect() IS
    'Return whether the server has started, or was promoted, within the last five seconds: workers that live may not '
    'have reconnected yet.';

-- Claims call it, so it waits for no lock. Trying the lock of a worker is cheap, and succeeds if the worker is gone. It
-- also succeeds in the session of the worker itself, so the list of all locks is read then, and only then.
--
-- All connections may have been cut, and a new session may be the first that is back: where it is the first to find a
-- worker gone, it only records that, and the worker has a second to reconnect.
--
-- A worker is kept for ten seconds after it was found gone: a claim may commit after the worker has died, and a
-- statement of the worker may go on and keep jobs locked. To lock a row is to write, so a worker is locked only where
-- something is to be done: its end recorded, leases ended, or, where it has no jobs, the worker deleted.
CREATE FUNCTION _pgq_sweep_workers(at timestamptz, is_new boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_sweep_workers$
DECLARE
    c_class CONSTANT integer := 'pgq_worker_session'::regclass::oid::integer;
    v_worker pgq_worker_session;
    v_rows tid[];
BEGIN
    IF _pgq_workers_reconnect() THEN
        RETURN;
    END IF;

    FOR v_worker IN
        SELECT w.*
        FROM pgq_worker_session AS w
        WHERE CASE WHEN pg_try_advisory_lock_shared(c_class, w.number) THEN
                  pg_advisory_unlock_shared(c_class, w.number)
                  AND NOT EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = w.number)
                  AND CASE WHEN w.gone_at <= at THEN
                          coalesce(
                              (SELECT bool_or(r.lease_until > r.claimed_at
                                              AND (w.allowed_queues IS NULL OR r.queue = ANY (w.allowed_queues)))
                               FROM _pgq_running AS r
                               WHERE r.worker = w.name),
                              w.gone_at < at - interval '10 seconds')
                      ELSE true
                      END
              END
        FOR UPDATE SKIP LOCKED
    LOOP
        IF v_worker.gone_at IS NULL OR v_worker.gone_at > at THEN
            UPDATE pgq_worker_session AS w SET gone_at = at WHERE w.number = v_worker.number;
            v_worker.gone_at := at;
        END IF;
        CONTINUE WHEN is_new AND v_worker.gone_at > at - interval '1 second';

        -- Skip locked jobs: a live transaction still has them.
        PERFORM _pgq_unpack(ARRAY(
            SELECT b.token
            FROM pgq_running_batch AS b
            WHERE b.worker = v_worker.name
              AND (v_worker.allowed_queues IS NULL OR b.queues && v_worker.allowed_queues)
            FOR UPDATE SKIP LOCKED));
        v_rows := ARRAY(
            SELECT o.ctid
            FROM pgq_running AS o
            WHERE o.worker = v_worker.name
              AND (v_worker.allowed_queues IS NULL OR o.queue = ANY (v_worker.allowed_queues))
              AND o.lease_until > o.claimed_at
            FOR UPDATE SKIP LOCKED);
        IF v_rows <> '{}' THEN
            -- The locked ones count, too, and are remembered: when they are unlocked, the others may have gone back.
            IF NOT v_worker.lost_several AND (
                SELECT count(*) > 1
                FROM _pgq_running AS o
                WHERE o.worker = v_worker.name
                  AND (v_worker.allowed_queues IS NULL OR o.queue = ANY (v_worker.allowed_queues))
            ) THEN
                v_worker.lost_several := true;
                UPDATE pgq_worker_session AS w SET lost_several = true WHERE w.number = v_worker.number;
            END IF;
            -- A lease that ends by claimed_at tells _pgq_expire_leases that the worker is gone. claimed_at lies ahead
            -- after the clock was set back.
            UPDATE pgq_running AS r
            SET lease_until = least(r.claimed_at, at - interval '1 microsecond'),
                -- A job of another database may have ended the process, unless it ran a suspect, which runs alone.
                losses = CASE WHEN v_worker.lost_several OR (v_worker.shares AND r.losses IS NULL)
                              THEN _pgq_count_loss(r.losses) ELSE r.losses END
            WHERE r.ctid = ANY (v_rows);
        END IF;

        IF v_worker.gone_at < at - interval '10 seconds'
           AND NOT EXISTS (SELECT FROM _pgq_running AS r WHERE r.worker = v_worker.name) THEN
            DELETE FROM pgq_worker_session AS w WHERE w.number = v_worker.number;
        END IF;
    END LOOP;
END
$_pgq_sweep_workers$;

COMMENT ON FUNCTION _pgq_sweep_workers(timestamptz, boolean) IS
    'End the leases of registered workers whose sessions are gone, mark the jobs of one that held several, and delete '
    'those workers some time later. A new session does so only if a worker was found gone at least a second before; '
    'otherwise it records that. Returns nothing.';

CREATE FUNCTION pgq_remaining(
    queues text[] DEFAULT '{default}',
    kinds text[] DEFAULT NULL,
    OUT ripe_in interval,
    OUT running boolean
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_remaining$
DECLARE
    v_now timestamptz := pgq_now();
BEGIN
    PERFORM _pgq_check_claim(queues, 0, NULL);

    -- From the start of each lane: jobs that claims have not found yet count, too.
    SELECT min(nullif(greatest(soonest.ripe_at, p.until), 'infinity')) - v_now
    INTO ripe_in
    FROM unnest(queues) AS q (queue)
    LEFT JOIN pgq_paused AS p ON p.queue = q.queue COLLATE "C" AND p.group_id = 0 AND p.until > v_now
    CROSS JOIN LATERAL (
        SELECT least(_pgq_grouped_ripe_at(ARRAY[q.queue], kinds, v_now), min(first.ripe_at)) AS ripe_at
        FROM generate_series(0, 9) AS lane (priority)
        CROSS JOIN LATERAL (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = q.queue COLLATE "C"
              AND w.group_id IS NULL
              AND w.priority = lane.priority
              AND (kinds IS NULL OR w.kind = ANY (kinds))
            ORDER BY w.ripe_at, w.id
            LIMIT 1
        ) AS first
    ) AS soonest
    WHERE soonest.ripe_at IS NOT NULL;
    -- Maintenance may be about to unblock jobs of these queues.
    running := EXISTS (SELECT FROM _pgq_running AS r WHERE r.queue = ANY (queues))
        OR _pgq_has_needs() AND EXISTS (SELECT FROM pgq_need_ended);
END
$pgq_remaining$;

COMMENT ON FUNCTION pgq_remaining(text[], text[]) IS
    'Look for jobs that wait or run in these queues. Returns ripe_in, the time until the next waiting job is ripe (0 '
    'or less: one is ripe; NULL: none waits, or only in queues that are paused until they are resumed), and running, '
    'whether jobs are running, or maintenance is still to unblock or cancel some that are blocked. It reads each queue '
    'from its start, so it may take longer than a claim. With kinds, waiting jobs of other kinds do not count; NULL '
    'for kinds means all. NULL for queues or one of them raises 22004. Raises 22023 for an empty array, 42501 for a '
    'queue that the calling role may not use.';

-- sum() of intervals raises an error at 2^31 days. 100,000 jobs with a ripe_at in 1970 have waited for longer, and the
-- claims that are to fold their rows would all fail. So times are added up as seconds.
CREATE FUNCTION _pgq_total_time(seconds numeric) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN make_interval(
        days => least(div(seconds, 86400), 2147483647)::integer, secs => mod(seconds, 86400)::double precision);

COMMENT ON FUNCTION _pgq_total_time(numeric) IS
    'Return a number of seconds as an interval of days and seconds, 2147483647 days at most.';

CREATE FUNCTION _pgq_fold_counts(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_fold_counts$
DECLARE
    c_queue CONSTANT text := E'\x1f' || ' count';  -- no queue has this name
    c_step CONSTANT integer := 5000;
    v_shared pgq_head;
    v_lane _pgq_lane_head;
    v_start tid;
    v_rows tid[];
    v_pause interval;
BEGIN
    IF pg_relation_size('pgq_count') < 65536 OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at OR NOT _pgq_try_scan(c_queue) THEN
        RETURN;
    END IF;
    -- The session that had the lock may have made this step.
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at THEN
        RETURN;
    END IF;
    v_lane := v_shared.lanes[1];
    v_start := format('(%s,0)', CASE WHEN random() >= 0.05 THEN coalesce(v_lane.here_ripe_us, 0) ELSE 0 END);
    v_rows := ARRAY(SELECT c.ctid FROM pgq_count AS c WHERE c.ctid >= v_start LIMIT c_step);
    v_pause := CASE WHEN cardinality(v_rows) < c_step THEN interval '10 seconds' ELSE interval '1 second' END;

    IF cardinality(v_rows) >= least(c_step, 1000 + 2 * coalesce(v_lane.next_ripe_us, 0)) THEN
        WITH deleted AS (
            DELETE FROM pgq_count AS c
            WHERE c.ctid = ANY (v_rows)
            RETURNING c.*
        ), folded AS (
            INSERT INTO pgq_count (queue, kind, event, jobs, waited, ran)
            SELECT d.queue, d.kind, d.event, sum(d.jobs),
                   _pgq_total_time(sum(extract(epoch FROM d.waited))), _pgq_total_time(sum(extract(epoch FROM d.ran)))
            FROM deleted AS d
            GROUP BY d.queue, d.kind, d.event
            RETURNING 1
        )
        SELECT count(*) INTO v_lane.next_ripe_us FROM folded;
        v_lane.here_ripe_us := split_part(trim('(' FROM v_rows[cardinality(v_rows)]::text), ',', 1);
    END IF;
    PERFORM _pgq_replace_head(ROW(c_queue, at + v_pause, v_pause, ARRAY[v_lane])::pgq_head);
END
$_pgq_fold_counts$;

COMMENT ON FUNCTION _pgq_fold_counts(timestamptz) IS
    'Fold up to 5,000 rows of pgq_count, if there are many and a step is due. Waits for no lock. Returns nothing.';

-- The slots up to now are counted one by one, up to 100. The newest of more is found by bisection.
CREATE FUNCTION _pgq_late_slots(
    entry pgq_schedule_entry,
    at timestamptz,
    OUT slots timestamptz[],
    OUT next_at timestamptz
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_late_slots$
DECLARE
    v_late timestamptz;
    v_until timestamptz := at;
    v_middle timestamptz;
BEGIN
    slots := ARRAY[entry.next_at];
    LOOP
        next_at := coalesce(pgq_cron_next(entry.cron, slots[cardinality(slots)], entry.timezone), 'infinity');
        IF next_at > at OR (entry.catch_up = 'all' AND cardinality(slots) = 100) THEN
            RETURN;
        END IF;
        EXIT WHEN cardinality(slots) = 100;
        slots := slots || next_at;
    END LOOP;
    WHILE next_at <= at LOOP
        v_late := next_at;
        v_middle := v_late + (v_until - v_late) / 2;
        next_at := pgq_cron_next(entry.cron, v_middle, entry.timezone);
        IF next_at <= at THEN
            v_late := next_at;
        ELSE
            v_until := v_middle;
        END IF;
        next_at := coalesce(pgq_cron_next(entry.cron, v_late, entry.timezone), 'infinity');
    END LOOP;
    slots[100] := v_late;
END
$_pgq_late_slots$;

COMMENT ON FUNCTION _pgq_late_slots(pgq_schedule_entry, timestamptz) IS
    'Return the slots of a schedule from next_at up to a time, and the slot after them. Of more than 100 slots, these '
    'are the first 99 and the newest; with catch_up all they are the first 100.';

-- ripe_at is never before the present, where a head may have passed. Not a duplicate of any job, which would take the
-- place of that of the slot; the lock of the entry keeps a slot from being fired twice.
CREATE FUNCTION _pgq_enqueue_scheduled(entry pgq_schedule_entry, slot timestamptz, at timestamptz) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enqueue_scheduled$
DECLARE
    v_ripe_at timestamptz := greatest(at, slot + entry.jitter * random());
    v_group_id bigint;
    v_id bigint;
BEGIN
    IF entry.group_key IS NOT NULL THEN
        v_group_id := _pgq_enter_group(entry.queue, entry.group_key, v_ripe_at <= at);
    END IF;
    INSERT INTO pgq_waiting (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, losses, newest_error, group_key, group_id, signature
    )
    VALUES (
        nextval('pgq_job_id'), entry.queue, entry.kind, entry.args, entry.priority, v_ripe_at, 0, entry.max_retries,
        entry.backoff, entry.backoff_cap, false, NULL, at,
        jsonb_build_object(
            'schedule', entry.name, 'slot', to_char(slot AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
        NULL, NULL, entry.group_key, v_group_id, NULL
    )
    RETURNING id INTO v_id;
    IF _pgq_is_soon(v_ripe_at, at) THEN
        PERFORM _pgq_wake(entry.queue, (v_ripe_at <= at)::integer);
    END IF;
    RETURN v_id;
END
$_pgq_enqueue_scheduled$;

COMMENT ON FUNCTION _pgq_enqueue_scheduled(pgq_schedule_entry, timestamptz, timestamptz) IS
    'Enqueue the job of a schedule for a slot, with the name and the slot in its context, and wake a worker. Returns '
    'its id.';

CREATE FUNCTION _pgq_fire(entry pgq_schedule_entry, at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_fire$
DECLARE
    v_late record := _pgq_late_slots(entry, at);
    v_slot timestamptz := v_late.slots[cardinality(v_late.slots)];
    v_fired timestamptz[] := CASE
        WHEN entry.catch_up = 'all' THEN v_late.slots
        -- A session that claims comes to a slot within about a second.
        WHEN entry.catch_up = 'none' AND v_slot < at - interval '1 minute' THEN '{}'
        ELSE ARRAY[v_slot]
    END;
BEGIN
    -- Not by the view _pgq_running, which would read the args of all batches.
    IF entry.overlap = 'skip' AND (
        EXISTS (SELECT FROM pgq_waiting AS w WHERE w.id = entry.last_job)
        OR EXISTS (SELECT FROM pgq_running AS r WHERE r.id = entry.last_job)
        OR EXISTS (
            SELECT FROM pgq_running_batch AS b WHERE entry.last_job = ANY (b.ids) AND entry.last_job <> ALL (b.gone))
    ) THEN
        v_fired := '{}';
    END IF;
    FOREACH v_slot IN ARRAY v_fired LOOP
        entry.last_job := _pgq_enqueue_scheduled(entry, v_slot, at);
        entry.last_at := v_slot;
    END LOOP;
    UPDATE pgq_schedule_entry AS e
    SET next_at = v_late.next_at, due_at = v_late.next_at, set_at = at, last_at = entry.last_at,
        last_job = entry.last_job, last_error = NULL, last_error_at = NULL,
        missed = e.missed + cardinality(v_late.slots) - cardinality(v_fired)
    WHERE e.name = entry.name;
    RETURN v_late.next_at;
END
$_pgq_fire$;

COMMENT ON FUNCTION _pgq_fire(pgq_schedule_entry, timestamptz) IS
    'Enqueue the jobs of a schedule for its slots up to a time, as catch_up and overlap say, and move next_at past '
    'them. The caller has the row locked. Returns next_at, which is not past the time where catch_up is all and there '
    'are more than 100 slots.';

-- A clock that was wrong for a while would otherwise leave next_at years ahead. After a smaller step back, slots that
-- have been fired stay so, and the next one comes when the clock reaches it.
CREATE FUNCTION _pgq_mend_schedules(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_mend_schedules$
DECLARE
    v_entry pgq_schedule_entry;
BEGIN
    FOR v_entry IN
        SELECT e.*
        FROM pgq_schedule_entry AS e
        WHERE e.set_at > at + interval '24 hours' AND e.paused_at IS NULL
        FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE pgq_schedule_entry AS e
        SET next_at = n.next_at, due_at = n.next_at, set_at = at
        FROM (SELECT coalesce(pgq_cron_next(v_entry.cron, at, v_entry.timezone), 'infinity') AS next_at) AS n
        WHERE e.name = v_entry.name;
    END LOOP;
END
$_pgq_mend_schedules$;

COMMENT ON FUNCTION _pgq_mend_schedules(timestamptz) IS
    'Let the schedules go on from a time whose clock was more than a day ahead of it when they were last set. Returns '
    'nothing.';

-- Each firing leaves a dead entry in the index, which stays while a snapshot is held. So most looks begin a few seconds
-- before the last one of the session, and one in a minute begins at the start.
--
-- A subtransaction for each entry keeps one that fails from the others; with those of the rescue they are fewer than
-- the 64 that a backend can show to others without a look-up on disk.
CREATE FUNCTION _pgq_fire_due(at timestamptz, since timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_fire_due$
DECLARE
    v_entry pgq_schedule_entry;
    v_entries pgq_schedule_entry[] := ARRAY(
        SELECT e
        FROM pgq_schedule_entry AS e
        WHERE e.due_at > since AND e.due_at <= at
        ORDER BY e.due_at
        LIMIT 10
        FOR UPDATE SKIP LOCKED
    );
    v_is_more boolean := cardinality(v_entries) = 10;
BEGIN
    FOREACH v_entry IN ARRAY v_entries LOOP
        BEGIN
            v_is_more := _pgq_fire(v_entry, at) <= at OR v_is_more;
        EXCEPTION WHEN OTHERS THEN
            UPDATE pgq_schedule_entry AS e
            SET due_at = at + interval '1 minute', set_at = at, last_error = left(SQLERRM, 1000), last_error_at = at
            WHERE e.name = v_entry.name;
        END;
    END LOOP;
    RETURN v_is_more;
END
$_pgq_fire_due$;

COMMENT ON FUNCTION _pgq_fire_due(timestamptz, timestamptz) IS
    'Fire up to ten schedules that are due after one time and up to another, and that no other session fires. One that '
    'fails keeps its error and is tried again a minute later. Returns whether there may be more to fire.';

-- The setting has three times: when to look next, from where on, and when to look from the start. Any role can set it,
-- so it puts off the looks of this session for a second at most. REPEATABLE READ and SERIALIZABLE would fail on an
-- entry that another session has fired since the snapshot was taken.
CREATE FUNCTION _pgq_fire_schedules(at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_fire_schedules$
DECLARE
    c_setting CONSTANT text := 'pgq.schedules_' || 'pgq_schedule_entry'::regclass::oid;
    v_setting text := current_setting(c_setting, true);
    v_now bigint := _pgq_microseconds(at);
    v_kept bigint[];
    v_from bigint := 0;
    v_full bigint := v_now + 60000000;
    v_since timestamptz := '-infinity';
    v_next timestamptz;
    v_is_more boolean;
BEGIN
    IF v_setting ~ '^[0-9]{1,17} [0-9]{1,17} [0-9]{1,17}$' THEN
        v_kept := string_to_array(v_setting, ' ');
        IF v_kept[1] BETWEEN v_now + 1 AND v_now + 1000000 THEN
            RETURN timestamptz 'epoch' + v_kept[1] * interval '1 microsecond';
        END IF;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN at + interval '1 second';
    END IF;

    IF v_kept[2] BETWEEN 1 AND v_now AND v_kept[3] BETWEEN v_now + 1 AND v_now + 60000000 THEN
        v_from := v_kept[2];
        v_full := v_kept[3];
        v_since := timestamptz 'epoch' + v_from * interval '1 microsecond';
    ELSE
        PERFORM _pgq_mend_schedules(at);
    END IF;
    v_is_more := _pgq_fire_due(at, v_since);
    IF v_is_more THEN
        v_next := at;
    ELSE
        v_from := greatest(v_now - 5000000, 0);
        v_next := least(
            at + interval '1 second',
            (SELECT e.due_at FROM pgq_schedule_entry AS e WHERE e.due_at > at ORDER BY e.due_at LIMIT 1));
    END IF;
    PERFORM set_config(c_setting, format('%s %s %s', _pgq_microseconds(v_next), v_from, v_full), false);
    RETURN CASE WHEN v_is_more THEN '-infinity' ELSE v_next END;
END
$_pgq_fire_schedules$;

COMMENT ON FUNCTION _pgq_fire_schedules(timestamptz) IS
    'Fire schedules that are due, if this session has not looked for them within a second and knows of no slot since. '
    'Returns when it is to look again; -infinity if there may be more to fire.';

CREATE FUNCTION _pgq_next_slot(queues text[], at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_next_slot$
BEGIN
    IF NOT EXISTS (SELECT FROM pgq_schedule_entry AS e WHERE e.due_at > at) THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT min(next.due_at)
        FROM unnest(queues) AS q (queue)
        CROSS JOIN LATERAL (
            SELECT e.due_at
            FROM pgq_schedule_entry AS e
            WHERE e.queue = q.queue AND e.due_at > at AND e.due_at < 'infinity'
            ORDER BY e.due_at
            LIMIT 1
        ) AS next
    );
END
$_pgq_next_slot$;

COMMENT ON FUNCTION _pgq_next_slot(text[], timestamptz) IS
    'Return the first slot after a time of the schedules for these queues; NULL if there is none.';

-- The entries of jobs that are gone pile up in the index of the leases as in that of the claim, so the search is
-- rationed in the same way, by _pgq_load_head. A search counts as 250,000 entries at least, so each session makes one a
-- second at most. When the walk is long, all sessions together make one at a time.
CREATE FUNCTION _pgq_maintain(at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_maintain$
DECLARE
    v_is_new boolean := coalesce(current_setting(_pgq_head_setting(''), true), '') = '';
    v_head pgq_head := _pgq_load_head('', at);
    v_is_known boolean := v_head.rescan_delay > interval '0';
    v_read bigint;
    v_count integer;
    v_wasted bigint;
    v_fires_at timestamptz;
BEGIN
    IF v_is_new THEN
        PERFORM _pgq_skip_lost_tokens(at);
    END IF;
    -- Not rationed with the search, which may have to wait for minutes.
    v_fires_at := _pgq_fire_schedules(at);
    IF v_head.due > at THEN
        RETURN least(v_head.due, v_fires_at);
    END IF;

    v_read := _pgq_entries_read('pgq_running_lease') + _pgq_entries_read('pgq_running_batch_lease');
    PERFORM _pgq_sweep_workers(at, v_is_new);
    v_count := _pgq_expire_leases(at);
    PERFORM _pgq_settle_cancel_requests(at);
    PERFORM _pgq_settle_blocked(at);
    PERFORM _pgq_settle_signals();
    PERFORM _pgq_delete_lost_signals();
    PERFORM _pgq_settle_awaited();
    PERFORM _pgq_delete_old(at);
    PERFORM _pgq_delete_seen(at);
    PERFORM _pgq_delete_batches(at);
    PERFORM _pgq_fold_counts(at);
    v_wasted := _pgq_entries_read('pgq_running_lease') + _pgq_entries_read('pgq_running_batch_lease')
                - v_read - v_count;
    v_head.rescan_delay := _pgq_rescan_delay(greatest(v_wasted, 250000));
    v_head.due := at + v_head.rescan_delay;
    -- If this search has found as many jobs as it may take, the next claim searches again.
    IF v_count >= 50 THEN
        RETURN '-infinity';
    END IF;
    IF _pgq_is_long_scan(v_wasted, 1) THEN
        PERFORM _pgq_share_head(v_head);
    ELSIF v_is_known THEN
        PERFORM _pgq_replace_head(ROW('', '-infinity', '0', '{}')::pgq_head);
    END IF;
    PERFORM _pgq_save_head(v_head);
    RETURN least(v_head.due, v_fires_at);
END
$_pgq_maintain$;

COMMENT ON FUNCTION _pgq_maintain(timestamptz) IS
    'Call _pgq_fire_schedules, and if the search for expired leases is due in this session, _pgq_sweep_workers, '
    '_pgq_expire_leases, _pgq_settle_cancel_requests, _pgq_settle_blocked, _pgq_settle_signals, '
    '_pgq_delete_lost_signals, _pgq_settle_awaited, _pgq_delete_old, _pgq_delete_seen, _pgq_delete_batches and '
    '_pgq_fold_counts. The first call of a session calls _pgq_skip_lost_tokens, too. Returns when the next search is '
    'due, or the next slot of a schedule if that is sooner; -infinity if there is more to do.';

CREATE FUNCTION _pgq_kept_setting() RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.kept_' || 'pgq_head'::regclass::oid;

COMMENT ON FUNCTION _pgq_kept_setting() IS
    'Return the name of the setting in which a session keeps until when it looks for no old jobs.';

-- Different spellings of a time, such as 1 month and 30 days, share a lane, which waits for the longest of them.
CREATE FUNCTION _pgq_keep_lanes(at timestamptz) RETURNS TABLE (keep_us bigint, until timestamptz)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_keep_lanes$
BEGIN
    RETURN QUERY
    SELECT (extract(epoch FROM k.keep) * 1000000)::bigint, min(at - k.keep)
    FROM (
        VALUES (interval '7 days'), (interval '30 days')
        UNION ALL
        SELECT unnest(ARRAY[s.keep_done, s.keep_dead, s.keep_cancelled]) FROM pgq_queue_setting AS s
    ) AS k (keep)
    WHERE k.keep IS NOT NULL
    GROUP BY 1
    ORDER BY 2;
END
$_pgq_keep_lanes$;

COMMENT ON FUNCTION _pgq_keep_lanes(timestamptz) IS
    'Return each of the times for which jobs are kept, in microseconds, and up to when a job must have ended that has '
    'been kept for so long; the longest first.';

CREATE FUNCTION _pgq_is_old(
    outcome text,
    ended_at timestamptz,
    at timestamptz,
    own pgq_queue_setting,
    general pgq_queue_setting
) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN ended_at <= at - CASE outcome
                                WHEN 'done' THEN coalesce((own).keep_done, (general).keep_done, '7 days')
                                WHEN 'dead' THEN coalesce((own).keep_dead, (general).keep_dead, '30 days')
                                ELSE coalesce((own).keep_cancelled, (general).keep_cancelled, '30 days')
                            END;

COMMENT ON FUNCTION _pgq_is_old(text, timestamptz, timestamptz, pgq_queue_setting, pgq_queue_setting) IS
    'Return whether a job has been kept for as long as the settings of its queue say, or else those for all queues.';

CREATE FUNCTION _pgq_delete_old(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_old$
DECLARE
    c_queue CONSTANT text := E'\x1f' || ' ended';  -- no queue has this name
    c_step CONSTANT integer := 1000;
    c_pages CONSTANT integer := 100;
    v_at_us bigint := _pgq_microseconds(at);
    v_shared pgq_head;
    v_general pgq_queue_setting;
    v_settings bigint;
    v_entries bigint := _pgq_entries_read('pgq_ended_ended_at');
    v_keep record;
    v_from timestamptz;
    v_lanes _pgq_lane_head[];
    v_found record;
    v_jobs integer := 0;
    v_old tid[] := '{}';
    v_pause interval := '1 second';
    v_page bigint;
    v_start tid;
    v_end tid;
    v_deleted record;
BEGIN
    -- Kept as text in which the order of bytes is that of times, so that no damaged value can raise an error. A forged
    -- one keeps this session from deleting, for a minute, and no other.
    IF (current_setting(_pgq_kept_setting(), true) COLLATE "C")
       BETWEEN (v_at_us + 1)::text AND (v_at_us + 60000000)::text
       OR pg_relation_size('pgq_ended') = 0 THEN
        RETURN;
    END IF;
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at THEN
        RETURN;
    END IF;
    SELECT s.* INTO v_general FROM pgq_queue_setting AS s WHERE s.queue = '';
    SELECT hashtextextended(
               coalesce(string_agg(
                   ROW(s.queue, extract(epoch FROM s.keep_done), extract(epoch FROM s.keep_dead),
                       extract(epoch FROM s.keep_cancelled))::text, ',' ORDER BY s.queue), ''), 0)
    INTO v_settings
    FROM pgq_queue_setting AS s
    WHERE num_nonnulls(s.keep_done, s.keep_dead, s.keep_cancelled) > 0;

    -- What a lane has passed, those of shorter times need not read. All jobs that ended at the same moment are in one
    -- step: those of one call. The limit comes before the join, which must not decide the order.
    v_from := _pgq_lane_start((SELECT min(l.here_ripe_us) FROM unnest(v_shared.lanes) AS l));
    FOR v_keep IN SELECT k.keep_us, k.until FROM _pgq_keep_lanes(at) AS k LOOP
        v_from := greatest(v_from, _pgq_lane_start((
            SELECT l.here_ripe_us
            FROM unnest(v_shared.lanes) AS l
            WHERE l.here_id = v_keep.keep_us AND l.next_id = v_settings)));
        IF v_jobs < c_step THEN
            SELECT count(*) AS jobs, max(j.ended_at) AS last, array_agg(j.ctid) FILTER (WHERE j.is_old) AS old
            INTO v_found
            FROM (
                SELECT e.ctid, e.ended_at, _pgq_is_old(e.outcome, e.ended_at, at, s, v_general) AS is_old
                FROM (
                    SELECT o.ctid, o.ended_at, o.outcome, o.queue
                    FROM pgq_ended AS o
                    WHERE o.ended_at > v_from
                      AND o.ended_at <= v_keep.until
                    ORDER BY o.ended_at
                    FETCH FIRST (c_step - v_jobs) ROWS WITH TIES
                ) AS e
                LEFT JOIN pgq_queue_setting AS s ON s.queue = e.queue COLLATE "C"
            ) AS j;
            v_jobs := v_jobs + v_found.jobs;
            v_old := v_old || v_found.old;
            -- Most transactions that have ended a job commit within some seconds.
            v_from := CASE WHEN v_jobs < c_step THEN v_keep.until - interval '5 seconds' ELSE v_found.last END;
        END IF;
        v_lanes := v_lanes || ROW(0, _pgq_microseconds(v_from), v_keep.keep_us, NULL, v_settings)::_pgq_lane_head;
    END LOOP;

    IF v_jobs < c_step THEN
        v_pause := '1 minute';
        v_page := pg_relation_size('pgq_ended') / current_setting('block_size')::integer;
        v_page := floor(random() * greatest(v_page - c_pages + 1, 1));
        v_start := format('(%s,0)', v_page);
        v_end := format('(%s,0)', v_page + c_pages);
        v_old := v_old || ARRAY(
            SELECT e.ctid
            FROM pgq_ended AS e
            LEFT JOIN pgq_queue_setting AS s ON s.queue = e.queue COLLATE "C"
            WHERE e.ctid >= v_start
              AND e.ctid < v_end
              AND e.ended_at <= v_keep.until
              AND _pgq_is_old(e.outcome, e.ended_at, at, s, v_general)
            LIMIT c_step);
        v_entries := _pgq_entries_read('pgq_ended_ended_at') - v_entries - v_jobs;
        IF v_old = '{}' AND NOT _pgq_is_long_scan(v_entries, cardinality(v_lanes)) THEN
            PERFORM set_config(_pgq_kept_setting(), (v_at_us + 60000000)::text, false);
            RETURN;
        END IF;
    END IF;
    -- The session that had the lock may have made this step.
    IF NOT _pgq_try_scan(c_queue) OR v_shared IS DISTINCT FROM _pgq_shared_head(c_queue, at) THEN
        RETURN;
    END IF;

    -- The snapshot of the caller's statement keeps these ctids from being used again, although the rows are not locked.
    WITH deleted AS (
        DELETE FROM pgq_ended AS e
        WHERE e.ctid = ANY (ARRAY(
            SELECT o.ctid FROM pgq_ended AS o WHERE o.ctid = ANY (v_old) FOR UPDATE SKIP LOCKED))
        RETURNING e.id, e.newest_error, e.outcome
    )
    SELECT array_agg(d.id) FILTER (WHERE d.newest_error IS NOT NULL) AS failed,
           array_agg(d.id) FILTER (WHERE d.outcome <> 'done') AS not_done
    INTO v_deleted
    FROM deleted AS d;
    PERFORM _pgq_settle_purged(v_deleted.failed, v_deleted.not_done);
    PERFORM _pgq_replace_head(ROW(c_queue, at + v_pause, v_pause, v_lanes)::pgq_head);
END
$_pgq_delete_old$;

COMMENT ON FUNCTION _pgq_delete_old(timestamptz) IS
    'Make a step, if one is due: read about 1000 jobs that have ended, and delete those that have been kept for as '
    'long as their queues, or else all queues, have among their settings, or else 30 days if they are dead or '
    'cancelled, and 7 days if they are done. Waits for no lock. Returns nothing.';

-- Passes over the ids, a step a second of any session. The row of pgq_head says where the next step begins, so that no
-- step walks again over the index entries of those that are deleted.
CREATE FUNCTION _pgq_delete_batches(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_batches$
DECLARE
    c_queue CONSTANT text := E'\x1f' || ' batches';
    c_step CONSTANT integer := 1000;
    c_pause CONSTANT interval := '5 minutes';
    v_shared pgq_head;
    v_lane _pgq_lane_head;
    v_rows integer;
    v_last bigint;
    v_old bigint[];
    v_delay interval;
BEGIN
    -- Few databases have any batch.
    IF pg_relation_size('pgq_batch') = 0 THEN
        RETURN;
    END IF;
    IF NOT _pgq_try_scan(c_queue) THEN
        RETURN;
    END IF;
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at THEN
        RETURN;
    END IF;
    v_lane := v_shared.lanes[1];
    SELECT count(*), max(b.id),
           array_agg(DISTINCT b.id) FILTER (WHERE b.at < _pgq_delete_batches.at - interval '7 days')
    INTO v_rows, v_last, v_old
    FROM (
        SELECT o.id, o.at
        FROM pgq_batch AS o
        WHERE o.id > coalesce(v_lane.here_ripe_us, 0)
        ORDER BY o.id
        LIMIT c_step
    ) AS b;
    IF v_old IS NOT NULL THEN
        DELETE FROM pgq_batch AS b
        WHERE b.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM unnest(v_old) AS old (id)
            JOIN pgq_batch AS o ON o.id = old.id
            WHERE (SELECT true FROM pgq_blocked AS j WHERE j.id = old.id) IS NULL
              AND (SELECT true FROM pgq_waiting AS j WHERE j.id = old.id) IS NULL
              AND (SELECT true FROM pgq_ended AS j WHERE j.id = old.id) IS NULL
              AND old.id NOT IN (SELECT r.id FROM _pgq_running AS r)
            FOR UPDATE OF o SKIP LOCKED));
    END IF;
    v_lane.here_ripe_us := CASE WHEN v_rows = c_step THEN v_last END;
    v_delay := CASE WHEN v_rows = c_step THEN interval '1 second' ELSE c_pause END;
    PERFORM _pgq_replace_head(ROW(c_queue, at + v_delay, v_delay, ARRAY[v_lane])::pgq_head);
END
$_pgq_delete_batches$;

COMMENT ON FUNCTION _pgq_delete_batches(timestamptz) IS
    'Make the next step of a pass, if one is due: read up to 1000 rows of pgq_batch, and delete those of batches that '
    'are more than 7 days old, and no job any more. Waits for no lock. Returns nothing.';

CREATE FUNCTION _pgq_delete_seen(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_seen$
DECLARE
    c_queue CONSTANT text := E'\x1f' || ' seen';
    c_step CONSTANT integer := 5000;
    v_shared pgq_head;
    v_lane _pgq_lane_head;
    v_from timestamptz;
    v_deleted record;
BEGIN
    -- Few databases have any window.
    IF pg_relation_size('pgq_seen') = 0 THEN
        RETURN;
    END IF;
    IF NOT _pgq_try_scan(c_queue) THEN
        RETURN;
    END IF;
    v_shared := _pgq_shared_head(c_queue, at);
    IF v_shared.due > at THEN
        RETURN;
    END IF;
    v_lane := v_shared.lanes[1];
    v_from := _pgq_lane_start(CASE WHEN random() >= 0.02 THEN v_lane.here_ripe_us END);
    WITH deleted AS (
        DELETE FROM pgq_seen AS s
        WHERE s.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_seen AS o
            WHERE o.until > v_from
              AND o.until <= at
            ORDER BY o.until
            LIMIT c_step
            FOR UPDATE SKIP LOCKED))
        RETURNING s.until
    )
    SELECT count(*) AS windows, max(d.until) AS last INTO v_deleted FROM deleted AS d;
    IF v_deleted.windows > 0 THEN
        v_lane.here_ripe_us := _pgq_microseconds(
            CASE WHEN v_deleted.windows < c_step THEN at ELSE v_deleted.last - interval '1 microsecond' END);
        PERFORM _pgq_replace_head(ROW(c_queue, at + interval '1 second', '1 second', ARRAY[v_lane])::pgq_head);
    END IF;
END
$_pgq_delete_seen$;

COMMENT ON FUNCTION _pgq_delete_seen(timestamptz) IS
    'Delete up to 5000 windows that were over at a time (see pgq_enqueue). Waits for no lock. Returns nothing.';

-- An enqueue holds the lock of the shared slot for an instant, so it is tried for about 20 milliseconds, and no longer:
-- any role can take it and keep it.
CREATE FUNCTION _pgq_sleep_in_slot(queue text) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_sleep_in_slot$
DECLARE
    c_class CONSTANT integer := 'pgq_waiting'::regclass::oid::integer;
    v_slot integer;
BEGIN
    FOR v_n IN 0..15 LOOP
        v_slot := (pg_backend_pid() + v_n) % 16;
        IF pg_try_advisory_lock(c_class, _pgq_slot_key(queue, v_slot)) THEN
            RETURN _pgq_channel(queue, v_slot);
        END IF;
    END LOOP;
    FOR v_try IN 1..20 LOOP
        EXIT WHEN pg_try_advisory_lock_shared(c_class, _pgq_slot_key(queue, 16));
        PERFORM pg_sleep(0.001);
    END LOOP;
    RETURN _pgq_channel(queue, 16);
END
$_pgq_sleep_in_slot$;

COMMENT ON FUNCTION _pgq_sleep_in_slot(text) IS
    'Take a free slot of a queue, or else the shared one. Returns its channel.';

CREATE FUNCTION pgq_idle(
    queues text[] DEFAULT '{default}',
    idle boolean DEFAULT true,
    pass_on boolean DEFAULT false
) RETURNS SETOF text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_idle$
DECLARE
    c_class CONSTANT integer := 'pgq_waiting'::regclass::oid::integer;
    c_many CONSTANT integer := 16;
    v_many boolean;
    v_queue text;
    v_buckets integer[];
BEGIN
    IF idle IS NULL OR pass_on IS NULL THEN
        RAISE EXCEPTION '% is null', CASE WHEN idle IS NULL THEN 'idle' ELSE 'pass_on' END
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass true before the session sleeps, and false when it is awake again.';
    END IF;
    IF queues = '{}' THEN
        PERFORM _pgq_refuse_in_maintenance();
    ELSE
        PERFORM _pgq_check_claim(queues, 0, NULL);
        queues := _pgq_distinct(queues);
    END IF;
    v_many := cardinality(queues) = 0 OR cardinality(queues) > c_many;

    -- Session locks are counted, so all are released before any is taken.
    PERFORM CASE l.mode
                WHEN 'ShareLock' THEN pg_advisory_unlock_shared(c_class, l.objid::integer)
                ELSE pg_advisory_unlock(c_class, l.objid::integer)
            END
    FROM pg_locks AS l
    WHERE l.locktype = 'advisory'
      AND l.pid = pg_backend_pid()
      AND l.classid = 'pgq_waiting'::regclass
      AND l.objsubid = 2;

    IF idle THEN
        v_buckets := ARRAY(
            SELECT DISTINCT hashtext(q) & 63 FROM unnest(queues) AS q WHERE NOT v_many
            UNION ALL
            SELECT b FROM generate_series(0, 63) AS b WHERE v_many);
        FOR v_try IN 1..20 LOOP
            v_buckets := ARRAY(
                SELECT b FROM unnest(v_buckets) AS b WHERE NOT pg_try_advisory_lock_shared(c_class, b));
            EXIT WHEN v_buckets = '{}';
            PERFORM pg_sleep(0.001);
        END LOOP;
    END IF;
    IF v_many THEN
        -- All sessions like this one were notified, so it passes nothing on.
        IF idle THEN
            RETURN NEXT _pgq_sleep_in_slot('');
        END IF;
        RETURN;
    END IF;
    FOREACH v_queue IN ARRAY queues LOOP
        IF idle THEN
            RETURN NEXT _pgq_sleep_in_slot(v_queue);
        ELSIF pass_on THEN
            PERFORM _pgq_wake(v_queue);
        END IF;
    END LOOP;
END
$pgq_idle$;

COMMENT ON FUNCTION pgq_idle(text[], boolean, boolean) IS
    'Declare that this session is about to sleep until jobs of these queues are ripe (idle true), or is awake again '
    '(false). An empty array stands for all queues, and counts as more than 16. Returns the channels on which the '
    'session is notified of ripe jobs while it sleeps: one for each queue, one in all for more than 16 queues, none '
    'for an awake session. A ripe job wakes one of the sessions that sleep for its queue, but all of those with more '
    'than 16 queues, whichever these are, if no other sleeps for it. Before it sleeps, a worker calls this function, '
    'executes LISTEN for the channels, and claims once more. It sleeps until it is notified, or until pgq_ripe_in '
    'tells that a job is ripe, but looks once a second: a notification is a hint. After the payload "later" it asks '
    'pgq_ripe_in, because a job will be ripe soon; after any other it calls this function with idle false, and claims. '
    'If it was notified and cannot claim, pass_on wakes another session instead. NULL for an argument, or one of the '
    'queues, raises 22004. Raises 42501 for a queue that the calling role may not use.';

-- A claim finds the jobs before the heads only when it scans from the start, so it is called when that is due.
CREATE FUNCTION pgq_ripe_in(queues text[] DEFAULT '{default}') RETURNS interval
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_ripe_in$
DECLARE
    c_again CONSTANT interval := '10 milliseconds';
    v_now timestamptz := pgq_now();
    v_served text[] := queues;
    v_begun_at timestamptz;
    v_heads pgq_head[];
    v_looked record;
    v_next_at timestamptz;
BEGIN
    PERFORM _pgq_check_claim(queues, 0, NULL);
    IF _pgq_marks() & _pgq_marks_of(queues) <> 0 THEN
        v_next_at := _pgq_resumes_at(queues, v_now);
        v_looked := _pgq_look_at_queues(queues, v_now);
        v_next_at := least(v_next_at, (SELECT min(_pgq_turn_at(q, v_now)) FROM unnest(v_looked.special) AS q));
        queues := ARRAY(SELECT q FROM unnest(v_looked.open) AS q WHERE q <> ALL (v_looked.special));
        IF queues = '{}' THEN
            IF _pgq_maintain(v_now) = '-infinity' THEN
                v_next_at := least(v_next_at, v_now + c_again);
            END IF;
            RETURN least(v_next_at, _pgq_next_slot(v_served, v_now)) - v_now;
        END IF;
    END IF;
    IF _pgq_is_bare(_pgq_digest(queues), _pgq_microseconds(v_now)) THEN
        v_heads := ARRAY(SELECT ROW(q, v_now, '0', '{}')::pgq_head FROM unnest(queues) AS q);
    ELSE
        IF _pgq_maintain(v_now) = '-infinity' THEN
            v_next_at := least(v_next_at, v_now + c_again);
        END IF;
        v_begun_at := clock_timestamp();
        v_heads := _pgq_load_heads(queues, v_begun_at);
        IF EXISTS (SELECT FROM unnest(v_heads) AS h WHERE h.due <= v_begun_at AND h.lanes <> '{}') THEN
            RETURN '0';
        END IF;
    END IF;
    -- Of a queue without heads, the lanes are those from its first entry on.
    RETURN (
        SELECT least(min(soonest.ripe_at), v_next_at, _pgq_next_slot(v_served, v_now)) - v_now
        FROM unnest(v_heads) AS h (queue, due, rescan_delay, lanes)
        CROSS JOIN LATERAL (
            SELECT 0::smallint WHERE h.lanes <> '{}'
            UNION ALL
            (
                SELECT w.priority
                FROM pgq_waiting AS w
                WHERE h.lanes = '{}' AND w.queue = h.queue COLLATE "C" AND w.group_id IS NULL
                ORDER BY w.priority, w.ripe_at, w.id
                LIMIT 1
            )
        ) AS first (lane)
        CROSS JOIN LATERAL generate_series(first.lane, 9) AS p (priority)
        LEFT JOIN LATERAL unnest(h.lanes) AS known USING (priority)
        CROSS JOIN LATERAL (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = h.queue COLLATE "C"
              AND w.group_id IS NULL
              AND w.priority = p.priority
              AND (w.ripe_at, w.id) > (_pgq_lane_start(known.here_ripe_us), coalesce(known.here_id, 0))
            ORDER BY w.ripe_at, w.id
            LIMIT 1
        ) AS soonest
    );
END
$pgq_ripe_in$;

COMMENT ON FUNCTION pgq_ripe_in(text[]) IS
    'Return the time until the next job of these queues is ripe (0 or less: claim now; NULL: none waits, or only in '
    'queues that are paused until they are resumed). It looks where the next claim of this session would begin, and '
    'first rescues jobs as a claim does, so a session that calls it once a second need not claim; where more jobs are '
    'to be rescued, or schedules to be fired, the time is 10 milliseconds at most. NULL for queues or one of them '
    'raises 22004. Raises 22023 for an empty array, 42501 for a queue that the calling role may not use.';

CREATE FUNCTION _pgq_first_queue(since text) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_first_queue$
BEGIN
    RETURN least(
        (
            SELECT w.queue COLLATE "C"
            FROM pgq_waiting AS w
            WHERE w.group_id IS NULL AND w.queue COLLATE "C" >= since
            ORDER BY w.queue COLLATE "C"
            LIMIT 1
        ),
        (
            SELECT w.queue COLLATE "C"
            FROM pgq_waiting AS w
            WHERE w.group_id IS NOT NULL AND w.queue COLLATE "C" >= since
            ORDER BY w.queue COLLATE "C"
            LIMIT 1
        )
    );
END
$_pgq_first_queue$;

COMMENT ON FUNCTION _pgq_first_queue(text) IS
    'Return the first queue, in the order of bytes, in which a job waits and that does not come before a text; NULL if '
    'there is none.';

-- The loop steps from queue to queue through the two indexes of waiting jobs: it reads an entry of each queue, however
-- many jobs wait there. Nothing lies between a text and the same text with U+0001 after it. Prefixes that begin with
-- another one are left out, so no queue is found twice.
CREATE FUNCTION pgq_queues_to_serve(prefixes text[] DEFAULT '{""}') RETURNS SETOF text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_queues_to_serve$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_prefix text;
    v_queue text;
BEGIN
    IF prefixes IS NULL OR EXISTS (SELECT FROM unnest(prefixes) AS p WHERE p IS NULL) THEN
        RAISE EXCEPTION 'prefixes, or one of them, is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for all queues.';
    END IF;
    IF cardinality(prefixes) = 0 THEN
        RAISE EXCEPTION 'prefixes is empty'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give at least one prefix, or leave the argument out for all queues.';
    END IF;
    PERFORM _pgq_maintain(pgq_now());

    IF v_allowed IS NOT NULL THEN
        RETURN QUERY
        SELECT a.queue
        FROM unnest(_pgq_distinct(v_allowed)) AS a (queue)
        WHERE EXISTS (SELECT FROM unnest(prefixes) AS p WHERE starts_with(a.queue, p))
          AND _pgq_first_queue(a.queue) = a.queue COLLATE "C"
        ORDER BY a.queue COLLATE "C";
        RETURN;
    END IF;
    FOR v_prefix IN
        SELECT DISTINCT p.prefix COLLATE "C"
        FROM unnest(prefixes) AS p (prefix)
        WHERE NOT EXISTS (
            SELECT FROM unnest(prefixes) AS o (prefix)
            WHERE starts_with(p.prefix, o.prefix) AND octet_length(o.prefix) < octet_length(p.prefix))
        ORDER BY 1
    LOOP
        v_queue := _pgq_first_queue(v_prefix);
        WHILE starts_with(v_queue, v_prefix) LOOP
            RETURN NEXT v_queue;
            v_queue := _pgq_first_queue(v_queue || E'\x01');
        END LOOP;
    END LOOP;
END
$pgq_queues_to_serve$;

COMMENT ON FUNCTION pgq_queues_to_serve(text[]) IS
    'Return the queues in which jobs wait, ripe or not, and which the calling role may use as worker, in the order of '
    'bytes. With prefixes, only queues whose names begin with one of these; a prefix is taken literally. Like '
    'pgq_ripe_in it first rescues jobs as a claim does. A call takes longer with more queues, not with more jobs; but '
    'while a snapshot is held, it reads the index entries of all jobs that were claimed from queues in which none '
    'waits any more. So call it about once a second, less often when it takes long. NULL for prefixes or one of them '
    'raises 22004, an empty array 22023.';

CREATE SEQUENCE pgq_awaited;

COMMENT ON SEQUENCE pgq_awaited IS
    'Whether any session may wait for the end of a job, or any job be blocked: then it has been called. Maintenance '
    'resets it.';

CREATE FUNCTION _pgq_end_channel(id bigint) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq_' || 'pgq_ended'::regclass::oid || '_' || id;

COMMENT ON FUNCTION _pgq_end_channel(bigint) IS
    'Return the channel on which sessions that wait for the end of a job are notified.';

-- An expression, so that PostgreSQL inlines it, like _pgq_tell_end and _pgq_tell_ends.
CREATE FUNCTION _pgq_is_awaited() RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN pg_sequence_last_value('pgq_awaited') IS NOT NULL;

COMMENT ON FUNCTION _pgq_is_awaited() IS
    'Return whether any session may wait for the end of a job, or any job be blocked.';

CREATE FUNCTION _pgq_notify_ends(ids bigint[], outcome text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_notify_ends$
DECLARE
    c_class CONSTANT integer := 'pgq_ended'::regclass::oid::integer;
    v_id bigint;
    v_told boolean := false;
BEGIN
    IF outcome IS NOT NULL AND _pgq_has_needs() THEN
        PERFORM _pgq_settle_ends(ids, outcome);
    END IF;
    FOREACH v_id IN ARRAY ids LOOP
        IF pg_try_advisory_lock(c_class, hashint8(v_id)) THEN
            PERFORM pg_advisory_unlock(c_class, hashint8(v_id));
        ELSE
            PERFORM pg_notify(_pgq_end_channel(v_id), '');
            v_told := true;
        END IF;
    END LOOP;
    RETURN v_told;
END
$_pgq_notify_ends$;

COMMENT ON FUNCTION _pgq_notify_ends(bigint[], text) IS
    'Do what _pgq_settle_ends does, for an outcome that is not NULL, and notify the sessions that wait for the end of '
    'one of these jobs, when this transaction commits. Returns whether there are any.';

CREATE FUNCTION _pgq_tell_end(id bigint, outcome text) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN CASE WHEN _pgq_is_awaited() THEN _pgq_notify_ends(ARRAY[id], outcome) ELSE false END;

COMMENT ON FUNCTION _pgq_tell_end(bigint, text) IS
    'Do what _pgq_notify_ends does, for one job, and only if any session may wait, or any job be blocked.';

CREATE FUNCTION _pgq_tell_ends(ids bigint[], outcome text) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN CASE WHEN _pgq_is_awaited() THEN _pgq_notify_ends(ids, outcome) ELSE false END;

COMMENT ON FUNCTION _pgq_tell_ends(bigint[], text) IS
    'Do what _pgq_notify_ends does, but only if any session may wait, or any job be blocked.';

-- While any session waits, maintenance cannot get the lock that all of them share.
CREATE FUNCTION _pgq_settle_awaited() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_settle_awaited$
DECLARE
    c_class CONSTANT integer := 'pgq_ended'::regclass::oid::integer;
BEGIN
    IF _pgq_is_awaited() AND NOT _pgq_has_needs() THEN
        IF pg_try_advisory_lock(c_class, 0) THEN
            PERFORM setval('pgq_awaited', 1, false);
            PERFORM pg_advisory_unlock(c_class, 0);
        END IF;
    END IF;
    -- An enqueue sets that one first. The dump of an extension has that one only.
    IF _pgq_has_needs() AND NOT _pgq_is_awaited() THEN
        PERFORM setval('pgq_awaited', 1);
    END IF;
END
$_pgq_settle_awaited$;

COMMENT ON FUNCTION _pgq_settle_awaited() IS
    'Let _pgq_is_awaited return false again if no session waits for the end of a job, and true if any job may be '
    'blocked. Returns nothing.';

CREATE FUNCTION pgq_await(id bigint, waiting boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_await$
DECLARE
    c_class CONSTANT integer := 'pgq_ended'::regclass::oid::integer;
    v_key integer;
BEGIN
    PERFORM _pgq_refuse_in_maintenance();
    IF id IS NULL OR waiting IS NULL THEN
        RAISE EXCEPTION '% is null', CASE WHEN id IS NULL THEN 'id' ELSE 'waiting' END
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass the id of a job, with true before the session waits for it, and false afterwards.';
    END IF;

    FOREACH v_key IN ARRAY ARRAY[0, hashint8(id)] LOOP
        IF NOT waiting THEN
            -- To release a lock that is not held is a warning.
            PERFORM pg_advisory_unlock_shared(c_class, v_key)
            FROM pg_locks AS l
            WHERE l.locktype = 'advisory'
              AND l.pid = pg_backend_pid()
              AND l.classid = 'pgq_ended'::regclass
              AND l.objid = v_key::oid
              AND l.objsubid = 2
              AND l.mode = 'ShareLock';
        ELSE
            -- What ends a job holds the lock for an instant, so it is tried for about 20 milliseconds, and no longer:
            -- any role can take it and keep it.
            FOR v_try IN 1..20 LOOP
                EXIT WHEN pg_try_advisory_lock_shared(c_class, v_key);
                PERFORM pg_sleep(0.001);
            END LOOP;
        END IF;
    END LOOP;
    IF waiting AND NOT _pgq_is_awaited() AND NOT current_setting('transaction_read_only')::boolean THEN
        PERFORM setval('pgq_awaited', 1);
    END IF;
    RETURN _pgq_end_channel(id);
END
$pgq_await$;

COMMENT ON FUNCTION pgq_await(bigint, boolean) IS
    'Declare that this session waits for the end of a job, or no longer does (waiting false). Returns the channel on '
    'which the session is notified when the job has ended. Before it waits, a session calls this function, executes '
    'LISTEN for the channel, and calls pgq_result once more. It waits until it is notified, but calls pgq_result about '
    'once a second: a notification is a hint. Then it executes UNLISTEN, and calls this function with waiting false. A '
    'session may wait for several jobs. Behind a pooler in transaction mode it cannot wait in this way: there it only '
    'calls pgq_result from time to time; a session that may not write may find no notification either. The call says '
    'nothing of the job, which need not exist. NULL for an argument raises 22004.';

CREATE FUNCTION pgq_result(
    id bigint,
    OUT state text,
    OUT result jsonb,
    OUT error text,
    OUT ended_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_result$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('producer');
    v_as_admin text[];
BEGIN
    IF (id BETWEEN 1 AND pg_sequence_last_value('pgq_job_id')) IS NOT TRUE THEN
        RAISE EXCEPTION 'there has been no job %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'Pass the id that an enqueue has returned.';
    END IF;
    IF v_allowed IS NOT NULL THEN
        v_as_admin := _pgq_allowed_queues('admin');
        v_allowed := CASE WHEN v_as_admin IS NOT NULL THEN v_allowed || v_as_admin END;
    END IF;

    -- One statement, so that a job that moves meanwhile is seen on one side or the other. The running jobs come last,
    -- because they are searched batch by batch.
    SELECT j.state, j.result, e.error, j.ended_at
    INTO state, result, error, ended_at
    FROM (
        SELECT 'waiting' AS state, w.queue, w.newest_error, NULL::jsonb AS result, NULL::timestamptz AS ended_at
        FROM pgq_waiting AS w
        WHERE w.id = pgq_result.id
        UNION ALL
        SELECT 'blocked', b.queue, b.newest_error, NULL, NULL
        FROM pgq_blocked AS b
        WHERE b.id = pgq_result.id
        UNION ALL
        SELECT d.outcome, d.queue, d.newest_error, d.result, d.ended_at
        FROM pgq_ended AS d
        WHERE d.id = pgq_result.id
        UNION ALL
        SELECT 'running', r.queue, r.newest_error, NULL, NULL
        FROM _pgq_running AS r
        WHERE r.id = pgq_result.id
        LIMIT 1
    ) AS j
    LEFT JOIN pgq_error AS e ON e.id = pgq_result.id AND e.number = j.newest_error
    WHERE v_allowed IS NULL OR j.queue = ANY (v_allowed);
    IF NOT FOUND THEN
        state := 'gone';
    END IF;
END
$pgq_result$;

COMMENT ON FUNCTION pgq_result(bigint) IS
    'Return what has become of a job: its state, which is waiting, blocked, running, done, dead, cancelled or gone; '
    'the result that was given to pgq_complete, NULL unless done; the newest of its errors or notes, NULL if there is '
    'none; and when it ended, NULL unless done, dead or cancelled. A job that is gone has left nothing: it was '
    'completed without a result, has merged with a twin, or was purged; its enqueue was rolled back or is not '
    'committed yet; or it is in a queue that the calling role may use neither as producer nor as admin. Waits for no '
    'lock. Raises PGQ01 for an id that no enqueue has returned yet, and for NULL.';

CREATE FUNCTION pgq_batch_progress(
    id bigint,
    OUT jobs bigint,
    OUT ended bigint,
    OUT failed bigint,
    OUT failed_ids bigint[]
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_batch_progress$
DECLARE
    v_privilege text;
    v_more text[];
    v_allowed text[] := '{}';
BEGIN
    FOREACH v_privilege IN ARRAY '{producer,worker,admin}'::text[] LOOP
        v_more := _pgq_allowed_queues(v_privilege);
        v_allowed := CASE WHEN v_more IS NOT NULL THEN v_allowed || v_more END;
        EXIT WHEN v_allowed IS NULL;
    END LOOP;
    SELECT b.jobs, b.jobs - b.given_up - n.jobs, cardinality(f.ids), f.ids
    INTO jobs, ended, failed, failed_ids
    FROM (
        SELECT sum(o.jobs) AS jobs, sum(o.given_up) AS given_up
        FROM pgq_batch AS o
        WHERE o.id = pgq_batch_progress.id
          AND (v_allowed IS NULL OR o.queue = ANY (v_allowed))
    ) AS b
    CROSS JOIN (SELECT count(*) AS jobs FROM pgq_need AS i WHERE i.job = pgq_batch_progress.id) AS n
    CROSS JOIN (
        SELECT ARRAY(
            SELECT DISTINCT j.id
            FROM pgq_batch AS o
            CROSS JOIN LATERAL unnest(o.failed) AS j (id)
            WHERE o.id = pgq_batch_progress.id
            ORDER BY j.id) AS ids
    ) AS f;
    IF jobs IS NULL THEN
        RAISE EXCEPTION 'there is no batch %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'Give the id that pgq_enqueue_batch has returned; a batch is forgotten after 7 days, unless '
                         'it is still a job.';
    END IF;
END
$pgq_batch_progress$;

COMMENT ON FUNCTION pgq_batch_progress(bigint) IS
    'Return of a batch (see pgq_enqueue_batch) how many jobs were put into it, how many of these have ended, how many '
    'of those have failed, that is, are dead or cancelled, and which, in the order of ids. One that fails, and is done '
    'when an operator has retried it, has failed. A job that has merged into a twin counts as ended only if the twin '
    'belongs to the batch, too; otherwise the twin takes its place. When the batch itself has been cancelled, what was '
    'left then never counts as ended. The numbers are kept for 7 days, and for as long as the batch is a job. Raises '
    'PGQ01 for any other id, and for a batch in a queue that the calling role may use neither as producer nor as '
    'worker nor as admin. It is a call like any other: the job that comes last makes it to learn what it has to sum '
    'up.';

-- In a view, current_user is the role that reads from it, although the tables are read with the rights of the view's
-- owner.
CREATE VIEW _pgq_visible_queues AS
SELECT o.is_owner OR bool_or(p.privilege IS NOT NULL AND p.queues IS NULL) AS sees_all,
       array_agg(q.queue) AS sees,
       o.is_owner OR bool_or(p.privilege = 'admin' AND p.queues IS NULL) IS TRUE AS reads_all,
       array_agg(q.queue) FILTER (WHERE p.privilege = 'admin') AS reads
FROM (
    SELECT pg_has_role(current_user, c.relowner, 'USAGE') AS is_owner
    FROM pg_class AS c
    WHERE c.oid = 'pgq_permission'::regclass
) AS o
LEFT JOIN pgq_permission AS p ON p.privilege IN ('admin', 'reader') AND pg_has_role(current_user, p.role::oid, 'USAGE')
LEFT JOIN LATERAL unnest(p.queues) AS q (queue) ON true
GROUP BY o.is_owner;

COMMENT ON VIEW _pgq_visible_queues IS
    'The queues whose jobs the reading role sees, as admin or reader (sees_all, sees), and those whose args, results '
    'and errors it may read, as admin (reads_all, reads).';

-- A security barrier: PostgreSQL evaluates no condition of a query on rows that are hidden from the role.
CREATE VIEW pgq_jobs WITH (security_barrier) AS
SELECT j.id, j.state, j.queue, j.kind, CASE WHEN s.reads THEN j.args END AS args, j.priority, j.ripe_at, j.attempt,
       j.max_retries, coalesce(j.backoff, '1 minute') AS backoff, coalesce(j.backoff_cap, '1 hour') AS backoff_cap,
       j.dedup, CASE WHEN s.reads THEN j.dedup_key END AS dedup_key,
       j.enqueued_at,
       CASE WHEN s.reads AND j.newest_error IS NULL THEN '[]'
            WHEN s.reads THEN coalesce((
                SELECT jsonb_agg(
                    jsonb_build_object('attempt', e.attempt, 'at', e.at, 'worker', e.worker, 'error', e.error)
                    || CASE WHEN e.declined IS NULL THEN '{}' ELSE jsonb_build_object('declined', e.declined) END
                    ORDER BY e.number DESC)
                FROM pgq_error AS e
                WHERE e.id = j.id
            ), '[]')
       END AS errors,
       j.worker, j.claimed_at, j.lease_until, j.ended_at,
       CASE WHEN s.reads THEN j.result END AS result, CASE WHEN s.reads THEN j.context END AS context, j.losses,
       j.cancel_requested_at, CASE WHEN s.reads THEN j.group_key END AS group_key,
       CASE
           WHEN j.state = 'blocked' THEN ARRAY(
               SELECT n.needs FROM pgq_need AS n WHERE n.job = j.id ORDER BY n.needs)
       END AS after,
       CASE WHEN s.reads AND j.newest_error IS NOT NULL THEN (
           SELECT v.saved FROM pgq_saved AS v WHERE v.id = j.id
       ) END AS saved,
       CASE WHEN j.state = 'waiting' AND j.newest_error IS NOT NULL THEN (
           SELECT t.name COLLATE "default" FROM pgq_signal_wait AS t WHERE t.id = j.id AND t.until = j.ripe_at LIMIT 1
       ) END AS waits_for_signal,
       coalesce((
           SELECT q.sensitive FROM pgq_queue_setting AS q WHERE q.queue = j.queue COLLATE "C"
       ), false) AS sensitive
FROM (
    SELECT id, 'waiting'::text AS state, pgq_waiting.queue, kind, args, priority::integer AS priority, ripe_at, attempt,
           coalesce(pgq_waiting.max_retries, s.max_retries, 10) AS max_retries,
           coalesce(pgq_waiting.backoff, s.backoff) AS backoff,
           coalesce(pgq_waiting.backoff_cap, s.backoff_cap) AS backoff_cap, dedup, dedup_key, enqueued_at,
           newest_error, NULL::text AS worker,
           NULL::timestamptz AS claimed_at, NULL::timestamptz AS lease_until, NULL::timestamptz AS ended_at,
           NULL::jsonb AS result, context, losses::integer AS losses, NULL::timestamptz AS cancel_requested_at,
           group_key
    FROM pgq_waiting
    LEFT JOIN pgq_queue_setting AS s ON s.queue = pgq_waiting.queue COLLATE "C"
    UNION ALL
    SELECT id, 'running', queue, kind, args, priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, newest_error, worker,
           claimed_at, lease_until, NULL, NULL, context, abs(losses),
           (SELECT c.requested_at FROM pgq_cancel_request AS c WHERE c.id = _pgq_running.id),
           group_key
    FROM _pgq_running
    UNION ALL
    SELECT id, 'blocked', pgq_blocked.queue, kind, args, priority, ripe_at, attempt,
           coalesce(pgq_blocked.max_retries, s.max_retries, 10), coalesce(pgq_blocked.backoff, s.backoff),
           coalesce(pgq_blocked.backoff_cap, s.backoff_cap), dedup, dedup_key, enqueued_at, newest_error, NULL,
           NULL, NULL, NULL, NULL, context, losses, NULL, group_key
    FROM pgq_blocked
    LEFT JOIN pgq_queue_setting AS s ON s.queue = pgq_blocked.queue COLLATE "C"
    UNION ALL
    SELECT id, outcome, queue, kind, args, priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, newest_error, worker,
           claimed_at, NULL, ended_at, result, context, losses, NULL, group_key
    FROM pgq_ended
) AS j
CROSS JOIN LATERAL (
    SELECT visible.sees_all OR j.queue = ANY (visible.sees) AS sees,
           visible.reads_all OR j.queue = ANY (visible.reads) AS reads
    FROM _pgq_visible_queues AS visible
) AS s
WHERE s.sees;

COMMENT ON VIEW pgq_jobs IS
    'All jobs with their state: waiting, blocked, running, dead, cancelled or done. A job that was completed without a '
    'result is gone, unless its queue keeps all that is done. A role sees the jobs of the queues that it may use as '
    'admin or reader; where it is only a reader, args, dedup_key, errors, result, context, group_key '
    'and saved are NULL.';
COMMENT ON COLUMN pgq_jobs.id IS 'Number of the job; it stays the same in all states.';
COMMENT ON COLUMN pgq_jobs.state IS 'waiting, blocked, running, dead, cancelled or done.';
COMMENT ON COLUMN pgq_jobs.queue IS 'Queue whose workers may claim the job.';
COMMENT ON COLUMN pgq_jobs.kind IS 'Kind of work, by which a worker finds its handler.';
COMMENT ON COLUMN pgq_jobs.args IS 'Arguments for the handler; NULL to a role that is not an admin of the queue.';
COMMENT ON COLUMN pgq_jobs.priority IS '0 is claimed first, 9 last.';
COMMENT ON COLUMN pgq_jobs.ripe_at IS 'No worker can claim the job before this time.';
COMMENT ON COLUMN pgq_jobs.attempt IS 'Attempts so far: a claim adds one; a snooze, decline or release takes it back.';
COMMENT ON COLUMN pgq_jobs.max_retries IS 'Number of attempts allowed after the first one.';
COMMENT ON COLUMN pgq_jobs.backoff IS 'Delay before the first retry; it doubles with each further one.';
COMMENT ON COLUMN pgq_jobs.backoff_cap IS 'Longest delay between two attempts, before jitter.';
COMMENT ON COLUMN pgq_jobs.dedup IS 'Whether the job is deduplicated, so that no twin can wait beside it.';
COMMENT ON COLUMN pgq_jobs.dedup_key IS
    'Key that decides, instead of args, which jobs are twins; NULL: args decide, or it is hidden like args.';
COMMENT ON COLUMN pgq_jobs.enqueued_at IS 'When the job was enqueued.';
COMMENT ON COLUMN pgq_jobs.errors IS
    'The newest ten failures, and notes of pgq_complete and pgq_decline, newest first: objects with attempt, at, '
    'worker and error; those of merged jobs, too. A note of pgq_decline also has declined: how often the job was '
    'declined. Hidden like args.';
COMMENT ON COLUMN pgq_jobs.worker IS
    'Worker that holds the job or made its last attempt; NULL: none, or it gave no name.';
COMMENT ON COLUMN pgq_jobs.claimed_at IS
    'When the job was claimed for the attempt that runs, or was its last one; NULL: it waits, or was cancelled while '
    'it waited.';
COMMENT ON COLUMN pgq_jobs.lease_until IS
    'When its worker loses the job, unless it extends the lease; NULL unless running.';
COMMENT ON COLUMN pgq_jobs.ended_at IS 'When the job ended; NULL unless dead, cancelled or done.';
COMMENT ON COLUMN pgq_jobs.result IS
    'Result that was given to pgq_complete; NULL: none was given, the job is not done, or it is hidden like args.';
COMMENT ON COLUMN pgq_jobs.context IS
    'JSON object that the worker gets beside args; NULL: none, or it is hidden like args.';
COMMENT ON COLUMN pgq_jobs.losses IS
    'Number of attempts that did not count because the job was lost together with others; NULL: none since its last '
    'failure. A job with a number is a suspect, which is claimed alone.';
COMMENT ON COLUMN pgq_jobs.cancel_requested_at IS
    'When pgq_cancel asked the worker of the job to give it up; NULL: there is no such request, or the job is not '
    'running.';
COMMENT ON COLUMN pgq_jobs.group_key IS
    'Key of the group of the job; NULL: it has no group, or it is hidden like args.';
COMMENT ON COLUMN pgq_jobs.after IS
    'Numbers of the jobs that the job still waits for; a dead or cancelled one of them is to be retried. NULL unless '
    'blocked.';
COMMENT ON COLUMN pgq_jobs.saved IS
    'What the job has saved (see pgq_save); NULL: nothing, or the role is not an admin of the queue.';
COMMENT ON COLUMN pgq_jobs.waits_for_signal IS
    'Name of the signal for which the job waits, until ripe_at at the latest (see pgq_wait_signal); NULL: none.';
COMMENT ON COLUMN pgq_jobs.sensitive IS
    'Whether the queue is sensitive (see pgq_configure): what a reader does not see of the job is then for an admin '
    'who asks for it, and not for lists, logs and pages.';

-- Both sides are filtered before the join: a worker that claims under the name of a hidden worker must not learn that
-- it exists.
CREATE VIEW pgq_workers WITH (security_barrier) AS
SELECT coalesce(w.name COLLATE "default", r.worker) AS name, w.host, w.pid, w.queues, w.registered_at,
       CASE WHEN w.number IS NOT NULL THEN w.number IN (SELECT number FROM _pgq_presence) END AS present,
       coalesce(r.running, 0) AS running, r.kinds,
       r.oldest_claimed_at, w.handles, coalesce(r.overdue, 0) AS overdue
FROM (
    SELECT worker.name, worker.number, worker.host, worker.pid, worker.registered_at,
           CASE WHEN s.sees_all THEN worker.queues
                ELSE ARRAY(SELECT q FROM unnest(worker.queues) AS q WHERE q = ANY (s.sees))
           END AS queues,
           CASE WHEN s.sees_all OR worker.queues <@ s.sees THEN worker.kinds END AS handles
    FROM pgq_worker_session AS worker
    CROSS JOIN _pgq_visible_queues AS s
    WHERE s.sees_all OR worker.queues && s.sees
) AS w
FULL JOIN (
    SELECT job.worker, count(*) AS running, array_agg(DISTINCT job.kind ORDER BY job.kind) AS kinds,
           min(job.claimed_at) AS oldest_claimed_at, count(*) FILTER (WHERE job.lease_until < clock.now) AS overdue
    FROM _pgq_running AS job
    CROSS JOIN _pgq_visible_queues AS s
    CROSS JOIN (SELECT pgq_now() AS now) AS clock
    WHERE job.worker IS NOT NULL
      AND (s.sees_all OR job.queue = ANY (s.sees))
    GROUP BY job.worker
) AS r ON r.worker = w.name;

COMMENT ON VIEW pgq_workers IS
    'Workers that are registered or hold jobs. A role sees those that serve, or hold jobs of, queues that it may use '
    'as admin or reader.';
COMMENT ON COLUMN pgq_workers.name IS 'Name under which the worker claims.';
COMMENT ON COLUMN pgq_workers.host IS
    'Host of the worker, as it reports itself; NULL: not reported, or not registered.';
COMMENT ON COLUMN pgq_workers.pid IS 'Process id of the worker on that host; NULL: not reported, or not registered.';
COMMENT ON COLUMN pgq_workers.queues IS
    'Queues that the worker serves, as far as the role may see them; NULL: not registered.';
COMMENT ON COLUMN pgq_workers.registered_at IS
    'When the worker first registered under this name; NULL: not registered.';
COMMENT ON COLUMN pgq_workers.present IS 'Whether the session that registered the worker lives; NULL: not registered.';
COMMENT ON COLUMN pgq_workers.running IS 'Number of jobs that the worker holds, in queues that the role may see.';
COMMENT ON COLUMN pgq_workers.kinds IS 'Kinds of the jobs that the worker holds; NULL: it holds none.';
COMMENT ON COLUMN pgq_workers.oldest_claimed_at IS
    'When the first of the jobs that the worker holds was claimed; NULL: it holds none.';
COMMENT ON COLUMN pgq_workers.handles IS
    'Kinds that the worker has handlers for; NULL: it does not tell, is not registered, or serves queues that the role '
    'may not see.';
COMMENT ON COLUMN pgq_workers.overdue IS
    'Number of the jobs that the worker holds although their leases have ended. Claims rescue such a job within two '
    'seconds, unless a transaction holds it (see pgq_hold), such as that of a frozen worker.';

CREATE VIEW pgq_stats AS
SELECT j.queue, j.kind, j.waiting, j.ripe, j.running, j.dead, j.cancelled, j.done, j.oldest_ripe_age,
       (SELECT CASE
                   WHEN bool_or(j.kind = ANY (w.kinds)) THEN true
                   WHEN bool_or(w.kinds IS NULL) THEN NULL
                   ELSE false
               END
        FROM pgq_worker_session AS w
        WHERE j.queue = ANY (w.queues)
          AND w.number IN (SELECT p.number FROM _pgq_presence AS p)) AS handled,
       j.blocked
FROM (
    SELECT job.queue, job.kind,
           count(*) FILTER (WHERE job.state = 'waiting') AS waiting,
           count(*) FILTER (WHERE job.state = 'waiting' AND job.ripe_at <= clock.now) AS ripe,
           count(*) FILTER (WHERE job.state = 'running') AS running,
           count(*) FILTER (WHERE job.state = 'dead') AS dead,
           count(*) FILTER (WHERE job.state = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE job.state = 'done') AS done,
           max(clock.now - job.ripe_at) FILTER (WHERE job.state = 'waiting' AND job.ripe_at <= clock.now)
               AS oldest_ripe_age,
           count(*) FILTER (WHERE job.state = 'blocked') AS blocked
    FROM pgq_jobs AS job
    CROSS JOIN (SELECT pgq_now() AS now) AS clock
    GROUP BY job.queue, job.kind
) AS j;

COMMENT ON VIEW pgq_stats IS
    'Numbers of jobs by queue and kind. A query counts all jobs; pgq_overview_kinds does not. A role sees those of '
    'the queues that it may use as admin or reader.';
COMMENT ON COLUMN pgq_stats.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_stats.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_stats.waiting IS 'Number of jobs that wait, ripe or not.';
COMMENT ON COLUMN pgq_stats.ripe IS 'Number of waiting jobs that a worker could claim now.';
COMMENT ON COLUMN pgq_stats.running IS 'Number of jobs that a worker has claimed.';
COMMENT ON COLUMN pgq_stats.dead IS 'Number of jobs that failed for good.';
COMMENT ON COLUMN pgq_stats.cancelled IS 'Number of jobs that were given up on purpose.';
COMMENT ON COLUMN pgq_stats.done IS
    'Number of jobs that are done and kept: with a result or a note, or all of a queue that keeps them.';
COMMENT ON COLUMN pgq_stats.oldest_ripe_age IS 'How long the first ripe job has been ripe; NULL: none is.';
COMMENT ON COLUMN pgq_stats.handled IS
    'Whether a present worker that serves the queue has a handler for the kind; NULL: none is known to have one, and '
    'one of them does not tell its kinds.';
COMMENT ON COLUMN pgq_stats.blocked IS 'Number of jobs that wait for other jobs.';

CREATE VIEW pgq_batches WITH (security_barrier) AS
SELECT b.id, b.queue, b.jobs,
       b.jobs - b.given_up - (SELECT count(*) FROM pgq_need AS n WHERE n.job = b.id) AS ended,
       cardinality(b.failed_ids) AS failed, b.failed_ids, b.enqueued_at
FROM (
    SELECT o.id, o.queue, sum(o.jobs)::bigint AS jobs, sum(o.given_up)::bigint AS given_up,
           min(o.at) AS enqueued_at,
           ARRAY(
               SELECT DISTINCT j.id
               FROM pgq_batch AS p
               CROSS JOIN LATERAL unnest(p.failed) AS j (id)
               WHERE p.id = o.id
               ORDER BY j.id) AS failed_ids
    FROM pgq_batch AS o
    GROUP BY o.id, o.queue
) AS b
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR b.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_batches IS
    'The batches, with the numbers that pgq_batch_progress returns. A role sees those in the queues that it may use as '
    'admin or reader.';
COMMENT ON COLUMN pgq_batches.id IS 'Number of the job that comes after all others of the batch.';
COMMENT ON COLUMN pgq_batches.queue IS 'Its queue.';
COMMENT ON COLUMN pgq_batches.jobs IS 'Number of jobs that were put into the batch.';
COMMENT ON COLUMN pgq_batches.ended IS 'How many of these have ended.';
COMMENT ON COLUMN pgq_batches.failed IS 'How many of these have failed: they were dead or cancelled.';
COMMENT ON COLUMN pgq_batches.failed_ids IS 'Their numbers.';
COMMENT ON COLUMN pgq_batches.enqueued_at IS 'When the batch was enqueued.';

-- What is done is the rest of what was claimed: of the jobs that live, only the running ones are counted for it.
CREATE VIEW _pgq_counters AS
SELECT e.queue, e.kind, coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('row', 'part')), 0)::bigint AS running,
       coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('claimed', 'packed')), 0)::bigint AS claimed,
       (coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('claimed', 'packed', 'gone')), 0)
        - coalesce(sum(e.jobs) FILTER (
              WHERE e.event IN ('returned', 'failed', 'dead', 'stopped', 'row')), 0))::bigint AS done,
       coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('failed', 'dead')), 0)::bigint AS failed,
       coalesce(sum(e.jobs) FILTER (WHERE e.event = 'dead'), 0)::bigint AS dead,
       coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('stopped', 'cancelled')), 0)::bigint AS cancelled,
       coalesce(sum(e.jobs) FILTER (WHERE e.event = 'merged'), 0)::bigint AS merged,
       coalesce(sum(e.jobs) FILTER (WHERE e.event = 'retried'), 0)::bigint AS retried,
       coalesce(sum(extract(epoch FROM e.waited)), 0)::double precision AS waited_seconds,
       coalesce(sum(e.jobs) FILTER (WHERE e.event IN ('timed', 'packed')), 0)::bigint AS timed,
       coalesce(sum(extract(epoch FROM e.ran)), 0)::double precision AS ran_seconds
FROM (
    SELECT o.queue, o.kind, o.event, o.jobs, o.waited, o.ran FROM pgq_count AS o
    UNION ALL
    SELECT r.queue, r.kind, 'row', count(*), NULL, NULL FROM pgq_running AS r GROUP BY r.queue, r.kind
    UNION ALL
    SELECT j.queue, j.kind, CASE WHEN j.id = ANY (b.gone) THEN 'gone' ELSE 'part' END, 1, NULL, NULL
    FROM pgq_running_batch AS b
    CROSS JOIN LATERAL unnest(b.ids, b.queues, b.kinds) AS j (id, queue, kind)
) AS e
GROUP BY e.queue, e.kind;

COMMENT ON VIEW _pgq_counters IS
    'The counters of pgq_counters by queue and kind, and the number of running jobs; waiting and ended jobs are not '
    'read.';

CREATE VIEW pgq_counters WITH (security_barrier) AS
SELECT e.queue, e.kind, e.live + e.done + e.dead + e.cancelled + e.merged - e.retried AS enqueued, e.claimed, e.done,
       e.failed, e.dead, e.cancelled, e.merged, e.retried, e.waited_seconds, e.timed, e.ran_seconds
FROM (
    SELECT queue, kind, coalesce(w.waiting, 0) + coalesce(c.running, 0) AS live, coalesce(c.claimed, 0) AS claimed,
           coalesce(c.done, 0) AS done, coalesce(c.failed, 0) AS failed, coalesce(c.dead, 0) AS dead,
           coalesce(c.cancelled, 0) AS cancelled, coalesce(c.merged, 0) AS merged, coalesce(c.retried, 0) AS retried,
           coalesce(c.waited_seconds, 0) AS waited_seconds, coalesce(c.timed, 0) AS timed,
           coalesce(c.ran_seconds, 0) AS ran_seconds
    FROM _pgq_counters AS c
    FULL JOIN (
        SELECT j.queue, j.kind, count(*) AS waiting
        FROM (
            SELECT w.queue, w.kind FROM pgq_waiting AS w
            UNION ALL
            SELECT b.queue, b.kind FROM pgq_blocked AS b
        ) AS j
        GROUP BY j.queue, j.kind
    ) AS w USING (queue, kind)
) AS e
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR e.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_counters IS
    'What has happened to the jobs of each queue and kind since pgq was installed, or upgraded from 0.2.0: numbers '
    'that only grow, for metrics. They are those of committed transactions: a call that is rolled back, or lost in a '
    'crash, is not counted, and neither is it doubled. The two sums of times are estimates in part. A query counts '
    'all jobs that wait, for enqueued; pgq_overview_counters does not. A role sees the counters of the queues that '
    'it may use as admin or reader.';
COMMENT ON COLUMN pgq_counters.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_counters.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_counters.enqueued IS
    'Number of jobs that were created, and of those that there were at the upgrade; a duplicate creates none.';
COMMENT ON COLUMN pgq_counters.claimed IS
    'Number of attempts that have begun; those of a packed batch count when the batch has ended or is unpacked.';
COMMENT ON COLUMN pgq_counters.done IS 'Number of jobs that were completed.';
COMMENT ON COLUMN pgq_counters.failed IS
    'Number of attempts that have failed, whether the job was retried or became dead; lost ones among them, if they '
    'count.';
COMMENT ON COLUMN pgq_counters.dead IS 'Number of jobs that failed for good, each time that they did.';
COMMENT ON COLUMN pgq_counters.cancelled IS 'Number of jobs that were given up on purpose, each time.';
COMMENT ON COLUMN pgq_counters.merged IS 'Number of jobs that became one with their waiting twins.';
COMMENT ON COLUMN pgq_counters.retried IS 'Number of times that pgq_retry has put a job back.';
COMMENT ON COLUMN pgq_counters.waited_seconds IS
    'How long jobs had been ripe when they were claimed, summed up over "claimed". In a packed batch one job, chosen '
    'at random, stands for all.';
COMMENT ON COLUMN pgq_counters.timed IS
    'Number of jobs of which ran_seconds has the times, a part of "done": all that were packed, and one claim in '
    '64 of the others, whose jobs count for 64.';
COMMENT ON COLUMN pgq_counters.ran_seconds IS
    'Times from the claim to the end of these jobs, summed up; in a batch, to the end of the batch. Divide by timed.';

CREATE VIEW pgq_needs WITH (security_barrier) AS
SELECT n.job, n.needs
FROM pgq_need AS n
JOIN pgq_blocked AS b ON b.id = n.job
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR b.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_needs IS
    'What blocked jobs wait for, one row for each job and prerequisite. A search by either number reads an index. A '
    'role sees the rows of blocked jobs in the queues that it may use as admin or reader.';
COMMENT ON COLUMN pgq_needs.job IS 'Number of the blocked job.';
COMMENT ON COLUMN pgq_needs.needs IS
    'Number of a job that it still waits for; a dead or cancelled one of them is to be retried.';

CREATE VIEW pgq_queues WITH (security_barrier) AS
SELECT q.queue, p.queue IS NOT NULL AS paused, nullif(p.until, 'infinity') AS paused_until,
       (
           SELECT count(*)
           FROM pgq_paused AS g
           WHERE g.queue = q.queue COLLATE "C" AND g.group_id <> 0 AND g.until > q.now
       ) AS paused_groups,
       coalesce(q.running >= s.max_running, false) AS at_limit,
       (
           SELECT count(*)
           FROM (
               SELECT
               FROM _pgq_running AS r
               WHERE r.queue = q.queue AND r.group_key IS NOT NULL
               GROUP BY r.group_key
               HAVING count(*) >= CASE WHEN s.ordered THEN 1 ELSE s.max_per_group END
           ) AS g
       ) AS groups_at_limit,
       (
           -- A hundred years at most, as in _pgq_span, which the reading role may not execute.
           SELECT nullif(greatest(
                      q.now,
                      r.all_spent - make_interval(secs => least(
                          extract(epoch FROM s.per)::double precision * (coalesce(s.burst, 1) - 1) / s.rate,
                          3155760000))), q.now)
           FROM pgq_rate AS r
           WHERE r.queue = s.queue AND r.group_id = 0
           ORDER BY r.all_spent DESC
           LIMIT 1
       ) AS next_start_at,
       q.waiting, q.ripe, q.running, s.max_running, s.max_per_group, coalesce(s.ordered, false) AS ordered, s.on_dead,
       s.rate, s.per, s.burst, s.rate_per_group, s.max_retries, s.backoff, s.backoff_cap, s.lease,
       s.keep_done, s.keep_dead, s.keep_cancelled, coalesce(s.sensitive, false) AS sensitive
FROM (
    SELECT part.queue, clock.now, sum(part.waiting)::bigint AS waiting, sum(part.ripe)::bigint AS ripe,
           sum(part.running)::bigint AS running
    FROM (SELECT pgq_now() AS now) AS clock
    CROSS JOIN LATERAL (
        SELECT w.queue, count(*) AS waiting, count(*) FILTER (WHERE w.ripe_at <= clock.now) AS ripe, 0 AS running
        FROM pgq_waiting AS w
        GROUP BY w.queue
        UNION ALL
        SELECT r.queue, 0, 0, count(*) FROM _pgq_running AS r GROUP BY r.queue
        UNION ALL
        SELECT o.queue COLLATE "default", 0, 0, 0 FROM pgq_queue_setting AS o WHERE o.queue <> ''
        UNION ALL
        SELECT o.queue COLLATE "default", 0, 0, 0 FROM pgq_paused AS o WHERE o.until > clock.now
    ) AS part
    GROUP BY part.queue, clock.now
) AS q
LEFT JOIN pgq_queue_setting AS s ON s.queue = q.queue COLLATE "C"
LEFT JOIN pgq_paused AS p ON p.queue = q.queue COLLATE "C" AND p.group_id = 0 AND p.until > q.now
CROSS JOIN _pgq_visible_queues AS visible
WHERE visible.sees_all OR q.queue = ANY (visible.sees);

COMMENT ON VIEW pgq_queues IS
    'Queues that have settings, are paused, or have jobs that wait or run. A role sees those that it may use as admin '
    'or reader. NULL for a setting means that it is not set. A query counts all jobs that wait; pgq_overview_queues '
    'does not.';
COMMENT ON COLUMN pgq_queues.queue IS 'Name of the queue.';
COMMENT ON COLUMN pgq_queues.paused IS 'Whether the queue is paused: no job of it is claimed.';
COMMENT ON COLUMN pgq_queues.paused_until IS
    'When the pause ends; NULL: the queue is not paused, or is paused until pgq_resume is called.';
COMMENT ON COLUMN pgq_queues.paused_groups IS 'Number of the groups of the queue that are paused by themselves.';
COMMENT ON COLUMN pgq_queues.at_limit IS 'Whether as many jobs run as max_running allows.';
COMMENT ON COLUMN pgq_queues.groups_at_limit IS 'Number of the groups of which as many jobs run as the settings allow.';
COMMENT ON COLUMN pgq_queues.next_start_at IS
    'When the rate lets the next job start; NULL: now, or the queue has no rate. The rates of groups are not shown.';
COMMENT ON COLUMN pgq_queues.waiting IS 'Number of jobs that wait, ripe or not.';
COMMENT ON COLUMN pgq_queues.ripe IS 'Number of waiting jobs whose time has come.';
COMMENT ON COLUMN pgq_queues.running IS 'Number of jobs that a worker has claimed.';
COMMENT ON COLUMN pgq_queues.max_running IS 'Most jobs of the queue that run at a time.';
COMMENT ON COLUMN pgq_queues.max_per_group IS 'Most jobs of each group that run at a time.';
COMMENT ON COLUMN pgq_queues.ordered IS
    'Whether the jobs of each group run one after the other, in the order in which they were enqueued.';
COMMENT ON COLUMN pgq_queues.on_dead IS 'What a dead job does to those after it in its group: continue or stop.';
COMMENT ON COLUMN pgq_queues.rate IS 'Jobs of the queue that may start in each interval "per".';
COMMENT ON COLUMN pgq_queues.per IS 'Interval of rate and rate_per_group.';
COMMENT ON COLUMN pgq_queues.burst IS 'Jobs that may start at once after a pause, beyond what the rates allow.';
COMMENT ON COLUMN pgq_queues.rate_per_group IS 'Jobs of each group that may start in each interval "per".';
COMMENT ON COLUMN pgq_queues.max_retries IS 'max_retries of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queues.backoff IS 'backoff of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queues.backoff_cap IS 'backoff_cap of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queues.lease IS 'Lease of claims that are made without.';
COMMENT ON COLUMN pgq_queues.keep_done IS 'How long a job is kept that is done, also without a result.';
COMMENT ON COLUMN pgq_queues.keep_dead IS 'How long a dead job is kept.';
COMMENT ON COLUMN pgq_queues.keep_cancelled IS 'How long a cancelled job is kept.';
COMMENT ON COLUMN pgq_queues.sensitive IS
    'Whether the programs of pgq show no arguments, results and errors of the queue unless they are asked to.';

CREATE VIEW pgq_schedules WITH (security_barrier) AS
SELECT e.name COLLATE "default" AS name, e.cron, e.timezone, e.queue COLLATE "default" AS queue, e.kind,
       CASE WHEN s.reads THEN e.args END AS args, e.priority::integer AS priority, e.max_retries, e.backoff,
       e.backoff_cap, CASE WHEN s.reads THEN e.group_key END AS group_key, e.catch_up, e.overlap, e.jitter, e.source,
       e.paused_at IS NOT NULL AS paused,
       CASE WHEN e.paused_at IS NULL THEN nullif(e.next_at, 'infinity') END AS next_at, e.last_at, e.last_job,
       CASE WHEN s.reads THEN e.last_error END AS last_error, e.last_error_at, e.missed,
       coalesce((SELECT q.sensitive FROM pgq_queue_setting AS q WHERE q.queue = e.queue), false) AS sensitive
FROM pgq_schedule_entry AS e
CROSS JOIN LATERAL (
    SELECT visible.sees_all OR e.queue = ANY (visible.sees) AS sees,
           visible.reads_all OR e.queue = ANY (visible.reads) AS reads
    FROM _pgq_visible_queues AS visible
) AS s
WHERE s.sees;

COMMENT ON VIEW pgq_schedules IS
    'Schedules. A role sees those for the queues that it may use as admin or reader; where it is only a reader, args, '
    'group_key and last_error are NULL.';
COMMENT ON COLUMN pgq_schedules.name IS 'Name of the schedule.';
COMMENT ON COLUMN pgq_schedules.cron IS 'Cron expression, whose times are the slots.';
COMMENT ON COLUMN pgq_schedules.timezone IS 'Time zone of the expression.';
COMMENT ON COLUMN pgq_schedules.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_schedules.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_schedules.args IS 'Arguments of the jobs; NULL to a role that is not an admin of the queue.';
COMMENT ON COLUMN pgq_schedules.priority IS 'Priority of the jobs.';
COMMENT ON COLUMN pgq_schedules.max_retries IS 'max_retries of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedules.backoff IS 'backoff of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedules.backoff_cap IS 'backoff_cap of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedules.group_key IS 'Key of the group of the jobs; NULL: none, or it is hidden like args.';
COMMENT ON COLUMN pgq_schedules.catch_up IS
    'What becomes of slots that are late: one job for the newest (one), a job for each (all), or none (none).';
COMMENT ON COLUMN pgq_schedules.overlap IS
    'Whether a slot is left out while the last job waits or runs (skip), or not (allow).';
COMMENT ON COLUMN pgq_schedules.jitter IS 'Longest random delay of a job after its slot.';
COMMENT ON COLUMN pgq_schedules.source IS 'What has declared the schedule, such as a module; NULL: made by hand.';
COMMENT ON COLUMN pgq_schedules.paused IS 'Whether the schedule is paused.';
COMMENT ON COLUMN pgq_schedules.next_at IS 'The next slot; NULL: the schedule is paused, or has no further slot.';
COMMENT ON COLUMN pgq_schedules.last_at IS
    'The last slot that has got a job, or when pgq_run_schedule was called; NULL: neither yet.';
COMMENT ON COLUMN pgq_schedules.last_job IS 'Number of the last job; NULL: none yet.';
COMMENT ON COLUMN pgq_schedules.last_error IS
    'Why the next slot could not be fired; it is tried again each minute. NULL: it could, or it is hidden like args.';
COMMENT ON COLUMN pgq_schedules.last_error_at IS 'When that was last tried; NULL: it did not fail.';
COMMENT ON COLUMN pgq_schedules.missed IS
    'Number of slots that have got no job, because they were late or the last job still lived; of those that are late '
    'at a time, 100 count at most.';
COMMENT ON COLUMN pgq_schedules.sensitive IS
    'Whether the queue is sensitive (see pgq_configure): args, group_key and last_error are then for an admin who asks '
    'for them.';

CREATE FUNCTION _pgq_job_state(id bigint) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_job_state$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_state text;
BEGIN
    SELECT j.state INTO v_state
    FROM pgq_jobs AS j
    WHERE j.id = _pgq_job_state.id
      AND (v_allowed IS NULL OR j.queue = ANY (v_allowed));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no job %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'Look up the id in pgq_jobs; a job that was completed without a result is deleted.';
    END IF;
    RETURN v_state;
END
$_pgq_job_state$;

COMMENT ON FUNCTION _pgq_job_state(bigint) IS
    'Return the state of a job, as in the view pgq_jobs. Raises PGQ01 if there is no such job, if it is in a queue '
    'that the calling role may not use, or for NULL.';

CREATE FUNCTION _pgq_cancel_one_blocked(id bigint, at timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_cancel_one_blocked$
BEGIN
    BEGIN
        PERFORM FROM pgq_blocked AS b WHERE b.id = _pgq_cancel_one_blocked.id FOR UPDATE;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    EXCEPTION
        WHEN lock_not_available THEN
            RAISE EXCEPTION 'another transaction has locked job %', _pgq_cancel_one_blocked.id
                USING ERRCODE = 'lock_not_available',
                      HINT = 'Try again when that transaction has ended: it ends a job that this one waits for, or has '
                             'enqueued a duplicate.';
    END;
    PERFORM _pgq_cancel_blocked(ARRAY[id], NULL, at);
    PERFORM _pgq_settle_ends(ARRAY[id], 'failed');
    RETURN true;
END
$_pgq_cancel_one_blocked$;

COMMENT ON FUNCTION _pgq_cancel_one_blocked(bigint, timestamptz) IS
    'End a blocked job as cancelled. Returns false if it is not blocked any more. Raises 55P03 if another transaction '
    'has it locked for longer than the lock_timeout.';

CREATE FUNCTION pgq_cancel(id bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET lock_timeout = '500ms'
AS $pgq_cancel$
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_waiting pgq_waiting;
    v_running pgq_running;
    v_state text;
BEGIN
    -- Repeat when the job has moved from one table to another between two statements.
    LOOP
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = (
            SELECT o.ctid
            FROM pgq_waiting AS o
            WHERE o.id = pgq_cancel.id
              AND (v_allowed IS NULL OR o.queue = ANY (v_allowed))
            FOR UPDATE SKIP LOCKED)
        RETURNING w.* INTO v_waiting;
        IF FOUND THEN
            PERFORM _pgq_cancel_waiting(v_waiting, v_now);
            RETURN 'cancelled';
        END IF;

        -- The lease is over, and only the next rescue would end the job. The jobs that were lost with it are marked
        -- while it is still there: without it they may look as if lost alone.
        IF EXISTS (
            SELECT
            FROM _pgq_running AS r
            WHERE r.id = pgq_cancel.id
              AND r.lease_until < v_now
              AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        ) THEN
            PERFORM _pgq_unpack(ARRAY(
                SELECT b.token
                FROM pgq_running_batch AS b
                WHERE pgq_cancel.id = ANY (b.ids)
                  AND pgq_cancel.id <> ALL (b.gone)
                  AND b.lease_until < v_now
                FOR UPDATE SKIP LOCKED));
            PERFORM _pgq_mark_lost(ARRAY[id]);
        END IF;
        DELETE FROM pgq_running AS r
        WHERE r.ctid = (
            SELECT o.ctid
            FROM pgq_running AS o
            WHERE o.id = pgq_cancel.id
              AND o.lease_until < v_now
              AND (v_allowed IS NULL OR o.queue = ANY (v_allowed))
            FOR UPDATE SKIP LOCKED)
        RETURNING r.* INTO v_running;
        IF FOUND THEN
            PERFORM _pgq_take_cancel_request(id);
            v_running.newest_error := _pgq_add_error(
                v_running, v_now,
                CASE WHEN v_running.lease_until > v_running.claimed_at THEN 'the lease ran out'
                     ELSE 'the worker is gone'
                END);
            PERFORM _pgq_end(v_running, 'cancelled', v_now, NULL);
            RETURN 'cancelled';
        END IF;

        -- Read without a lock: a transaction may hold the job, and the worker must not wait for the caller's.
        IF EXISTS (
            SELECT
            FROM _pgq_running AS r
            WHERE r.id = pgq_cancel.id
              AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        ) THEN
            PERFORM _pgq_request_cancel(id, v_now);
            -- It may have ended, or gone back to waiting, before the request was there.
            IF EXISTS (SELECT FROM _pgq_running AS r WHERE r.id = pgq_cancel.id) THEN
                RETURN 'requested';
            END IF;
        ELSE
            v_state := _pgq_job_state(id);
            IF v_state = 'waiting' THEN
                PERFORM _pgq_await_waiting(id);
            ELSIF v_state = 'blocked' THEN
                IF _pgq_cancel_one_blocked(id, v_now) THEN
                    RETURN 'cancelled';
                END IF;
            ELSIF v_state <> 'running' THEN
                RAISE EXCEPTION 'job % is % and cannot be cancelled', id, v_state
                    USING ERRCODE = 'PGQ03',
                          HINT = 'Cancel only a job that is waiting, blocked or running.';
            END IF;
        END IF;
    END LOOP;
END
$pgq_cancel$;

COMMENT ON FUNCTION pgq_cancel(bigint) IS
    'Cancel a waiting, blocked or running job. Returns cancelled if the job has ended: it waited, for a worker or for '
    'other jobs, or its lease was over. '
    'Returns requested if it is running: the worker learns of it from pgq_cancel_requested, and the job ends as '
    'cancelled when the worker gives it up, fails, declines, snoozes or releases it, or when its lease ends. If the '
    'worker completes it first, the request lapses. A cancelled job is kept in pgq_ended. Waits for no running job; '
    'for another transaction that has the waiting job locked, or cancels the same job, half a second. Raises PGQ01 if '
    'there is no such job, if it is in a queue that the calling role may not use, or for NULL; PGQ03 for a job that '
    'has ended; 55P03 if that transaction has not ended then.';

CREATE OR REPLACE FUNCTION pgq_retry(id bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_retry$
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_job pgq_ended;
    v_ripe_at timestamptz;
BEGIN
    DELETE FROM pgq_ended AS e
    WHERE e.id = pgq_retry.id
      AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
      AND e.outcome IN ('dead', 'cancelled')
    RETURNING e.* INTO v_job;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is % and cannot be retried', id, _pgq_job_state(id)
            USING ERRCODE = 'PGQ03',
                  HINT = 'Retry only a dead or cancelled job; to make a waiting one ripe at once, enqueue it again '
                         'with on_duplicate => ''soonest''.';
    END IF;

    v_ripe_at := greatest(v_job.ripe_at, v_now);
    PERFORM _pgq_take_cancel_request(id);
    INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (v_job.queue, v_job.kind, 'retried', 1);
    -- It is alive again, for those that wait for it.
    DELETE FROM pgq_need_ended AS n
    WHERE n.ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgq_need_ended AS o WHERE o.id = pgq_retry.id FOR UPDATE SKIP LOCKED));

    -- One pass, unless a worker claims the twin between the two statements, as in _pgq_requeue.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id, signature
        )
        VALUES (
            v_job.id, v_job.queue, v_job.kind, v_job.args, v_job.priority, v_ripe_at, 0, v_job.max_retries,
            coalesce(v_job.backoff, '1 minute'), coalesce(v_job.backoff_cap, '1 hour'), v_job.dedup, v_job.dedup_key,
            v_job.enqueued_at, v_job.context, v_job.losses, v_job.newest_error, v_job.group_key,
            _pgq_place(v_job.queue, v_job.group_key, v_ripe_at <= v_now),
            CASE WHEN v_job.dedup THEN _pgq_signature(v_job.queue, v_job.kind, v_job.args, v_job.dedup_key) END
        )
        ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING;
        IF FOUND THEN
            IF _pgq_is_soon(v_ripe_at, v_now) THEN
                PERFORM _pgq_wake(v_job.queue, (v_ripe_at <= v_now)::integer);
            END IF;
            RETURN 'retry';
        END IF;

        IF _pgq_merge(
            v_job.id, _pgq_signature(v_job.queue, v_job.kind, v_job.args, v_job.dedup_key), v_now, 0, v_job.losses,
            v_job.newest_error
        ) THEN
            INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (v_job.queue, v_job.kind, 'merged', 1);
            RETURN 'merged';
        END IF;
    END LOOP;
END
$pgq_retry$;

COMMENT ON FUNCTION pgq_retry(bigint) IS
    'Put a dead or cancelled job back to waiting: ripe now, or at its ripe_at if that lies ahead, its attempts counted '
    'from the start, its errors kept. Returns retry, or merged if a twin is waiting: the twin takes over the errors, '
    'and keeps its time and its attempts. Raises PGQ01 if there is no such job, if it is in a queue that the calling '
    'role may not use, or for NULL; PGQ03 for a job in another state.';

CREATE FUNCTION pgq_purge(
    older_than interval DEFAULT '30 days',
    outcome text DEFAULT NULL,
    queue text DEFAULT NULL,
    max_jobs bigint DEFAULT 10000,
    kind text DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_purge$
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_purged bigint;
    v_failed bigint[];
    v_not_done bigint[];
BEGIN
    IF older_than IS NULL OR max_jobs IS NULL THEN
        RAISE EXCEPTION 'older_than or max_jobs is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default.';
    END IF;
    IF older_than NOT BETWEEN interval '0' AND interval '100 years' OR max_jobs < 0
       OR outcome NOT IN ('dead', 'cancelled', 'done') THEN
        RAISE EXCEPTION 'cannot purge % jobs older than % with outcome "%"', max_jobs, older_than, left(outcome, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an older_than from 0 to 100 years, a max_jobs of 0 or more, and as outcome dead, '
                         'cancelled, done or NULL.';
    END IF;
    IF queue <> ALL (v_allowed) THEN
        PERFORM _pgq_raise_denied(queue, 'admin');
    END IF;

    WITH old AS (
        SELECT e.id
        FROM pgq_ended AS e
        WHERE e.ended_at <= v_now - older_than
          AND (pgq_purge.outcome IS NULL OR e.outcome = pgq_purge.outcome)
          AND (pgq_purge.queue IS NULL OR e.queue = pgq_purge.queue)
          AND (pgq_purge.kind IS NULL OR e.kind = pgq_purge.kind)
          AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
        ORDER BY e.ended_at
        LIMIT max_jobs
        FOR UPDATE SKIP LOCKED
    ), purged AS (
        DELETE FROM pgq_ended AS e USING old WHERE e.id = old.id RETURNING e.id, e.newest_error, e.outcome
    )
    SELECT count(*), array_agg(p.id) FILTER (WHERE p.newest_error IS NOT NULL),
           array_agg(p.id) FILTER (WHERE p.outcome <> 'done')
    INTO v_purged, v_failed, v_not_done
    FROM purged AS p;
    PERFORM _pgq_settle_purged(v_failed, v_not_done);
    RETURN v_purged;
END
$pgq_purge$;

COMMENT ON FUNCTION pgq_purge(interval, text, text, bigint, text) IS
    'Delete jobs that ended longer ago than older_than, the oldest first, at most max_jobs in one call. Returns how '
    'many. NULL for outcome or kind means any, NULL for queue every queue that the calling role may use; NULL for '
    'older_than or max_jobs raises 22004. Raises 22023 for a bad value, 42501 for a queue that the calling role may '
    'not use.';

CREATE FUNCTION pgq_purge_jobs(ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_purge_jobs$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_purged bigint;
    v_failed bigint[];
    v_not_done bigint[];
BEGIN
    IF ids IS NULL THEN
        RAISE EXCEPTION 'ids is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give an array of the numbers of jobs.';
    END IF;

    -- Locked in the order of their ids, so that two calls do not wait for each other in a circle.
    WITH given AS (
        SELECT e.id
        FROM pgq_ended AS e
        WHERE e.id = ANY (pgq_purge_jobs.ids)
          AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
        ORDER BY e.id
        FOR UPDATE
    ), purged AS (
        DELETE FROM pgq_ended AS e USING given AS g WHERE e.id = g.id RETURNING e.id, e.newest_error, e.outcome
    )
    SELECT count(*), array_agg(p.id) FILTER (WHERE p.newest_error IS NOT NULL),
           array_agg(p.id) FILTER (WHERE p.outcome <> 'done')
    INTO v_purged, v_failed, v_not_done
    FROM purged AS p;
    PERFORM _pgq_settle_purged(v_failed, v_not_done);
    RETURN v_purged;
END
$pgq_purge_jobs$;

COMMENT ON FUNCTION pgq_purge_jobs(bigint[]) IS
    'Delete jobs that have ended, by their numbers, whenever they ended. Returns how many. A number counts for nothing '
    'if its job has not ended, does not exist, or is in a queue that the calling role may not use; so does NULL among '
    'them. Raises 22004 for NULL instead of an array.';

-- The style of intervals is that of the result.
CREATE FUNCTION pgq_configure(queue text, settings jsonb DEFAULT '{}') RETURNS jsonb
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET intervalstyle = 'postgres'
AS $pgq_configure$
DECLARE
    v_before pgq_queue_setting;
    v_setting pgq_queue_setting;
    v_set jsonb;
BEGIN
    PERFORM _pgq_check_queue(queue, true);
    PERFORM _pgq_check_settings(settings);

    IF settings = '{}' THEN
        SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = pgq_configure.queue;
        RETURN coalesce(jsonb_strip_nulls(to_jsonb(v_setting) - 'queue'), '{}');
    END IF;

    -- One session at a time: two that wait for claims, and have changed a row before, would wait for each other.
    LOCK TABLE pgq_queue_setting IN SHARE UPDATE EXCLUSIVE MODE;
    INSERT INTO pgq_queue_setting (queue) VALUES (queue)
    ON CONFLICT ON CONSTRAINT pgq_queue_setting_pkey DO NOTHING;
    SELECT s.* INTO v_before FROM pgq_queue_setting AS s WHERE s.queue = pgq_configure.queue FOR UPDATE;
    v_setting := jsonb_populate_record(v_before, settings);
    v_set := jsonb_strip_nulls(to_jsonb(v_setting) - 'queue');
    PERFORM _pgq_check_setting(v_setting);
    IF v_set = '{}' THEN
        DELETE FROM pgq_queue_setting AS s WHERE s.queue = pgq_configure.queue;
    ELSE
        UPDATE pgq_queue_setting AS s
        SET max_running = v_setting.max_running, max_per_group = v_setting.max_per_group,
            ordered = v_setting.ordered, on_dead = v_setting.on_dead, rate = v_setting.rate, per = v_setting.per,
            burst = v_setting.burst, rate_per_group = v_setting.rate_per_group, max_retries = v_setting.max_retries,
            backoff = v_setting.backoff, backoff_cap = v_setting.backoff_cap, lease = v_setting.lease,
            keep_done = v_setting.keep_done, keep_dead = v_setting.keep_dead,
            keep_cancelled = v_setting.keep_cancelled, sensitive = v_setting.sensitive
        WHERE s.queue = pgq_configure.queue;
    END IF;
    -- Those of all queues are read by the maintenance only, which does not look at the marks.
    IF queue <> '' THEN
        PERFORM _pgq_mark(queue);
    END IF;
    IF (v_setting.rate, v_setting.rate_per_group, v_setting.per, v_setting.burst)
       IS DISTINCT FROM (v_before.rate, v_before.rate_per_group, v_before.per, v_before.burst) THEN
        PERFORM _pgq_change_rate(v_setting, pgq_now());
    END IF;
    IF _pgq_has_limits(v_setting)
       AND (NOT _pgq_has_limits(v_before) OR (v_setting.ordered AND v_before.ordered IS NOT TRUE)) THEN
        PERFORM _pgq_begin_limits(queue);
    ELSIF _pgq_has_limits(v_before) AND NOT _pgq_has_limits(v_setting) THEN
        DELETE FROM pgq_turn AS t WHERE t.queue = pgq_configure.queue;
    END IF;
    IF v_setting.ordered AND v_before.ordered IS NOT TRUE THEN
        -- In an ordered queue, jobs that are not ripe keep the later ones of their group waiting.
        PERFORM _pgq_leave_room(queue, 9223372036854775807, 'infinity');
    END IF;
    RETURN v_set;
END
$pgq_configure$;

COMMENT ON FUNCTION pgq_configure(text, jsonb) IS
    'Set what a queue does otherwise than others. Returns all settings of the queue that are set now, as a JSON '
    'object. settings is an object: a key that is given is set, one that is JSON null is reset, all others stay as '
    'they are; {} only returns the settings. max_running and max_per_group limit how many jobs of the queue, and of '
    'each group, run at a time. ordered true runs the jobs of each group one after the other; on_dead, continue or '
    'stop, says whether a dead one keeps the others back. rate and rate_per_group limit how many jobs start in each '
    'interval per, and burst how many at once. max_retries, backoff and backoff_cap are those of jobs that are '
    'enqueued without, and count from the claim on; lease is that of claims without. keep_done, keep_dead and '
    'keep_cancelled say how long a job is kept after it has ended, before claims delete it; the empty name of a queue '
    'stands for all queues that do not set these themselves, and only these can be set for it, by a role that may use '
    'all queues. Without, a dead or cancelled job is kept for 30 days, and one that is done for 7 days. With '
    'keep_done of its own a queue also keeps jobs that are done without a result, if they are claimed from then on. '
    'sensitive true tells programs that show jobs, such as those of pgq, to leave out what a reader may not see of '
    'the queue, unless an admin asks; pgq_jobs and pgq_schedules show all of it to an admin. Numbers are whole, from '
    '1 on, max_retries from 0 on. Intervals are strings. NULL for queue or settings raises 22004. Raises 22023 for a '
    'bad queue, an unknown key, a value of another JSON type or out of range, and settings that do not belong '
    'together; 22007, 22008, 22003 or 22P02 for a value that PostgreSQL cannot read as an interval or whole number; '
    '42501 for a queue that the calling role may not use; 55P03 if a queue gets its first limit, or becomes ordered, '
    'and other transactions that have claimed jobs stay open for about ten seconds.';

-- With all settings taken together.
CREATE FUNCTION _pgq_check_setting(setting pgq_queue_setting) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_setting$
DECLARE
    v_name text;
    v_value text;
BEGIN
    FOR v_name, v_value IN
        SELECT v.name, v.value
        FROM (VALUES ('max_running', setting.max_running), ('max_per_group', setting.max_per_group),
                     ('rate', setting.rate), ('burst', setting.burst), ('rate_per_group', setting.rate_per_group))
             AS v (name, value)
        WHERE v.value < 1
    LOOP
        RAISE EXCEPTION '% % is out of range', v_name, v_value
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a number from 1 to 2147483647, or null for no limit; pgq_pause stops a queue.';
    END LOOP;
    IF setting.max_retries < 0 THEN
        RAISE EXCEPTION 'max_retries % is out of range', setting.max_retries
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a number from 0, for a single attempt, to 2147483647.';
    END IF;
    FOR v_name, v_value IN
        SELECT v.name, v.value
        FROM (VALUES ('backoff', setting.backoff, interval '0', interval '100 years'),
                     ('backoff_cap', setting.backoff_cap, '0', '100 years'),
                     ('keep_done', setting.keep_done, '0', '100 years'),
                     ('keep_dead', setting.keep_dead, '0', '100 years'),
                     ('keep_cancelled', setting.keep_cancelled, '0', '100 years'),
                     ('lease', setting.lease, '1 microsecond', '1 year'),
                     ('per', setting.per, '1 millisecond', '1 year')) AS v (name, value, shortest, longest)
        WHERE NOT (v.value BETWEEN v.shortest AND v.longest AND _pgq_is_in_range(v.value, pgq_now(), v.longest))
    LOOP
        RAISE EXCEPTION '% % is out of range', v_name, v_value
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval: for lease of more than 0 and at most 1 year, for per from 1 millisecond to '
                         '1 year, for all others from 0 to 100 years.';
    END LOOP;
    IF setting.on_dead NOT IN ('continue', 'stop') THEN
        RAISE EXCEPTION 'on_dead "%" is unknown', left(setting.on_dead, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use continue or stop.';
    END IF;
    IF setting.on_dead IS NOT NULL AND setting.ordered IS NOT TRUE THEN
        RAISE EXCEPTION 'on_dead is set, but the queue is not ordered'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Set ordered to true, too, or reset on_dead with null.';
    END IF;
    IF setting.ordered AND setting.max_per_group > 1 THEN
        RAISE EXCEPTION 'max_per_group is %, but the queue is ordered', setting.max_per_group
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Reset max_per_group with null: of an ordered queue one job of each group runs at a time.';
    END IF;
    IF setting.per IS NULL AND (setting.rate IS NOT NULL OR setting.rate_per_group IS NOT NULL) THEN
        RAISE EXCEPTION 'rate or rate_per_group is set without per'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Set the interval per, too, such as "1 minute".';
    END IF;
    SELECT e.key INTO v_name
    FROM jsonb_each(jsonb_strip_nulls(to_jsonb(setting))) AS e
    WHERE setting.queue = ''
      AND e.key NOT IN ('queue', 'keep_done', 'keep_dead', 'keep_cancelled')
    ORDER BY e.key COLLATE "C"
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% is set for all queues', v_name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name a queue. For all queues only keep_done, keep_dead and keep_cancelled can be set.';
    END IF;
END
$_pgq_check_setting$;

COMMENT ON FUNCTION _pgq_check_setting(pgq_queue_setting) IS
    'Check the settings of a queue. Returns nothing. Raises 22023 for a value out of range, and for values that do not '
    'belong together.';

CREATE FUNCTION _pgq_check_settings(settings jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_settings$
DECLARE
    c_types CONSTANT jsonb := '{
        "max_running": "number", "max_per_group": "number", "ordered": "boolean", "on_dead": "string",
        "rate": "number", "per": "string", "burst": "number", "rate_per_group": "number",
        "max_retries": "number", "backoff": "string", "backoff_cap": "string", "lease": "string",
        "keep_done": "string", "keep_dead": "string", "keep_cancelled": "string", "sensitive": "boolean"
    }';
    v_key text;
    v_type text;
BEGIN
    IF settings IS NULL THEN
        RAISE EXCEPTION 'settings is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass a JSON object, such as {"max_running": 10}, or {} to change nothing.';
    END IF;
    IF jsonb_typeof(settings) <> 'object' THEN
        RAISE EXCEPTION 'settings is not an object but of JSON type %', jsonb_typeof(settings)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass a JSON object, such as {"max_running": 10}, or {} to change nothing.';
    END IF;
    SELECT e.key, c_types ->> e.key INTO v_key, v_type
    FROM jsonb_each(settings) AS e
    WHERE (jsonb_typeof(e.value) IN (c_types ->> e.key, 'null') AND c_types ? e.key) IS NOT TRUE
    ORDER BY e.key COLLATE "C"
    LIMIT 1;
    IF FOUND AND v_type IS NULL THEN
        RAISE EXCEPTION 'setting "%" is unknown', left(v_key, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format(
                      'Use only the keys %s.', (SELECT string_agg(k, ', ') FROM jsonb_object_keys(c_types) AS k));
    ELSIF FOUND THEN
        RAISE EXCEPTION 'setting % is not of JSON type %', v_key, v_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give limits, rates and max_retries as numbers, ordered and sensitive as booleans, and '
                         'intervals as strings.';
    END IF;
END
$_pgq_check_settings$;

COMMENT ON FUNCTION _pgq_check_settings(jsonb) IS
    'Check that an object for pgq_configure has known keys, each of the right JSON type or null. Returns nothing. '
    'Raises 22004 for NULL, 22023 otherwise.';

CREATE FUNCTION _pgq_check_queue(queue text, may_be_all boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_queue$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
BEGIN
    IF queue IS NULL THEN
        RAISE EXCEPTION 'queue is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name a queue.';
    END IF;
    IF NOT _pgq_is_name(queue) AND NOT (queue = '' AND may_be_all) THEN
        RAISE EXCEPTION 'queue "%" is not a name', left(queue, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes without the character U+001F.';
    END IF;
    IF queue <> ALL (v_allowed) THEN
        PERFORM _pgq_raise_denied(queue, 'admin');
    END IF;
END
$_pgq_check_queue$;

COMMENT ON FUNCTION _pgq_check_queue(text, boolean) IS
    'Check the queue that an operator has named; an empty name may stand for all. Returns nothing. Raises 22004 for '
    'NULL, 22023 for a bad name, 42501 for a queue that the calling role may not use as admin.';

CREATE FUNCTION _pgq_check_group(group_key text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_group$
BEGIN
    IF NOT _pgq_is_name(group_key) THEN
        RAISE EXCEPTION 'group_key "%" is not a name', left(group_key, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes without the character U+001F, or NULL for the whole queue.';
    END IF;
END
$_pgq_check_group$;

COMMENT ON FUNCTION _pgq_check_group(text) IS
    'Check the group that an operator has named. Returns nothing. Raises 22023 for a bad name.';

CREATE FUNCTION _pgq_pause_group(queue text, group_key text, until timestamptz, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_pause_group$
BEGIN
    INSERT INTO pgq_paused AS p (queue, group_id, group_key, until, paused_at)
    VALUES (queue, coalesce(_pgq_group_id(group_key), 0), group_key, until, at)
    ON CONFLICT ON CONSTRAINT pgq_paused_pkey DO UPDATE
    SET until = greatest(p.until, excluded.until), paused_at = excluded.paused_at;
    PERFORM _pgq_mark(queue);
END
$_pgq_pause_group$;

COMMENT ON FUNCTION _pgq_pause_group(text, text, timestamptz, timestamptz) IS
    'Pause a group of a queue until a time, or the queue if group_key is NULL. Returns nothing.';

CREATE FUNCTION pgq_pause(queue text, until timestamptz DEFAULT NULL, group_key text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_pause$
DECLARE
    v_now timestamptz := pgq_now();
BEGIN
    PERFORM _pgq_check_queue(queue);
    PERFORM _pgq_check_group(group_key);
    IF until NOT BETWEEN v_now - interval '100 years' AND v_now + interval '100 years' THEN
        RAISE EXCEPTION 'until % is out of range', until
            USING ERRCODE = 'datetime_field_overflow',
                  HINT = 'Give a time within a hundred years of now, or NULL to pause until pgq_resume is called.';
    END IF;

    DELETE FROM pgq_paused AS p
    WHERE p.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM pgq_paused AS o
        WHERE o.queue = pgq_pause.queue AND o.until <= v_now
        LIMIT 100
        FOR UPDATE SKIP LOCKED));
    PERFORM _pgq_pause_group(queue, group_key, coalesce(until, 'infinity'), v_now);
END
$pgq_pause$;

COMMENT ON FUNCTION pgq_pause(text, timestamptz, text) IS
    'Keep jobs of a queue from being claimed until a time. Returns nothing. Running jobs go on, and jobs are enqueued '
    'as before. Of two pauses the one that ends later counts; pgq_resume ends both. With group_key only the jobs of '
    'this group are kept, as after a reply of a service that this group is to wait. NULL for until means until '
    'pgq_resume is called, NULL for group_key the whole queue, and NULL for queue raises 22004. Raises 22023 for a bad '
    'queue or group_key, 22008 for a time out of range, 42501 for a queue that the calling role may not use.';

CREATE FUNCTION pgq_resume(queue text, group_key text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_resume$
DECLARE
    v_until timestamptz;
BEGIN
    PERFORM _pgq_check_queue(queue);
    PERFORM _pgq_check_group(group_key);
    DELETE FROM pgq_paused AS p
    WHERE p.queue = pgq_resume.queue
      AND p.group_id = coalesce(_pgq_group_id(pgq_resume.group_key), 0)
    RETURNING p.until INTO v_until;
    IF v_until > pgq_now() THEN
        -- As many sessions as may have slept for jobs that were kept back.
        PERFORM _pgq_wake(queue, 1000);
        RETURN true;
    END IF;
    RETURN false;
END
$pgq_resume$;

COMMENT ON FUNCTION pgq_resume(text, text) IS
    'End the pause of a queue, or with group_key that of this group, and wake workers. Returns whether it was paused. '
    'A group with a pause of its own stays paused when its queue is resumed. NULL for group_key means the whole queue, '
    'and NULL for queue raises 22004. Raises 22023 for a bad queue or group_key, 42501 for a queue that the calling '
    'role may not use.';

CREATE FUNCTION _pgq_check_schedule(
    name text,
    catch_up text,
    overlap text,
    jitter interval,
    source text,
    at timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_schedule$
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION 'name is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name the schedule; pgq_schedules lists those that there are.';
    END IF;
    IF NOT _pgq_is_name(name) OR NOT _pgq_is_name(source) THEN
        RAISE EXCEPTION 'name or source "%" is not a name',
            left(CASE WHEN _pgq_is_name(name) THEN source ELSE name END, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes without the character U+001F.';
    END IF;
    IF catch_up NOT IN ('one', 'all', 'none') THEN
        RAISE EXCEPTION 'catch_up "%" is unknown', left(catch_up, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use one, all or none.';
    END IF;
    IF overlap NOT IN ('skip', 'allow') THEN
        RAISE EXCEPTION 'overlap "%" is unknown', left(overlap, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use skip or allow.';
    END IF;
    IF catch_up = 'all' AND overlap = 'skip' THEN
        RAISE EXCEPTION 'catch_up is all, but overlap is skip'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass overlap => ''allow'', too: the jobs of slots that are late wait beside each other.';
    END IF;
    IF NOT _pgq_is_in_range(jitter, at, '1 year') THEN
        RAISE EXCEPTION 'jitter % is out of range', jitter
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 1 year.';
    END IF;
END
$_pgq_check_schedule$;

COMMENT ON FUNCTION _pgq_check_schedule(text, text, text, interval, text, timestamptz) IS
    'Check what a schedule has beside its cron expression and its job. Returns nothing. Raises 22004 for a NULL name, '
    '22023 for a bad value.';

-- next_at stays where expression and time zone do: a slot that is due must not be lost to a program that declares its
-- schedules anew at each start.
CREATE FUNCTION pgq_schedule(
    name text,
    cron text,
    kind text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    timezone text DEFAULT 'UTC',
    catch_up text DEFAULT 'one',
    overlap text DEFAULT NULL,
    jitter interval DEFAULT '0',
    priority bigint DEFAULT 5,
    max_retries bigint DEFAULT NULL,
    backoff interval DEFAULT NULL,
    backoff_cap interval DEFAULT NULL,
    group_key text DEFAULT NULL,
    source text DEFAULT NULL
) RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_schedule$
#variable_conflict use_variable
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_problem text[];
    v_next_at timestamptz;
BEGIN
    timezone := coalesce(timezone, 'UTC');
    catch_up := coalesce(catch_up, 'one');
    overlap := coalesce(overlap, CASE catch_up WHEN 'all' THEN 'allow' ELSE 'skip' END);
    jitter := coalesce(jitter, '0');
    priority := coalesce(priority, 5);
    PERFORM _pgq_check_queue(queue);
    PERFORM _pgq_check_schedule(name, catch_up, overlap, jitter, source, v_now);
    v_problem := _pgq_validate(
        kind, args, queue, NULL, NULL, priority, max_retries, backoff, backoff_cap, false, NULL, 'keep', NULL,
        group_key, NULL, v_now);
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = v_problem[1], MESSAGE = v_problem[2], HINT = v_problem[3];
    END IF;
    v_next_at := pgq_cron_next(cron, v_now, timezone);
    IF v_next_at IS NULL THEN
        RAISE EXCEPTION 'cron "%" never fires', left(cron, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an expression that names a day that exists.';
    END IF;

    INSERT INTO pgq_schedule_entry AS e (
        name, cron, timezone, queue, kind, args, priority, max_retries, backoff, backoff_cap, group_key, catch_up,
        overlap, jitter, source, next_at, due_at, set_at
    )
    VALUES (
        name, cron, timezone, queue, kind, args, priority, max_retries, backoff, backoff_cap, group_key, catch_up,
        overlap, jitter, source, v_next_at, v_next_at, v_now
    )
    ON CONFLICT ON CONSTRAINT pgq_schedule_entry_pkey DO UPDATE
    SET cron = excluded.cron, timezone = excluded.timezone, queue = excluded.queue, kind = excluded.kind,
        args = excluded.args, priority = excluded.priority, max_retries = excluded.max_retries,
        backoff = excluded.backoff, backoff_cap = excluded.backoff_cap, group_key = excluded.group_key,
        catch_up = excluded.catch_up, overlap = excluded.overlap, jitter = excluded.jitter, source = excluded.source,
        next_at = CASE WHEN (e.cron, e.timezone) = (excluded.cron, excluded.timezone) THEN e.next_at ELSE v_next_at END,
        due_at = CASE
            WHEN e.paused_at IS NOT NULL THEN 'infinity'
            WHEN (e.cron, e.timezone) = (excluded.cron, excluded.timezone) THEN e.next_at
            ELSE v_next_at
        END,
        set_at = CASE WHEN (e.cron, e.timezone) = (excluded.cron, excluded.timezone) THEN e.set_at ELSE v_now END,
        last_error = NULL, last_error_at = NULL
    WHERE v_allowed IS NULL OR e.queue = ANY (v_allowed)
    RETURNING e.next_at INTO v_next_at;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" may not replace schedule "%"', _pgq_calling_role(), name
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Choose another name: this one belongs to a queue that the role may not use as admin.';
    END IF;
    -- So that the claim that fires a slot need not lock a table for that.
    IF group_key IS NOT NULL THEN
        PERFORM _pgq_mark(queue);
    END IF;
    IF _pgq_is_soon(v_next_at, v_now) THEN
        PERFORM _pgq_wake(queue, 0);
    END IF;
    RETURN v_next_at;
END
$pgq_schedule$;

COMMENT ON FUNCTION pgq_schedule(
    text, text, text, jsonb, text, text, text, text, interval, bigint, bigint, interval, interval, text, text
) IS
    'Enqueue a job each time a cron expression fires on the clocks of a time zone (see pgq_cron_next); such a time is '
    'a slot. A schedule of this name is replaced. Returns the next slot. The next claim or look of any worker fires '
    'what is due, once for each slot; the context of the job has the name as schedule, and the slot. catch_up says '
    'what becomes of slots that no claim has come to: one enqueues a job for the newest, all one for each, oldest '
    'first, none no job if the newest is more than a minute late. overlap skip leaves a slot out while the last job of '
    'the schedule waits or runs; allow does not; NULL means skip, but allow where catch_up is all. jitter delays each '
    'job by a random time up to that. The other arguments are those of pgq_enqueue. source names what has declared the '
    'schedule, such as a module; NULL means that it was made by hand. Where expression and time zone stay, so does the '
    'next slot, and a schedule that is paused stays so. NULL for name, cron, kind, args or queue raises 22004; any '
    'other NULL means the default. Raises 22023 for a bad value, an expression that never fires or an unknown time '
    'zone, 54000 for args of more than 1 MiB as text, 42501 for a queue that the calling role may not use as admin, or '
    'for the name of a schedule for such a queue.';

CREATE FUNCTION pgq_update(
    id bigint,
    args jsonb DEFAULT NULL,
    ripe_at timestamptz DEFAULT NULL,
    priority bigint DEFAULT NULL,
    group_key text DEFAULT NULL
) RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET lock_timeout = '500ms'
AS $pgq_update$
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_problem text[];
    v_job pgq_waiting;
    v_state text;
BEGIN
    v_problem := _pgq_validate(
        'kind', coalesce(args, '{}'), 'queue', ripe_at, NULL, priority, NULL, NULL, NULL, true, NULL, 'keep', NULL,
        nullif(group_key, ''), NULL, v_now);
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = v_problem[1], MESSAGE = v_problem[2], HINT = v_problem[3];
    END IF;

    -- Repeat when the job has been unlocked, or has moved from one table to another between two statements.
    LOOP
        SELECT o.* INTO v_job
        FROM pgq_waiting AS o
        WHERE o.id = pgq_update.id
          AND (v_allowed IS NULL OR o.queue = ANY (v_allowed))
        FOR NO KEY UPDATE SKIP LOCKED;
        EXIT WHEN FOUND;
        v_state := _pgq_job_state(id);
        IF v_state <> 'waiting' THEN
            RAISE EXCEPTION 'job % is % and cannot be updated', id, v_state
                USING ERRCODE = 'PGQ03',
                      HINT = 'Update only a job that waits; retry a dead or cancelled one first.';
        END IF;
        PERFORM _pgq_await_waiting(id);
    END LOOP;
    -- A transaction that has enqueued a duplicate relies on the args.
    IF args IS NOT NULL THEN
        PERFORM _pgq_await_waiting(id);
    END IF;

    -- In another lane, or with another time, a job is ripe now at the earliest: the head of the lane may have passed an
    -- earlier place.
    IF num_nonnulls(ripe_at, priority, group_key) > 0 THEN
        v_job.ripe_at := greatest(coalesce(ripe_at, v_job.ripe_at), v_now);
    END IF;
    v_job.group_key := nullif(coalesce(group_key, v_job.group_key), '');
    IF v_job.group_key IS NOT NULL THEN
        -- Without the lock of producers in an ordered queue, which is for ids that are not known yet: a claim that does
        -- not see the job in its new group has come before the update.
        PERFORM _pgq_mark(v_job.queue);
    END IF;
    v_job.group_id := _pgq_place(v_job.queue, v_job.group_key, v_job.ripe_at <= v_now);
    BEGIN
        UPDATE pgq_waiting AS w
        SET args = coalesce(pgq_update.args, w.args),
            ripe_at = v_job.ripe_at,
            priority = coalesce(pgq_update.priority, w.priority),
            group_key = v_job.group_key,
            group_id = v_job.group_id,
            signature = CASE
                WHEN w.dedup THEN
                    _pgq_signature(w.queue, w.kind, coalesce(pgq_update.args, w.args), w.dedup_key)
            END
        WHERE w.id = pgq_update.id;
    EXCEPTION
        WHEN unique_violation THEN
            RAISE EXCEPTION 'another job is waiting already with the signature that job % would get', id
                USING ERRCODE = 'PGQ04',
                      HINT = 'Cancel one of the two jobs instead.';
        WHEN lock_not_available THEN
            RAISE EXCEPTION 'another transaction has locked job %, or enqueues its twin', id
                USING ERRCODE = 'lock_not_available',
                      HINT = 'Try again when that transaction has ended.';
    END;
    IF _pgq_is_soon(v_job.ripe_at, v_now) THEN
        PERFORM _pgq_wake(v_job.queue, (v_job.ripe_at <= v_now)::integer);
    END IF;
    RETURN v_job.ripe_at;
END
$pgq_update$;

COMMENT ON FUNCTION pgq_update(bigint, jsonb, timestamptz, bigint, text) IS
    'Change a waiting job: its args, ripe_at, priority or group. Returns its ripe_at. A job that gets another ripe_at, '
    'priority or group is ripe now at the earliest, and then comes after the jobs that have been ripe; with other args '
    'alone it keeps its place. Args may change its signature, and with it what is a duplicate of it; a window (see '
    'pgq_enqueue) stays that of the args before. NULL for an argument leaves it as it is, and empty text for group_key '
    'takes the job out of its group. In an ordered queue its place in the new group is that of its id. Waits half a '
    'second for another transaction that has locked the job, or enqueues its twin. Raises PGQ01 if there is no such '
    'job, if it is in a queue that the calling role may not use, or for NULL; PGQ03 for a job that runs or has ended; '
    'PGQ04 if another job is waiting with the signature that it would get; 55P03 if that transaction has not ended; '
    '22023 or 22008 for a bad value, 54000 for args of more than 1 MiB as text.';

-- A schedule for a queue that the role may not use does not exist for it.
CREATE FUNCTION _pgq_lock_schedule(name text) RETURNS pgq_schedule_entry
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_lock_schedule$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_entry pgq_schedule_entry;
BEGIN
    SELECT e.* INTO v_entry
    FROM pgq_schedule_entry AS e
    WHERE e.name = _pgq_lock_schedule.name
      AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no schedule "%"', left(name, 200)
            USING ERRCODE = 'undefined_object',
                  HINT = 'pgq_schedules lists those that the role may use.';
    END IF;
    RETURN v_entry;
END
$_pgq_lock_schedule$;

COMMENT ON FUNCTION _pgq_lock_schedule(text) IS
    'Return a schedule, locked until the end of the transaction. Raises 42704 if there is none that the calling role '
    'may use as admin.';

CREATE FUNCTION pgq_unschedule(name text) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_unschedule$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
BEGIN
    DELETE FROM pgq_schedule_entry AS e
    WHERE e.name = pgq_unschedule.name
      AND (v_allowed IS NULL OR e.queue = ANY (v_allowed));
    RETURN FOUND;
END
$pgq_unschedule$;

COMMENT ON FUNCTION pgq_unschedule(text) IS
    'Remove a schedule. Its jobs stay. Returns whether there was one that the calling role may use as admin; false for '
    'NULL.';

CREATE FUNCTION pgq_pause_schedule(name text) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_pause_schedule$
DECLARE
    v_entry pgq_schedule_entry := _pgq_lock_schedule(name);
BEGIN
    UPDATE pgq_schedule_entry AS e
    SET paused_at = pgq_now(), due_at = 'infinity'
    WHERE e.name = v_entry.name AND e.paused_at IS NULL;
    RETURN FOUND;
END
$pgq_pause_schedule$;

COMMENT ON FUNCTION pgq_pause_schedule(text) IS
    'Let no slot of a schedule be fired until pgq_resume_schedule is called. Its jobs stay. Returns false if it was '
    'paused already. Raises 42704 if there is no such schedule that the calling role may use as admin, or for NULL.';

CREATE FUNCTION pgq_resume_schedule(name text) RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_resume_schedule$
DECLARE
    v_now timestamptz := pgq_now();
    v_entry pgq_schedule_entry := _pgq_lock_schedule(name);
BEGIN
    IF v_entry.paused_at IS NULL THEN
        RETURN v_entry.next_at;
    END IF;
    v_entry.next_at := coalesce(pgq_cron_next(v_entry.cron, v_now, v_entry.timezone), 'infinity');
    UPDATE pgq_schedule_entry AS e
    SET paused_at = NULL, next_at = v_entry.next_at, due_at = v_entry.next_at, set_at = v_now
    WHERE e.name = v_entry.name;
    IF _pgq_is_soon(v_entry.next_at, v_now) THEN
        PERFORM _pgq_wake(v_entry.queue, 0);
    END IF;
    RETURN v_entry.next_at;
END
$pgq_resume_schedule$;

COMMENT ON FUNCTION pgq_resume_schedule(text) IS
    'Let a schedule that is paused go on. The slots of the pause are left out, whatever catch_up is. Returns the next '
    'slot; that of a schedule that is not paused stays as it is. Raises 42704 if there is no such schedule that the '
    'calling role may use as admin, or for NULL.';

CREATE FUNCTION pgq_run_schedule(name text) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_run_schedule$
DECLARE
    v_now timestamptz := pgq_now();
    v_entry pgq_schedule_entry := _pgq_lock_schedule(name);
BEGIN
    v_entry.jitter := '0';
    v_entry.last_job := _pgq_enqueue_scheduled(v_entry, v_now, v_now);
    UPDATE pgq_schedule_entry AS e
    SET last_at = v_now, last_job = v_entry.last_job
    WHERE e.name = v_entry.name;
    RETURN v_entry.last_job;
END
$pgq_run_schedule$;

COMMENT ON FUNCTION pgq_run_schedule(text) IS
    'Enqueue a job of a schedule now, also while it is paused or its last job runs. Its slots stay as they are. '
    'Returns the id of the job; its context has the present as the slot. Raises 42704 if there is no such schedule '
    'that the calling role may use as admin, or for NULL.';

CREATE TYPE _pgq_tally AS (
    queue     text,
    kind      text,
    state     text,
    jobs      bigint,
    ripe      bigint,
    oldest    timestamptz,
    estimated boolean
);

COMMENT ON TYPE _pgq_tally IS 'Number of jobs of a queue and kind in a state.';
COMMENT ON COLUMN _pgq_tally.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN _pgq_tally.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN _pgq_tally.state IS 'State of the jobs, as in pgq_jobs.';
COMMENT ON COLUMN _pgq_tally.jobs IS 'Number of the jobs.';
COMMENT ON COLUMN _pgq_tally.ripe IS 'Number of those that are ripe; 0 unless they wait.';
COMMENT ON COLUMN _pgq_tally.oldest IS 'Least ripe_at of those that are ripe; NULL: none is.';
COMMENT ON COLUMN _pgq_tally.estimated IS 'Whether the numbers are estimates.';

CREATE FUNCTION _pgq_seen_queues() RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_seen_queues$
DECLARE
    v_admin text[] := _pgq_allowed_queues('admin');
    v_reader text[] := _pgq_allowed_queues('reader');
BEGIN
    RETURN CASE WHEN v_admin IS NOT NULL AND v_reader IS NOT NULL THEN v_admin || v_reader END;
END
$_pgq_seen_queues$;

COMMENT ON FUNCTION _pgq_seen_queues() IS
    'Return the queues that the calling role may use as admin or reader; NULL means all.';

-- TABLESAMPLE takes each page with the same probability. REPEATABLE takes the same pages each time, so that a number
-- changes from one reading to the next only where jobs have changed.
CREATE FUNCTION _pgq_sample_percent(table_name regclass) RETURNS real
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN pg_relation_size(table_name) > 1000 * current_setting('block_size')::bigint
            THEN 100 * 500.0 * current_setting('block_size')::bigint / pg_relation_size(table_name)
    END;

COMMENT ON FUNCTION _pgq_sample_percent(regclass) IS
    'Return the percentage of the pages of a table that a sample is to read; NULL: the table is so small that it is '
    'read as a whole.';

CREATE FUNCTION _pgq_queue_between(since text, before text) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_queue_between$
BEGIN
    RETURN least(
        (
            SELECT w.queue COLLATE "C"
            FROM pgq_waiting AS w
            WHERE w.group_id IS NULL AND w.queue COLLATE "C" >= since AND w.queue COLLATE "C" < before
            ORDER BY w.queue COLLATE "C"
            LIMIT 1
        ),
        (
            SELECT w.queue COLLATE "C"
            FROM pgq_waiting AS w
            WHERE w.group_id IS NOT NULL AND w.queue COLLATE "C" >= since AND w.queue COLLATE "C" < before
            ORDER BY w.queue COLLATE "C"
            LIMIT 1
        )
    );
END
$_pgq_queue_between$;

COMMENT ON FUNCTION _pgq_queue_between(text, text) IS
    'Return the first queue, in the order of bytes, in which a job waits, that does not come before one text and comes '
    'before the other; NULL if there is none.';

-- The entries of a queue that was worked off may all be dead, and finding the first live one then takes as long as
-- there are many. Such a queue has a head, or a worker. So the queues that are known are left out of the search, which
-- only looks for queues between them.
CREATE FUNCTION _pgq_queues_to_count(seen text[]) RETURNS SETOF text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_queues_to_count$
DECLARE
    c_most CONSTANT integer := 1000;
    v_since text := '';
    v_known text;
    v_queue text;
    v_found integer := 0;
BEGIN
    IF seen IS NOT NULL THEN
        RETURN QUERY SELECT u.queue FROM unnest(_pgq_distinct(seen)) AS u (queue) LIMIT c_most;
        RETURN;
    END IF;
    -- Names that begin with U+001F are not those of queues; U+0020 follows it.
    FOR v_known IN
        SELECT DISTINCT k.queue COLLATE "C"
        FROM (
            SELECT h.queue FROM pgq_head AS h WHERE h.queue >= ' '
            UNION ALL
            SELECT s.queue FROM pgq_queue_setting AS s WHERE s.queue <> ''
            UNION ALL
            SELECT q.queue COLLATE "C"
            FROM pgq_worker_session AS w
            CROSS JOIN LATERAL unnest(w.queues) AS q (queue)
        ) AS k (queue)
        UNION ALL
        SELECT NULL
        ORDER BY 1 NULLS LAST
    LOOP
        LOOP
            v_queue := CASE
                           WHEN v_known IS NULL THEN _pgq_first_queue(v_since)
                           ELSE _pgq_queue_between(v_since, v_known)
                       END;
            EXIT WHEN v_queue IS NULL;
            RETURN NEXT v_queue;
            v_found := v_found + 1;
            IF v_found >= c_most THEN
                RETURN;
            END IF;
            v_since := v_queue || E'\x01';
        END LOOP;
        IF v_known IS NOT NULL THEN
            RETURN NEXT v_known;
            v_found := v_found + 1;
            v_since := v_known || E'\x01';
        END IF;
    END LOOP;
END
$_pgq_queues_to_count$;

COMMENT ON FUNCTION _pgq_queues_to_count(text[]) IS
    'Return up to 1,000 queues in which jobs may wait, all of them if there are no more, in the order of bytes: those '
    'given, or all if the argument is NULL.';

CREATE FUNCTION pgq_overview_counters() RETURNS TABLE (
    queue text,
    kind text,
    claimed bigint,
    done bigint,
    failed bigint,
    dead bigint,
    cancelled bigint,
    merged bigint,
    retried bigint,
    waited_seconds double precision,
    timed bigint,
    ran_seconds double precision
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET jit = off
AS $pgq_overview_counters$
DECLARE
    v_seen text[] := _pgq_seen_queues();
BEGIN
    RETURN QUERY
    SELECT c.queue, c.kind, c.claimed, c.done, c.failed, c.dead, c.cancelled, c.merged, c.retried, c.waited_seconds,
           c.timed, c.ran_seconds
    FROM _pgq_counters AS c
    WHERE v_seen IS NULL OR c.queue = ANY (v_seen)
    ORDER BY c.queue COLLATE "C", c.kind COLLATE "C";
END
$pgq_overview_counters$;

COMMENT ON FUNCTION pgq_overview_counters() IS
    'Return the counters of the view pgq_counters without enqueued, for which all waiting jobs would have to be '
    'counted. The numbers are exact. While a snapshot is held, a call also reads the rows of the jobs that have run '
    'since. A kind of which no job was ever claimed or cancelled has no row. Returns the '
    'queues that the calling role may use as admin or reader.';

CREATE FUNCTION pgq_overview_ids() RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_overview_ids$
BEGIN
    IF _pgq_seen_queues() IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM pgq_job_id AS s);
END
$pgq_overview_ids$;

COMMENT ON FUNCTION pgq_overview_ids() IS
    'Return the number that was last given to a job. It grows by one for each job that is enqueued, and also for a '
    'duplicate and for an enqueue that is rolled back: so its growth is the most that was enqueued meanwhile, in all '
    'queues. NULL for a role that may not use all queues as admin or reader.';

CREATE FUNCTION _pgq_tally_running(seen text[]) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
AS $_pgq_tally_running$
BEGIN
    RETURN QUERY
    SELECT r.queue, r.kind, 'running', count(*), 0::bigint, NULL::timestamptz, false
    FROM _pgq_running AS r
    WHERE seen IS NULL OR r.queue = ANY (seen)
    GROUP BY r.queue, r.kind;
END
$_pgq_tally_running$;

COMMENT ON FUNCTION _pgq_tally_running(text[]) IS
    'Return the numbers of the running jobs of these queues, of all if the argument is NULL, by queue and kind.';

CREATE FUNCTION _pgq_tally_blocked(seen text[]) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
AS $_pgq_tally_blocked$
DECLARE
    v_percent real := _pgq_sample_percent('pgq_blocked');
BEGIN
    RETURN QUERY
    SELECT b.queue, b.kind, 'blocked', (count(*) * 100 / coalesce(v_percent, 100))::bigint, 0::bigint,
           NULL::timestamptz, v_percent IS NOT NULL
    FROM pgq_blocked AS b TABLESAMPLE SYSTEM (coalesce(v_percent, 100)) REPEATABLE (1)
    WHERE seen IS NULL OR b.queue = ANY (seen)
    GROUP BY b.queue, b.kind;
END
$_pgq_tally_blocked$;

COMMENT ON FUNCTION _pgq_tally_blocked(text[]) IS
    'Return the numbers of the blocked jobs of these queues, of all if the argument is NULL, by queue and kind.';

-- Dead jobs have an index of their own: a sample of millions of jobs that are done could miss all of them.
CREATE FUNCTION _pgq_tally_ended(seen text[]) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
AS $_pgq_tally_ended$
DECLARE
    c_most CONSTANT bigint := 10001;
    v_percent real := _pgq_sample_percent('pgq_ended');
    v_dead _pgq_tally[];
    v_exact boolean;
BEGIN
    IF v_percent IS NOT NULL THEN
        v_dead := ARRAY(
            SELECT ROW(d.queue, d.kind, 'dead', count(*), 0, NULL, false)::_pgq_tally
            FROM (
                SELECT e.queue, e.kind
                FROM pgq_ended AS e
                WHERE e.outcome = 'dead'
                ORDER BY e.ended_at DESC
                LIMIT c_most
            ) AS d
            WHERE seen IS NULL OR d.queue = ANY (seen)
            GROUP BY d.queue, d.kind
        );
        v_exact := (SELECT coalesce(sum(d.jobs), 0) FROM unnest(v_dead) AS d) < c_most;
    END IF;
    RETURN QUERY
    SELECT t.queue, t.kind, t.state, max(t.jobs), 0::bigint, NULL::timestamptz, bool_or(t.estimated)
    FROM (
        SELECT e.queue, e.kind, e.outcome AS state, (count(*) * 100 / coalesce(v_percent, 100))::bigint AS jobs,
               v_percent IS NOT NULL AS estimated
        FROM pgq_ended AS e TABLESAMPLE SYSTEM (coalesce(v_percent, 100)) REPEATABLE (1)
        WHERE (seen IS NULL OR e.queue = ANY (seen))
          AND (v_exact IS NOT TRUE OR e.outcome <> 'dead')
        GROUP BY e.queue, e.kind, e.outcome
        UNION ALL
        SELECT d.queue, d.kind, d.state, d.jobs, NOT v_exact FROM unnest(v_dead) AS d
    ) AS t
    GROUP BY t.queue, t.kind, t.state;
END
$_pgq_tally_ended$;

COMMENT ON FUNCTION _pgq_tally_ended(text[]) IS
    'Return the numbers of the ended jobs of these queues, of all if the argument is NULL, by queue, kind and state.';

CREATE FUNCTION pgq_overview_kinds() RETURNS TABLE (
    queue text,
    kind text,
    waiting bigint,
    ripe bigint,
    blocked bigint,
    running bigint,
    dead bigint,
    cancelled bigint,
    done bigint,
    oldest_ripe_age interval,
    handled boolean,
    estimated boolean
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET jit = off
AS $pgq_overview_kinds$
DECLARE
    v_now timestamptz := pgq_now();
    v_seen text[] := _pgq_seen_queues();
BEGIN
    RETURN QUERY
    WITH present AS MATERIALIZED (
        SELECT w.queues, w.kinds
        FROM pgq_worker_session AS w
        WHERE w.number IN (SELECT p.number FROM _pgq_presence AS p)
    )
    SELECT n.queue, n.kind, n.waiting, n.ripe, n.blocked, n.running, n.dead, n.cancelled, n.done, v_now - n.oldest,
           (
               SELECT CASE
                          WHEN bool_or(n.kind = ANY (p.kinds)) THEN true
                          WHEN bool_or(p.kinds IS NULL) THEN NULL
                          ELSE false
                      END
               FROM present AS p
               WHERE n.queue = ANY (p.queues)
           ),
           n.estimated
    FROM (
        SELECT t.queue, t.kind,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'waiting'), 0)::bigint AS waiting,
               sum(t.ripe)::bigint AS ripe,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'blocked'), 0)::bigint AS blocked,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'running'), 0)::bigint AS running,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'dead'), 0)::bigint AS dead,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'cancelled'), 0)::bigint AS cancelled,
               coalesce(sum(t.jobs) FILTER (WHERE t.state = 'done'), 0)::bigint AS done,
               min(t.oldest) AS oldest, bool_or(t.estimated) AS estimated
        FROM (
            SELECT w.* FROM _pgq_tally_waiting(v_seen, v_now) AS w
            UNION ALL
            SELECT r.* FROM _pgq_tally_running(v_seen) AS r
            UNION ALL
            SELECT b.* FROM _pgq_tally_blocked(v_seen) AS b
            UNION ALL
            SELECT e.* FROM _pgq_tally_ended(v_seen) AS e
        ) AS t
        GROUP BY t.queue, t.kind
    ) AS n
    ORDER BY n.queue COLLATE "C", n.kind COLLATE "C";
END
$pgq_overview_kinds$;

COMMENT ON FUNCTION pgq_overview_kinds() IS
    'Return the numbers of jobs by queue and kind like the view pgq_stats, for displays that read them every few '
    'seconds: the time that a call takes does not grow with the number of jobs that wait or have ended. While a '
    'snapshot is held, it also reads the rows of the jobs that have run since, a million of them in about a tenth of '
    'a second. A table of up to 1,000 pages is counted as a whole; otherwise up to 10,000 waiting jobs of each queue, '
    'and 10,000 dead ones, are counted. What there is beyond is estimated from a sample, which may miss kinds with '
    'few jobs, and estimated is true in the rows that have such a number. oldest_ripe_age is how long the first ripe '
    'job has been ripe, and NULL if none is; in a row with estimates it is that of the jobs that were read. handled '
    'is NULL if no present worker is known to have a handler for the kind and one of them does not tell its kinds. '
    'Returns the queues that the calling role may use as admin or reader.';

-- From the heads on, so that the dead entries before them are not read. A job before the head of its lane, which no
-- claim has found yet either, is missing: the numbers are estimates then. The jobs of groups have no common head.
CREATE FUNCTION _pgq_tally_queue(queue text, most bigint, at timestamptz) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_tally_queue$
DECLARE
    v_lanes _pgq_lane_head[] := (_pgq_shared_head(queue, at)).lanes;
BEGIN
    RETURN QUERY
    SELECT _pgq_tally_queue.queue, j.kind, 'waiting', count(*), count(*) FILTER (WHERE j.ripe_at <= at),
           min(j.ripe_at) FILTER (WHERE j.ripe_at <= at), coalesce(v_lanes <> '{}', false)
    FROM (
        SELECT first.kind, first.ripe_at
        FROM generate_series(0, 9) AS p (priority)
        LEFT JOIN LATERAL unnest(v_lanes) AS known USING (priority)
        CROSS JOIN LATERAL (
            SELECT w.kind, w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_tally_queue.queue COLLATE "C"
              AND w.group_id IS NULL
              AND w.priority = p.priority
              AND (w.ripe_at, w.id) > (_pgq_lane_start(known.next_ripe_us), coalesce(known.next_id, 0))
            ORDER BY w.ripe_at, w.id
            LIMIT most
        ) AS first
        UNION ALL
        (
            SELECT w.kind, w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = _pgq_tally_queue.queue COLLATE "C" AND w.group_id IS NOT NULL
            ORDER BY w.group_id, w.priority, w.ripe_at, w.id
            LIMIT most
        )
    ) AS j
    GROUP BY j.kind;
END
$_pgq_tally_queue$;

COMMENT ON FUNCTION _pgq_tally_queue(text, bigint, timestamptz) IS
    'Return the numbers of the waiting jobs of a queue, by kind; of each lane, and of all groups, up to so many of the '
    'first jobs.';

-- Queues of which the sample has nothing come first: these are small, and their numbers are exact.
CREATE FUNCTION _pgq_tally_waiting(seen text[], at timestamptz) RETURNS SETOF _pgq_tally
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET jit = off
AS $_pgq_tally_waiting$
DECLARE
    c_most CONSTANT bigint := 10001;
    c_few CONSTANT bigint := 100;
    v_left bigint := 100000;
    v_percent real := _pgq_sample_percent('pgq_waiting');
    v_sample _pgq_tally[];
    v_queue record;
    v_most bigint;
    v_counted _pgq_tally[];
    v_jobs bigint;
    v_done text[] := '{}';
BEGIN
    v_sample := ARRAY(
        SELECT ROW(w.queue, w.kind, 'waiting', count(*) * 100 / coalesce(v_percent, 100),
                   count(*) FILTER (WHERE w.ripe_at <= at) * 100 / coalesce(v_percent, 100),
                   min(w.ripe_at) FILTER (WHERE w.ripe_at <= at), v_percent IS NOT NULL)::_pgq_tally
        FROM pgq_waiting AS w TABLESAMPLE SYSTEM (coalesce(v_percent, 100)) REPEATABLE (1)
        WHERE seen IS NULL OR w.queue = ANY (seen)
        GROUP BY w.queue, w.kind
    );
    IF v_percent IS NULL THEN
        RETURN QUERY SELECT s.* FROM unnest(v_sample) AS s;
        RETURN;
    END IF;

    FOR v_queue IN
        SELECT q.name, coalesce(s.jobs, 0) AS jobs
        FROM _pgq_queues_to_count(seen) AS q (name)
        LEFT JOIN (
            SELECT u.queue, sum(u.jobs) AS jobs FROM unnest(v_sample) AS u GROUP BY u.queue
        ) AS s ON s.queue = q.name
        ORDER BY s.jobs NULLS FIRST
    LOOP
        v_most := CASE WHEN v_left > 0 AND v_queue.jobs <= 2 * c_most THEN c_most ELSE c_few END;
        v_counted := ARRAY(SELECT t FROM _pgq_tally_queue(v_queue.name, v_most, at) AS t);
        v_jobs := (SELECT coalesce(sum(t.jobs), 0) FROM unnest(v_counted) AS t);
        v_left := v_left - v_jobs;
        IF v_jobs < v_most THEN
            RETURN QUERY SELECT t.* FROM unnest(v_counted) AS t;
            v_done := v_done || v_queue.name;
        ELSE
            v_sample := v_sample || v_counted;
        END IF;
    END LOOP;

    RETURN QUERY
    SELECT s.queue, s.kind, 'waiting', max(s.jobs), max(s.ripe), min(s.oldest), true
    FROM unnest(v_sample) AS s
    WHERE s.queue <> ALL (v_done)
    GROUP BY s.queue, s.kind;
END
$_pgq_tally_waiting$;

COMMENT ON FUNCTION _pgq_tally_waiting(text[], timestamptz) IS
    'Return the numbers of the waiting jobs of these queues, of all if the argument is NULL, by queue and kind.';

-- The size of a window follows the time that the last one took: gaps are crossed in large steps.
CREATE FUNCTION _pgq_next_window(size bigint, took interval) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN took < interval '1 ms' THEN least(2 * size, 100000)
        WHEN took > interval '5 ms' THEN greatest(size / 2, 500)
        ELSE size
    END;

COMMENT ON FUNCTION _pgq_next_window(bigint, interval) IS
    'Return how many numbers of jobs the next window of a search has, after one of this size that took so long.';

-- An expression, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_has_text(contains text, args jsonb, dedup_key text, group_key text) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN strpos(args::text, contains) > 0 OR strpos(coalesce(dedup_key, ''), contains) > 0
           OR strpos(coalesce(group_key, ''), contains) > 0;

COMMENT ON FUNCTION _pgq_has_text(text, jsonb, text, text) IS
    'Return whether the private columns of a job contain a text.';

-- Packed batches have no index by job, so all of them are read: as many as workers have claimed.
CREATE FUNCTION pgq_find_jobs(
    state text DEFAULT NULL,
    queue text DEFAULT NULL,
    kind text DEFAULT NULL,
    contains text DEFAULT NULL,
    before bigint DEFAULT NULL,
    max_jobs bigint DEFAULT 50,
    OUT ids bigint[],
    OUT next_before bigint
)
    LANGUAGE plpgsql
    STABLE
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_find_jobs$
DECLARE
    v_reads text[] := _pgq_allowed_queues('admin');
    v_sees text[] := _pgq_seen_queues();
    v_sensitive text[] := ARRAY(SELECT s.queue FROM pgq_queue_setting AS s WHERE s.sensitive);
    v_begun_at timestamptz := clock_timestamp();
    v_window_at timestamptz := v_begun_at;
    v_until bigint := least(before, coalesce(pg_sequence_last_value('pgq_job_id'), 0) + 1);
    v_from bigint;
    v_size bigint := 1000;
    v_packed bigint[] := '{}';
    v_found bigint[];
BEGIN
    IF max_jobs IS NULL THEN
        RAISE EXCEPTION 'max_jobs is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default.';
    END IF;
    IF max_jobs NOT BETWEEN 0 AND 1000
       OR state NOT IN ('waiting', 'blocked', 'running', 'done', 'dead', 'cancelled') THEN
        RAISE EXCEPTION 'cannot find % jobs with state "%"', max_jobs, left(state, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a max_jobs from 0 to 1000, and as state waiting, blocked, running, done, dead, cancelled '
                         'or NULL.';
    END IF;

    IF state = 'running' OR state IS NULL THEN
        v_packed := ARRAY(
            SELECT j.id
            FROM _pgq_packed AS j
            WHERE (before IS NULL OR j.id < before)
              AND (pgq_find_jobs.queue IS NULL OR j.queue = pgq_find_jobs.queue)
              AND (pgq_find_jobs.kind IS NULL OR j.kind = pgq_find_jobs.kind)
              AND (v_sees IS NULL OR j.queue = ANY (v_sees))
              AND (contains IS NULL OR strpos(j.kind, contains) > 0
                   OR (v_reads IS NULL OR j.queue = ANY (v_reads)) AND j.queue <> ALL (v_sensitive)
                      AND _pgq_has_text(contains, j.args, j.dedup_key, j.group_key))
            ORDER BY j.id DESC
            LIMIT max_jobs);
    END IF;
    ids := '{}';
    LOOP
        v_from := greatest(v_until - v_size, 0);
        v_found := ARRAY(
            SELECT j.id
            FROM (
                SELECT id, pgq_waiting.queue, pgq_waiting.kind, args, dedup_key, group_key
                FROM pgq_waiting
                WHERE (pgq_find_jobs.state = 'waiting' OR pgq_find_jobs.state IS NULL) AND id >= v_from AND id < v_until
                UNION ALL
                SELECT id, pgq_blocked.queue, pgq_blocked.kind, args, dedup_key, group_key
                FROM pgq_blocked
                WHERE (pgq_find_jobs.state = 'blocked' OR pgq_find_jobs.state IS NULL) AND id >= v_from AND id < v_until
                UNION ALL
                SELECT id, pgq_running.queue, pgq_running.kind, args, dedup_key, group_key
                FROM pgq_running
                WHERE (pgq_find_jobs.state = 'running' OR pgq_find_jobs.state IS NULL) AND id >= v_from AND id < v_until
                UNION ALL
                SELECT id, pgq_ended.queue, pgq_ended.kind, args, dedup_key, group_key
                FROM pgq_ended
                WHERE (outcome = pgq_find_jobs.state OR pgq_find_jobs.state IS NULL) AND id >= v_from AND id < v_until
            ) AS j
            WHERE (pgq_find_jobs.queue IS NULL OR j.queue = pgq_find_jobs.queue)
              AND (pgq_find_jobs.kind IS NULL OR j.kind = pgq_find_jobs.kind)
              AND (v_sees IS NULL OR j.queue = ANY (v_sees))
              AND (contains IS NULL OR strpos(j.kind, contains) > 0
                   OR (v_reads IS NULL OR j.queue = ANY (v_reads)) AND j.queue <> ALL (v_sensitive)
                      AND _pgq_has_text(contains, j.args, j.dedup_key, j.group_key))
            ORDER BY j.id DESC
            LIMIT max_jobs - cardinality(ids));
        ids := ids || v_found;
        EXIT WHEN v_from = 0 OR cardinality(ids) >= max_jobs;
        v_until := v_from;
        IF clock_timestamp() > v_begun_at + interval '40 ms' THEN
            next_before := v_until;
            EXIT;
        END IF;
        v_size := _pgq_next_window(v_size, clock_timestamp() - v_window_at);
        v_window_at := clock_timestamp();
    END LOOP;

    ids := ARRAY(
        SELECT f.id
        FROM unnest(ids || v_packed) AS f (id)
        WHERE next_before IS NULL OR f.id >= next_before
        ORDER BY f.id DESC
        LIMIT max_jobs);
    IF cardinality(ids) = max_jobs THEN
        next_before := ids[max_jobs::integer];
    END IF;
END
$pgq_find_jobs$;

COMMENT ON FUNCTION pgq_find_jobs(text, text, text, text, bigint, bigint) IS
    'Find the newest jobs that match, within about 50 milliseconds, however many jobs there are. Returns their '
    'numbers, at most max_jobs, the newest first, and next_before: not NULL if there may be more, which a call with '
    'this value as before finds; jobs from that number on have been searched. contains is text that is in the kind '
    'or, in a queue of which the role is an admin and that is not sensitive, in the JSON text of args, in dedup_key '
    'or in group_key, with capital letters as given. NULL for any argument but max_jobs means any, and NULL for '
    'before the newest job. A role finds jobs in the queues that it may use as admin or reader. Raises 22004 for a '
    'NULL max_jobs, 22023 for a bad max_jobs or state.';

CREATE FUNCTION pgq_overview_queues() RETURNS TABLE (
    queue text,
    paused boolean,
    paused_until timestamptz,
    paused_groups bigint,
    running bigint,
    max_running integer,
    at_limit boolean,
    groups_at_limit bigint,
    next_start_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET jit = off
AS $pgq_overview_queues$
DECLARE
    c_most CONSTANT integer := 1000;
    v_now timestamptz := pgq_now();
    v_seen text[] := _pgq_seen_queues();
BEGIN
    RETURN QUERY
    SELECT q.queue, p.queue IS NOT NULL, nullif(p.until, 'infinity'), cardinality(g.paused)::bigint, c.running,
           s.max_running, coalesce(c.running >= s.max_running, false),
           (
               SELECT count(*)
               FROM unnest(c.capped, c.free) AS f (group_id, free)
               WHERE f.free = 0 AND f.group_id <> ALL (g.paused)
           ),
           nullif(
               greatest(v_now, _pgq_all_spent(s, 0, v_now) - _pgq_span(coalesce(s.burst, 1) - 1, s.rate, s.per)), v_now)
    FROM (
        SELECT k.queue COLLATE "default" AS queue
        FROM (
            SELECT o.queue FROM pgq_queue_setting AS o WHERE o.queue <> ''
            UNION
            SELECT o.queue FROM pgq_paused AS o WHERE o.until > v_now
        ) AS k
        WHERE v_seen IS NULL OR k.queue = ANY (v_seen)
        ORDER BY k.queue
        LIMIT c_most
    ) AS q
    LEFT JOIN pgq_queue_setting AS s ON s.queue = q.queue COLLATE "C"
    LEFT JOIN pgq_paused AS p ON p.queue = q.queue COLLATE "C" AND p.group_id = 0 AND p.until > v_now
    CROSS JOIN LATERAL (
        SELECT ARRAY(
                   SELECT o.group_id
                   FROM pgq_paused AS o
                   WHERE o.queue = q.queue COLLATE "C" AND o.group_id <> 0 AND o.until > v_now) AS paused
    ) AS g
    LEFT JOIN LATERAL (
        SELECT n.running, n.capped, n.free
        FROM _pgq_caps(q.queue, s, (_pgq_turn(q.queue)).oldest, v_now) AS n
        WHERE num_nonnulls(s.max_running, _pgq_cap(s)) > 0
    ) AS c ON true
    ORDER BY q.queue COLLATE "C";
END
$pgq_overview_queues$;

COMMENT ON FUNCTION pgq_overview_queues() IS
    'Return the queues that have settings or are paused, with what keeps their jobs from starting, like the view '
    'pgq_queues, without counting all jobs. running is the number of running jobs that the limits of the queue count, '
    'and NULL without such a limit. at_limit: as many run as max_running allows. groups_at_limit: the number of groups '
    'that are not paused, and of which as many jobs run as the settings allow; paused_groups: of those that are paused '
    'by themselves. next_start_at: when the rate lets the next job start; NULL: now, or there is no rate. paused_until '
    'is NULL for a pause that has no end. Returns up to 1,000 queues that the calling role may use as admin or reader.';

-- The first entry of each lane, from its head on. Of the jobs of groups, 10,000 are read; the last range of the index is
-- the waiting room, whose jobs are not ripe.
CREATE FUNCTION _pgq_longest_ripe(queue text, at timestamptz) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_longest_ripe$
DECLARE
    c_most CONSTANT bigint := 10000;
    v_lanes _pgq_lane_head[];
BEGIN
    IF _pgq_sample_percent('pgq_waiting') IS NOT NULL THEN
        v_lanes := (_pgq_shared_head(queue, at)).lanes;
    END IF;
    RETURN (
        SELECT j.id
        FROM (
            SELECT first.id, first.ripe_at
            FROM generate_series(0, 9) AS p (priority)
            LEFT JOIN LATERAL unnest(v_lanes) AS known USING (priority)
            CROSS JOIN LATERAL (
                SELECT w.id, w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_longest_ripe.queue COLLATE "C"
                  AND w.group_id IS NULL
                  AND w.priority = p.priority
                  AND (w.ripe_at, w.id) > (_pgq_lane_start(known.next_ripe_us), coalesce(known.next_id, 0))
                ORDER BY w.ripe_at, w.id
                LIMIT 1
            ) AS first
            UNION ALL
            (
                SELECT w.id, w.ripe_at
                FROM pgq_waiting AS w
                WHERE w.queue = _pgq_longest_ripe.queue COLLATE "C" AND w.group_id IS NOT NULL
                ORDER BY w.group_id, w.priority, w.ripe_at, w.id
                LIMIT c_most
            )
        ) AS j
        WHERE j.ripe_at <= at
        ORDER BY j.ripe_at, j.id
        LIMIT 1
    );
END
$_pgq_longest_ripe$;

COMMENT ON FUNCTION _pgq_longest_ripe(text, timestamptz) IS
    'Return the number of the job of a queue that has been ripe for longest, as far as the heads of its lanes and its '
    'first 10,000 jobs with groups tell; NULL: none is ripe.';

-- The queues are looked up before the query: a scan of an empty table would not call _pgq_seen_queues, which refuses. And
-- a session keeps a plan that was made for an empty table.
CREATE FUNCTION pgq_overview_waits() RETURNS TABLE (
    id bigint,
    queue text,
    kind text,
    priority integer,
    attempt integer,
    ripe_at timestamptz,
    age interval
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
AS $pgq_overview_waits$
DECLARE
    v_now timestamptz := pgq_now();
    v_seen text[] := _pgq_seen_queues();
BEGIN
    RETURN QUERY
    SELECT w.id, w.queue, w.kind, w.priority::integer, w.attempt, w.ripe_at, v_now - w.ripe_at
    FROM pgq_waiting AS w
    WHERE w.id = ANY (ARRAY(
        SELECT _pgq_longest_ripe(q.name, v_now)
        FROM _pgq_queues_to_count(v_seen) AS q (name)
    ))
    ORDER BY w.ripe_at, w.id
    LIMIT 100;
END
$pgq_overview_waits$;

COMMENT ON FUNCTION pgq_overview_waits() IS
    'Return for each queue the job that has been ripe for longest, and for how long (age), the longest first; of up to '
    '100 queues. It waits because no worker is free, none handles it, or its queue is paused or full. Of the jobs with '
    'groups, the first 10,000 of each queue are read; a job that claims have not found yet is missing. Returns the '
    'queues that the calling role may use as admin or reader.';

CREATE FUNCTION pgq_overview_deaths(since interval DEFAULT NULL) RETURNS TABLE (
    queue text,
    kind text,
    error text,
    jobs bigint,
    newest_job bigint,
    newest_at timestamptz,
    oldest_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET jit = off
AS $pgq_overview_deaths$
DECLARE
    c_read CONSTANT integer := 10000;
    c_most CONSTANT integer := 1000;
    v_since timestamptz := coalesce(pgq_now() - since, '-infinity');
    v_seen text[] := _pgq_seen_queues();
    v_reads text[] := _pgq_allowed_queues('admin');
BEGIN
    RETURN QUERY
    SELECT j.queue, j.kind, j.error, count(*), (array_agg(j.id ORDER BY j.ended_at DESC, j.id DESC))[1],
           max(j.ended_at), min(j.ended_at)
    FROM (
        SELECT d.id, d.queue, d.kind, d.ended_at,
               -- The newest error; a client may have begun it with an empty line.
               (
                   SELECT left(split_part(
                              translate(ltrim(f.error, E' \t\r\n'), E'\r', E'\n'), E'\n', 1), 200)
                   FROM pgq_error AS f
                   WHERE f.id = d.id
                     AND (v_reads IS NULL OR d.queue = ANY (v_reads))
                     AND (SELECT q.sensitive FROM pgq_queue_setting AS q WHERE q.queue = d.queue COLLATE "C") IS NOT TRUE
                   ORDER BY f.number DESC
                   LIMIT 1
               ) AS error
        FROM (
            SELECT e.id, e.queue, e.kind, e.ended_at
            FROM pgq_ended AS e
            WHERE e.outcome = 'dead' AND e.ended_at > v_since
            ORDER BY e.ended_at DESC
            LIMIT c_read
        ) AS d
        WHERE v_seen IS NULL OR d.queue = ANY (v_seen)
        ORDER BY d.ended_at DESC
        LIMIT c_most
    ) AS j
    GROUP BY j.queue, j.kind, j.error
    ORDER BY count(*) DESC, max(j.ended_at) DESC, j.queue, j.kind, j.error;
END
$pgq_overview_deaths$;

COMMENT ON FUNCTION pgq_overview_deaths(interval) IS
    'Return why jobs died: the number of the newest 1,000 dead jobs by queue, kind and error, the most frequent first, '
    'with the number of the newest of them, and the times at which the newest and the oldest ended. With since, only '
    'jobs that ended within this time; NULL: whenever. error is the first line of the newest error of a job, at most '
    '200 characters; NULL: the job has none, its queue is sensitive, or the calling role is not an admin of the queue. '
    'For a role with allowed queues, the newest 1,000 of its queues among the newest 10,000 of all. Returns the queues '
    'that the calling role may use as admin or reader.';

CREATE FUNCTION _pgq_granted_functions(privilege text) RETURNS text[]
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE privilege
        WHEN 'producer' THEN ARRAY['pgq_enqueue', 'pgq_enqueue_many', 'pgq_enqueue_batch', 'pgq_batch_progress',
                                   'pgq_result', 'pgq_await', 'pgq_signal', 'pgq_signal_key']
        WHEN 'worker' THEN ARRAY['pgq_claim', 'pgq_claim_batch', 'pgq_register', 'pgq_unregister', 'pgq_reconcile',
                                 'pgq_remaining', 'pgq_idle', 'pgq_hold', 'pgq_hold_many', 'pgq_complete',
                                 'pgq_complete_many', 'pgq_fail', 'pgq_cancel_requested', 'pgq_cancel_claimed',
                                 'pgq_extend', 'pgq_snooze', 'pgq_release', 'pgq_decline', 'pgq_ripe_in',
                                 'pgq_queues_to_serve', 'pgq_save', 'pgq_wait_signal', 'pgq_add_to_batch',
                                 'pgq_batch_progress']
        WHEN 'admin' THEN ARRAY['pgq_cancel', 'pgq_retry', 'pgq_purge', 'pgq_purge_jobs', 'pgq_configure', 'pgq_pause',
                                'pgq_resume', 'pgq_schedule', 'pgq_unschedule', 'pgq_pause_schedule', 'pgq_resume_schedule',
                                'pgq_run_schedule', 'pgq_update', 'pgq_batch_progress', 'pgq_result', 'pgq_await',
                                'pgq_now', 'pgq_signal', 'pgq_signal_key', 'pgq_overview_kinds',
                                'pgq_overview_counters', 'pgq_overview_ids', 'pgq_overview_queues',
                                'pgq_overview_waits', 'pgq_overview_deaths', 'pgq_find_jobs']
        WHEN 'reader' THEN ARRAY['pgq_now', 'pgq_overview_kinds', 'pgq_overview_counters', 'pgq_overview_ids',
                                 'pgq_overview_queues', 'pgq_overview_waits', 'pgq_overview_deaths', 'pgq_find_jobs']
    END || ARRAY['pgq_backoff', 'pgq_cron_next', 'pgq_version'];

COMMENT ON FUNCTION _pgq_granted_functions(text) IS
    'Return the names of the functions that a producer, worker, admin or reader may execute. The first one tells '
    'pgq_grant whether a role still has the privilege.';

CREATE FUNCTION _pgq_check_grant(role text, privilege text, queues text[]) RETURNS regrole
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_grant$
DECLARE
    v_role regrole := (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = role);
    v_queue text;
BEGIN
    IF role IS NULL OR privilege IS NULL THEN
        RAISE EXCEPTION 'role or privilege is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name a database role, and producer, worker, admin or reader.';
    END IF;
    IF privilege NOT IN ('producer', 'worker', 'admin', 'reader') THEN
        RAISE EXCEPTION 'privilege "%" is unknown', left(privilege, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use producer, worker, admin or reader.';
    END IF;
    IF v_role IS NULL THEN
        RAISE EXCEPTION 'there is no role "%"', left(role, 200)
            USING ERRCODE = 'undefined_object',
                  HINT = 'Create it first; names are case-sensitive here and take no quotes.';
    END IF;
    IF cardinality(queues) = 0 THEN
        RAISE EXCEPTION 'queues is empty'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name at least one queue, or leave the argument out for all of them.';
    END IF;
    FOREACH v_queue IN ARRAY coalesce(queues, '{}') LOOP
        IF v_queue IS NULL THEN
            RAISE EXCEPTION 'one of the queues is null'
                USING ERRCODE = 'null_value_not_allowed',
                      HINT = 'Name each queue, or leave the argument out for all of them.';
        END IF;
        IF NOT _pgq_is_name(v_queue) THEN
            RAISE EXCEPTION 'queue "%" is not a name', left(v_queue, 200)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Use 1 to 200 bytes without the character U+001F.';
        END IF;
    END LOOP;
    RETURN v_role;
END
$_pgq_check_grant$;

COMMENT ON FUNCTION _pgq_check_grant(text, text, text[]) IS
    'Check the arguments of pgq_grant and pgq_revoke. Returns the role. Raises 22004 for a NULL role, privilege or '
    'element of queues; 22023 for an unknown privilege, an empty array or a bad queue name; 42704 for an unknown role.';

-- This and its counterpart are the only dynamic SQL of pgq, because GRANT and REVOKE take no parameters. They run with
-- the rights of the caller, so they give away nothing that the caller could not grant by hand.
CREATE FUNCTION _pgq_grant_privileges(role regrole, privilege text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_grant_privileges$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_function text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', c_schema, role);
    FOREACH v_function IN ARRAY _pgq_granted_functions(privilege) LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %I.%I TO %s', c_schema, v_function, role);
    END LOOP;
    IF privilege = 'admin' THEN
        EXECUTE format('GRANT SELECT ON %1$I.pgq_jobs, %1$I.pgq_schedules TO %2$s', c_schema, role);
    ELSIF privilege = 'reader' THEN
        EXECUTE format(
            'GRANT SELECT (id, state, queue, kind, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, '
            'dedup, enqueued_at, worker, claimed_at, lease_until, ended_at, losses, cancel_requested_at, after, '
            'waits_for_signal, sensitive) '
            'ON %I.pgq_jobs TO %s', c_schema, role);
        EXECUTE format(
            'GRANT SELECT (name, cron, timezone, queue, kind, priority, max_retries, backoff, backoff_cap, catch_up, '
            'overlap, jitter, source, paused, next_at, last_at, last_job, last_error_at, missed, sensitive) '
            'ON %I.pgq_schedules TO %s', c_schema, role);
    END IF;
    IF privilege IN ('admin', 'reader') THEN
        EXECUTE format(
            'GRANT SELECT ON %1$I.pgq_stats, %1$I.pgq_workers, %1$I.pgq_queues, %1$I.pgq_counters, '
            '%1$I.pgq_batches, %1$I.pgq_needs TO %2$s', c_schema, role);
    END IF;
END
$_pgq_grant_privileges$;

COMMENT ON FUNCTION _pgq_grant_privileges(regrole, text) IS
    'Grant a role the functions and views of a producer, worker, admin or reader. Returns nothing.';

CREATE FUNCTION _pgq_revoke_privileges(role regrole, privilege text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_revoke_privileges$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY _pgq_granted_functions(privilege) LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %I.%I FROM %s', c_schema, v_function, role);
    END LOOP;
    IF privilege IN ('admin', 'reader') THEN
        EXECUTE format(
            'REVOKE SELECT ON %1$I.pgq_jobs, %1$I.pgq_stats, %1$I.pgq_workers, %1$I.pgq_queues, '
            '%1$I.pgq_schedules, %1$I.pgq_counters, %1$I.pgq_batches, %1$I.pgq_needs '
            'FROM %2$s', c_schema, role);
    END IF;
END
$_pgq_revoke_privileges$;

COMMENT ON FUNCTION _pgq_revoke_privileges(regrole, text) IS
    'Revoke the functions and views of a producer, worker, admin or reader from a role. Returns nothing.';

CREATE FUNCTION pgq_grant(role text, privilege text, queues text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $pgq_grant$
DECLARE
    v_role regrole := _pgq_check_grant(role, privilege, queues);
BEGIN
    -- Where every role may create functions in this schema, a planted one can be a better match for a call in pgq's
    -- functions than the one that is meant.
    IF has_schema_privilege('public', current_schema(), 'CREATE') THEN
        RAISE EXCEPTION 'every role may create objects in the schema "%"', current_schema()
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Run REVOKE CREATE ON SCHEMA %I FROM PUBLIC first: objects planted there could act '
                                'with the rights of the owner of pgq.', current_schema());
    END IF;

    -- Forget roles that were dropped, and what this role was granted before it lost its privileges by hand or by DROP
    -- OWNED: it must not come back.
    DELETE FROM pgq_permission AS p
    WHERE p.role NOT IN (SELECT r.oid FROM pg_roles AS r)
       OR p.role = v_role
          AND p.privilege = pgq_grant.privilege
          AND NOT EXISTS (
              SELECT
              FROM pg_proc AS f
              CROSS JOIN LATERAL aclexplode(f.proacl) AS a
              WHERE f.oid = (_pgq_granted_functions(p.privilege))[1]::regproc
                AND a.grantee = p.role
          );

    INSERT INTO pgq_permission AS p (privilege, role, queues)
    VALUES (privilege, v_role, queues)
    ON CONFLICT ON CONSTRAINT pgq_permission_pkey DO UPDATE
    SET queues = CASE WHEN p.queues IS NOT NULL AND excluded.queues IS NOT NULL THEN
                     p.queues || ARRAY(SELECT q FROM unnest(excluded.queues) AS q WHERE q <> ALL (p.queues))
                 END;
    PERFORM _pgq_grant_privileges(v_role, privilege);
END
$pgq_grant$;

COMMENT ON FUNCTION pgq_grant(text, text, text[]) IS
    'Grant a role a privilege: producer (enqueue, and read results), worker (claim, and all calls for claimed jobs), '
    'admin (cancel, retry, update, purge, configure, pause, and read all of the views) or reader (read the views, but '
    'no args, dedup_key, errors, result, context or group_key). Returns nothing. The role may use these queues, beside '
    'those it was granted before; for it, jobs in other queues do not exist. What counts in a call is the role of SET '
    'ROLE or else of the session, with the roles it inherits from; the owner of a function that calls pgq does not '
    'count. Only the owner of pgq may call it. NULL for queues means all; NULL for role, privilege or one of the '
    'queues raises 22004. Raises 42704 for an unknown role, 22023 for an unknown privilege or a bad queue, 55000 where '
    'every role may create objects in the schema.';

CREATE FUNCTION pgq_revoke(role text, privilege text, queues text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $pgq_revoke$
DECLARE
    v_role regrole := _pgq_check_grant(role, privilege, queues);
    v_permission pgq_permission;
    v_left text[];
BEGIN
    IF queues IS NOT NULL THEN
        SELECT p.* INTO v_permission
        FROM pgq_permission AS p
        WHERE p.privilege = pgq_revoke.privilege
          AND p.role = v_role
        FOR UPDATE;

        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF v_permission.queues IS NULL THEN
            RAISE EXCEPTION 'role "%" may use all queues as %', role, privilege
                USING ERRCODE = 'PGQ03',
                      HINT = 'In one transaction, call pgq_revoke without queues, then pgq_grant with the others.';
        END IF;
        v_left := ARRAY(SELECT q FROM unnest(v_permission.queues) AS q WHERE q <> ALL (pgq_revoke.queues));
        IF v_left <> '{}' THEN
            UPDATE pgq_permission AS p
            SET queues = v_left
            WHERE p.privilege = pgq_revoke.privilege
              AND p.role = v_role;
            RETURN;
        END IF;
    END IF;

    DELETE FROM pgq_permission AS p WHERE p.privilege = pgq_revoke.privilege AND p.role = v_role;
    PERFORM _pgq_revoke_privileges(v_role, privilege);
    -- Privileges that the role still has may share functions and views with this one: grant those again.
    PERFORM _pgq_grant_privileges(v_role, p.privilege) FROM pgq_permission AS p WHERE p.role = v_role;
END
$pgq_revoke$;

COMMENT ON FUNCTION pgq_revoke(text, text, text[]) IS
    'Take a privilege back from a role, in these queues. Returns nothing, and does nothing if there is nothing to '
    'take. USAGE of the schema stays, and so does what the role inherits from others. Only the owner of pgq may call '
    'it. NULL for queues means all; NULL for role, privilege or one of the queues raises 22004. Raises PGQ03 if queues '
    'are given but the role may use all, 42704 and 22023 as pgq_grant.';

REVOKE ALL ON TABLE
    pgq_running_batch,
    pgq_head,
    pgq_turn,
    pgq_uncounted,
    pgq_rate,
    pgq_blocked,
    pgq_need,
    pgq_need_ended,
    pgq_batch,
    pgq_cancel_request,
    pgq_error,
    pgq_saved,
    pgq_job_signal,
    pgq_signal_wait,
    pgq_merged,
    pgq_queue_setting,
    pgq_paused,
    pgq_schedule_entry,
    pgq_seen,
    pgq_count,
    _pgq_packed,
    _pgq_running,
    _pgq_visible_queues,
    pgq_jobs,
    pgq_workers,
    pgq_stats,
    pgq_queues,
    pgq_schedules,
    _pgq_counters,
    pgq_counters,
    pgq_batches,
    pgq_needs
FROM PUBLIC;


REVOKE ALL ON TYPE
    _pgq_cron,
    _pgq_lane_head,
    _pgq_tally
FROM PUBLIC;


REVOKE ALL ON SEQUENCE
    pgq_mark,
    pgq_needed,
    pgq_awaited,
    pgq_turn_0,
    pgq_turn_1,
    pgq_turn_2,
    pgq_turn_3,
    pgq_turn_4,
    pgq_turn_5,
    pgq_turn_6,
    pgq_turn_7
FROM PUBLIC;


REVOKE ALL ON FUNCTION
    _pgq_calling_role,
    _pgq_acts_as_owner,
    _pgq_refuse_in_maintenance,
    _pgq_allowed_queues,
    _pgq_raise_denied,
    _pgq_is_name,
    _pgq_group_id,
    _pgq_is_in_range,
    _pgq_mark_of,
    _pgq_marks_of,
    _pgq_marks,
    _pgq_mark,
    _pgq_raise_cron,
    _pgq_cron_set,
    _pgq_parse_cron,
    _pgq_cron_days,
    _pgq_cron_next_wall,
    _pgq_wall,
    _pgq_clock_change,
    _pgq_cron_next_fixed,
    _pgq_cron_next_passing,
    _pgq_check_timezone,
    pgq_cron_next,
    _pgq_is_plain,
    _pgq_unpack,
    _pgq_unpack_jobs,
    _pgq_room,
    _pgq_order_key,
    _pgq_is_ordered,
    _pgq_enter_group,
    _pgq_enter_groups,
    _pgq_place,
    _pgq_is_common,
    _pgq_is_valid,
    _pgq_validate,
    pgq_enqueue,
    _pgq_resolve_duplicate,
    _pgq_check_after,
    _pgq_prerequisites,
    _pgq_named_queues,
    _pgq_blocked_signature,
    _pgq_enqueue_cancelled,
    _pgq_enter_needs,
    _pgq_enqueue_after,
    _pgq_check_references,
    _pgq_refuse_duplicate,
    _pgq_enqueue_graph,
    _pgq_named_ids,
    _pgq_enqueue_blocked,
    _pgq_count_added,
    pgq_enqueue_batch,
    pgq_add_to_batch,
    _pgq_delete_batches,
    pgq_batch_progress,
    _pgq_update_duplicates,
    _pgq_resolve_duplicates,
    _pgq_check_jobs,
    _pgq_raise_invalid,
    _pgq_parse_jobs,
    _pgq_enqueue_once,
    _pgq_draw_ids,
    _pgq_enqueue_each,
    _pgq_with_defaults,
    _pgq_set_defaults,
    _pgq_resumes_at,
    _pgq_is_usual_claim,
    _pgq_check_claim,
    _pgq_distinct,
    _pgq_is_long_scan,
    _pgq_rescan_delay,
    _pgq_entries_read,
    _pgq_lane_start,
    _pgq_head_setting,
    _pgq_save_head,
    _pgq_shared_head,
    _pgq_replace_head,
    _pgq_share_head,
    _pgq_share_scan,
    _pgq_share_lanes,
    _pgq_try_scan,
    _pgq_await_head,
    _pgq_is_kept,
    _pgq_may_scan,
    _pgq_load_head,
    _pgq_load_heads,
    _pgq_bare_setting,
    _pgq_is_bare,
    _pgq_digest,
    _pgq_lanes_reached,
    _pgq_taken_from,
    _pgq_move_heads,
    _pgq_move_token,
    _pgq_skip_lost_tokens,
    _pgq_lock_in_many,
    _pgq_drop_empty,
    _pgq_has_limits,
    _pgq_cap,
    _pgq_await_queue,
    _pgq_lock_queue,
    _pgq_caps,
    _pgq_free,
    _pgq_await_claims,
    _pgq_lock_settings,
    _pgq_begin_limits,
    _pgq_check_snapshot,
    _pgq_look_at_queues,
    _pgq_turn,
    _pgq_end_turn,
    _pgq_groups_in_turn,
    _pgq_groups_setting,
    _pgq_known_groups,
    _pgq_keep_groups,
    _pgq_groups_between,
    _pgq_look_for_groups,
    _pgq_groups_of_list,
    _pgq_find_groups,
    _pgq_turn_sequence,
    _pgq_turn_value,
    _pgq_reserved_turn,
    _pgq_reserve_groups,
    _pgq_return_turn,
    _pgq_lock_next,
    _pgq_lock_firsts,
    _pgq_first_jobs,
    _pgq_group_head,
    _pgq_tuples_read,
    _pgq_move_group_heads,
    _pgq_lock_in_groups,
    _pgq_lock_shares,
    _pgq_has_waiting,
    _pgq_lock_in_turn,
    _pgq_await_order,
    _pgq_lock_heads,
    _pgq_rate_steps,
    _pgq_span,
    _pgq_may_start,
    _pgq_known_spent,
    _pgq_all_spent,
    _pgq_change_rate,
    _pgq_room_of,
    _pgq_spend,
    _pgq_leave_room,
    _pgq_lock_in_turns,
    _pgq_move_in_turn,
    _pgq_group_ripe_at,
    _pgq_grouped_ripe_at,
    _pgq_turn_at,
    _pgq_cut,
    _pgq_lock_ripe,
    _pgq_lock_marked,
    pgq_claim,
    pgq_claim_batch,
    _pgq_raise_lease_lost,
    _pgq_check_pairs,
    _pgq_end,
    _pgq_add_error,
    _pgq_delete_beside,
    _pgq_merge_errors,
    _pgq_merge,
    _pgq_keep_place,
    _pgq_requeue,
    _pgq_record_failure,
    pgq_hold_many,
    _pgq_keep_done,
    pgq_complete,
    _pgq_complete_packed,
    _pgq_complete_held,
    pgq_backoff,
    pgq_cancel_claimed,
    pgq_snooze,
    _pgq_saved,
    _pgq_saved_texts,
    _pgq_hand_over,
    pgq_save,
    _pgq_wait_class,
    _pgq_enter_wait,
    _pgq_survivor,
    _pgq_wake_waiting,
    _pgq_note_merge,
    _pgq_hand_over_signals,
    _pgq_settle_signals,
    _pgq_delete_lost_signals,
    _pgq_check_signal,
    pgq_signal,
    pgq_signal_key,
    pgq_wait_signal,
    pgq_decline,
    _pgq_count_loss,
    _pgq_mark_lost,
    _pgq_request_cancel,
    _pgq_await_waiting,
    _pgq_take_cancel_request,
    _pgq_cancel_waiting,
    pgq_cancel_requested,
    _pgq_settle_cancel_requests,
    _pgq_has_needs,
    _pgq_unblock,
    _pgq_cancel_blocked,
    _pgq_cancelled_with,
    _pgq_settle_needs,
    _pgq_settle_ends,
    _pgq_settle_purged,
    _pgq_is_needed,
    _pgq_hand_over_needs,
    _pgq_settle_over,
    _pgq_settle_notes,
    _pgq_settle_singly,
    _pgq_needs_setting,
    _pgq_look_at_needs,
    _pgq_reset_needed,
    _pgq_settle_blocked,
    _pgq_channel,
    _pgq_slot_key,
    _pgq_is_soon,
    _pgq_wake_sleepers,
    _pgq_wake,
    _pgq_may_start_next,
    _pgq_wake_next,
    _pgq_wake_places,
    pgq_register,
    pgq_unregister,
    pgq_reconcile,
    _pgq_expire_leases,
    _pgq_workers_reconnect,
    _pgq_sweep_workers,
    _pgq_is_timed,
    _pgq_count_batch,
    _pgq_total_time,
    _pgq_fold_counts,
    _pgq_late_slots,
    _pgq_enqueue_scheduled,
    _pgq_fire,
    _pgq_fire_due,
    _pgq_mend_schedules,
    _pgq_fire_schedules,
    _pgq_kept_setting,
    _pgq_keep_lanes,
    _pgq_is_old,
    _pgq_delete_old,
    _pgq_delete_seen,
    _pgq_maintain,
    pgq_remaining,
    _pgq_sleep_in_slot,
    pgq_idle,
    _pgq_next_slot,
    pgq_ripe_in,
    _pgq_first_queue,
    pgq_queues_to_serve,
    _pgq_end_channel,
    _pgq_is_awaited,
    _pgq_notify_ends,
    _pgq_tell_end,
    _pgq_tell_ends,
    _pgq_settle_awaited,
    pgq_await,
    pgq_result,
    _pgq_job_state,
    _pgq_cancel_one_blocked,
    pgq_cancel,
    pgq_purge,
    pgq_purge_jobs,
    _pgq_check_setting,
    _pgq_check_settings,
    _pgq_check_queue,
    pgq_configure,
    _pgq_check_group,
    _pgq_pause_group,
    pgq_pause,
    pgq_resume,
    _pgq_check_schedule,
    pgq_schedule,
    _pgq_lock_schedule,
    pgq_unschedule,
    pgq_pause_schedule,
    pgq_resume_schedule,
    pgq_run_schedule,
    pgq_update,
    _pgq_seen_queues,
    _pgq_sample_percent,
    _pgq_queue_between,
    _pgq_queues_to_count,
    _pgq_tally_queue,
    _pgq_tally_waiting,
    _pgq_tally_running,
    _pgq_tally_blocked,
    _pgq_tally_ended,
    pgq_overview_kinds,
    pgq_overview_counters,
    pgq_overview_ids,
    pgq_overview_queues,
    _pgq_longest_ripe,
    pgq_overview_waits,
    pgq_overview_deaths,
    _pgq_next_window,
    _pgq_has_text,
    pgq_find_jobs,
    _pgq_granted_functions,
    _pgq_check_grant,
    _pgq_grant_privileges,
    _pgq_revoke_privileges,
    pgq_grant,
    pgq_revoke
FROM PUBLIC;


-- Give back the privileges that were noted before the drops.
--
-- What a script of an extension grants, PostgreSQL takes for a part of the extension, and pg_dump leaves it out. There a
-- deferred trigger grants, at the end of the transaction, when the script is over. Its table goes with the transaction,
-- its function with the session; neither becomes a part of the extension.
DO $upgrade_privileges_restore$
DECLARE
    c_grants CONSTANT text := current_setting('pgq.upgrade_grants');
    c_name CONSTANT text := 'pgq_upgrade_to_@TO@';
BEGIN
    IF c_grants = '' THEN
        RETURN;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = 'pgq_waiting'::regclass AND d.deptype = 'e'
    ) THEN
        EXECUTE format('DO %L', 'BEGIN ' || c_grants || ' END');
        RETURN;
    END IF;

    IF NOT has_database_privilege(current_database(), 'TEMPORARY') THEN
        RAISE EXCEPTION 'role "%" may not create temporary tables in the database "%"', current_user, current_database()
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Call GRANT TEMPORARY ON DATABASE %I TO %I first; the upgrade of an extension needs it.',
                                current_database(), current_user);
    END IF;
    EXECUTE format('CREATE TEMPORARY TABLE %I () ON COMMIT DROP', c_name);
    EXECUTE format(
        'CREATE FUNCTION pg_temp.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS %L',
        c_name, 'BEGIN ' || c_grants || ' RETURN NULL; END');
    EXECUTE format('CREATE CONSTRAINT TRIGGER grants AFTER INSERT ON pg_temp.%1$I DEFERRABLE INITIALLY DEFERRED '
                   'FOR EACH ROW EXECUTE FUNCTION pg_temp.%1$I()', c_name);
    EXECUTE format('ALTER EXTENSION pgq DROP FUNCTION pg_temp.%I()', c_name);
    EXECUTE format('ALTER EXTENSION pgq DROP TABLE pg_temp.%I', c_name);
    EXECUTE format('INSERT INTO pg_temp.%I DEFAULT VALUES', c_name);
END
$upgrade_privileges_restore$;

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
