"""
Complete an upgrade script from the SQL of two releases.

    python3 tools/upgrade_script.py sql/released/pgq--A.sql build/pgq--B.sql sql/upgrade/pgq--A--B.sql > COMPLETE

The written script holds what a person decides: tables, columns, indexes on existing tables, and what becomes of data.
Two markers, each a line of its own, stand for what the comparison of the releases decides:

    -- @drop [NAME ...]    DROP of the views and functions that are gone, that CREATE OR REPLACE cannot change, or that
                           stand on one of these; and of those NAMEs that the comparison does not find
    -- @create             CREATE of what is new or was dropped, CREATE OR REPLACE of what else has changed, in load
                           order; comments that differ; REVOKE from PUBLIC of what is new; then the privileges that the
                           drops took

Three more state what a comparison cannot know:

    -- @renamed OLD NEW    privileges on a view or function OLD, which is gone, go to NEW
    -- @rewritten NAME     the written script replaces the values of function NAME that a table or index stores
    -- @same NAME          function NAME returns what it returned before, so the stored values stay right

The comparison is one of texts in the form of the files in sql/, so it needs no server. It stops with an error wherever
it does not understand a text, or the written script leaves out what it must decide.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

WRAP = Path(__file__).resolve().parent.parent / "sql" / "wrap"
# What the texts of a statement consist of; only a semicolon outside of all of them ends it.
TOKEN = re.compile(
    r"--[^\n]*|^\\[^\n]*|[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"[^\"]*\"|(?P<tag>\$\w*\$).*?(?P=tag)"
    r"|^BEGIN ATOMIC\n.*?^END(?=;)|;",
    re.DOTALL | re.MULTILINE,
)
QUOTE = re.compile(r"['\"]|\$\w*\$")
MARKER = re.compile(r"^-- @(\w+)(?: (.*))?$", re.MULTILINE)
CREATE = re.compile(r"CREATE (?:UNLOGGED |UNIQUE )?(TABLE|SEQUENCE|TYPE|INDEX|VIEW|FUNCTION) (\w+)")
ON_TABLE = re.compile(r"(?:ALTER TABLE|CREATE (?:UNIQUE )?INDEX \w+ ON) (\w+)")
COMMENT = re.compile(r"COMMENT ON (\w+) (\w+)")
REVOKE = re.compile(r"REVOKE ALL ON (TABLE|SEQUENCE|TYPE|FUNCTION)\s+(.*?)\s+FROM PUBLIC;", re.DOTALL)
# What frames an installation, or what only the written script can say.
FRAME = re.compile(r"DO \$install_head\$|BEGIN ISOLATION LEVEL|COMMIT;|SELECT pg_extension_config_dump\(")
ARGUMENT = re.compile(r"(?:(IN|OUT|INOUT|VARIADIC) )?(\w+) (.+?)(?: (?:DEFAULT|=) (.+))?")
HEADER = re.compile(r"\s*(?:RETURNS\s+(?P<result>.+?)\s+)?LANGUAGE (?P<language>\w+)\b", re.DOTALL)
COLUMN = re.compile(r".*?(?:\bAS |\.|^)(\w+)", re.DOTALL)
# Its text differs with each release; the wrapper of the upgrade scripts makes it anew.
VERSION = "pgq_version"


class Unclear(Exception):
    """A text that cannot be understood, or a decision that the written script leaves out."""


@dataclass(frozen=True)
class Statement:
    """A statement, with the comment directly above it."""

    text: str
    remark: str = ""

    @property
    def whole(self) -> str:
        """The statement under its comment."""
        return f"{self.remark}{self.text}"


@dataclass(frozen=True)
class Function:
    """What CREATE OR REPLACE cannot change in a function, and what PostgreSQL records that it depends on."""

    arguments: tuple[tuple[str, str, str], ...]
    defaults: frozenset[str]
    result: str
    tracked: str


@dataclass
class Release:
    """The statements of a release in load order, and its objects by name."""

    statements: list[Statement]
    objects: dict[str, tuple[str, Statement]] = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> dict[str, Statement]:
        """The objects of these kinds."""
        return {name: statement for name, (kind, statement) in self.objects.items() if kind in kinds}


def statements(text: str) -> Iterator[Statement]:
    """Split a script into its statements."""
    begin = 0
    remark = ""
    seen = begin
    for token in TOKEN.finditer(text):
        between = text[seen : token.start()]
        seen = token.end()
        if token[0].startswith(("--", "\\")) and not text[begin : token.start()].strip():
            blank = text[begin : token.start()].count("\n") > 1
            remark = token[0] + "\n" if blank or not token[0].startswith("--") else f"{remark}{token[0]}\n"
            if token[0].startswith("\\"):
                remark = ""
            begin = token.end()
        elif token[0] == ";":
            lead = text[begin : token.end()]
            yield Statement(lead.strip(), "" if lead.startswith("\n\n") else remark)
            begin, remark = token.end(), ""
        if found := QUOTE.search(between):
            raise Unclear(f"a string does not end: {between[found.start() :][:60]!r}")
    if rest := text[begin:].strip():
        raise Unclear(f"a statement does not end: {rest[:60]!r}")


def load(text: str) -> Release:
    """Understand each statement of a release."""
    release = Release(list(statements(text)))
    for statement in release.statements:
        if created := CREATE.match(statement.text):
            kind, name = created.groups()
            if name in release.objects:
                raise Unclear(f"there are two objects of the name {name}")
            release.objects[name] = (kind, statement)
        elif not any(form.match(statement.text) for form in (ON_TABLE, COMMENT, REVOKE, FRAME)):
            raise Unclear(f"no rule for this statement: {statement.text[:60]!r}")
    for name, statement in release.of_kind("FUNCTION").items():
        function(name, statement)
    for name, statement in release.of_kind("VIEW").items():
        columns(name, statement)
    return release


def split(text: str) -> Iterator[str]:
    """Split at the commas that stand in no parenthesis and no string; blanks become one space."""
    depth, begin = 0, 0
    for token in re.finditer(r"[eE]?'(?:[^']|'')*'|[(),\[\]]", text):
        if token[0] == "," and depth == 0:
            yield " ".join(text[begin : token.start()].split())
            begin = token.end()
        depth += (token[0] in "([") - (token[0] in ")]")
    if last := text[begin:].strip():
        yield " ".join(last.split())


def closing(text: str, opening: int) -> int:
    """Where the parenthesis ends that opens at a place."""
    depth = 0
    for token in re.compile(r"[eE]?'(?:[^']|'')*'|[()]").finditer(text, opening):
        depth += (token[0] == "(") - (token[0] == ")")
        if depth == 0:
            return token.start()
    raise Unclear(f"a parenthesis does not end: {text[:60]!r}")


def function(name: str, statement: Statement) -> Function:
    """Parse the head of a function."""
    text = statement.text
    opening = text.index(name) + len(name)
    if text[opening : opening + 1] != "(":
        raise Unclear(f"cannot parse the arguments of function {name}")
    end = closing(text, opening)
    arguments = []
    defaults = set()
    for argument in split(text[opening + 1 : end]):
        if (found := ARGUMENT.fullmatch(argument)) is None:
            raise Unclear(f"cannot parse an argument of function {name}: {argument!r}")
        mode, argument_name, type_, default = found.groups()
        arguments.append((mode or "IN", argument_name, type_))
        if default is not None:
            defaults.add(argument_name)
    if (header := HEADER.match(text, end + 1)) is None:
        raise Unclear(f"cannot parse what function {name} returns")
    # A body that is a string is looked into when it runs; one of the SQL standard's form depends on what it names.
    body = re.search(r"^AS \$", text, re.MULTILINE)
    tracked = text[: body.start()] if body else text
    return Function(tuple(arguments), frozenset(defaults), " ".join((header["result"] or "").split()), tracked)


def columns(name: str, statement: Statement) -> list[str]:
    """The names of the columns of a view."""
    begin = re.search(r"\sAS\s+SELECT\s", statement.text)
    if begin is None:
        raise Unclear(f"cannot parse view {name}: no AS SELECT")
    depth = 0
    for token in re.compile(r"'(?:[^']|'')*'|[()]|\bFROM\b").finditer(statement.text, begin.end()):
        depth += (token[0] == "(") - (token[0] == ")")
        if token[0] == "FROM" and depth == 0:
            listed = list(split(statement.text[begin.end() : token.start()]))
            break
    else:
        raise Unclear(f"cannot parse view {name}: no FROM")
    found = []
    for column in listed:
        if (match := COLUMN.fullmatch(column)) is None:
            raise Unclear(f"cannot tell the name of a column of view {name}: {column!r}")
        found.append(match[1])
    return found


def mentions(text: str, names: Iterable[str]) -> bool:
    """Whether a text holds one of the names as a word, comments aside."""
    words = set(re.findall(r"\w+", re.sub(r"--[^\n]*", "", text)))
    return not words.isdisjoint(names)


def words(text: str) -> list[str]:
    """Return the words and signs of a text without comments: what is the same to PostgreSQL, however it is set."""
    return re.findall(r"'(?:[^']|'')*'|\w+|[^\w\s]", re.sub(r"--[^\n]*", "", text))


def same(before: Statement, after: Statement) -> bool:
    """Return whether two statements make the same object. PostgreSQL keeps a body that is a string as it is written."""
    if any(re.search(r"^AS \$", statement.text, re.MULTILINE) for statement in (before, after)):
        return before.text == after.text
    return words(before.text) == words(after.text)


class Written:
    """What the written script decides."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.markers: dict[str, list[list[str]]] = {}
        for marker in MARKER.finditer(text):
            self.markers.setdefault(marker[1], []).append((marker[2] or "").split())
        if unknown := self.markers.keys() - {"drop", "create", "renamed", "rewritten", "same"}:
            raise Unclear(f"unknown marker: -- @{min(unknown)}")
        for name in ("drop", "create"):
            if len(self.markers.get(name, [])) != 1:
                raise Unclear(f"the script must have one line '-- @{name}', and has {len(self.markers.get(name, []))}")
        if text.index("\n-- @drop") > text.index("\n-- @create"):
            raise Unclear("'-- @drop' must stand before '-- @create'")
        if any(len(pair) != 2 for pair in self.markers.get("renamed", [])):
            raise Unclear("a line '-- @renamed' takes an old and a new name")
        self.statements = [statement.text for statement in statements(text)]
        self.renamed: dict[str, str] = {}
        self.dropped: set[str] = set()
        self.created: set[str] = set()
        for statement in self.statements:
            if found := re.match(r"ALTER (?:TABLE|SEQUENCE|INDEX|TYPE|VIEW) (\w+) RENAME TO (\w+);", statement):
                self.renamed[found[1]] = found[2]
            elif found := re.match(r"DROP (?:TABLE|SEQUENCE|INDEX|TYPE|VIEW|FUNCTION) ([\w, ]+)", statement):
                self.dropped |= set(re.findall(r"\w+", found[1]))
            elif found := CREATE.match(statement):
                self.created.add(found[2])

    def decides(self, *names: str) -> bool:
        """Whether a statement of the script changes a table of one of these names."""
        return any(
            mentions(statement, names) for statement in self.statements if re.match("ALTER|DROP|CREATE", statement)
        )


class Comparison:
    """What is to be dropped and what is to be created, between a release and the next one."""

    def __init__(self, old: Release, new: Release, written: Written) -> None:
        self.old, self.new, self.written = old, new, written
        self.successor: dict[str, str] = dict(written.markers.get("renamed", []))
        for old_name, new_name in self.successor.items():
            if old_name not in old.objects or old_name in new.objects or new_name not in new.objects:
                raise Unclear(
                    f"'-- @renamed {old_name} {new_name}' must name an object that is gone and one that is there"
                )
        self.drops = self._drops()
        self.fresh: set[str] = set()
        self._check_tables()

    def _replaceable(self, name: str) -> bool:
        kind, before = self.old.objects[name]
        if self.new.objects.get(name, ("",))[0] != kind:
            return False
        after = self.new.objects[name][1]
        if kind == "VIEW":
            known = columns(name, before)
            return columns(name, after)[: len(known)] == known
        was, now = function(name, before), function(name, after)
        return was.arguments == now.arguments and was.result == now.result and was.defaults <= now.defaults

    def _drops(self) -> list[str]:
        """The views and functions to drop, those that stand on others first."""
        candidates = {
            name: columns_of
            for name, columns_of in self.old.of_kind("VIEW", "FUNCTION").items()
            if name not in self.written.dropped
        }
        asked = set(self.written.markers["drop"][0])
        if unknown := asked - candidates.keys():
            raise Unclear(f"'-- @drop' names {min(unknown)}, which the release before does not have")
        drops = asked | {name for name in candidates if not self._replaceable(name)}
        # PostgreSQL lets nothing be dropped that a view or a function of the SQL standard's form stands on.
        grown = True
        while grown:
            grown = False
            for name, statement in candidates.items():
                is_view = self.old.objects[name][0] == "VIEW"
                tracked = statement.text if is_view else function(name, statement).tracked
                others = (drops | self.written.dropped) - {name}
                if name not in drops and mentions(tracked, others):
                    drops.add(name)
                    grown = True
        return [name for name in reversed(self.old.objects) if name in drops]

    def _renamed(self, text: str) -> str:
        """Return a text of the release before under the names that the written script gives."""
        return re.sub(r"\w+", lambda word: self.written.renamed.get(word[0], word[0]), text)

    def _check_tables(self) -> None:
        """Refuse what only the written script can decide, where it does not."""
        written = self.written
        kept = {}
        for name, (kind, statement) in self.old.objects.items():
            if kind in ("VIEW", "FUNCTION") or name in written.dropped:
                continue
            target = written.renamed.get(name, name)
            kept[target] = statement
            if kind == "INDEX" and (found := ON_TABLE.match(statement.text)) and found[1] in written.dropped:
                del kept[target]
            elif self.new.objects.get(target, ("",))[0] != kind:
                raise Unclear(f"{kind.lower()} {name} is gone, and the written script neither drops nor renames it")
            elif words(self.new.objects[target][1].text) != words(
                self._renamed(statement.text)
            ) and not written.decides(name, target):
                raise Unclear(f"{kind.lower()} {name} has changed, and no statement of the written script changes it")
        self.kept = kept
        stores = [
            (name, statement.text) for name, statement in self.new.of_kind("TABLE", "INDEX").items() if name in kept
        ]
        decided = {
            name for marker in ("rewritten", "same") for names in written.markers.get(marker, []) for name in names
        }
        for name, statement in self.new.of_kind("FUNCTION").items():
            if name not in self.old.objects or same(self.old.objects[name][1], statement) or name in decided:
                continue
            for table, text in stores:
                if mentions(text, {name}):
                    raise Unclear(
                        f"function {name} has changed, and {table} stores what it returned: rewrite that, "
                        f"and say so with '-- @rewritten {name}', or with '-- @same {name}' if it returns the same"
                    )

    def drop(self) -> str:
        """The text for ``-- @drop``."""
        if not self.drops:
            return self._privileges("upgrade_privileges_save.sql")
        lines = []
        for name in self.drops:
            kind, statement = self.old.objects[name]
            if kind == "VIEW":
                lines.append(f"DROP VIEW {name};")
            else:
                types = [type_ for mode, _, type_ in function(name, statement).arguments if mode != "OUT"]
                lines.append(f"DROP FUNCTION {name}({', '.join(types)});")
        return self._privileges("upgrade_privileges_save.sql") + "\n\n" + "\n".join(lines) + "\n"

    def create(self) -> str:
        """The text for ``-- @create``."""
        parts = [part for statement in self.new.statements if (part := self._part(statement)) is not None]
        for statement in self.new.statements:
            if found := REVOKE.match(statement.text):
                tables = self.new.of_kind("TABLE")
                names = [
                    name
                    for name in re.findall(r"\w+", found[2])
                    if name in self.fresh | self.written.created
                    or any(f"SEQUENCE NAME {name} " in tables[table].text for table in self.fresh & tables.keys())
                ]
                if names:
                    parts.append(f"\nREVOKE ALL ON {found[1]}\n    " + ",\n    ".join(names) + "\nFROM PUBLIC;\n")
        return "\n".join(parts) + "\n\n" + self._privileges("upgrade_privileges_restore.sql")

    def _part(self, statement: Statement) -> str | None:
        """Return what becomes of one statement of the new release."""
        text = statement.text
        if created := CREATE.match(text):
            return self._create(statement, *created.groups())
        if changed := ON_TABLE.match(text):
            if changed[1] in self.fresh:
                return statement.whole
            if text not in {before.text for before in self.old.statements} and not self.written.decides(changed[1]):
                raise Unclear(f"the written script must do this, or create the table: {text[:80]!r}")
        elif (comment := COMMENT.match(text)) and (comment[2] in self.fresh or text not in self._comments()):
            return text
        return None

    def _create(self, statement: Statement, kind: str, name: str) -> str | None:
        """Return what becomes of a statement that creates an object."""
        if name in self.written.created or name in self.kept or name == VERSION:
            return None
        if kind == "INDEX":
            found = ON_TABLE.match(statement.text)
            if found is None or found[1] not in self.fresh | self.written.created:
                raise Unclear(f"index {name} is new on a table that is not; the written script must create it")
        elif kind in ("VIEW", "FUNCTION") and name in self.old.objects.keys() - {*self.drops, *self.written.dropped}:
            if same(self.old.objects[name][1], statement):
                return None
            return f"\n{statement.remark}{statement.text.replace('CREATE', 'CREATE OR REPLACE', 1)}\n"
        self.fresh.add(name)
        return f"\n{statement.whole}\n"

    def _comments(self) -> set[str]:
        """Return the comments of the release before, under the names that the written script gives."""
        found = set()
        for statement in self.old.statements:
            if comment := COMMENT.match(statement.text):
                found.add(self._renamed(comment[0]) + statement.text[comment.end() :])
        return found

    def _privileges(self, file: str) -> str:
        """The blocks that note privileges before the drops, and give them back afterwards."""
        successors = {name: self.successor.get(name, name) for name in reversed(self.drops)}
        text = json.dumps(
            {name: new if new in self.new.objects else None for name, new in successors.items()}, indent=8
        )
        return (WRAP / file).read_text(encoding="utf-8").replace("@DROPPED@", text.replace("\n}", "\n    }")).strip()


def complete(old: str, new: str, written: str) -> str:
    """The complete upgrade script."""
    script = Written(written)
    comparison = Comparison(load(old), load(new), script)
    parts = {"drop": comparison.drop(), "create": comparison.create()}
    text = MARKER.sub(lambda marker: parts.get(marker[1], ""), written)
    return re.sub(r"\n{4,}", "\n\n\n", text).rstrip() + "\n"


def main(old: str, new: str, written: str) -> int:
    """Print the complete script; return the exit status."""
    try:
        sys.stdout.write(complete(*(Path(path).read_text(encoding="utf-8") for path in (old, new, written))))
    except Unclear as reason:
        print(f"{written}: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
