-- The value that a call returns to a role, 'denied', or the SQLSTATE of its error. The exception undoes what the call did.
CREATE FUNCTION pg_temp.result(role text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_result text;
BEGIN
    PERFORM set_config('role', role, true);
    EXECUTE call INTO v_result;
    RAISE EXCEPTION USING ERRCODE = 'TAP01', MESSAGE = coalesce(v_result, 'null');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_result = MESSAGE_TEXT;
    RETURN CASE WHEN SQLSTATE = 'TAP01' THEN v_result
                WHEN SQLSTATE = '42501' AND v_result ~ '^permission denied for ' THEN 'denied'
                ELSE SQLSTATE
           END;
END
$$;
