"""Addresses in every spelling are understood, and anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.config.addresses import Inherited, Tcp, Unix, parse_bind, parse_binds
from rrmaster.config.settings import Settings
from tests.config.values import APP, LAW


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:8000", Tcp("127.0.0.1", 8000)),
        ("localhost:80", Tcp("localhost", 80)),
        ("localhost", Tcp("localhost", 8000)),
        (":8080", Tcp("", 8080)),
        ("*:8080", Tcp("*", 8080)),
        ("0.0.0.0:0", Tcp("0.0.0.0", 0)),
        ("[::1]:65535", Tcp("::1", 65535)),
        ("[::]:80", Tcp("::", 80)),
        ("[::1]", Tcp("::1", 8000)),
        ("[fe80::1%eth0]:80", Tcp("fe80::1%eth0", 80)),
        ("unix:/run/app.sock", Unix("/run/app.sock")),
        ("unix:///run/app.sock", Unix("/run/app.sock")),
        ("unix:app.sock", Unix("app.sock")),
        ("fd://3", Inherited(3)),
    ],
)
def test_an_address_is_understood(text, bind):
    assert parse_bind(text) == bind


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ":", "localhost:", "localhost:http", "localhost:-1", "localhost:65536", "localhost:8e3", "a b:80",
        "::1", "::1:8000", "[::1]:", "[::1]8000", "[::1", "http://localhost:80", "localhost:80/path", "unix:",
        "fd://", "fd://x", "fd://-1", "localhost:80\n",
    ],
)  # fmt: skip
def test_a_text_that_is_not_an_address_is_refused_with_a_message(text):
    with pytest.raises(ValueError, match=r"."):
        parse_bind(text)


def test_several_addresses_may_be_given_as_a_list_or_with_commas():
    assert parse_binds("localhost:1, unix:a.sock") == ("localhost:1", "unix:a.sock")
    assert parse_binds(["localhost:1", "fd://3"]) == ("localhost:1", "fd://3")
    assert Settings(APP, bind="localhost:1,localhost:2").binds == (Tcp("localhost", 1), Tcp("localhost", 2))


@pytest.mark.parametrize("value", [8000, None, True, b"localhost", "", "a:1,", "a:1,,b:1", ["a:1", 2], ["a:1", "a:1"]])
def test_a_value_that_is_not_a_list_of_addresses_is_refused(value):
    with pytest.raises(ValueError, match=r"."):
        parse_binds(value)


@LAW
@given(st.text(alphabet="[]:/.*%@ unixfd0123456789localhost\n", max_size=20) | st.text(max_size=20))
def test_any_text_is_an_address_or_refused(text):
    try:
        bind = parse_bind(text)
    except ValueError:
        return
    assert isinstance(bind, Tcp | Unix | Inherited)
