"""Lines of the access log: gunicorn's atoms, and nothing that a client says ends a quotation or a line."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.protocol.access_format import ATOMS, COMBINED, OF_HEADERS, Atom, pieces_of
from rrmaster.worker.access.line import LONGEST, Exchange, compiled, compiled_as_json
from rrmaster.worker.duty import Identity

WHO = Identity(7, 3, 2)
LAW = settings(max_examples=150, deadline=None, derandomize=True, database=None)

SCOPE: dict[str, Any] = {
    "type": "http", "method": "POST", "path": "/a b", "raw_path": b"/a%20b", "query_string": b"q=1", "scheme": "http",
    "http_version": "1.1", "client": ("192.0.2.7", 5000), "root_path": "",
    "headers": [
        (b"referer", b"http://x/"), (b"user-agent", b'Mozilla "5"'), (b"x-request-id", b"42"),
        (b"authorization", b"Basic YWxhZGRpbjpzZXNhbWU="),
    ],
}  # fmt: skip

EACH = {**{atom: f"%({atom})s" for atom in ATOMS}, **{kind: f"%({{x-any}}{kind})s" for kind in OF_HEADERS}}


def exchange(**more: Any) -> Exchange:
    return Exchange(
        **{"scope": SCOPE, "status": 201, "size": 8, "headers": [(b"X-Any", b"made")], "seconds": 1.25} | more
    )


def line(format_: str, what: Exchange | None = None) -> str:
    return compiled(pieces_of(format_), WHO)(what or exchange())


def as_json(format_: str, what: Exchange | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(compiled_as_json(pieces_of(format_), WHO)(what or exchange()))
    return found


@pytest.mark.parametrize(
    ("format_", "said"),
    [
        ('%(h)s %(l)s %(u)s "%(r)s"', '192.0.2.7 - aladdin "POST /a%20b?q=1 HTTP/1.1"'),
        ("%(m)s %(U)s %(q)s %(H)s", "POST /a%20b q=1 HTTP/1.1"),
        ("%(s)s %(B)s %(b)s", "201 8 8"),
        ('"%(f)s" "%(a)s"', r'"http://x/" "Mozilla \x225\x22"'),
        ("%(T)s %(M)s %(D)s %(L)s %(ms)s", "1 1250 1250000 1.250000 1250.0"),
        ("%({x-request-id}i)s %({X-Request-Id}i)s %({x-none}i)s", "42 42 -"),
        ("%({x-any}o)s %({REMOTE_ADDR}e)s %({HTTP_USER_AGENT}e)s", r"made 192.0.2.7 Mozilla \x225\x22"),
        ("%(client)s %(worker)s %(generation)s 100%%", "192.0.2.7:5000 3 2 100%"),
    ],
)
def test_each_atom_says_what_gunicorn_says(format_: str, said: str) -> None:
    assert line(format_) == said


def test_the_named_formats_are_those_of_apache() -> None:
    pattern = (
        r'192\.0\.2\.7 - aladdin \[\d\d/[A-Z][a-z]{2}/\d{4}(:\d\d){3} [+-]\d{4}\] "POST /a%20b\?q=1 HTTP/1\.1" 201 8'
    )
    assert re.fullmatch(pattern, line("common"))
    assert re.fullmatch(pattern + r' "http://x/" "Mozilla \\x225\\x22"', line("combined"))


def test_what_is_not_known_is_a_dash_and_in_json_null() -> None:
    unknown = Exchange({"type": "http", "client": None}, size=0)
    assert line('%(h)s %(b)s "%(f)s" "%(a)s" %(client)s', unknown) == '- - "-" "-" -'
    assert as_json("%(h)s %(f)s %(b)s", unknown) == {"host": None, "referer": None, "bytes": 0}


def test_in_json_each_atom_is_a_field_of_its_type() -> None:
    found = as_json('%(s)s "%(r)s" %(L)s %({x-request-id}i)s %({x-any}o)s %(worker)s')
    assert found == {
        "status": 201, "request": "POST /a%20b?q=1 HTTP/1.1", "duration_s": 1.25, "request.x-request-id": "42",
        "response.x-any": "made", "worker": 3,
    }  # fmt: skip


evil = st.binary(max_size=60) | st.sampled_from([b'"', b"\\", b"\n", b"\r\n1.2.3.4 - -", b"\x1b[31m", b"\x00", b"\xff"])


@LAW
@given(evil, evil, evil, evil)
def test_no_client_forges_a_line_or_a_part_of_one(method: bytes, path: bytes, query: bytes, agent: bytes) -> None:
    scope = SCOPE | {
        "method": method.decode("latin-1"), "raw_path": path, "query_string": query,
        "client": (agent.decode("latin-1"), 1),
        "headers": [(b"user-agent", agent), (b"referer", path), (b"x-any", query)],
    }  # fmt: skip
    whole = line(
        '"%(r)s" "%(a)s" "%(f)s" "%({x-any}i)s" "%(h)s" "%(client)s" "%(U)s" "%(q)s" "%(m)s"', exchange(scope=scope)
    )
    assert whole.isascii()
    assert whole.isprintable()
    assert re.fullmatch(r'"[^"]*"( "[^"]*"){8}', whole)
    assert len(whole.split('"')[1].split(" ")) == (3 if method else 1), "a request line has three words"


@LAW
@given(st.binary(max_size=8000), st.binary(max_size=8000))
def test_a_line_is_bounded_and_json_stays_json(path: bytes, agent: bytes) -> None:
    scope = SCOPE | {"raw_path": path, "headers": [(b"user-agent", agent)]}
    assert len(line(COMBINED, exchange(scope=scope))) <= LONGEST
    text = compiled_as_json(pieces_of(COMBINED), WHO)(exchange(scope=scope))
    assert len(text) <= LONGEST
    assert json.loads(text)["status"] == 201
    assert "\n" not in text


@pytest.mark.parametrize("atom", EACH)
def test_every_atom_is_known_to_text_and_to_json(atom: str) -> None:
    (piece,) = pieces_of(EACH[atom])
    assert isinstance(piece, Atom)
    assert line(EACH[atom])
    assert list(as_json(EACH[atom])) == [piece.field]


@pytest.mark.parametrize(
    ("format_", "wrong"),
    [
        ("%(h)s %(z)s", r"%\(z\)s is no atom.*there are h, l"), ("%h", "^%h is no atom"), ("%(h)d", r"^%\(h\)d is no"),
        ("100%", "^% is no atom"), ("%({x}z)s", r"%\(\{x\}z\)s is no atom"), ("%(h", r"^%\(h is no atom"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_format_is_named(format_: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        pieces_of(format_)


def test_the_end_of_an_answer_is_seen_once_and_its_bytes_are_counted() -> None:
    what = Exchange(SCOPE)
    said = [
        what.note({"type": "http.response.start", "status": 204, "headers": []}),
        what.note({"type": "http.response.body", "body": b"12", "more_body": True}),
        what.note({"type": "http.response.body", "body": b"345"}),
    ]
    assert said == [False, False, True]
    assert (what.status, what.size) == (204, 5)
    assert what.end().seconds > 0
