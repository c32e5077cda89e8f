-- What each privilege consists of: the functions and views that a producer, worker, admin or reader may use.

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
