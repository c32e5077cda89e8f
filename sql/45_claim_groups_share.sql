-- How a claim shares its room among the groups that it visits.

-- What some groups leave of their share goes to the others, once there are no more groups to visit. SKIP LOCKED does
-- not skip the locks of this transaction, so each pass finds the rows of the one before again.
--
-- A group whose first jobs are locked is being served by a claim at the same time. So a claim that other claims do not
-- wait for leaves such a group to its next turn, at first.
CREATE FUNCTION _pgq_lock_shares(
    queue text,
    group_ids bigint[],
    priorities smallint[],
    rooms bigint[],
    firsts tid[],
    max_jobs bigint,
    at timestamptz,
    listed bigint,
    is_alone boolean,
    is_last boolean,
    OUT rows tid[],
    OUT bytes bigint,
    OUT suspects bigint,
    OUT last_group bigint,
    OUT idle bigint[],
    OUT is_long boolean
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_lock_shares$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_share bigint := ceil(max_jobs::numeric / cardinality(group_ids));
    v_wanted bigint[] := ARRAY(SELECT least(r, v_share) FROM unnest(rooms) AS r);
    v_next bigint[];
    v_locked record;
    v_left bigint;
    v_read bigint;
    v_wasted bigint;
    v_goes_on boolean;
BEGIN
    IF cardinality(group_ids) = max_jobs THEN
        v_read := _pgq_tuples_read();
        IF listed > 0 THEN
            firsts := _pgq_first_jobs(queue, group_ids, at, v_now);
        END IF;
        IF cardinality(firsts) = max_jobs THEN
            v_locked := _pgq_lock_firsts(firsts, at);
            rows := v_locked.rows;
            bytes := v_locked.bytes;
            suspects := v_locked.suspects;
            IF cardinality(rows) = max_jobs THEN
                v_wasted := _pgq_tuples_read() - v_read - max_jobs;
                is_long := coalesce(v_wasted > 100 + 5 * max_jobs, true);
                IF is_long AND listed > 0 THEN
                    PERFORM _pgq_move_group_heads(
                        queue, group_ids, v_wanted, rows, NULL, coalesce(v_wasted, 10000) / max_jobs, listed, at,
                        v_now);
                END IF;
                RETURN;
            END IF;
        END IF;
    END IF;
    FOR v_pass IN 1..3 LOOP
        v_read := _pgq_tuples_read();
        v_locked := _pgq_lock_in_groups(
            queue, group_ids, priorities, v_wanted, max_jobs, at, listed > 0, v_pass = 1 AND NOT is_alone, v_now);
        v_wasted := greatest(v_wasted, _pgq_tuples_read() - v_read - cardinality(v_locked.rows));
        v_left := max_jobs - cardinality(v_locked.rows);
        IF v_left = 0 AND v_pass = 1 THEN
            last_group := group_ids[v_locked.last_place];
        END IF;
        EXIT WHEN v_left = 0 OR v_pass = 3 OR NOT is_last;
        WITH taken AS (
            SELECT g.place, g.wanted, g.room, count(l.place) AS jobs,
                   count(l.place) = g.wanted AND g.wanted < g.room AS has_more
            FROM unnest(v_wanted, rooms) WITH ORDINALITY AS g (wanted, room, place)
            LEFT JOIN unnest(v_locked.places) AS l (place) USING (place)
            GROUP BY g.place, g.wanted, g.room
        )
        SELECT array_agg(
                   least(t.room, CASE WHEN t.has_more THEN t.wanted + m.more ELSE t.jobs + 1 END) ORDER BY t.place),
               bool_or(t.has_more)
        INTO v_next, v_goes_on
        FROM taken AS t
        CROSS JOIN (
            SELECT ceil(v_left::numeric / nullif(count(*), 0)) AS more FROM taken AS t WHERE t.has_more
        ) AS m;
        EXIT WHEN NOT v_goes_on AND (is_alone OR v_pass > 1);
        v_wanted := v_next;
    END LOOP;
    rows := v_locked.rows;
    bytes := v_locked.bytes;
    suspects := v_locked.suspects;
    IF v_left > 0 THEN
        idle := ARRAY(
            SELECT g.group_id
            FROM unnest(group_ids) WITH ORDINALITY AS g (group_id, place)
            WHERE g.place <> ALL (v_locked.places));
    END IF;
    is_long := coalesce(v_wasted > 100 + 5 * cardinality(group_ids), true);
    IF is_long AND listed > 0 THEN
        PERFORM _pgq_move_group_heads(
            queue, group_ids, v_wanted, rows, CASE WHEN v_left = 0 THEN v_locked.last_place END,
            coalesce(v_wasted, 10000) / cardinality(group_ids), listed, at, v_now);
    END IF;
END
$_pgq_lock_shares$;

COMMENT ON FUNCTION _pgq_lock_shares(
    text, bigint[], smallint[], bigint[], tid[], bigint, timestamptz, bigint, boolean, boolean
) IS
    'Lock the rows of up to max_jobs jobs of these groups of a queue that are ripe at a time, and no more of each than '
    'it has room for: as many of each, as far as it has them. No lane below the given priority of a group is looked '
    'at. listed is the number of groups in the list of this session (see 45_claim_groups_known.sql); 0: there is none, '
    'and no head is known. is_alone says that this transaction has the lock of the queue, is_last that there are no '
    'other groups. Returns their ctids in the order in which the groups are served; the size of their args and '
    'contexts; how many are suspects; the last group that is served, if later ones were not visited; those '
    'in which no job was taken; and whether many entries were read in vain.';
