-- The calling role: that of the session or of SET ROLE, with what it inherits; never the owner of a function in
-- between.
BEGIN;
SELECT plan(42);

SELECT format('CREATE ROLE tap_%s %s', role, options) FROM (VALUES
    ('a', ''), ('b', ''), ('group', ''), ('all', ''), ('nobody', ''), ('heir', 'INHERIT'), ('both', 'INHERIT'), ('rich', 'INHERIT'),
    ('poor', 'NOINHERIT'), ('proud', 'NOINHERIT'), ('deputy', 'INHERIT'), ('waiter', 'NOINHERIT'), ('two', '')) AS r (role, options) \gexec
SELECT pgq_grant('tap_' || role, 'producer', queues) FROM (VALUES
    ('a', '{a}'::text[]), ('b', '{b}'), ('group', '{g}'), ('all', NULL), ('both', '{a}'), ('rich', '{a}'), ('proud', '{a}'), ('waiter', '{a}')) AS g (role, queues);
SELECT pgq_grant('tap_two', 'producer', '{a}'), pgq_grant('tap_two', 'worker', '{b}');
GRANT tap_group TO tap_heir, tap_both, tap_poor, tap_proud;
GRANT tap_all TO tap_rich;
GRANT tap_nobody TO tap_a;
SELECT format('GRANT %I TO tap_deputy, tap_waiter', current_user) \gexec
SELECT format('GRANT USAGE ON SCHEMA %I TO tap_nobody', current_schema()) \gexec

-- Functions of one role that other roles call.
CREATE SCHEMA tap_app;
GRANT USAGE ON SCHEMA tap_app TO PUBLIC;
CREATE FUNCTION tap_app.by_a(queue text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN (SELECT e.created FROM pgq_enqueue('k', queue => by_a.queue) AS e); END $$;
CREATE FUNCTION tap_app.by_owner(queue text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN (SELECT e.created FROM pgq_enqueue('k', queue => by_owner.queue) AS e); END $$;
ALTER FUNCTION tap_app.by_a(text) OWNER TO tap_a;

CREATE FUNCTION pg_temp.result(session text, role text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_result text;
BEGIN
    PERFORM set_config('session_authorization', session, true);
    PERFORM set_config('role', role, true);
    EXECUTE call INTO v_result;
    RAISE EXCEPTION USING ERRCODE = 'TAP01', MESSAGE = v_result;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_result = MESSAGE_TEXT;
    RETURN CASE WHEN SQLSTATE = 'TAP01' THEN v_result
                WHEN SQLSTATE = '42501' AND v_result ~ '^permission denied for ' THEN 'denied'
                WHEN SQLSTATE = '42501' THEN regexp_replace(v_result, '.*role "tap_(\w+)".*', 'not \1')
                ELSE SQLSTATE
           END;
END
$$;
CREATE FUNCTION pg_temp.enqueues(session text, role text, queue text) RETURNS text LANGUAGE sql AS $$
    SELECT pg_temp.result('tap_' || session, CASE role WHEN 'none' THEN role ELSE 'tap_' || role END, format('SELECT created FROM pgq_enqueue(''k'', queue => %L)', queue))
$$;

SELECT is(pg_temp.enqueues(session, role, queue), result, what) FROM (VALUES
    ('a', 'none', 'a', 'true', 'a role can enqueue in the queue it was granted'),
    ('a', 'none', 'b', 'not a', 'a role cannot enqueue in another queue'),
    ('two', 'none', 'a', 'true', 'a role that is producer in one queue and worker in another can enqueue in the first'),
    ('two', 'none', 'b', 'not two', 'a role that is producer in one queue and worker in another cannot enqueue in the second'),
    ('nobody', 'none', 'a', 'denied', 'a role that was granted nothing cannot enqueue'),
    ('a', 'nobody', 'a', 'denied', 'the privileges of the session do not count after SET ROLE'),
    ('heir', 'none', 'g', 'true', 'a member that inherits can use the queues of its group'),
    ('heir', 'none', 'a', 'not heir', 'a member that inherits cannot use other queues'),
    ('both', 'none', 'a', 'true', 'a member that inherits can use its own queues, too'),
    ('both', 'none', 'g', 'true', 'a member with queues of its own can use those of its group'),
    ('both', 'none', 'b', 'not both', 'a member with queues of its own cannot use other queues'),
    ('both', 'group', 'g', 'true', 'a member that sets the role can use the queues of its group'),
    ('both', 'group', 'a', 'not group', 'a member that sets the role cannot use its own queues'),
    ('rich', 'none', 'b', 'true', 'a role that inherits from one with all queues can use all queues'),
    ('poor', 'none', 'g', 'denied', 'a member that does not inherit cannot enqueue'),
    ('poor', 'group', 'g', 'true', 'a member that does not inherit can use the queues of its group when it sets the role'),
    ('proud', 'none', 'a', 'true', 'a member that does not inherit can use its own queues'),
    ('proud', 'none', 'g', 'not proud', 'a member that does not inherit cannot use the queues of its group'),
    ('proud', 'group', 'g', 'true', 'a member with queues of its own can use those of its group when it sets the role'),
    ('deputy', 'none', 'b', 'true', 'a member of the owner can use all queues'),
    ('waiter', 'none', 'b', 'not waiter', 'a member of the owner that does not inherit can use its own queues only')
) AS t (session, role, queue, result, what);
SELECT is(pg_temp.result(session_user, 'tap_a', $$ SELECT created FROM pgq_enqueue('k', queue => 'b') $$), 'not a', 'a superuser that sets a role can use the queues of that role only');
SELECT is(pg_temp.result(session_user, 'none', $$ SELECT created FROM pgq_enqueue('k', queue => 'b') $$), 'true', 'a superuser can use all queues');

SELECT is(pg_temp.result('tap_' || session, role, format('SELECT tap_app.%s(%L)', function, queue)), result, what) FROM (VALUES
    ('a', 'none', 'by_a', 'a', 'true', 'a role can use its queues through a function of its own'),
    ('a', 'none', 'by_a', 'b', 'not a', 'a role cannot use another queue through a function of its own'),
    ('nobody', 'none', 'by_a', 'a', 'not nobody', 'a caller cannot use the queues of the function''s owner'),
    ('a', 'tap_nobody', 'by_a', 'b', 'not nobody', 'a caller without a grant cannot use all queues through a function'),
    ('b', 'none', 'by_a', 'a', 'not b', 'a caller with queues of its own cannot use those of the function''s owner'),
    ('b', 'none', 'by_a', 'b', 'true', 'a caller can use its own queues through a function of another role'),
    ('b', 'none', 'by_owner', 'a', 'not b', 'a caller cannot use all queues through a function of the owner of pgq')
) AS t (session, role, function, queue, result, what);

-- The places in which PostgreSQL runs code of a table's owner in the session of another role.
CREATE TABLE tap_app.trap (n integer);
INSERT INTO tap_app.trap VALUES (1);
CREATE FUNCTION tap_app.spring(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN n; END $$;
CREATE INDEX ON tap_app.trap (tap_app.spring(n));
CREATE MATERIALIZED VIEW tap_app.net AS SELECT e.id FROM pgq_enqueue('caught', queue => 'b') AS e WITH NO DATA;
SELECT pgq_grant('tap_a', 'worker', '{a}');
CREATE MATERIALIZED VIEW tap_app.net_claim AS SELECT c.id FROM pgq_claim('{b}') AS c WITH NO DATA;
CREATE MATERIALIZED VIEW tap_app.net_batch AS SELECT c.ids FROM pgq_claim_batch('{b}') AS c WITH NO DATA;
CREATE MATERIALIZED VIEW tap_app.net_hold AS SELECT count(*) FROM pgq_hold(1, 1) WITH NO DATA;
CREATE MATERIALIZED VIEW tap_app.net_hold_many AS SELECT count(*) FROM pgq_hold_many('{1}', '{1}') WITH NO DATA;
CREATE MATERIALIZED VIEW tap_app.net_take AS SELECT count(*) FROM pgq_complete(1, 1, note => 'caught') WITH NO DATA;
SELECT pgq_enqueue('running', queue => 'b');
SELECT format('CREATE MATERIALIZED VIEW tap_app.net_complete AS SELECT count(*) FROM pgq_complete(%s, %s) WITH NO DATA', id, token) FROM pgq_claim('{b}') \gexec
SELECT format('CREATE OR REPLACE FUNCTION tap_app.spring(n integer) RETURNS integer LANGUAGE plpgsql AS '
              '$$ BEGIN PERFORM %I.pgq_enqueue(''caught'', queue => ''b''); RETURN n; END $$', current_schema()) \gexec
ALTER TABLE tap_app.trap OWNER TO tap_a;
ALTER FUNCTION tap_app.spring(integer) OWNER TO tap_a;
ALTER MATERIALIZED VIEW tap_app.net OWNER TO tap_a;
ALTER MATERIALIZED VIEW tap_app.net_claim OWNER TO tap_a;
ALTER MATERIALIZED VIEW tap_app.net_batch OWNER TO tap_a;
ALTER MATERIALIZED VIEW tap_app.net_hold OWNER TO tap_a;
ALTER MATERIALIZED VIEW tap_app.net_hold_many OWNER TO tap_a;
ALTER MATERIALIZED VIEW tap_app.net_take OWNER TO tap_a;
ALTER MATERIALIZED VIEW tap_app.net_complete OWNER TO tap_a;
SELECT throws_ok(call, '42501', NULL, format('%s does not give the table''s owner the queues of the session', call))
FROM (VALUES ('ANALYZE tap_app.trap'), ('REINDEX TABLE tap_app.trap'), ('REFRESH MATERIALIZED VIEW tap_app.net'),
             ('REFRESH MATERIALIZED VIEW tap_app.net_claim'), ('REFRESH MATERIALIZED VIEW tap_app.net_batch'),
             ('REFRESH MATERIALIZED VIEW tap_app.net_hold'), ('REFRESH MATERIALIZED VIEW tap_app.net_hold_many'),
             ('REFRESH MATERIALIZED VIEW tap_app.net_take'), ('REFRESH MATERIALIZED VIEW tap_app.net_complete')) AS t (call);
SELECT is_empty($$ SELECT FROM pgq_waiting WHERE kind = 'caught' $$, 'no job was enqueued with the queues of another role');
SELECT pgq_complete(id, token) FROM pgq_running;

-- In a view, the role that reads from it counts.
CREATE FUNCTION tap_app.seen() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN (SELECT string_agg(queue, ',') FROM pgq_stats); END $$;
SELECT pgq_grant('tap_a', 'reader', '{a}'), pgq_grant('tap_b', 'reader', '{b}');
ALTER FUNCTION tap_app.seen() OWNER TO tap_a;
SELECT pgq_enqueue('k', queue => q) FROM unnest('{a,b}'::text[]) AS q;
SELECT is(pg_temp.result('tap_b', 'none', 'SELECT string_agg(queue, '','') FROM pgq_stats'), 'b', 'a reader can read its queues');
SELECT is(pg_temp.result('tap_b', 'none', 'SELECT tap_app.seen()'), 'a', 'a reader reads the queues of the owner of a function through that function');

SELECT * FROM finish();
ROLLBACK;
