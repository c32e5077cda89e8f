-- Enqueue one job, in the caller's transaction.
--
-- In each transaction PostgreSQL prepares every expression of a PL/pgSQL function anew that is evaluated, and every
-- statement anew that is executed. That is most of what a call costs, so the usual one evaluates few and short ones.

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
