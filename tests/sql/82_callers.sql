-- For whom a call is made: the role of the session or of SET ROLE, and what it is a member of; never a role between.
BEGIN;
SELECT plan(36);

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

-- Functions of one role that others call.
CREATE SCHEMA tap_app;
GRANT USAGE ON SCHEMA tap_app TO PUBLIC;
CREATE FUNCTION tap_app.by_a(queue text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN (SELECT e.created FROM pgq_enqueue('k', queue => by_a.queue) AS e); END $$;
CREATE FUNCTION tap_app.by_owner(queue text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN (SELECT e.created FROM pgq_enqueue('k', queue => by_owner.queue) AS e); END $$;
ALTER FUNCTION tap_app.by_a(text) OWNER TO tap_a;

CREATE FUNCTION pg_temp.answer(session text, role text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_answer text;
BEGIN
    PERFORM set_config('session_authorization', session, true);
    PERFORM set_config('role', role, true);
    EXECUTE call INTO v_answer;
    RAISE EXCEPTION USING ERRCODE = 'TAP01', MESSAGE = v_answer;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_answer = MESSAGE_TEXT;
    RETURN CASE WHEN SQLSTATE = 'TAP01' THEN v_answer
                WHEN SQLSTATE = '42501' AND v_answer ~ '^permission denied for ' THEN 'denied'
                WHEN SQLSTATE = '42501' THEN regexp_replace(v_answer, '.*role "tap_(\w+)".*', 'not \1')
                ELSE SQLSTATE
           END;
END
$$;
CREATE FUNCTION pg_temp.enqueues(session text, role text, queue text) RETURNS text LANGUAGE sql AS $$
    SELECT pg_temp.answer('tap_' || session, CASE role WHEN 'none' THEN role ELSE 'tap_' || role END, format('SELECT created FROM pgq_enqueue(''k'', queue => %L)', queue))
$$;

SELECT is(pg_temp.enqueues(session, role, queue), answer, what) FROM (VALUES
    ('a', 'none', 'a', 'true', 'a role enqueues where it may'),
    ('a', 'none', 'b', 'not a', 'and nowhere else'),
    ('two', 'none', 'a', 'true', 'a role that is two things may each'),
    ('two', 'none', 'b', 'not two', 'where it is that'),
    ('nobody', 'none', 'a', 'denied', 'a role that was granted nothing enqueues nowhere'),
    ('a', 'nobody', 'a', 'denied', 'after SET ROLE, what the session may does not count'),
    ('heir', 'none', 'g', 'true', 'a member that inherits may what its group may'),
    ('heir', 'none', 'a', 'not heir', 'and no more'),
    ('both', 'none', 'a', 'true', 'beside what it was granted itself'),
    ('both', 'none', 'g', 'true', 'both count'),
    ('both', 'none', 'b', 'not both', 'and nothing else'),
    ('both', 'group', 'g', 'true', 'as its group, it may what that may'),
    ('both', 'group', 'a', 'not group', 'and what it may itself does not count'),
    ('rich', 'none', 'b', 'true', 'a limited role that is a member of one without a limit has none'),
    ('poor', 'none', 'g', 'denied', 'a member that does not inherit may nothing'),
    ('poor', 'group', 'g', 'true', 'until it sets the role'),
    ('proud', 'none', 'a', 'true', 'it may what it was granted itself'),
    ('proud', 'none', 'g', 'not proud', 'but not, beside that, what its group may'),
    ('proud', 'group', 'g', 'true', 'until it sets the role'),
    ('deputy', 'none', 'b', 'true', 'a member of the owner may everything'),
    ('waiter', 'none', 'b', 'not waiter', 'unless it does not inherit')
) AS t (session, role, queue, answer, what);
SELECT is(pg_temp.answer(session_user, 'tap_a', $$ SELECT created FROM pgq_enqueue('k', queue => 'b') $$), 'not a', 'a superuser that sets a role is that role');
SELECT is(pg_temp.answer(session_user, 'none', $$ SELECT created FROM pgq_enqueue('k', queue => 'b') $$), 'true', 'and otherwise may everything');

SELECT is(pg_temp.answer('tap_' || session, role, format('SELECT tap_app.%s(%L)', function, queue)), answer, what) FROM (VALUES
    ('a', 'none', 'by_a', 'a', 'true', 'through a function of its own, a role enqueues where it may'),
    ('a', 'none', 'by_a', 'b', 'not a', 'and nowhere else'),
    ('nobody', 'none', 'by_a', 'a', 'not nobody', 'the owner of a function lends nobody its queues'),
    ('a', 'tap_nobody', 'by_a', 'b', 'not nobody', 'nor does a role without a limit of its own come by all'),
    ('b', 'none', 'by_a', 'a', 'not b', 'who calls it may what he may'),
    ('b', 'none', 'by_a', 'b', 'true', 'in his own queues'),
    ('b', 'none', 'by_owner', 'a', 'not b', 'even where the owner of pgq is that of the function')
) AS t (session, role, function, queue, answer, what);

-- Where PostgreSQL lets the owner of a table act in the session of another.
CREATE TABLE tap_app.trap (n integer);
INSERT INTO tap_app.trap VALUES (1);
CREATE FUNCTION tap_app.spring(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN n; END $$;
CREATE INDEX ON tap_app.trap (tap_app.spring(n));
CREATE MATERIALIZED VIEW tap_app.net AS SELECT e.id FROM pgq_enqueue('caught', queue => 'b') AS e WITH NO DATA;
SELECT format('CREATE OR REPLACE FUNCTION tap_app.spring(n integer) RETURNS integer LANGUAGE plpgsql AS '
              '$$ BEGIN PERFORM %I.pgq_enqueue(''caught'', queue => ''b''); RETURN n; END $$', current_schema()) \gexec
ALTER TABLE tap_app.trap OWNER TO tap_a;
ALTER FUNCTION tap_app.spring(integer) OWNER TO tap_a;
ALTER MATERIALIZED VIEW tap_app.net OWNER TO tap_a;
SELECT throws_ok(call, '42501', NULL, format('%s does not lend the rights of who calls it', call))
FROM (VALUES ('ANALYZE tap_app.trap'), ('REINDEX TABLE tap_app.trap'), ('REFRESH MATERIALIZED VIEW tap_app.net')) AS t (call);
SELECT is_empty($$ SELECT FROM pgq_waiting WHERE kind = 'caught' $$, 'nothing was enqueued in another''s name');

-- A view, though, knows who reads from it.
CREATE FUNCTION tap_app.seen() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN (SELECT string_agg(queue, ',') FROM pgq_stats); END $$;
SELECT pgq_grant('tap_a', 'reader', '{a}'), pgq_grant('tap_b', 'reader', '{b}');
ALTER FUNCTION tap_app.seen() OWNER TO tap_a;
SELECT pgq_enqueue('k', queue => q) FROM unnest('{a,b}'::text[]) AS q;
SELECT is(pg_temp.answer('tap_b', 'none', 'SELECT string_agg(queue, '','') FROM pgq_stats'), 'b', 'a reader sees its queues');
SELECT is(pg_temp.answer('tap_b', 'none', 'SELECT tap_app.seen()'), 'a', 'and through a function, those of the owner of that');

SELECT * FROM finish();
ROLLBACK;
