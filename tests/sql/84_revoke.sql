-- Grants can be widened and taken back, and do not outlive the role.
BEGIN;
SELECT plan(42);

CREATE ROLE tap_role;
SELECT format('GRANT USAGE ON SCHEMA %I TO tap_role', current_schema()) \gexec
\ir result.sql
-- Return the queues among a, b and c in which a role may enqueue; a hyphen for each if PostgreSQL denies the call.
CREATE FUNCTION pg_temp.may(role text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(CASE pg_temp.result(role, format('SELECT created FROM pgq_enqueue(''k'', queue => %L)', q)) WHEN 'true' THEN q WHEN 'denied' THEN '-' ELSE '' END, '' ORDER BY q)
    FROM unnest('{a,b,c}'::text[]) AS q
$$;
CREATE FUNCTION pg_temp.privileges(role text) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(object ORDER BY object COLLATE "C") FROM (
        SELECT p.proname || '()' AS object FROM pg_proc AS p, aclexplode(p.proacl) AS a WHERE p.proname ~ '^_?pgq_' AND a.grantee::regrole::text = role
        UNION SELECT c.relname FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.relname ~ '^_?pgq_' AND a.grantee::regrole::text = role
        UNION SELECT c.relname || '.' || t.attname FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid, aclexplode(t.attacl) AS a
        WHERE c.relname ~ '^_?pgq_' AND a.grantee::regrole::text = role) AS o
$$;

CREATE FUNCTION pg_temp.after(call text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE call; RETURN pg_temp.may('tap_role'); END $$;
SELECT is(pg_temp.after(call), may, call) FROM (VALUES
    (1, 'SELECT pgq_grant(''tap_role'', ''producer'', ''{a}'')', 'a'),
    (2, 'SELECT pgq_grant(''tap_role'', ''producer'', ''{b,a}'')', 'ab'),
    (3, 'SELECT pgq_revoke(''tap_role'', ''producer'', ''{a,c}'')', 'b'),
    (4, 'SELECT pgq_revoke(''tap_role'', ''producer'', ''{b}'')', '---'),
    (5, 'SELECT pgq_grant(''tap_role'', ''producer'', ''{a}'')', 'a'),
    (6, 'SELECT pgq_grant(''tap_role'', ''producer'')', 'abc'),
    (7, 'SELECT pgq_grant(''tap_role'', ''producer'', ''{a}'')', 'abc'),
    (8, 'SELECT pgq_revoke(''tap_role'', ''worker'')', 'abc'),
    (9, 'SELECT pgq_revoke(''tap_role'', ''producer'')', '---'),
    (10, 'SELECT pgq_revoke(''tap_role'', ''producer'')', '---'),
    (11, 'SELECT pgq_revoke(''tap_role'', ''producer'', ''{a}'')', '---')
) AS t (n, call, may);
SELECT is_empty('SELECT FROM pgq_permission', 'the last pgq_revoke deletes the row in pgq_permission');
SELECT is(pg_temp.privileges('tap_role'), NULL, 'the last pgq_revoke takes every privilege on an object');

-- An object that several privileges share stays usable until the last of them is taken.
CREATE TEMP TABLE alone AS
SELECT privilege, NULL::text[] AS privileges FROM unnest('{producer,worker,admin,reader}'::text[]) AS p (privilege);
SELECT pgq_grant('tap_role', 'producer');
UPDATE alone SET privileges = pg_temp.privileges('tap_role') WHERE privilege = 'producer';
SELECT pgq_revoke('tap_role', 'producer'), pgq_grant('tap_role', 'worker');
UPDATE alone SET privileges = pg_temp.privileges('tap_role') WHERE privilege = 'worker';
SELECT pgq_revoke('tap_role', 'worker'), pgq_grant('tap_role', 'admin');
UPDATE alone SET privileges = pg_temp.privileges('tap_role') WHERE privilege = 'admin';
SELECT pgq_revoke('tap_role', 'admin'), pgq_grant('tap_role', 'reader');
UPDATE alone SET privileges = pg_temp.privileges('tap_role') WHERE privilege = 'reader';
SELECT ok(cardinality(privileges) > 3, format('pgq_grant gives a %s more than three privileges', privilege)) FROM alone;
SELECT pgq_grant('tap_role', 'admin'), pgq_grant('tap_role', 'producer');
SELECT pgq_revoke('tap_role', 'admin'), pgq_revoke('tap_role', 'producer');
SELECT is(pg_temp.privileges('tap_role'), privileges, 'a reader that was an admin for a while has the privileges of a reader') FROM alone WHERE privilege = 'reader';
SELECT pgq_grant('tap_role', 'admin'), pgq_revoke('tap_role', 'reader');
SELECT is(pg_temp.privileges('tap_role'), privileges, 'an admin that was a reader has the privileges of an admin') FROM alone WHERE privilege = 'admin';
SELECT pgq_revoke('tap_role', 'admin');

-- Roles that are renamed, lose privileges, or are dropped.
SELECT pgq_grant('tap_role', 'producer', '{a}');
ALTER ROLE tap_role RENAME TO tap_renamed;
SELECT is(pg_temp.may('tap_renamed'), 'a', 'a role that is renamed keeps its queues');
ALTER ROLE tap_renamed RENAME TO tap_role;
SELECT pgq_grant('tap_role', 'producer');
SELECT format('REVOKE EXECUTE ON FUNCTION pgq_enqueue FROM tap_role') \gexec
SELECT is(pg_temp.may('tap_role'), '---', 'a role loses a privilege that is revoked by hand');
SELECT pgq_grant('tap_role', 'producer', '{b}');
SELECT is(pg_temp.may('tap_role'), 'b', 'a later grant does not bring back the queues of a privilege that was revoked by hand');
SELECT pgq_grant('tap_role', 'producer');
DROP OWNED BY tap_role;
DROP ROLE tap_role;
CREATE ROLE tap_role;
SELECT format('GRANT USAGE ON SCHEMA %I TO tap_role', current_schema()) \gexec
SELECT is(pg_temp.may('tap_role'), '---', 'a role that is dropped and created again has no queues');
SELECT pgq_grant('tap_role', 'producer', '{c}');
SELECT is(pg_temp.may('tap_role'), 'c', 'a role that is created again has the queues that it is granted then');
SELECT is(count(*), 1::bigint, 'pgq_grant deletes the rows of a dropped role') FROM pgq_permission;

SELECT throws_ok(format('SELECT %s(%s)', verb, arguments), state, message, format('%s(%s) is refused', verb, arguments))
FROM (VALUES ('''tap_role'', ''producer'', ''{}''', '22023', 'queues is empty'), ('''tap_role'', ''producer'', ''{a,null}''', '22004', 'one of the queues is null'),
             ('''tap_role'', ''producer'', ''{a,""}''', '22023', 'queue "" is not a name'), ('NULL, ''producer'', ''{a}''', '22004', 'role or privilege is null'),
             ('''tap_role'', ''god''', '22023', 'privilege "god" is unknown'), ('''tap_noone'', ''reader''', '42704', 'there is no role "tap_noone"'),
             ('''public'', ''reader''', '42704', 'there is no role "public"')) AS a (arguments, state, message)
CROSS JOIN (VALUES ('pgq_grant'), ('pgq_revoke')) AS v (verb);
SELECT pgq_grant('tap_role', 'reader');
SELECT throws_ok($$ SELECT pgq_revoke('tap_role', 'reader', '{a}') $$, 'PGQ03', 'role "tap_role" may use all queues as reader', 'a queue cannot be taken from a role that may use all');

CREATE ROLE tap_open;
SELECT format('GRANT CREATE ON SCHEMA %I TO PUBLIC', current_schema()) \gexec
SELECT throws_ok($$ SELECT pgq_grant('tap_open', 'reader') $$, '55000', format('every role may create objects in the schema "%s"', current_schema()),
                 'pgq_grant refuses a schema in which every role may create a function');
SELECT format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema()) \gexec
SELECT lives_ok($$ SELECT pgq_grant('tap_open', 'reader') $$, 'pgq_grant succeeds in a schema in which PUBLIC may not create a function');

SELECT * FROM finish();
ROLLBACK;
