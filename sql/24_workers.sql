-- Workers that have said so, each for as long as the session in which it did.
--
-- Whether a worker is there is not written down, for a worker that is killed writes nothing: its session holds an advisory
-- lock, exclusively, whose key is the oid of this table and the number of the row. The row itself is written when the
-- worker comes and when it goes. There is no heartbeat: a row that is updated all the time would grow a chain of dead
-- versions.

CREATE TABLE pgq_worker (
    name          text        NOT NULL,
    number        integer     NOT NULL GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME pgq_worker_number CYCLE),
    queues        text[]      NOT NULL,
    host          text,
    pid           integer,
    registered_at timestamptz NOT NULL,
    gone_at       timestamptz,
    reach         text[],

    CONSTRAINT pgq_worker_pkey PRIMARY KEY (name),
    CONSTRAINT pgq_worker_number_key UNIQUE (number)
);

COMMENT ON TABLE pgq_worker IS 'Workers that have registered and did not leave.';
COMMENT ON COLUMN pgq_worker.name IS 'What the worker calls itself at its claims; of one process, and of no later one.';
COMMENT ON COLUMN pgq_worker.number IS 'Second part of the key of the lock that its session holds.';
COMMENT ON COLUMN pgq_worker.queues IS 'Queues that it serves.';
COMMENT ON COLUMN pgq_worker.host IS 'Where it runs, as it says itself; NULL: it does not say.';
COMMENT ON COLUMN pgq_worker.pid IS 'Its process there, likewise.';
COMMENT ON COLUMN pgq_worker.registered_at IS 'When it registered first.';
COMMENT ON COLUMN pgq_worker.gone_at IS 'When somebody noticed that its session is gone; NULL: nobody has.';
COMMENT ON COLUMN pgq_worker.reach IS 'Queues whose jobs it may hold, as far as its role is limited to some; NULL: all.';
COMMENT ON SEQUENCE pgq_worker_number IS 'Numbers the workers.';
