"""A socket for datagrams that is as new is each worker's own; any other one is shared, and prevents a fork."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from rrmaster.protocol.forks.safety import Verdict, phrases
from rrmaster.worker.preload.anew.datagrams import all_as_new, as_new, make_again
from rrmaster.worker.preload.traces import findings_of, traces_now
from rrmaster.worker.preload.watch import ImportWatch
from tests.launches import a_launch


def connected(of: socket.socket) -> None:
    of.connect(("127.0.0.1", 9))


def bound(of: socket.socket) -> None:
    of.bind(("127.0.0.1", 0))


def has_sent(of: socket.socket) -> None:
    of.sendto(b"x", ("127.0.0.1", 9))


def may_broadcast(of: socket.socket) -> None:
    of.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)


def has_another_ttl(of: socket.socket) -> None:
    of.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)


@pytest.mark.parametrize("deed", [connected, bound, has_sent, may_broadcast, has_another_ttl])
def test_a_socket_that_is_not_as_new_is_not_made_again(deed: Callable[[socket.socket], None]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as of:
        assert as_new(of.fileno()) is not None
        deed(of)
        assert as_new(of.fileno()) is None


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET),
    ],
)
def test_other_sockets_are_not_made_again(family: int, kind: int) -> None:
    with socket.socket(family, kind) as of:
        assert as_new(of.fileno()) is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_socket_that_is_made_again_has_its_number_and_flags(family: int) -> None:
    try:
        of = socket.socket(family, socket.SOCK_DGRAM)
    except OSError:
        pytest.skip("IPv6 is off")
    with of:
        of.setblocking(False)
        found = [each for each in all_as_new() if each.number == of.fileno()]
        before = os.readlink(f"/proc/self/fd/{of.fileno()}")
        make_again(found)
        assert os.readlink(f"/proc/self/fd/{of.fileno()}") != before
        assert not os.get_blocking(of.fileno())
        assert not os.get_inheritable(of.fileno())
        assert (of.family, of.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)) == (family, socket.SOCK_DGRAM)


def test_a_number_that_is_another_files_by_then_is_left_alone() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as of:
        found = [each for each in all_as_new() if each.number == of.fileno()]
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, of.fileno())
        os.close(null)
        make_again(found)
        assert os.readlink(f"/proc/self/fd/{of.fileno()}") == os.devnull


def test_it_does_not_prevent_a_fork_unless_it_is_used_in_the_import() -> None:
    before = traces_now()
    for used in (False, True):
        watch = ImportWatch(a_launch())
        with watch.watched():
            of = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if used:
                has_sent(of)
        with of:
            found = phrases(findings_of(before, traces_now(watch)), Verdict.HINDRANCE)
            assert found == ((f"opened a socket (descriptor {of.fileno()})",) if used else ())


def test_a_look_at_all_descriptors_opens_none() -> None:
    before = set(os.listdir("/proc/self/fd"))
    all_as_new()
    assert set(os.listdir("/proc/self/fd")) == before
