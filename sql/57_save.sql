-- Save something with a running job, for its next attempt.

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
