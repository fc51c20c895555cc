"""Which peers may set ``X-Forwarded-*``: uvicorn's middleware with the list that `trusted` makes."""

from __future__ import annotations

import pytest
from uvicorn.middleware.proxy_headers import _TrustedHosts

from rrmaster.worker.serving.http1.forwarded import trusted


@pytest.mark.parametrize(
    ("listed", "peer", "believed"),
    [
        ("127.0.0.1,::1", "::ffff:127.0.0.1", True),
        ("127.0.0.1,::1", "::ffff:7f00:1", True),
        ("127.0.0.1,::1", "127.0.0.1", True),
        ("127.0.0.1,::1", "::1", True),
        ("127.0.0.1,::1", "::ffff:127.0.0.2", False),
        ("10.0.0.0/8, 192.0.2.1", "::ffff:10.200.1.2", True),
        ("10.0.0.0/8, 192.0.2.1", "::ffff:11.0.0.1", False),
        ("10.0.0.0/8, 192.0.2.1", "::ffff:192.0.2.1", True),
        ("0.0.0.0/0", "::ffff:203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("2001:db8::/32", "::ffff:127.0.0.1", False),
        ("*", "::ffff:127.0.0.1", True),
        ("", "::ffff:127.0.0.1", False),
    ],
)
def test_a_mapped_address_is_trusted_as_the_address_that_it_maps(listed: str, peer: str, believed: bool) -> None:
    assert (peer in _TrustedHosts(trusted(listed))) is believed


def test_a_chain_of_proxies_may_write_mapped_addresses() -> None:
    chain = _TrustedHosts(trusted("127.0.0.1,10.0.0.0/8"))
    assert chain.get_trusted_client_address("192.0.2.7, ::ffff:10.0.0.9, ::ffff:127.0.0.1")[0] == "192.0.2.7"
