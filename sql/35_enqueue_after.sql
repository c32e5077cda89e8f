-- Enqueue a job that is to run after others.

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
