-- The tokens of claims, which grow with the clock.

-- A token is the next value of a sequence, which is moved where it is more than a second behind the clock. The section
-- "Tokens and leases" of docs/design.md says why no two claims of a job get the same token.
--
-- The lock keeps two sessions from moving the sequence at once, one of them back. Any role can take it and keep it, so
-- no session waits for it. A move is a second or more: while the session is between its two statements, others would
-- have to draw a million values to meet it. A long move is on disk when the claim has committed, so that a crash sets
-- the sequence back by less than a minute. The limit is in the year 2255; the sequence ends soon after.
CREATE FUNCTION _pgq_move_token(to_us bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_move_token$
DECLARE
    c_class CONSTANT integer := 'pgq_token'::regclass::oid::integer;
    v_token bigint;
BEGIN
    IF NOT pg_try_advisory_lock(c_class, 0) THEN
        RETURN nextval('pgq_token');
    END IF;
    v_token := nextval('pgq_token');
    IF v_token < to_us - 1000000 AND to_us < 9007000000000000 THEN
        IF v_token < to_us - 30000000 AND current_setting('synchronous_commit') = 'off' THEN
            PERFORM set_config('synchronous_commit', 'local', true);
        END IF;
        v_token := setval('pgq_token', to_us);
    END IF;
    PERFORM pg_advisory_unlock(c_class, 0);
    RETURN v_token;
END
$_pgq_move_token$;

COMMENT ON FUNCTION _pgq_move_token(bigint) IS
    'Move the sequence of tokens to a time in microseconds since 1970, if it is more than a second behind and no other '
    'session moves it. Returns the next token.';


-- After a crash the sequence may repeat the values of claims that were not yet on disk. A commit waits for the WAL
-- writer for three times its delay at most, which is 30 seconds if that is set to the longest. The row of the queue
-- U+001F says that these values have been skipped: pgq_head is unlogged, so a crash empties it. All sessions are new
-- then, and the first claim of each session looks for the row. Its due tells _pgq_workers_reconnect how long no worker
-- counts as gone.
CREATE FUNCTION _pgq_skip_lost_tokens(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_skip_lost_tokens$
DECLARE
    v_target bigint;
BEGIN
    IF EXISTS (SELECT FROM pgq_head AS h WHERE h.queue = E'\x1f') THEN
        RETURN;
    END IF;
    FOR v_try IN 1..20 LOOP
        v_target := greatest(nextval('pgq_token'), _pgq_microseconds(at)) + 60000000;
        IF _pgq_move_token(v_target) >= v_target THEN
            INSERT INTO pgq_head VALUES (E'\x1f', clock_timestamp() + interval '5 seconds', '0', '{}');
            RETURN;
        END IF;
        PERFORM pg_sleep(0.001);
    END LOOP;
END
$_pgq_skip_lost_tokens$;

COMMENT ON FUNCTION _pgq_skip_lost_tokens(timestamptz) IS
    'If the server has crashed since this function was last called, move the sequence of tokens on by a minute, past '
    'the tokens of claims that the crash has undone. Returns nothing.';
