-- Workers that have said so, each for as long as the session in which it did.
--
-- Whether a worker is there is not written down, for a worker that is killed writes nothing: its session holds an advisory
-- lock, exclusively, whose key is the oid of this table and the number of the row. The row itself is written when the
-- worker comes and when it goes. There is no heartbeat: a row that is updated all the time would grow a chain of dead
-- versions.

CREATE TABLE pgq_worker_session (
    name           text        NOT NULL,
    number         integer     NOT NULL GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME pgq_worker_session_number CYCLE),
    queues         text[]      NOT NULL,
    host           text,
    pid            integer,
    registered_at  timestamptz NOT NULL,
    gone_at        timestamptz,
    allowed_queues text[],

    CONSTRAINT pgq_worker_session_pkey PRIMARY KEY (name),
    CONSTRAINT pgq_worker_session_number_key UNIQUE (number)
);

COMMENT ON TABLE pgq_worker_session IS 'Workers that have registered and did not leave.';
COMMENT ON COLUMN pgq_worker_session.name IS 'What the worker calls itself at its claims; of one process, and of no later one.';
COMMENT ON COLUMN pgq_worker_session.number IS 'Second part of the key of the lock that its session holds.';
COMMENT ON COLUMN pgq_worker_session.queues IS 'Queues that it serves.';
COMMENT ON COLUMN pgq_worker_session.host IS 'Where it runs, as it says itself; NULL: it does not say.';
COMMENT ON COLUMN pgq_worker_session.pid IS 'Its process there, likewise.';
COMMENT ON COLUMN pgq_worker_session.registered_at IS 'When it registered first.';
COMMENT ON COLUMN pgq_worker_session.gone_at IS 'When somebody noticed that its session is gone; NULL: nobody has.';
COMMENT ON COLUMN pgq_worker_session.allowed_queues IS 'Queues whose jobs it may hold, as far as its role is limited to some; NULL: all.';
COMMENT ON SEQUENCE pgq_worker_session_number IS 'Numbers the workers.';
