-- The table of the application: pgq install && psql -f schema.sql
CREATE TABLE reminder (
    key uuid PRIMARY KEY,
    text text NOT NULL CHECK (text <> ''),
    due timestamptz NOT NULL,
    job_id bigint,
    sent_at timestamptz
);
CREATE INDEX reminder_due ON reminder (due);
