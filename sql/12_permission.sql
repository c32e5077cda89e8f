-- Who may use which queues.
--
-- EXECUTE is the first gate: PostgreSQL itself keeps out who was granted nothing. The second is the row that pgq_grant
-- writes beside it, and it is for the functions to ask, because they act with the rights of the owner and see all queues.
--
-- Whom a function acts for is what the session says: the role of SET ROLE, or else the one it was opened for. A role
-- between the two, the owner of a SECURITY DEFINER function that calls pgq, cannot be told from inside, so it lends
-- nobody its queues. Membership counts as PostgreSQL counts it: that of a role that inherits.

-- By oid, because a role that is renamed keeps its rights and one that is dropped and made again does not get them back.
CREATE TABLE pgq_permission (
    what   text    NOT NULL,
    role   regrole NOT NULL,
    queues text[],

    CONSTRAINT pgq_permission_pkey PRIMARY KEY (what, role),

    CONSTRAINT pgq_permission_what_check CHECK (what IN ('producer', 'worker', 'admin', 'reader'))
);

COMMENT ON TABLE pgq_permission IS 'Which queues a role may use, beside its privileges; written by pgq_grant and pgq_revoke.';
COMMENT ON COLUMN pgq_permission.what IS 'As what: producer, worker, admin or reader.';
COMMENT ON COLUMN pgq_permission.role IS 'The role; its members, too, if they inherit.';
COMMENT ON COLUMN pgq_permission.queues IS 'The queues; NULL: all.';


CREATE FUNCTION _pgq_caller() RETURNS name
    LANGUAGE sql
    STABLE
    RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;

COMMENT ON FUNCTION _pgq_caller() IS
    'The role that a function which acts with the rights of the owner is acting for.';


-- Asked once in each call, so that a filter by queue is as dear for many jobs as for one.
--
-- In an index expression or a materialized view PostgreSQL lets the owner of the table act in a session of whoever
-- analyzes, reindexes or refreshes it, autovacuum included; in such a place, and nowhere else, it refuses UNLISTEN.
CREATE FUNCTION _pgq_limit(what text) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_limit$
DECLARE
    v_queues text[];
    v_limit text[] := '{}';
BEGIN
    UNLISTEN pgq_nothing;

    IF pg_has_role(_pgq_caller(), current_user, 'USAGE') THEN
        RETURN NULL;
    END IF;
    FOR v_queues IN
        SELECT p.queues
        FROM pgq_permission AS p
        WHERE p.what = _pgq_limit.what
          AND pg_has_role(_pgq_caller(), p.role::oid, 'USAGE')
    LOOP
        IF v_queues IS NULL THEN
            RETURN NULL;
        END IF;
        v_limit := v_limit || v_queues;
    END LOOP;
    RETURN v_limit;
END
$_pgq_limit$;

COMMENT ON FUNCTION _pgq_limit(text) IS
    'The queues that the caller is limited to as a producer, worker, admin or reader; NULL: he may use all.';


-- To be called before anything is looked up or locked: the answer must not depend on what there is.
CREATE FUNCTION _pgq_refuse(queue text, what text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_refuse$
BEGIN
    RAISE EXCEPTION 'role "%" may not use queue "%" as %', _pgq_caller(), left(queue, 200), what
        USING ERRCODE = 'insufficient_privilege',
              HINT = format('The owner of pgq can change that: SELECT pgq_grant(%L, %L, ARRAY[%L]).',
                            _pgq_caller(), what, left(queue, 200));
END
$_pgq_refuse$;

COMMENT ON FUNCTION _pgq_refuse(text, text) IS
    'Raise 42501: the caller may not use the queue as a producer, worker or admin.';
