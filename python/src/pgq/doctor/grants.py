"""Who may do more than pgq gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.shipped import functions, tables, views
from pgq.doctor.words import listed

CREATORS: Final = """
    SELECT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END AS role,
           CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS quoted
    FROM pg_namespace AS n
    CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS x
    WHERE n.oid = to_regnamespace(%(schema)s)
      AND x.privilege_type = 'CREATE'
      AND x.grantee <> ALL (ARRAY[n.nspowner, %(owner)s::oid])
      AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = x.grantee AND r.rolsuper)
    ORDER BY x.grantee
    LIMIT 100
"""
OWNER: Final = "SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = %(owner)s::oid"
# Nothing in the access list means the default, which for a function is that PUBLIC may execute it.
PRIVILEGES: Final = """
    SELECT CASE WHEN p.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(p.grantee)::text END AS role,
           CASE WHEN p.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(p.grantee)) END AS quoted,
           p.what, array_agg(DISTINCT p.name ORDER BY p.name) AS names,
           array_agg(DISTINCT p.privilege ORDER BY p.privilege) AS privileges
    FROM (
        SELECT 'FUNCTION' AS what, f.proname::text AS name, x.grantee, x.privilege_type AS privilege
        FROM pg_proc AS f
        CROSS JOIN LATERAL aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS x
        WHERE f.pronamespace = to_regnamespace(%(schema)s) AND f.proname = ANY (%(functions)s)
        UNION ALL
        SELECT CASE WHEN c.relkind = 'v' THEN 'VIEW' ELSE 'TABLE' END, c.relname::text, x.grantee, x.privilege_type
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS x
        WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relname = ANY (%(relations)s)
    ) AS p
    WHERE p.grantee <> %(owner)s::oid
    GROUP BY p.grantee, p.what
    ORDER BY p.grantee, p.what
    LIMIT 100
"""
PERMITTED: Final = "SELECT DISTINCT pg_get_userbyid(p.role)::text AS role FROM pgq_permission AS p LIMIT 10000"
# Where roles are kept to their queues, one that may use all of them, and whose workers serve some.
WIDE: Final = """
    SELECT p.role::text AS quoted, pg_get_userbyid(p.role)::text AS role,
           array_agg(DISTINCT q.queue ORDER BY q.queue) AS queues
    FROM pgq_permission AS p
    JOIN pg_stat_activity AS a ON pg_has_role(a.usesysid, p.role::oid, 'USAGE')
    JOIN _pgq_presence AS l ON l.pid = a.pid
    JOIN pgq_worker_session AS w ON w.number = l.number
    CROSS JOIN LATERAL unnest(w.queues) AS q (queue)
    WHERE p.privilege = 'worker'
      AND p.queues IS NULL
      AND EXISTS (SELECT FROM pgq_permission AS o WHERE o.queues IS NOT NULL)
      AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = a.usesysid AND r.rolsuper)
    GROUP BY p.role
    ORDER BY p.role
    LIMIT 100
"""


@check()
def owner_is_superuser(reading: Reading) -> Iterator[Finding]:
    """Yield that the functions of pgq run with the rights of a superuser."""
    if reading.value(OWNER, owner=reading.place["owner"]):
        yield Finding(
            "owner-is-superuser",
            "warning",
            f'the owner of pgq, role "{reading.place["owner_name"]}", is a superuser',
            "The functions run with the rights of their owner. pgq needs no more than its own tables, so a mistake in "
            "it, or in an object that somebody plants beside it, could do more harm than it must.",
            "Make a role of its own the owner: CREATE ROLE pgq_owner NOLOGIN; then ALTER … OWNER TO pgq_owner for the "
            "schema and each object in it, or pg_dump, and restore as that role.",
            {"owner": reading.place["owner_name"]},
        )


@check()
def may_create(reading: Reading) -> Iterator[Finding]:
    """Yield the roles that may create objects in the schema of pgq."""
    for row in reading.rows(CREATORS, schema=reading.schema, owner=reading.place["owner"]):
        is_public = row["role"] == "PUBLIC"
        yield Finding(
            "may-create",
            "error" if is_public else "warning",
            f"{'every role' if is_public else 'role ' + repr(row['role'])} may create objects in the schema "
            f"{reading.place['name']} of pgq",
            "A function or operator that is planted there may be called by those of pgq, with the rights of their "
            "owner: who may create here can act as the owner of pgq.",
            f"REVOKE CREATE ON SCHEMA {reading.schema} FROM {row['quoted']};",
            {"role": row["role"], "schema": reading.place["name"]},
        )


@check(Needs.OWNER)
def stray_grant(reading: Reading) -> Iterator[Finding]:
    """Yield privileges on objects of pgq that pgq_grant has not given."""
    permitted = {row["role"] for row in reading.rows(PERMITTED)}
    for row in reading.rows(
        PRIVILEGES,
        schema=reading.schema,
        owner=reading.place["owner"],
        functions=list(functions()),
        relations=[*tables(), *views()],
    ):
        if row["what"] != "TABLE" and row["role"] in permitted:
            continue
        is_public = row["role"] == "PUBLIC"
        objects = "ALL FUNCTIONS" if row["what"] == "FUNCTION" else "ALL TABLES"
        yield Finding(
            "stray-grant",
            "error" if is_public else "warning",
            f"{'every role' if is_public else 'role ' + repr(row['role'])} has {', '.join(row['privileges'])} on "
            f"{row['what'].lower()}s of pgq without pgq_grant: {listed(row['names'])}",
            "A table shows the jobs of all queues, arguments included, and lets who may write there break them."
            if row["what"] == "TABLE"
            else "Without a privilege of pgq the role sees and does nothing by it yet; but a later pgq_grant gives "
            "more than it says, and pgq_revoke does not take this away.",
            f"REVOKE ALL ON {objects} IN SCHEMA {reading.schema} FROM {row['quoted']}; and then, where it is needed, "
            f"SELECT {reading.schema}.pgq_grant(…) again.",
            row,
        )


@check(Needs.OWNER | Needs.MONITOR | Needs.PRIMARY)
def wide_grant(reading: Reading) -> Iterator[Finding]:
    """Yield worker roles that may use all queues and serve some, where others are kept to their queues."""
    for row in reading.rows(WIDE):
        array = ", ".join("'" + queue.replace("'", "''") + "'" for queue in row["queues"])
        yield Finding(
            "wide-grant",
            "note",
            f'role "{row["role"]}" may claim from all queues, and its workers serve {listed(row["queues"])}',
            "Other roles of this database are kept to their queues. This one could claim their jobs, and read the "
            "arguments.",
            f"SELECT {reading.schema}.pgq_revoke('{row['role']}', 'worker'); "
            f"SELECT {reading.schema}.pgq_grant('{row['role']}', 'worker', ARRAY[{array}]);",
            {"role": row["role"], "queues": row["queues"]},
        )


CHECKS: Final[tuple[Check, ...]] = (owner_is_superuser, may_create, stray_grant, wide_grant)
