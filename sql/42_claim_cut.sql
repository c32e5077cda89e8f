-- How a claim ends at its limits of bytes and suspects.

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
