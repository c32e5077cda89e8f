#!/bin/sh
# Print the calls that make extension scripts known to pg_tle:  pg_tle.sh VERSION BASE.sql UPGRADE.sql...
# The delimiter must occur in no script.
set -eu

version=$1
comment=$(sed -n "s/^comment = '\(.*\)'/\1/p" pgq.control)

call() {
    printf 'SELECT pgtle.%s(%s, $pg_tle$' "$1" "$2"
    cat "$3"
    printf '$pg_tle$);\n'
}

cat <<'END'
-- Run this in the database as a member of pgtle_admin; then CREATE EXTENSION pgq, as its owner.
-- Where an earlier release is known, SELECT pgtle.uninstall_extension('pgq') first: that forgets the scripts, and leaves
-- the extension as it is, for ALTER EXTENSION pgq UPDATE.
BEGIN;
END
call install_extension "'pgq', '$version', '$comment'" "$2"
shift 2
for script; do
    versions=$(basename "$script" .sql)
    versions=${versions#pgq--}
    call install_update_path "'pgq', '${versions%--*}', '${versions#*--}'" "$script"
done
printf 'COMMIT;\n'
