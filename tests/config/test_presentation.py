"""How settings read, and what is not shown of them."""

from __future__ import annotations

import json

import pytest

from rrmaster.config.presentation import HIDDEN, as_json, in_words, without_secrets
from rrmaster.config.settings import Settings


def test_settings_are_values_for_json_and_equal_ones_are_equal_there() -> None:
    one, same, other = (as_json(Settings("a:b", workers=workers)) for workers in ("2:8", "2:8", "2:9"))
    assert json.loads(json.dumps(one)) == one == same
    assert one != other
    assert (one["workers"], one["bind"]) == ("2:8", ["127.0.0.1:8000"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (["--token", "abc", "--port", "80"], ["--token", HIDDEN, "--port", "80"]),
        (["--api-key=abc", "--keyfile=/etc/tls.key"], [f"--api-key={HIDDEN}", "--keyfile=/etc/tls.key"]),
        (["--keyfile", "tls.key", "--secret-key-file", "x"], ["--keyfile", "tls.key", "--secret-key-file", "x"]),
        (["DB_PASSWORD=hunter2"], [f"DB_PASSWORD={HIDDEN}"]),
        ("redis://:hunter2@db:6379/0", f"redis://:{HIDDEN}@db:6379/0"),
        ("redis://:hunt@er2@db:6379/0", f"redis://:{HIDDEN}@db:6379/0"),
        ("http:/health?token=abc&x=1", f"http:/health?token={HIDDEN}&x=1"),
        (["sk-proj-0123456789abcdef"], [HIDDEN]),
        (["ghp_0123456789abcdefghijABCDEFGHIJ"], [HIDDEN]),
        (["5f4dcc3b5aa765d61d8327deb882cf99"], [HIDDEN]),
    ],
)
def test_what_looks_like_a_secret_is_hidden(value: object, shown: object) -> None:
    assert without_secrets(value) == shown


def test_what_is_hidden_is_told_to_a_caller_that_asks_for_it() -> None:
    found: list[str] = []
    without_secrets(["--token", "abc", "--api-key=def", "--cache", "redis://:ghi@db", "--port", "80"], found)
    assert found == ["abc", "def", "ghi"]


@pytest.mark.parametrize(
    "value",
    [
        "shop.main:app", "127.0.0.1:8000", "unix:/run/shop/authentication.sock", "/etc/ssl/shop.example/privkey.pem",
        "/srv/releases20260131235959/shop4711with/a/long/path/env",
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305-SHA256", "least-loaded", 2048, 0.5, None, True,
        ["--port", "8000", "--verbose"], "/srv/releases/20260131235959-a1b2c3d/shop/with/a/long/path/to/a/file.py",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_shown(value: object) -> None:
    assert without_secrets(value) == value


def test_no_default_is_taken_for_a_secret() -> None:
    settings = as_json(Settings("a:b"))
    assert {name: without_secrets(value) for name, value in settings.items()} == settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("unix_mode", 0o660, "660"), ("factory", True, "yes"), ("user", None, "-"), ("bind", ["a:1", "b:2"], "a:1, b:2")],
)
def test_a_value_is_one_line(name: str, value: object, words: str) -> None:
    assert in_words(name, value) == words
