-- The clock and the version.

CREATE FUNCTION pgq_now() RETURNS timestamptz
    LANGUAGE sql
    VOLATILE
    RETURN clock_timestamp();

COMMENT ON FUNCTION pgq_now() IS
    'The clock that every function of pgq reads: the server''s own. A test kit may swap the body to travel in time.';


CREATE FUNCTION pgq_version() RETURNS text
    LANGUAGE sql
    IMMUTABLE
    RETURN '@VERSION@';

COMMENT ON FUNCTION pgq_version() IS
    'The version of the installed SQL.';
