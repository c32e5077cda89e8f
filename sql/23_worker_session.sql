-- Registered workers. Each is present for as long as the session that registered it lives.
--
-- Presence is not stored, because a worker that is killed cannot write: the session holds an exclusive advisory lock,
-- whose key is the oid of this table and the number of the row. The row is written only when the worker registers, is
-- found gone, or leaves. There is no heartbeat: a row that is updated all the time would grow a chain of dead versions.

CREATE TABLE pgq_worker_session (
    name           text COLLATE "C" NOT NULL,
    number         integer          NOT NULL
        GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME pgq_worker_session_number CYCLE),
    queues         text[]           NOT NULL,
    host           text,
    pid            integer,
    registered_at  timestamptz      NOT NULL,
    gone_at        timestamptz,
    allowed_queues text[],
    kinds          text[],
    lost_several   boolean          NOT NULL DEFAULT false,
    shares         boolean          NOT NULL DEFAULT false,

    CONSTRAINT pgq_worker_session_pkey PRIMARY KEY (name),
    CONSTRAINT pgq_worker_session_number_key UNIQUE (number)
);

COMMENT ON TABLE pgq_worker_session IS 'Workers that have registered and not left.';
COMMENT ON COLUMN pgq_worker_session.name IS 'Name under which the worker claims; no other process ever has it.';
COMMENT ON COLUMN pgq_worker_session.number IS
    'Second part of the key of the advisory lock that the worker''s session holds.';
COMMENT ON COLUMN pgq_worker_session.queues IS 'Queues that the worker serves.';
COMMENT ON COLUMN pgq_worker_session.host IS 'Host of the worker, as it reports itself; NULL: not reported.';
COMMENT ON COLUMN pgq_worker_session.pid IS 'Process id of the worker on that host; NULL: not reported.';
COMMENT ON COLUMN pgq_worker_session.registered_at IS 'When the worker first registered under this name.';
COMMENT ON COLUMN pgq_worker_session.gone_at IS 'When the worker''s session was found gone; NULL: it was not.';
COMMENT ON COLUMN pgq_worker_session.allowed_queues IS 'Queues that the role of the worker may use; NULL: all.';
COMMENT ON COLUMN pgq_worker_session.kinds IS 'Kinds that the worker has handlers for; NULL: it does not tell.';
COMMENT ON COLUMN pgq_worker_session.lost_several IS
    'Whether the worker held several jobs when it was found gone.';
COMMENT ON COLUMN pgq_worker_session.shares IS
    'Whether the process of the worker also serves other databases, whose jobs are lost together with those here.';
COMMENT ON SEQUENCE pgq_worker_session_number IS 'Source of the numbers of workers.';
