#!/bin/sh
# Print the calls that register extension scripts with pg_tle:  pg_tle.sh VERSION BASE.sql UPGRADE.sql...
# The delimiter $pg_tle$ must not occur in any script.
set -eu

version=$1
comment=$(sed -n "s/^comment = '\(.*\)'/\1/p" pgq.control)

call() {
    printf 'SELECT pgtle.%s(%s, $pg_tle$' "$1" "$2"
    cat "$3"
    printf '$pg_tle$);\n'
}

cat <<'END'
-- Run this in the database as a member of pgtle_admin; then run CREATE EXTENSION pgq as its future owner.
-- If an earlier release is registered, run SELECT pgtle.uninstall_extension('pgq') first. That removes the scripts and
-- keeps the installed extension; then run ALTER EXTENSION pgq UPDATE.
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
