-- The errors of jobs: failures, reasons to cancel, and notes.
--
-- They stand beside the jobs because a job is written anew with each move, and ten errors may take 40 kB. A job that
-- has none, which is the rule, costs nothing: newest_error of its row is NULL, and no call looks here.
--
-- A transaction changes the errors of a job only while it has the row of the job locked, or has just removed it. So no
-- call waits for a row of this table, and a caller in REPEATABLE READ sees the errors that belong to the row it sees.
-- There is no foreign key: a job is in one of three tables.

CREATE TABLE pgq_error (
    id       bigint      NOT NULL,
    number   integer     NOT NULL,
    attempt  integer     NOT NULL,
    at       timestamptz NOT NULL,
    worker   text,
    error    text,
    declined integer,

    CONSTRAINT pgq_error_pkey PRIMARY KEY (id, number)
)
-- Each failure of a job that has ten errors leaves a dead row: vacuum as early as pgq_waiting.
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE pgq_error IS
    'The newest ten errors of each job, those of merged jobs, too: failures, reasons of pgq_cancel_claimed, and notes '
    'of pgq_complete and pgq_decline.';
COMMENT ON COLUMN pgq_error.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_error.number IS
    'Place among the errors of the job: a newer error has a greater number. The newest has the number that is '
    'newest_error of the job.';
COMMENT ON COLUMN pgq_error.attempt IS 'Attempt that the error has ended, or in which the note was made.';
COMMENT ON COLUMN pgq_error.at IS 'When the error was recorded.';
COMMENT ON COLUMN pgq_error.worker IS 'Name under which the worker held the job; NULL: it gave none.';
COMMENT ON COLUMN pgq_error.error IS 'Text of the error, at most 4000 characters; NULL: none was given.';
COMMENT ON COLUMN pgq_error.declined IS
    'In a note of pgq_decline, how often in succession the job was declined; NULL in all others.';
