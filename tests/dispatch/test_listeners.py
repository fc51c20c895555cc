"""Listening sockets on the real kernel: what opens, what is refused, and what is left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rrmaster.config.addresses import Bind, Inherited, Tcp, Unix
from rrmaster.dispatch import listeners as module
from rrmaster.dispatch.listeners import (
    MAX_SOCKET_PATH,
    BindError,
    Listener,
    adopt,
    inherited_fds,
)
from tests.fakes import DEADLINE, opened, run_alone


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="there is no IPv6 here")


@contextmanager
def listening(bind: Bind, **options: int) -> Iterator[list[Listener]]:
    listeners = opened(bind, **options)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def port_of(listener: Listener) -> int:
    return int(listener.socket.getsockname()[1])


@contextmanager
def connected(listener: Listener, host: str | None = None) -> Iterator[socket.socket]:
    """An accepted socket with a client."""
    address = listener.socket.getsockname()
    target = address if isinstance(address, str) else (host or address[0], address[1])
    with socket.socket(socket.AF_UNIX if isinstance(target, str) else _family(target[0])) as client:
        client.settimeout(DEADLINE)
        client.connect(target)
        listener.socket.settimeout(DEADLINE)
        accepted, _ = listener.socket.accept()
        with accepted:
            yield accepted


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


# --- TCP


def test_port_0_is_resolved_and_named() -> None:
    with listening(Tcp("127.0.0.1", 0)) as (listener,):
        assert port_of(listener) > 0
        assert listener.name == f"127.0.0.1:{port_of(listener)}"
        with connected(listener):
            pass


@needs_ipv6
def test_an_ipv6_address_is_named_in_brackets_and_is_only_itself() -> None:
    with listening(Tcp("::1", 0)) as (listener,):
        assert listener.name == f"[::1]:{port_of(listener)}"
        assert listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        with connected(listener):
            pass


@needs_ipv6
@pytest.mark.parametrize("host", ["", "*", "::"])
def test_the_wildcard_address_is_both_families(host: str) -> None:
    with listening(Tcp(host, 0)) as (listener,):
        with connected(listener, "127.0.0.1"):
            pass
        with connected(listener, "::1"):
            pass


def test_the_wildcard_address_is_ipv4_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_ipv6", lambda: False)
    with listening(Tcp("*", 0)) as (listener,):
        assert listener.name == f"0.0.0.0:{port_of(listener)}"
        with connected(listener, "127.0.0.1"):
            pass


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        found = [(_family(h), socket.SOCK_STREAM, 6, "", (h, port, 0, 0) if ":" in h else (h, port)) for h in hosts]
        return found + found[:1]  # resolvers repeat themselves

    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)


def test_a_name_with_several_addresses_is_all_of_them_with_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    with listening(Tcp("shop.example", 0)) as opened:
        assert [listener.socket.getsockname()[0] for listener in opened] == ["127.0.0.1", "127.0.0.2"]
        assert len({port_of(listener) for listener in opened}) == 1


def test_a_name_whose_second_address_fails_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(Tcp("127.0.0.2", 0)) as (taken,):
        resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        before = os.listdir("/proc/self/fd")
        with pytest.raises(BindError, match=r"shop\.example:"):
            opened(Tcp("shop.example", port_of(taken)))
        assert os.listdir("/proc/self/fd") == before


def test_an_address_in_use_is_named() -> None:
    with listening(Tcp("127.0.0.1", 0)) as (first,):
        with pytest.raises(BindError) as caught:
            opened(Tcp("127.0.0.1", port_of(first)))
        assert f"127.0.0.1:{port_of(first)}: another program listens there" in str(caught.value)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(BindError, match=r"192\.0\.2\.1:8000.*no such address"):
        opened(Tcp("192.0.2.1", 8000))


@needs_ipv6
def test_an_ipv6_address_is_named_in_brackets_in_errors_too() -> None:
    with pytest.raises(BindError, match=r"\[2001:db8::1\]:8000"):
        opened(Tcp("2001:db8::1", 8000))


def test_an_unknown_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(BindError, match=r"nowhere\.invalid:80: the name cannot be resolved"):
        opened(Tcp("nowhere.invalid", 80))


def test_the_error_for_a_port_below_1024_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(module.socket, "socket", Forbidden)
    with pytest.raises(BindError, match=r"127\.0\.0\.1:80: ports below 1024 are for root"):
        opened(Tcp("127.0.0.1", 80))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_port_for_root_is_refused_to_others_for_real() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("here any user may open these ports")
    run_alone("""
import os
from rrmaster.dispatch.listeners import BindError, open_listeners
from rrmaster.config.addresses import Tcp
for first in open_listeners(Tcp("127.0.0.1", 0), 100, 0o666):  # loads modules that another user may not read
    first.close()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    open_listeners(Tcp("127.0.0.1", 81), 100, 0o666)
except BindError as error:
    assert "127.0.0.1:81" in str(error) and "root" in str(error), error
else:
    raise AssertionError("it was not refused")
""")


def test_a_restart_finds_its_port_free() -> None:
    with listening(Tcp("127.0.0.1", 0)) as (first,):
        port = port_of(first)
        with connected(first) as accepted:
            accepted.shutdown(socket.SHUT_WR)  # the side that closes first is left in TIME_WAIT
    with listening(Tcp("127.0.0.1", port)):
        pass


def test_what_is_accepted_inherits_the_options() -> None:
    with listening(Tcp("127.0.0.1", 0)) as (listener,), connected(listener) as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_backlog_is_as_long_as_was_asked(tmp_path: Path) -> None:
    with listening(Tcp("127.0.0.1", 0), backlog=7) as (listener,):
        info = listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        assert int.from_bytes(info[28:32], sys.byteorder) == 7  # tcpi_sacked of a listening socket
    path = str(tmp_path / "s")
    with listening(Unix(path), backlog=7), contextlib.ExitStack() as clients:
        waiting = [clients.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(20)]
        for client in waiting:
            client.setblocking(False)
        # Linux lets in one more than was asked for.
        assert [client.connect_ex(path) for client in waiting] == [0] * 8 + [errno.EAGAIN] * 12


def test_listeners_do_not_block_and_are_not_inherited(tmp_path: Path) -> None:
    for bind in (Tcp("127.0.0.1", 0), Unix(str(tmp_path / "s"))):
        with listening(bind) as (listener,):
            assert listener.socket.getblocking() is False
            assert not listener.socket.get_inheritable()


# --- unix


def test_a_unix_socket_is_made_named_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with listening(Unix(str(path))) as (listener,):
        assert listener.name == f"unix:{path}"
        with connected(listener):
            pass
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_a_unix_sockets_mode_is_exact_whatever_the_umask(mode: int, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        path = tmp_path / "door"
        with listening(Unix(str(path)), unix_mode=mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert os.umask(0o077) == 0o077, "and the umask is what it was"
    finally:
        os.umask(before)


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    with listening(Unix(str(path))) as (listener,), connected(listener):
        pass


def test_a_unix_socket_in_use_is_refused_and_stays_in_use(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with listening(Unix(str(path))) as (live,):
        with pytest.raises(BindError, match=f"unix:{path}: another program listens there"):
            opened(Unix(str(path)))
        live.socket.accept()[0].close()  # the probe whether a server listens; it left a connection here
        with connected(live):
            pass


def test_a_unix_socket_in_use_with_a_full_backlog_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with listening(Unix(str(path)), backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        with pytest.raises(BindError, match="another program listens there"):
            opened(Unix(str(path)))


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_file_that_is_no_socket_is_refused_and_not_changed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("data")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BindError, match=f"unix:{path}: a file that is no socket"):
        opened(Unix(str(path)))
    assert path.is_symlink() or path.exists()


def test_a_path_too_long_is_refused_with_the_length_that_fits(tmp_path: Path) -> None:
    for length, fits in ((MAX_SOCKET_PATH, True), (MAX_SOCKET_PATH + 1, False)):
        path = str(tmp_path / ("x" * (length - len(str(tmp_path)) - 1)))
        if fits:
            with listening(Unix(path)):
                assert os.path.exists(path)
        else:
            with pytest.raises(BindError, match=str(MAX_SOCKET_PATH)):
                opened(Unix(path))


def test_a_path_in_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=f"unix:{tmp_path}/none/door: No such file"):
        opened(Unix(str(tmp_path / "none" / "door")))


def test_a_unix_socket_that_another_server_has_replaced_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "door"
    (old,) = opened(Unix(str(path)))
    path.unlink()
    with listening(Unix(str(path))) as (new,):
        old.close()
        assert path.exists()
        with connected(new):
            pass


def test_a_unix_socket_is_removed_from_wherever_the_master_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (listener,) = opened(Unix("door"))
    monkeypatch.chdir("/")
    listener.close()
    assert not (tmp_path / "door").exists()


def test_a_unix_socket_whose_file_is_gone_closes_without_error(tmp_path: Path) -> None:
    (listener,) = opened(Unix(str(tmp_path / "door")))
    (tmp_path / "door").unlink()
    listener.close()


# --- inherited


def test_a_listening_descriptor_is_adopted() -> None:
    given = socket.create_server(("127.0.0.1", 0))
    given.set_inheritable(True)
    given.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
    listener = adopt(given.detach())
    with listening_already(listener), connected(listener) as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert struct.unpack("ii", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0] == 0
        assert listener.name == f"127.0.0.1:{port_of(listener)}"


@contextmanager
def listening_already(listener: Listener) -> Iterator[None]:
    try:
        assert not listener.socket.get_inheritable()
        assert listener.socket.getblocking() is False
        yield
    finally:
        listener.close()


def test_an_adopted_unix_socket_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "systemds"
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(path))
    given.listen()
    with listening(Inherited(given.detach())) as (listener,):
        assert listener.name == f"unix:{path}"
    assert path.exists(), "the master did not make it, and does not remove it"


def not_listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def datagram() -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def seqpacket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(b"\0rrmaster-test-%d" % os.getpid())
    sock.listen()
    return sock


@pytest.mark.parametrize("make", [not_listening, datagram, seqpacket])
def test_a_descriptor_that_does_not_listen_is_refused_and_not_closed(make) -> None:  # type: ignore[no-untyped-def]
    with make() as given:
        with pytest.raises(BindError, match=f"fd://{given.fileno()}: it is no listening stream socket"):
            adopt(given.fileno())
        os.fstat(given.fileno())


def test_a_descriptor_that_is_no_socket_is_refused_and_not_closed() -> None:
    reading, writing = os.pipe()
    with pytest.raises(BindError, match=f"fd://{reading}: Socket operation on non-socket"):
        adopt(reading)
    os.close(reading)
    os.close(writing)


def test_a_descriptor_that_is_not_there_is_refused() -> None:
    with pytest.raises(BindError, match=r"fd://987654: Bad file descriptor"):
        adopt(987654)


@pytest.mark.parametrize(
    ("environ", "fds"),
    [
        ({"LISTEN_PID": "42", "LISTEN_FDS": "2"}, [3, 4]),
        ({"LISTEN_PID": "42", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "41", "LISTEN_FDS": "2"}, []),
        ({"LISTEN_FDS": "2"}, []),
        ({"LISTEN_PID": "42"}, []),
        ({"LISTEN_PID": "42", "LISTEN_FDS": "many"}, []),
        ({"LISTEN_PID": "42", "LISTEN_FDS": "-1"}, []),
        ({}, []),
    ],
)
def test_socket_activation_is_for_the_process_it_names(environ: dict[str, str], fds: list[int]) -> None:
    assert inherited_fds(environ, 42) == fds
