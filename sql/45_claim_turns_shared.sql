-- Whose turn it is, for claims that run side by side.
--
-- A claim without the lock of its queue reserves the groups that it visits before it takes a job from them: it moves
-- the turn of the queue past them, and the claims at the same time begin after them. The turn is the value of a
-- sequence, because a value that is set there is seen by all sessions at once. A claim that rolls back has used the
-- turns of its groups.
--
-- The queues share eight sequences, by a hash of the name, and fifteen bits of a value tell which queue it belongs to.
-- A queue that finds the value of another one goes by its row in pgq_turn, which its claims write then: its groups take
-- turns, but claims at the same time may visit the same ones.

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
