-- The trigger of examples/sql/order_changed.sql: one job for the changes of an order, in the transaction of the change.
BEGIN;
SELECT plan(12);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

\ir ../../examples/sql/order_changed.sql

CREATE FUNCTION pg_temp.enqueued() RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(concat_ws(' ', queue, kind, args ->> 'order', state), ', ' ORDER BY id), 'none') FROM pgq_jobs
$$;
CREATE FUNCTION pg_temp.done() RETURNS void LANGUAGE sql AS $$ SELECT pgq_complete(id, token) FROM pgq_claim('{mail}', 10) $$;

INSERT INTO customer_order DEFAULT VALUES;
SELECT is(pg_temp.enqueued(), 'mail order_changed 1 waiting', 'a new order enqueues a job');
UPDATE customer_order SET status = 'paid' WHERE id = 1;
UPDATE customer_order SET status = 'sent' WHERE id = 1;
SELECT is(pg_temp.enqueued(), 'mail order_changed 1 waiting', 'later changes are the same job as long as it waits');
INSERT INTO customer_order (status) VALUES ('new'), ('paid');
SELECT is(pg_temp.enqueued(), 'mail order_changed 1 waiting, mail order_changed 2 waiting, mail order_changed 3 waiting', 'each order has its own');
SELECT pg_temp.done();
SELECT is(pg_temp.enqueued(), 'none', 'they are done');
UPDATE customer_order SET status = status WHERE id = 1;
SELECT is(pg_temp.enqueued(), 'none', 'an update that changes no status enqueues nothing');
UPDATE customer_order SET status = 'back' WHERE id = 2;
SELECT is(pg_temp.enqueued(), 'mail order_changed 2 waiting', 'a change after that is a new job');
DELETE FROM customer_order WHERE id = 2;
SELECT is(pg_temp.enqueued(), 'mail order_changed 2 waiting', 'a deletion enqueues nothing');
SELECT pg_temp.done();

SAVEPOINT before;
UPDATE customer_order SET status = 'lost' WHERE id = 3;
SELECT is(pg_temp.enqueued(), 'mail order_changed 3 waiting', 'the job is there in the transaction of the change');
ROLLBACK TO before;
SELECT is(pg_temp.enqueued(), 'none', 'and gone when that rolls back');

-- A change while the job waits out its backoff makes it ripe at once.
UPDATE customer_order SET status = 'lost' WHERE id = 3;
SELECT pgq_fail(id, token, 'why', '1 hour') FROM pgq_claim('{mail}');
UPDATE customer_order SET status = 'found' WHERE id = 3;
SELECT is(ripe_at, pgq_now(), 'a change does not wait for the backoff of an earlier one') FROM pgq_jobs;

-- The roles that change orders need the privilege for the queue, and no other one.
CREATE ROLE tap_clerk;
GRANT INSERT, UPDATE, SELECT ON customer_order TO tap_clerk;
CREATE FUNCTION pg_temp.change() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL ROLE tap_clerk;
    UPDATE customer_order SET status = 'back' WHERE id = 1;
    RESET ROLE;
    RETURN pg_temp.enqueued();
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;
SELECT pg_temp.done();
SELECT is(pg_temp.change(), '42501', 'a role without the privilege changes nothing');
SELECT pgq_grant('tap_clerk', 'producer', ARRAY['mail']);
SELECT is(pg_temp.change(), 'mail order_changed 1 waiting', 'with it the role changes an order, which enqueues the job');

SELECT * FROM finish();
ROLLBACK;
