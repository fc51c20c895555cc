"""Which sockets does the master listen on, and what does a failing accept mean?

A listener is opened once, by a bind or by adopting a descriptor, and belongs to the master until it stops.  No worker
ever holds one, so a worker that is left behind keeps no port.  Options are set here and inherited by every accepted
socket (Linux copies them from the listener), which costs nothing per connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Mapping

from attrs import Factory, define, frozen

from ..config.addresses import Bind, Inherited, Tcp, Unix
from ..logs.log import logger
from ..logs.trusted_path import MAX_SOCKET_PATH, Place, trusted_place, unlink_if_same
from ..protocol.family.children import keep_from_children
from ..protocol.parking.admission import NO_LINGER
from ..waiting import close
from .listening.deferral import Deferral
from .listening.no_more_clients import drop_syns

LISTEN_FDS_START = 3
"""sd_listen_fds(3): the first descriptor passed by socket activation."""

ACCEPT_PAUSE = 0.100
"""Seconds to leave the backlog alone after an error that costs a pause (trio's figure, and ranch's).  Level-triggered
loops that do not pause spin: 48,000 times in 0.2 s."""


_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""This machine has no such address, or no IPv6 at all."""


class BindError(Exception):
    """An address could not be opened.  The message names it and says what to do."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number or errno.EINVAL
        """The kernel's error, or the one that it would give."""


@frozen
class SocketFile:
    """A unix socket's file, as it was when the master made it."""

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Unlink the file if it is still the same; another server may have replaced it meanwhile."""
        with contextlib.suppress(OSError):  # the file is gone, or its directory: nothing is left behind either way
            unlink_if_same(self.path, self.device, self.inode)


@define(eq=False)
class Listener:
    """One listening socket.  It owns the descriptor, and a unix socket's file."""

    socket: socket.socket
    name: str
    """The address as a person writes it, port 0 resolved."""
    file: SocketFile | None = None
    """The unix socket's file, if the master made it."""
    bind: str = ""
    """The option that asked for it: a name may stand for several addresses, and a port of 0 for any."""
    backlog: int | None = None
    """The backlog asked for, where the kernel does not tell the one in force (unix sockets)."""
    deferral: Deferral = Factory(lambda self: Deferral(self.socket), takes_self=True)
    """Whether silent clients are held back."""
    held: int | None = None
    """The backlog with which it will listen: until `begin` it has its address, and refuses connections."""

    def __attrs_post_init__(self) -> None:
        keep_from_children(self.socket)

    def let_no_more_in(self) -> bool:
        """Keep new clients out: the socket is about to be closed.  Whether that is possible here.

        A socket that another process has too stays as it is.
        """
        return not self.deferral.shared and drop_syns(self.socket)

    def begin(self) -> None:
        """Listen, if that was left for later.  Raises BindError if another program listens there by now."""
        backlog, self.held = self.held, None
        if backlog is not None:
            try:
                self.socket.listen(backlog)
            except OSError as error:
                raise BindError(f"cannot listen on {self.name}: {_why(error, 0)}", error.errno) from None

    def close(self) -> None:
        """Close the socket, and remove its file if the master made it."""
        if self.file is not None:
            self.file.remove()
        self.deferral.give_back()
        self.socket.close()


def open_listeners(bind: Bind, backlog: int, unix_mode: int, option: str = "", held: bool = False) -> list[Listener]:
    """Open one address; a host name may stand for several.  The caller closes the listeners.

    `option` is the address as it was given, which `Listener.bind` keeps.  `held`: a TCP address refuses connections
    until `Listener.begin`.  Raises BindError, with nothing left open.
    """
    opened = _open(bind, backlog, unix_mode, held)
    for listener in opened:
        listener.bind = option
    return opened


def _open(bind: Bind, backlog: int, unix_mode: int, held: bool) -> list[Listener]:
    match bind:
        case Tcp(host, port):
            return _open_tcp(host, port, backlog, held)
        case Unix(path):
            return [_open_unix(path, backlog, unix_mode)]
        case Inherited(fd):
            return [adopt(fd)]


def _open_tcp(host: str, port: int, backlog: int, held: bool) -> list[Listener]:
    opened: list[Listener] = []
    try:
        addresses = _resolve(host, port)
        for number, (family, address) in enumerate(addresses):
            if port == 0 and opened:
                # One port for all addresses of a name: the first one's.
                address = (address[0], opened[0].socket.getsockname()[1], *address[2:])
            try:
                opened.append(_listen_tcp(family, address, backlog, held=held))
            except OSError as error:
                # A name has addresses that this machine has not: localhost is ::1 too where IPv6 is off.  The others
                # serve, as in Node; the last one's error rises if there are none.
                if error.errno not in _NOT_HERE or (number == len(addresses) - 1 and not opened):
                    raise
                logger.warning("%s is also %s, which this machine does not have", host, address[0])
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name (idna)
        for listener in opened:
            listener.close()
        shown = f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"
        raise BindError(f"cannot listen on {shown}: {_why(error, port)}", _number(error)) from None
    return opened


def open_address(host: str, port: int, backlog: int) -> Listener:
    """Open exactly this IP address, as a program does: [::] is IPv6 only.  Raises BindError."""
    try:
        # AI_NUMERICHOST: no resolver is asked, so nothing waits; a zone such as %eth0 becomes its number.
        family, _, _, _, address = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)[0]
        return _listen_tcp(family, address, backlog, v6_only=True)
    except (OSError, ValueError) as error:  # ValueError: not a valid zone
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise BindError(f"cannot listen on {shown}: {_why(error, port)}", _number(error)) from None


def _number(error: OSError | ValueError) -> int | None:
    # A resolver's errors have negative numbers of their own.
    return error.errno if isinstance(error, OSError) and error.errno and error.errno > 0 else errno.EADDRNOTAVAIL


def _resolve(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    if host in ("", "*"):
        return [(socket.AF_INET6, ("::", port))] if _has_ipv6() else [(socket.AF_INET, ("0.0.0.0", port))]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _listen_tcp(
    family: int, address: tuple[object, ...], backlog: int, v6_only: bool = False, held: bool = False
) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without it a restart finds the port busy for a minute (TIME_WAIT).  On Linux, unlike elsewhere, it lets no
        # other program listen on the same port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] stands for all addresses, IPv4 included, whatever the sysctl says; any other only for itself.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only or address[0] != "::")
        _set_for_connections(sock)
        sock.bind(address)
        # Also if held: only this shows that another program listens there.  A free port is found by the bind, and the
        # shutdown would give it back.
        if not held or address[1] != 0:
            sock.listen(backlog)
        if held and address[1] != 0:
            sock.shutdown(socket.SHUT_RDWR)  # a listener becomes a socket that is only bound, tcp_disconnect()
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, name_of(sock), held=backlog if held else None)


def _set_for_connections(sock: socket.socket) -> None:
    """Set what the connections of a listener of TCP inherit."""
    # Without it a keep-alive answer in two writes waits 40 ms for the client's delayed ACK.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A peer that vanished without closing would count as load for ever.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # A listener that was passed on may have it: then a close waits for its client, and a worker's loop with it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)


def _why(error: OSError | ValueError, port: int) -> str:
    if isinstance(error, ValueError):
        return "that is no host's name"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return "another program listens there; stop it or choose another port"
    if error.errno == errno.EACCES and port < 1024:
        return "ports below 1024 are for root (or CAP_NET_BIND_SERVICE, or a systemd socket)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return error.strerror or str(error)


def _open_unix(path: str, backlog: int, mode: int) -> Listener:
    if "\0" in path:
        raise BindError("cannot listen on unix: a path cannot hold a zero byte")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise BindError(f"cannot listen on unix:{path}: a socket's path may have {MAX_SOCKET_PATH} bytes")
    return open_unix(path, backlog, mode)


def open_unix(path: str, backlog: int, mode: int) -> Listener:
    """Open a unix socket at a path of any length.  Raises BindError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before the bind: the file is made with this mode, less the umask, and never has a laxer one.
        os.fchmod(sock.fileno(), mode)
        with trusted_place(path) as place:
            _bind_unix(sock, place)
            file = _made_file(place, mode)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        number = error.errno or errno.ENAMETOOLONG  # Python's own error for a long path
        raise BindError(f"cannot listen on unix:{path}: {error.strerror or error}", number) from None
    except BaseException:
        sock.close()
        raise
    return Listener(sock, f"unix:{path}", file, backlog=backlog)


def _made_file(place: Place, mode: int) -> SocketFile:
    """The file just made, after setting its mode, and not a file that has replaced it meanwhile.

    The mode is set through a descriptor, and not with a umask of 0 at the bind: the umask belongs to the whole process,
    and a worker may be started at this moment from another thread.
    """
    fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=place.directory)
    try:
        found = os.fstat(fd)
        if stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) != mode:
            os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        close(fd)
    return SocketFile(os.path.abspath(place.path), found.st_dev, found.st_ino)


def _bind_unix(sock: socket.socket, place: Place) -> None:
    """Bind, and replace a file that a dead server left behind.  A live server's, and any other file, is refused."""
    try:
        sock.bind(place.socket_address)
        return
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    refused = f"cannot listen on unix:{place.path}:"
    if not stat.S_ISSOCK(place.look().st_mode):
        raise BindError(f"{refused} a file that is no socket stands there; move it away", errno.EADDRINUSE)
    if not _is_stale(place.socket_address):
        raise BindError(f"{refused} another program listens there; stop it or choose another path", errno.EADDRINUSE)
    place.unlink()
    sock.bind(place.socket_address)


def _is_stale(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def adopt(fd: int) -> Listener:
    """Take over a listening socket that this process was started with.  The listener owns the descriptor from now on.

    Raises BindError, and leaves the descriptor open: it may be of another kind, and in use.
    """
    shown = f"fd://{fd}"
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise BindError(f"cannot listen on {shown}: {error.strerror}") from None
    try:
        stream = sock.type == socket.SOCK_STREAM
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        stream = listening = False
    if not (stream and listening):
        sock.detach()
        raise BindError(f"cannot listen on {shown}: it is no listening stream socket")
    sock.set_inheritable(False)
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        _set_for_connections(sock)
    return Listener(sock, name_of(sock), deferral=Deferral(sock, shared=True))


def inherited_fds(environ: Mapping[str, str], pid: int) -> list[int]:
    """The descriptors passed by systemd's socket activation to the process `pid`, sd_listen_fds(3)."""
    if environ.get("LISTEN_PID") != str(pid) or not environ.get("LISTEN_FDS", "").isdigit():
        return []
    return list(range(LISTEN_FDS_START, LISTEN_FDS_START + int(environ["LISTEN_FDS"])))


def name_of(sock: socket.socket) -> str:
    """The address of a bound socket as a person writes it."""
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(address) if isinstance(address, bytes) else address}"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
