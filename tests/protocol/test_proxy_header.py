"""The PROXY header: which bytes are one, which are refused, and where it ends."""

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.protocol import proxy_header
from rrmaster.protocol.proxy_header import Header, MalformedHeader, TrustedSenders, parse, size

LAW = settings(max_examples=200, deadline=None, derandomize=True, database=None)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def line(text: str) -> bytes:
    return f"PROXY {text}\r\n".encode()


def binary(command: int, family: int, body: bytes = b"", version: int = 2) -> bytes:
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(body)) + body


def inet(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    packed = [ipaddress.ip_address(host).packed for host in (source, destination)]
    return b"".join(packed) + struct.pack("!HH", source_port, destination_port)


V4 = inet("192.0.2.7", "198.51.100.1", 56324, 443)
V6 = inet("2001:db8::7", "2001:db8::1", 1, 65535)
OF_V4 = Header(("192.0.2.7", 56324), ("198.51.100.1", 443))
OF_V6 = Header(("2001:db8::7", 1), ("2001:db8::1", 65535))

GOOD = {
    line("TCP4 192.0.2.7 198.51.100.1 56324 443"): OF_V4,
    line("TCP6 2001:db8::7 2001:db8::1 1 65535"): OF_V6,
    line("TCP6 2001:0DB8:0::7 2001:db8::1 1 65535"): OF_V6,
    line("TCP4 0.0.0.0 255.255.255.255 0 0"): Header(("0.0.0.0", 0), ("255.255.255.255", 0)),
    line("UNKNOWN"): Header(),
    line("UNKNOWN whatever else it says"): Header(),
    binary(1, 0x11, V4): OF_V4,
    binary(1, 0x12, V4): OF_V4,
    binary(1, 0x21, V6): OF_V6,
    binary(1, 0x22, V6): OF_V6,
    binary(1, 0x11, V4 + b"\x04\x00\x03abc"): OF_V4,
    binary(1, 0x31, bytes(216)): Header(),
    binary(1, 0x00): Header(),
    binary(1, 0x00, b"\x04\x00\x03abc"): Header(),
    binary(0, 0x00): Header(),
    binary(0, 0x11, V4): Header(),
    binary(0, 0x77, b"ignored"): Header(),
}
MALFORMED = [
    *(
        line(text)
        for text in (
            "", "TCP4", "TCP5 1.1.1.1 1.1.1.1 1 1", "tcp4 1.1.1.1 1.1.1.1 1 1", "UNKNOWN2", "TCP4 1.1.1.1 1.1.1.1 1",
            "TCP4 1.1.1.1 1.1.1.1 1 1 1", "TCP4  1.1.1.1 1.1.1.1 1 1", "TCP4 1.1.1.1 1.1.1.1 1 1 ",
            "TCP4 1.1.1 1.1.1.1 1 1", "TCP4 1.1.1.256 1.1.1.1 1 1", "TCP4 01.1.1.1 1.1.1.1 1 1",
            "TCP4 ::1 ::1 1 1", "TCP6 1.1.1.1 1.1.1.1 1 1", "TCP6 fe80::1%eth0 ::1 1 1", "TCP6 ::1/64 ::1 1 1",
            "TCP4 1.1.1.1 1.1.1.1 65536 1", "TCP4 1.1.1.1 1.1.1.1 -1 1", "TCP4 1.1.1.1 1.1.1.1 +80 1",
            "TCP4 1.1.1.1 1.1.1.1 8_0 1", "TCP4 1.1.1.1 1.1.1.1 080 1", "TCP4 1.1.1.1 1.1.1.1 1 \t1",
            "TCP4 1.1.1.1 1.1.1.1 1 1\r", "TCP4 1.1.1.1 1.1.1.1 1 ٣",
        )
    ),
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n", b"PROXY UNKNOWN\n", b"PROXY \n", b"PROXY \r\n",
    binary(2, 0x11, V4), binary(15, 0x11, V4), binary(1, 0x11, V4, version=1), binary(1, 0x11, V4, version=3),
    binary(1, 0x10, V4), binary(1, 0x13, V4), binary(1, 0x41, V4), binary(1, 0xFF, V6), binary(1, 0x01),
    binary(1, 0x11, V4[:-1]), binary(1, 0x11), binary(1, 0x21, V4), binary(1, 0x31, bytes(215)),
]  # fmt: skip
FOREIGN = [
    b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01", b"PROXX", b"PROXY\r\n", b"proxy TCP4", b"\r\n\r\nGET", b"\0",
    b"\r\n\r\n\0\r\nQUIT\r", b"SSH-2.0-x\r\n", b" PROXY TCP4 ",
]  # fmt: skip
ONE_OF_THEM = st.sampled_from(sorted(GOOD))


@pytest.mark.parametrize("header", GOOD)
def test_a_header_gives_the_clients_address_or_none(header):
    assert size(header) == len(header)
    assert parse(header) == GOOD[header]


@pytest.mark.parametrize("header", MALFORMED)
def test_an_almost_valid_header_is_refused(header):
    with pytest.raises(MalformedHeader, match=r"PROXY"):
        parse(header[: size(header)])


@pytest.mark.parametrize("begin", FOREIGN)
def test_other_bytes_are_refused_at_the_first_wrong_one(begin):
    with pytest.raises(MalformedHeader, match="no PROXY header"):
        size(begin)


@LAW
@given(ONE_OF_THEM, st.binary(max_size=300))
def test_what_follows_a_header_does_not_belong_to_it(header, more):
    assert size(header + more) == len(header)


@LAW
@given(ONE_OF_THEM, st.data())
def test_the_beginning_of_a_header_asks_for_more(header, data):
    cut = data.draw(st.integers(0, len(header) - 1))
    assert size(header[:cut]) in (None, len(header))


@LAW
@given(st.sampled_from([b"", SIGNATURE, b"PROXY ", b"PROXY TCP4 "]), st.binary(max_size=300))
def test_any_bytes_are_a_header_or_refused_or_the_beginning_of_one(begin, more):
    seen = begin + more
    try:
        length = size(seen)
        if length is not None and length <= len(seen):
            parse(seen[:length])
    except MalformedHeader:
        return
    assert length is None or length <= proxy_header.LONGEST


def test_a_line_without_an_end_is_not_awaited_for_ever():
    begin = b"PROXY UNKNOWN " + b"x" * 200
    assert size(begin[:106]) is None
    with pytest.raises(MalformedHeader, match="107 bytes"):
        size(begin[:107])
    assert size(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n") == 107


def test_a_header_that_claims_to_be_huge_is_not_read():
    most = proxy_header.LONGEST - 16
    assert size(SIGNATURE + struct.pack("!BBH", 0x21, 0x11, most)) == proxy_header.LONGEST
    with pytest.raises(MalformedHeader, match="8192 are the most"):
        size(SIGNATURE + struct.pack("!BBH", 0x21, 0x11, most + 1))


def test_a_version_that_is_not_accepted_is_refused():
    with pytest.raises(MalformedHeader, match="version 2"):
        size(line("UNKNOWN"), (2,))
    with pytest.raises(MalformedHeader, match="version 1"):
        size(binary(0, 0), (1,))
    assert size(line("UNKNOWN"), (1,)) == size(b"PROXY UNKNOWN\r\n")
    assert size(binary(0, 0), (2,)) == 16


@pytest.mark.parametrize(
    ("senders", "host", "believed"),
    [
        ("127.0.0.1,::1", "127.0.0.1", True),
        ("127.0.0.1,::1", "::ffff:127.0.0.1", True),
        ("127.0.0.1,::1", "::1", True),
        ("127.0.0.1,::1", "127.0.0.2", False),
        ("10.0.0.0/8", "10.9.8.7", True),
        ("10.0.0.0/8", "::10.9.8.7", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("*", "203.0.113.9", True),
        ("", "127.0.0.1", False),
        ("", None, True),
    ],
)
def test_which_senders_are_trusted(senders, host, believed):
    assert TrustedSenders.named(senders).include(host) is believed
