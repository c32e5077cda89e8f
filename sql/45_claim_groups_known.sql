-- Which groups of a queue a claim visits, from a list.
--
-- The way from group to group is long where it passes many groups of which no job may be taken, or the entries of many
-- jobs that are gone. So once it was, a session keeps a list of the groups from which jobs may be taken, and visits
-- these. A group in which nothing is found is idle: it leaves the list, and the session remembers it. From time to time
-- it looks for others, between those that it knows: at least 20 times as long after a look as that took, and at once if
-- the list leads to no job. With a look the idle groups are in the list again, and are visited from their heads. So no
-- look walks over the entries of their jobs that are gone; only a full look does, and the next one is made 400 times as
-- long after the last one as that took, because it finds nothing that the others do not find. When this finds few such
-- entries, the idle groups are forgotten.
--
-- The value of the setting is the time of the next look and that of the next full one, in microseconds since 1970, the
-- groups, and the idle ones. Any role can set it: a forged one may hide groups from its own session for ten minutes,
-- and a damaged one counts as none. With more groups than a list may have, it is these times alone, and claims go from
-- group to group.

CREATE FUNCTION _pgq_groups_setting(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.groups_' || 'pgq_head'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_groups_setting(text) IS
    'Return the name of the setting in which a session keeps a list of the groups of a queue.';


CREATE FUNCTION _pgq_known_groups(
    queue text,
    at timestamptz,
    OUT group_ids bigint[],
    OUT idle bigint[],
    OUT look_us bigint,
    OUT full_look_us bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_known_groups$
DECLARE
    v_parts text[] := string_to_array(current_setting(_pgq_groups_setting(queue), true), ' ');
BEGIN
    idle := '{}';
    -- Most sessions keep none: they need no subtransaction.
    IF v_parts IS NULL OR cardinality(v_parts) < 2 THEN
        RETURN;
    END IF;
    BEGIN
        group_ids := v_parts[3]::bigint[];
        idle := coalesce(v_parts[4]::bigint[], '{}');
        look_us := v_parts[1]::bigint;
        full_look_us := v_parts[2]::bigint;
        IF array_ndims(group_ids) > 1 OR array_position(group_ids, NULL) IS NOT NULL
           OR array_ndims(idle) > 1 OR array_position(idle, NULL) IS NOT NULL THEN
            group_ids := '{}';
            idle := '{}';
        END IF;
        -- A time that lies too far ahead was kept before the clock was set back.
        IF NOT look_us - _pgq_microseconds(at) BETWEEN 0 AND 600000000 THEN
            look_us := 0;
        END IF;
        IF NOT full_look_us - _pgq_microseconds(at) BETWEEN 0 AND 600000000 THEN
            full_look_us := 0;
        END IF;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        group_ids := NULL;
        idle := '{}';
        look_us := NULL;
        full_look_us := NULL;
    END;
END
$_pgq_known_groups$;

COMMENT ON FUNCTION _pgq_known_groups(text, timestamptz) IS
    'Return the groups of a queue that this session has in a list, those that it remembers as idle, and when it looks '
    'for others, and makes a full look, in microseconds since 1970, 0 for now. NULL for the groups: it keeps none, and '
    'from that time on it may make one; NULL for the times, too: it never had one.';


CREATE FUNCTION _pgq_keep_groups(queue text, group_ids bigint[], idle bigint[], look_us bigint, full_look_us bigint)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_keep_groups$
BEGIN
    PERFORM set_config(
        _pgq_groups_setting(queue),
        concat_ws(' ', look_us, full_look_us, group_ids, CASE WHEN group_ids IS NOT NULL THEN idle[:1000] END),
        false);
END
$_pgq_keep_groups$;

COMMENT ON FUNCTION _pgq_keep_groups(text, bigint[], bigint[], bigint, bigint) IS
    'Keep a list of groups of a queue in this session, up to a thousand that are idle, and when it looks for others, '
    'and makes a full look; NULL for the groups: they are too many. Returns nothing.';
