"""Strange values for every type that a function of pgq takes, as text that PostgreSQL reads."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import strategies as st

Text = st.SearchStrategy[str]

LIMITS = (0, 1, -1, 9, 10, 200, 10_000, 10_001, 2**15, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**63)

# Neither NUL nor half a surrogate pair: the client could not send them.
characters = st.characters(codec="utf-8", exclude_characters="\0")

TEXTS = [
    "", " ", "default", "k", "a\x1fb", "x" * 200, "x" * 201, "\u00e9" * 100, "\u00e9" * 101, "x" * 1000, "x" * 1001,
    "x" * 4001, "x" * 100_000, "'; DROP TABLE pgq_waiting; --", "\\", "\\'", '"', '"$user"', "$$", "%s %I %%", "{}",
    "NULL", "\u202e\u200b\ufeff", "\U0001f600" * 50, "\U0001f600" * 51, "A\u030a", "\n\t\x01\x7f", "pg_temp", "-1",
    "0",
]  # fmt: skip
texts: Text = st.one_of(
    st.sampled_from(TEXTS),
    st.text(characters, max_size=20),
)

integers: Text = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(LIMITS).map(str),
    st.sampled_from(["", "1.5", "1e3", "NaN", "0x10", "1_000", " 7 ", "seven"]),
)

booleans: Text = st.sampled_from(["true", "false", "t", "off", "", "maybe", "2"])

TIMESTAMPS = [
    "infinity", "-infinity", "epoch", "now", "today", "294276-12-31 23:59:59.999999Z", "294277-01-01Z",
    "4714-11-24 BC", "4715-01-01 BC", "0001-01-01", "1969-12-31 23:59:59.999999Z", "1990-01-01Z",
    "1990-06-01 12:00 Australia/Lord_Howe", "2000-02-30", "1990-01-01 24:00Z", "1990-01-01 00:00:60Z",
    "1990-01-01 00:00+167:59", "", "soon", "x" * 1000,
]  # fmt: skip
timestamps: Text = st.one_of(
    st.builds(lambda year, day: f"{year}-02-{day:02} 12:00Z", st.integers(1800, 2300), st.integers(1, 30)),
    st.sampled_from(TIMESTAMPS),
)

INTERVALS = [
    "infinity", "-infinity", "178000000 years", "-178000000 years", "1e300 years",
    "9223372036854775807 microseconds", "-9223372036854775808 microseconds", "2147483647 months -2147483648 days",
    "-2147483648 months 2147483647 days", "1200 months -36000 days", "1200 months -36524 days -24 hours",
    "120000 months -3599999 days", "3400000 months -101999999 days", "1 month -30 days", "-1 month 31 days",
    "-1 month 30 days 1 microsecond", "P1Y2M3DT4H5M6S", "1-2 3 4:05:06", "-1 2:03:04", "1 second ago",
    "0.0000001 s", "", "a while", "1 fortnight",
]  # fmt: skip
intervals: Text = st.one_of(
    st.sampled_from(["0", "1 second", "1 hour", "1 day", "1 month", "1 year", "100 years", "101 years", "-1 second"]),
    st.sampled_from(INTERVALS),
    # Small with months of 30 days, as in a comparison, but not always by the calendar.
    st.builds(
        lambda months, days, seconds: f"{months} months {days - 30 * months} days {seconds} seconds",
        st.integers(-3_400_000, 3_400_000),
        st.integers(-400, 40_000),
        st.integers(-100_000, 100_000),
    ),
)

SCALARS = [
    "null", "true", "0", "-0", "1.0", "1e131071", "-1e131071", "1e-16383", "1e200000", "1e2147483648", "NaN", "'",
    "", '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\x"', '"a\tb"', "{", "[1,]", "[1]]",
    '{"a": 1, "a": 2}', '{"": {"": {}}}', "[" * 100_000 + "]" * 100_000, "[" * 5000 + "]" * 5000,
    '{"a":' * 2000 + "1" + "}" * 2000, '"' + "x" * 1_048_574 + '"', '"' + "x" * 1_048_575 + '"',
    "[" + "1e20000," * 60 + "0]", " [ 1 ] ",
]  # fmt: skip
json_scalars: Text = st.one_of(
    st.sampled_from(SCALARS),
    texts.map(json.dumps),
    st.integers(0, 3).map(str),
)

json_values: Text = st.one_of(
    json_scalars,
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    ).map(json.dumps),
)


def arrays(elements: Text) -> Text:
    """Arrays of such elements: empty, with NULLs, of several dimensions, with their own bounds, and broken ones."""
    item = st.one_of(elements.map(_quoted), elements.map(_quoted), st.just("NULL"))
    flat = st.lists(item, max_size=5).map(_braced)
    square = st.lists(st.tuples(item, item), min_size=1, max_size=3).map(
        lambda rows: _braced([_braced(row) for row in rows])
    )
    plain = st.lists(elements.map(_quoted), min_size=1, max_size=5).map(_braced)
    moved = st.builds(
        lambda at, a, b: f"[{at}:{at + 1}]={_braced([a, b])}", st.sampled_from([-5, 0, 7, 2**31 - 2]), item, item
    )
    broken = st.sampled_from(["", "{", "{}}", "{,}", "{{}}", "{{a},{b,c}}", "[1:3]={1}", "{{{{{{{1}}}}}}}", "{a\\"])
    return st.one_of(plain, flat, square, moved, broken)


def _quoted(element: str) -> str:
    escaped = element.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _braced(elements: Sequence[str]) -> str:
    return f"{{{','.join(elements)}}}"


OF_TYPE: dict[str, Text] = {
    "text": texts,
    "bigint": integers,
    "boolean": booleans,
    "timestamp with time zone": timestamps,
    "interval": intervals,
    "jsonb": json_values,
    "text[]": arrays(texts),
    "bigint[]": arrays(integers),
}
