-- The signature: what makes two jobs twins.

-- The generated column pgq_waiting.signature calls this function. A body that returns another value would leave the
-- stored signatures of waiting jobs as they are, and their twins would no longer be found.
--
-- The separators make the text unambiguous, because _pgq_validate refuses them in queue and kind; the letters a and k
-- keep a key from being mistaken for args. The queue is part of it so that no role can suppress the jobs of a queue by
-- planting their twins in another one.
--
-- In PL/pgSQL, because PostgreSQL parses and inlines an SQL function of a generated column anew for each statement,
-- which takes as long as the rest of an INSERT. A search path of its own would cost each call more than it computes, so
-- the body names the schema of all that it uses: a column is also computed under the path of the caller, such as that
-- of pg_restore.
CREATE FUNCTION _pgq_signature(queue text, kind text, args jsonb, dedup_key text) RETURNS uuid
    LANGUAGE plpgsql
    IMMUTABLE
AS $_pgq_signature$
BEGIN
    RETURN pg_catalog.md5(
        queue OPERATOR(pg_catalog.||) E'\x1f' OPERATOR(pg_catalog.||) kind OPERATOR(pg_catalog.||) coalesce(
            E'\x1fk' OPERATOR(pg_catalog.||) dedup_key,
            E'\x1fa' OPERATOR(pg_catalog.||) args::pg_catalog.text)
    )::pg_catalog.uuid;
END
$_pgq_signature$;

COMMENT ON FUNCTION _pgq_signature(text, text, jsonb, text) IS
    'Return what makes two jobs twins: the MD5 over queue, kind and dedup_key, or over queue, kind and args if '
    'dedup_key is NULL.';
