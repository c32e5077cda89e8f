-- What the duplicates in an array do to the jobs that are already waiting.
--
-- Twins are changed and locked in the order of their signatures, so that a call may wait for another one, but two calls
-- do not deadlock; they may only if a worker claims a twin meanwhile, because its duplicate is then inserted after the
-- locks on others. A subquery that locks is never turned into a join, so each twin is looked up in the index of
-- signatures, whatever the statistics say about a table that is empty one minute and full the next.

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
