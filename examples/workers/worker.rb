# A worker on ruby-pg:  ruby worker.rb      and a producer:  ruby worker.rb enqueue KIND JSON
require "json"
require "pg"

class Snooze < StandardError; end
QUEUE, LEASE = ENV.fetch("PGQ_QUEUE", "default"), ENV.fetch("PGQ_LEASE", "60").to_f
NAME = "ruby:#{Process.pid}:#{rand(36**6).to_s(36)}"
CLAIM = "SELECT id, token, kind, args FROM pgq_claim(ARRAY[$1], 1, make_interval(secs => $2), $3)"
# No row: an operator has cancelled the job. An error: the lease is lost.
EXTEND = "SELECT FROM pgq_extend($1, $2, make_interval(secs => $3))
          WHERE NOT EXISTS (SELECT FROM pgq_cancel_requested(ARRAY[$1], ARRAY[$2]))"
$stopping = false
trap("TERM") { $stopping = true }

# A handler works outside of a transaction, and returns the statement of the one that completes its job.
# ruby-pg passes text and declares no types. JSON.generate(nil) is "null"; nil would be NULL.
INSERT = "INSERT INTO conformance_effect VALUES ($1, $2, $3)"
WRITE = ->(job, args) { [INSERT, [job["id"], args.fetch("n"), JSON.generate(args["value"])]] }
HANDLERS = {
  "conformance.write" => WRITE,
  "conformance.slow" => ->(job, args) { sleep(args["seconds"]); WRITE.(job, args) },
  "conformance.fail" => ->(_, args) { raise args["message"] },
  "conformance.snooze" => lambda do |job, args|
    Time.now.to_f < args["until"] ? raise(Snooze, args["until"].to_s) : WRITE.(job, args)
  end,
}

def run(db, side, job)
  key, handler = [job["id"], job["token"]], HANDLERS[job["kind"]] # a bigint comes as text, and goes back as it is
  return db.exec_params("SELECT pgq_decline($1, $2)", key) unless handler
  keep = Thread.new do
    loop { sleep(LEASE / 3); break if side.exec_params(EXTEND, [*key, LEASE]).none? } rescue PG::Error
    Thread.main.raise("the job is lost or cancelled")
  end
  statement = handler.(job, JSON.parse(job["args"], max_nesting: false))
  keep.kill.join # from here on nothing interrupts
  db.transaction { db.exec_params(*statement); db.exec_params("SELECT pgq_complete($1, $2)", key) }
rescue PG::ConnectionBad, PG::UnableToSend
  raise # only the database knows: the job is done, or its lease ends
rescue StandardError => error
  keep.kill.join
  return if error.is_a?(PG::Error) && error.result&.error_field(PG::PG_DIAG_SQLSTATE) == "PGQ02"
  call = error.is_a?(Snooze) ? "pgq_snooze($1, $2, to_timestamp($3))" : "pgq_fail($1, $2, $3)"
  begin db.exec_params("SELECT #{call}", [*key, error.message]) rescue PG::ServerError end
end

def serve(db, side, asleep = false)
  side.exec_params("SELECT pgq_register($1, ARRAY[$2])", [NAME, QUEUE])
  until $stopping
    job = db.exec_params(CLAIM, [QUEUE, LEASE, NAME]).first
    side.exec_params("SELECT pgq_idle(ARRAY[$1], false)", [QUEUE]) if job && asleep
    if job then run(db, side, job)
    elsif asleep then side.wait_for_notify(1)
    else side.exec_params("SELECT pgq_idle(ARRAY[$1])", [QUEUE]).each_row { |row| side.exec("LISTEN \"#{row[0]}\"") }
    end
    asleep = !job
  end
  side.exec_params("SELECT pgq_unregister($1)", [NAME])
end

ENQUEUE = "SELECT id FROM pgq_enqueue($1, $2, $3)"
return puts(PG.connect.exec_params(ENQUEUE, [*ARGV[1, 2], QUEUE]).getvalue(0, 0)) if ARGV[0] == "enqueue"
begin
  serve(PG.connect, PG.connect)
rescue PG::ConnectionBad, PG::UnableToSend, PG::ServerError => error
  warn error.message
  sleep 0.5
  retry unless $stopping
end
