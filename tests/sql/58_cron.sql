-- When a cron expression fires next. test_cron.py compares it with cronsim.
BEGIN;
SELECT plan(96);
SET LOCAL TimeZone = 'America/New_York';
SET LOCAL track_functions = 'all';

-- Times are in UTC. The last column tells why.
CREATE TEMP TABLE fires (cron text, after text, next text, timezone text, what text);
INSERT INTO fires VALUES
    ('* * * * *', '2026-11-27 12:00:00', '2026-11-27 12:01', 'UTC', 'the next minute, and not the present one'),
    ('* * * * *', '2026-11-27 12:00:59.999999', '2026-11-27 12:01', 'UTC', 'a part of a second does not matter'),
    ('0 7 * * *', '2026-11-27 06:59:59.5', '2026-11-27 07:00', 'UTC', 'half a second later'),
    ('*/15 8-18 * * mon-fri', '2026-11-27 18:46', '2026-11-30 08:00', 'UTC', 'steps, ranges and names'),
    ('5/20 * * * *', '2026-11-27 12:26', '2026-11-27 12:45', 'UTC', 'a step from a value to the end'),
    ('10-20/7,59 3,4 * * *', '2026-11-27 03:17', '2026-11-27 03:59', 'UTC', 'lists of ranges'),
    ('5-5/20 * * * *', '2026-11-27 12:26', '2026-11-27 12:45', 'UTC', 'a step after a range of one value is that after the value'),
    ('0 0 * Jan-MAR/2 *', '2026-01-31 12:00', '2026-03-01 00:00', 'UTC', 'names of months in any case'),
    ('0 0 * * 7', '2026-11-27 12:00', '2026-11-29 00:00', 'UTC', '7 is Sunday'),
    ('0 0 * * 5-7', '2026-11-28 12:00', '2026-11-29 00:00', 'UTC', 'a range may end there'),
    ('0 0 * * 0', '2026-11-27 12:00', '2026-11-29 00:00', 'UTC', 'so is 0'),
    ('0 0 13 * 5', '2026-11-12 12:00', '2026-11-13 00:00', 'UTC', 'a day of the month'),
    ('0 0 13 * 5', '2026-11-13 12:00', '2026-11-20 00:00', 'UTC', 'or of the week'),
    ('0 0 */2 * 5', '2026-11-27 12:00', '2026-12-11 00:00', 'UTC', 'both, if one field begins with *'),
    ('0 0 13 * */4', '2026-11-12 12:00', '2026-12-13 00:00', 'UTC', 'also if it is that of the week'),
    ('0 0 L * *', '2026-02-27 12:00', '2026-02-28 00:00', 'UTC', 'the last day'),
    ('0 0 l * *', '2028-02-27 12:00', '2028-02-29 00:00', 'UTC', 'of a leap year'),
    ('0 0 LW * *', '2026-02-20 12:00', '2026-02-27 00:00', 'UTC', 'the last weekday, where the last day is a Saturday'),
    ('0 0 LW * *', '2026-05-20 12:00', '2026-05-29 00:00', 'UTC', 'and where it is a Sunday'),
    ('0 0 L,15 * *', '2026-05-20 12:00', '2026-05-31 00:00', 'UTC', 'among others'),
    ('0 0 * * fri#2', '2026-11-01 12:00', '2026-11-13 00:00', 'UTC', 'the second Friday'),
    ('0 0 * * 1#5', '2026-12-01 12:00', '2027-03-29 00:00', 'UTC', 'the fifth Monday, which few months have'),
    ('0 0 * * 5L', '2026-11-01 12:00', '2026-11-27 00:00', 'UTC', 'the last Friday'),
    ('0 0 * * 7L,mon#1', '2026-11-03 12:00', '2026-11-29 00:00', 'UTC', 'or one of several'),
    ('0 0 29 2 *', '2096-03-01 00:00', '2104-02-29 00:00', 'UTC', '2100 is no leap year'),
    ('0 0 * 2 1#5', '2096-03-01 00:00', '2112-02-29 00:00', 'UTC', 'a Monday on 29 February'),
    ('0 0 31 12 *', '2026-12-31 00:00', '2027-12-31 00:00', 'UTC', 'a year later'),
    ('  0  7 *	* *  ', '2026-11-27 12:00', '2026-11-28 07:00', 'UTC', 'spaces do not matter'),
    ('@hourly', '2026-11-27 12:00', '2026-11-27 13:00', 'UTC', 'hourly'),
    ('@Daily', '2026-11-27 12:00', '2026-11-28 00:00', 'UTC', 'daily'),
    ('@midnight', '2026-11-27 12:00', '2026-11-28 00:00', 'UTC', 'at midnight'),
    ('@weekly', '2026-11-27 12:00', '2026-11-29 00:00', 'UTC', 'weekly'),
    ('@monthly', '2026-11-27 12:00', '2026-12-01 00:00', 'UTC', 'monthly'),
    ('@yearly', '2026-11-27 12:00', '2027-01-01 00:00', 'UTC', 'yearly'),
    ('@annually', '2026-11-27 12:00', '2027-01-01 00:00', 'UTC', 'annually'),
    ('every 90 seconds', '2026-11-27 12:00:00', '2026-11-27 12:01:30', 'UTC', 'multiples of 90 seconds'),
    ('Every 1 second', '2026-11-27 12:00:00.4', '2026-11-27 12:00:01', 'UTC', 'each second'),
    ('every 2 hours', '2026-11-27 12:00', '2026-11-27 14:00', 'Asia/Kathmandu', 'in any zone those of UTC'),
    ('every 36 hours', '1969-12-30 00:00', '1969-12-30 12:00', 'UTC', 'also before 1970'),
    ('every 1 day', '2026-11-27 12:00', '2026-11-28 00:00', 'UTC', 'days'),
    ('every 1 week', '2026-11-27 12:00', '2026-12-03 00:00', 'UTC', 'weeks since Thursday, 1 January 1970'),
    ('0 7 * * *', '2026-07-01 05:00', '2026-07-02 05:00', 'Europe/Berlin', 'on the clocks of a zone'),
    ('0 7 * * *', '2026-11-27 12:00', '2026-11-28 01:15', 'Asia/Kathmandu', 'also of one with a quarter of an hour'),
    -- Berlin: from 2:00 to 3:00 on 29 March 2026 at 01:00 UTC, from 3:00 to 2:00 on 25 October at 01:00 UTC.
    ('30 2 * * *', '2026-03-28 12:00', '2026-03-29 01:00', 'Europe/Berlin', 'a time that is skipped counts when the skip ends'),
    ('30 2 * * *', '2026-03-29 01:00', '2026-03-30 00:30', 'Europe/Berlin', 'and once'),
    ('0,30 2,3 * * *', '2026-03-29 00:59', '2026-03-29 01:00', 'Europe/Berlin', 'with the times that are not skipped'),
    ('0,30 2,3 * * *', '2026-03-29 01:00', '2026-03-29 01:30', 'Europe/Berlin', 'which then follow'),
    ('30 2 * * *', '2026-10-24 12:00', '2026-10-25 00:30', 'Europe/Berlin', 'a time that is repeated counts the first time'),
    ('30 2 * * *', '2026-10-25 00:30', '2026-10-26 01:30', 'Europe/Berlin', 'and once'),
    ('50 2 * * *', '2026-10-25 01:10', '2026-10-26 01:50', 'Europe/Berlin', 'also when asked in the repetition'),
    ('*/30 2 * * *', '2026-03-28 12:00', '2026-03-30 00:00', 'Europe/Berlin', 'with *, a skipped time does not count'),
    ('*/30 2 * * *', '2026-10-25 00:30', '2026-10-25 01:00', 'Europe/Berlin', 'and a repeated time counts twice'),
    ('15 * * * *', '2026-10-25 00:15', '2026-10-25 01:15', 'Europe/Berlin', 'so each hour has its time'),
    ('* 3 * * *', '2026-03-28 12:00', '2026-03-29 01:00', 'Europe/Berlin', 'from the end of a skip on'),
    ('0 0 * * *', '2026-03-07 12:00', '2026-03-08 05:00', 'America/Havana', 'midnight is skipped in Havana'),
    ('* 0 * * *', '2026-03-08 04:30', '2026-03-09 04:00', 'America/Havana', 'all of the first hour is'),
    ('*/10 0 * * *', '2026-11-01 04:50', '2026-11-01 05:00', 'America/Havana', 'and repeated in autumn'),
    ('0 7 * * *', '2011-12-29 18:00', '2011-12-30 10:00', 'Pacific/Apia', 'Samoa has skipped 30 December 2011'),
    ('0 7 * * *', '2011-12-30 10:00', '2011-12-30 17:00', 'Pacific/Apia', 'and the next day has its own time'),
    ('*/30 * 30 12 *', '2011-12-01 00:00', '2012-12-29 10:00', 'Pacific/Apia', 'with *, a skipped day does not count'),
    -- Lord Howe Island: from 2:00 to 1:30 on 5 April 2026 at 15:00 UTC of the day before.
    ('*/5 2 * * *', '2026-04-04 12:00', '2026-04-04 15:30', 'Australia/Lord_Howe', 'half an hour is repeated there'),
    ('50 * * * *', '2026-04-04 14:50', '2026-04-04 15:20', 'Australia/Lord_Howe', 'so ten to two comes twice within it'),
    ('0 12 29 2 *', '2096-03-01 00:00', '2104-02-29 11:00', 'Europe/Berlin', 'years away in a zone'),
    ('* 12 29 2 *', '2096-03-01 00:00', '2104-02-29 11:00', 'Europe/Berlin', 'and with *');
SELECT is(pgq_cron_next(cron, (after || 'Z')::timestamptz, timezone), (next || 'Z')::timestamptz, format('%s (%s): %s', cron, timezone, what))
FROM fires;

SELECT is(pgq_cron_next(cron, '2026-11-27', timezone), NULL, format('%s never fires', cron))
FROM (VALUES ('0 0 30 2 *', 'UTC'), ('0 0 31 4,6,9,11 *', 'Europe/Berlin'), ('* 0 30 2 *', 'Europe/Berlin'), ('0 0 */31 2 1#5', 'UTC')) AS never (cron, timezone);

SELECT throws_ok(format('SELECT pgq_cron_next(%L, %L, %L)', cron, after, timezone), state, message, coalesce(message, cron))
FROM (VALUES
    (NULL, '2026-11-27', 'UTC', '22004', 'cron is null'),
    ('* * * * *', NULL, 'UTC', '22004', 'after is null'),
    ('* * * * *', '2026-11-27', NULL, '22004', 'timezone is null'),
    ('* * * *', '2026-11-27', 'UTC', '22023', 'cron "* * * *" is not an expression of five fields'),
    ('0 * * * * *', '2026-11-27', 'UTC', '22023', 'cron "0 * * * * *" is not an expression of five fields'),
    ('', '2026-11-27', 'UTC', '22023', 'cron "" is not an expression of five fields'),
    ('@reboot', '2026-11-27', 'UTC', '22023', 'cron "@reboot" is not an expression of five fields'),
    ('every second', '2026-11-27', 'UTC', '22023', 'cron "every second" is not an expression of five fields'),
    ('every 0 seconds', '2026-11-27', 'UTC', '22023', 'cron "every 0 seconds" is out of range'),
    ('60 * * * *', '2026-11-27', 'UTC', '22023', 'cron "60 * * * *" has "60" as minute'),
    ('* 5-3 * * *', '2026-11-27', 'UTC', '22023', 'cron "* 5-3 * * *" has "5-3" as hour'),
    ('*/0 * * * *', '2026-11-27', 'UTC', '22023', 'cron "*/0 * * * *" has "*/0" as minute'),
    ('1,,2 * * * *', '2026-11-27', 'UTC', '22023', 'cron "1,,2 * * * *" has "" as minute'),
    ('* * 0 * *', '2026-11-27', 'UTC', '22023', 'cron "* * 0 * *" has "0" as day of the month'),
    ('* * * 13 *', '2026-11-27', 'UTC', '22023', 'cron "* * * 13 *" has "13" as month'),
    ('* * * mon *', '2026-11-27', 'UTC', '22023', 'cron "* * * mon *" has "MON" as month'),
    ('* * * * 8', '2026-11-27', 'UTC', '22023', 'cron "* * * * 8" has "8" as day of the week'),
    ('* * * * fry#1', '2026-11-27', 'UTC', '22023', 'cron "* * * * fry#1" has "FRY#1" as day of the week'),
    ('* * * * fri-sun', '2026-11-27', 'UTC', '22023', 'cron "* * * * fri-sun" has "FRI-SUN" as day of the week'),
    ('* * * * 5#6', '2026-11-27', 'UTC', '22023', 'cron "* * * * 5#6" has "5#6" as day of the week'),
    ('99999999999 * * * *', '2026-11-27', 'UTC', '22023', 'cron "99999999999 * * * *" has "99999999999" as minute'),
    ('* * * * *', 'infinity', 'UTC', '22008', 'after infinity is out of range'),
    ('* * * * *', '2026-11-27', 'Europe/Berlni', '22023', 'timezone "Europe/Berlni" is unknown'),
    ('* * * * *', '2026-11-27', 'CET', '22023', 'timezone "CET" is unknown'),
    ('* * * * *', '2026-11-27', 'Europe/Berlin2', '22023', 'timezone "Europe/Berlin2" is unknown')
) AS bad (cron, after, timezone, state, message);

-- The distance does not cost: months are skipped as a whole, and a change of the clocks is found by bisection.
CREATE FUNCTION pg_temp.calls() RETURNS bigint LANGUAGE sql AS $$ SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_xact_user_functions WHERE funcname ~ '_pgq_(cron|clock)' $$;
SELECT pg_temp.calls() AS before \gset
SELECT pgq_cron_next('59 23 31 12 *', '2027-01-01 05:00Z', 'UTC') \g /dev/null
SELECT cmp_ok(pg_temp.calls() - :before, '<=', 10::bigint, 'a year takes few steps');
SELECT pg_temp.calls() AS before \gset
SELECT pgq_cron_next('0 0 * 2 1#5', '2096-03-01 00:00Z', 'UTC') \g /dev/null
SELECT cmp_ok(pg_temp.calls() - :before, '<=', 25::bigint, 'so do sixteen years');
SELECT pg_temp.calls() AS before \gset
SELECT pgq_cron_next('* 12 29 2 *', '2097-03-01 00:00Z', 'Europe/Berlin') \g /dev/null
SELECT cmp_ok(pg_temp.calls() - :before, '<=', 40::bigint, 'and seven in a zone');

SELECT * FROM finish();
ROLLBACK;
