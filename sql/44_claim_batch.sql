-- Settle a batch and claim the next one in one call, whose result is one row of arrays.
--
-- A worker that runs jobs in batches makes this call only, again and again: one round trip and one commit for a batch.
-- Drivers decode a few arrays faster than many rows of many columns.

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
