"""The addresses of the start line: a terminal can open them."""

from __future__ import annotations

import pytest

from rrmaster.config.settings import Settings
from rrmaster.service.addresses import shown_address


def shown(address: str, application: str = "shop:app", **options: object) -> str:
    return shown_address(address, Settings(application, **options))


@pytest.mark.parametrize("interface", ["auto", "asgi", "wsgi"])
def test_an_http_address_is_a_url(interface: str) -> None:
    assert shown("127.0.0.1:8000", interface=interface) == "http://127.0.0.1:8000"
    assert shown("[::1]:8000", interface=interface) == "http://[::1]:8000"


def test_with_a_certificate_it_is_https() -> None:
    assert shown("127.0.0.1:8443", certfile="cert.pem", keyfile="key.pem") == "https://127.0.0.1:8443"


def test_a_stream_has_no_http() -> None:
    assert shown("127.0.0.1:8000", interface="stream") == "tcp://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0:8000", "http://127.0.0.1:8000 (all IPv4 addresses)"),
        ("[::]:8000", "http://localhost:8000 (all addresses)"),
    ],
)
def test_all_addresses_are_shown_as_one_that_can_be_opened(address: str, url: str) -> None:
    assert shown(address) == url


@pytest.mark.parametrize("address", ["unix:/run/shop.sock", "unix:/run/shop:80", "@shop"])
def test_a_unix_socket_stays_as_it_is(address: str) -> None:
    assert shown(address) == address


def test_the_address_of_a_program_stays_as_it_is() -> None:
    assert shown("127.0.0.1:8000", "server.py") == "127.0.0.1:8000"
