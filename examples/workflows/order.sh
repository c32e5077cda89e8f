#!/usr/bin/env bash
# The order workflow of order.py as a worker that is nothing but psql and curl.
#
#     SHOP_URL=http://localhost:8000 PGDATABASE=shop ./order.sh
#
# It runs ripe orders until there are none. Each attempt begins at the top and skips the steps that `saved` names. If
# the worker is killed, the job is ripe again when its lease ends, and the next attempt goes on after the last step.
set -euo pipefail

sql() {
    psql --no-psqlrc --quiet --no-align --tuples-only --field-separator $'\t' --set ON_ERROR_STOP=1 \
        --set id="${id:-}" --set token="${token:-}" --set saved="${saved:-}" "$@"
}

claim() {
    sql <<'SQL'
SELECT id, token, args ->> 'order', args ->> 'item', args ->> 'amount', coalesce(args ->> 'patience', '86400'), coalesce(saved, '{}')
FROM pgq_claim(ARRAY['orders'], 1, lease => '2 minutes');
SQL
}

# call WHAT: call the service outside. Its idempotency key is the same in each attempt.
call() {
    curl --fail --silent --show-error --header "Idempotency-Key: $id/$1" --data "{\"order\": $order}" "$SHOP_URL/$1" |
        tr --complement --delete 0-9
}

has() {
    [[ $saved == *"\"$1\": "* ]]
}

# record STEP RESULT [SQL]: run SQL and record the step, in one transaction.
record() {
    saved=$(sql --single-transaction --set step="$1" --set result="$2" --set item="$item" <<SQL
${3:-}
SELECT :'saved'::jsonb || jsonb_build_object(:'step', :'result') AS saved \gset
SELECT pgq_save(:id, :token, :'saved') \g /dev/null
\echo :saved
SQL
    )
}

# complete RESULT [SQL]: run SQL and complete the job, in one transaction.
complete() {
    sql --single-transaction --set result="$1" --set order="$order" >/dev/null <<SQL
${2:-}
SELECT pgq_complete(:id, :token, to_jsonb(:'result'::text));
SQL
}

approval() {
    sql --set patience="$patience" <<'SQL'
SELECT outcome, coalesce(payload ->> 'by', '-') FROM pgq_wait_signal(:id, :token, 'approved', make_interval(secs => :patience));
SQL
}

run() {
    local result outcome by

    if ! has charge; then
        result=$(call charge) && record charge "$result" || return
    fi

    if (( amount > 100 )) && ! has approve; then
        IFS=$'\t' read -r outcome by < <(approval) || return
        case $outcome in
        received)
            record approve "$by" || return ;;
        timeout)
            call refund >/dev/null && complete refunded
            return ;;
        *)
            # The job was put back. It is claimed again when the signal or the end of the timeout comes.
            return 0 ;;
        esac
    fi

    if ! has reserve; then
        record reserve yes "UPDATE stock SET available = available - 1 WHERE item = :'item';" || return
    fi

    call ship >/dev/null &&
        complete shipped "INSERT INTO shipment SELECT :order, (s ->> 'charge')::integer, s ->> 'approve'
                          FROM (SELECT :'saved'::jsonb) AS t (s);"
}

while IFS=$'\t' read -r id token order item amount patience saved < <(claim); do
    # If the job was lost meanwhile, it cannot fail either.
    run || sql <<< "SELECT pgq_fail(:id, :token, 'a step has failed');" || true
done
