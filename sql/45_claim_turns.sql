-- Which queues are claimed from in turn, and whose turn it is.
--
-- A group is a range of the index pgq_waiting_group; jobs without a group are the group 0. A claim goes round the
-- groups of a queue, from the one after that which was served last, and takes a share of each. So a group with many
-- jobs does not keep the others waiting.

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
