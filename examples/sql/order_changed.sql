-- A trigger that enqueues a job when the status of an order changes, in the transaction of the change: if that rolls
-- back, there is no job. Later changes of the same order are the same job as long as it waits, so one mail goes out for
-- all changes of a burst. The handler reads the order as it is then.
--
--     psql -f examples/sql/order_changed.sql

CREATE TABLE customer_order (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    status text NOT NULL DEFAULT 'new'
);

-- A role that changes orders needs the privilege for this queue, also if the function is SECURITY DEFINER:
--     SELECT pgq_grant('clerk', 'producer', ARRAY['mail']);
-- FROM CURRENT keeps the search_path of this script for the calls, so that callers with another one find pgq.
CREATE FUNCTION customer_order_changed() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $customer_order_changed$
BEGIN
    -- Soonest: when the job waits out the backoff of a failure, the change makes it ripe at once.
    PERFORM pgq_enqueue(
        'order_changed', jsonb_build_object('order', NEW.id), queue => 'mail', on_duplicate => 'soonest');
    RETURN NULL;
END
$customer_order_changed$;

-- AFTER, so that no job is enqueued for a change that another trigger undoes. WHEN keeps the function from being called.
CREATE TRIGGER customer_order_inserted AFTER INSERT ON customer_order
    FOR EACH ROW EXECUTE FUNCTION customer_order_changed();
CREATE TRIGGER customer_order_updated AFTER UPDATE OF status ON customer_order
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION customer_order_changed();
