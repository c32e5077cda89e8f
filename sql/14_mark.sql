-- Marks: how a call knows, at the cost of a few expressions, that a queue is like most others.
--
-- A queue is marked when it gets settings, is paused, or gets a job with a group. A call for a queue that is not marked
-- looks for none of these. Each queue has one of 64 bits, by a hash of its name, in the value of a sequence. So another
-- queue may happen to be marked with it: that costs look-ups, and changes nothing else.
--
-- A sequence, because a value that is set there is seen by all sessions at once, and no rollback takes it back. So the
-- mark is there before what it announces is committed. It is on disk when that is.

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
