"""Addresses that cannot be opened beside each other are named before anything is opened."""

from __future__ import annotations

import pytest

from rrmaster.config.addresses import parse_bind
from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings


@pytest.mark.parametrize(
    ("wide", "other"),
    [
        ("[::]:9000", "0.0.0.0:9000"),
        (":9000", "127.0.0.1:9000"),
        ("*:9000", "[::1]:9000"),
        ("0.0.0.0:9000", "localhost:9000"),
        ("0.0.0.0:9000", "10.0.0.1:9000"),
    ],
)
def test_an_address_that_another_one_includes_is_refused(wide: str, other: str) -> None:
    for bind in ([wide, other], [other, wide]):
        with pytest.raises(SettingsError, match="already includes"):
            Settings("a:b", bind=bind)


@pytest.mark.parametrize(
    "bind", [["0.0.0.0:9000", "[::1]:9000"], ["[::]:9000", "0.0.0.0:9001"], ["[::]:0", "0.0.0.0:0"]]
)
def test_addresses_that_stand_beside_each_other_are_fine(bind: list[str]) -> None:
    assert Settings("a:b", bind=bind).bind == tuple(bind)


@pytest.mark.parametrize("text", ["24000", "80"])
def test_a_number_alone_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=f"for the port write :{text}"):
        parse_bind(text)
