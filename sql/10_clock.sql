-- The clock and the version.

CREATE FUNCTION pgq_now() RETURNS timestamptz
    LANGUAGE sql
    VOLATILE
    RETURN clock_timestamp();

COMMENT ON FUNCTION pgq_now() IS
    'Return the current time of the server. The times of jobs, leases and workers all come from this function, so a '
    'test kit can replace its body to set the time.';


CREATE FUNCTION pgq_version() RETURNS text
    LANGUAGE sql
    IMMUTABLE
    RETURN '@VERSION@';

COMMENT ON FUNCTION pgq_version() IS
    'Return the version of the installed SQL, such as 0.3.0.';
