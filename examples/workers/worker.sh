#!/usr/bin/env bash
# A worker that is nothing but bash and psql:  worker.sh      and a producer:  worker.sh enqueue KIND JSON
# Each call is a session of its own, so there is neither presence nor wake-up: it looks five times a second.
set -uo pipefail
queue=${PGQ_QUEUE:-default} lease=${PGQ_LEASE:-60} stopping='' errors=$(mktemp)
trap 'rm "$errors"' EXIT
trap 'stopping=yes' TERM INT

# psql quotes :'x' as a literal, which needs no cast. Args stay in SQL: an argument of a command takes 128 KiB at most.
sql() {
    psql --no-psqlrc --quiet --no-align --tuples-only --field-separator ' ' --set ON_ERROR_STOP=1 --set queue="$queue" \
        --set lease="$lease" --set id="${id:-}" --set token="${token:-}" "$@"
}
arg() { sql --set key="$1" <<< "SELECT args ->> :'key' FROM pgq_jobs WHERE id = :id;"; }

# The effect of the job and its end, in one transaction: if the lease was lost, the effect rolls back.
write() {
    sql --single-transaction <<'SQL' >/dev/null
INSERT INTO conformance_effect SELECT id, (args -> 'n')::bigint, args -> 'value' FROM pgq_jobs WHERE id = :id;
SELECT pgq_complete(:id, :token);
SQL
}

run() {
    local wait
    case $kind in
    conformance.write) write ;;
    conformance.slow) sleep "$(arg seconds)" && write ;;
    conformance.fail) arg message >&2; return 1 ;;
    conformance.snooze)
        if wait=$(($(arg until) - $(date +%s))) && (( wait > 0 )); then
            sql --set wait="$wait" <<< "SELECT pgq_snooze(:id, :token, delay => :'wait');" >/dev/null
        else
            write
        fi ;;
    *) sql <<< 'SELECT pgq_decline(:id, :token);' >/dev/null ;;
    esac
}

# keep PID: extend the lease until a handler is over; end the handler if the job is lost or cancelled.
keep() {
    local next=$((SECONDS + (lease + 2) / 3))
    while kill -0 "$1" 2>/dev/null; do
        sleep 0.05
        (( SECONDS < next )) && continue
        next=$((SECONDS + (lease + 2) / 3))
        [[ $(sql <<< "$extend") == yes ]] || kill "$1"
    done
    wait "$1"
}

# No row: an operator has cancelled the job. An error: the lease is lost.
extend="SELECT 'yes' FROM pgq_extend(:id, :token, make_interval(secs => :lease))
        WHERE NOT EXISTS (SELECT FROM pgq_cancel_requested(ARRAY[:id], ARRAY[:token]));"
claim="SELECT id, token, kind FROM pgq_claim(ARRAY[:'queue'], 1, make_interval(secs => :lease));"
if [[ ${1:-} == enqueue ]]; then
    sql --set kind="$2" --set args="$3" <<< "SELECT id FROM pgq_enqueue(:'kind', :'args', :'queue');"
    exit
fi
while [[ -z $stopping ]]; do
    read -r id token kind < <(sql <<< "$claim") || { sleep 0.2; continue; }
    run 2>"$errors" & keep $! 2>/dev/null && continue
    # 2: the connection was lost. The job is done, or its lease ends. A job that is lost cannot fail.
    (( $? == 2 )) || sql --set error="$(<"$errors")" <<< "SELECT pgq_fail(:id, :token, :'error');" >/dev/null
done
