"""A program's listeners over a real line: what is taken when, what is left to the master, and what is said."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from attrs import Factory, define

from rrmaster.protocol import wire
from rrmaster.protocol.channel import HungUp
from rrmaster.protocol.line import Line
from rrmaster.protocol.uplink import decode_up
from rrmaster.protocol.wire import Attend, Listen, Listening, Ready, Report
from rrmaster.worker import BATCH, Facts
from rrmaster.worker.programs.ports import GRACE, NEGLECT, SETTLED, Port, Ports, Watched
from rrmaster.worker.programs.ports_on_threads import ListeningSocket
from tests.fakes import DEADLINE, a_line


@define(eq=False)
class Dock:
    """A program's ports, and the master's end of their line."""

    line: Line
    ports: Ports
    now: float = 100.0
    clients: list[socket.socket] = Factory(list)
    kicks: int = 0
    ends: int = 0

    def open(self, number: int, wanted: int = 0) -> Port:
        """One more listener of this number."""
        request = self.ports.ask(Listen(0, "127.0.0.1"), lambda: None)
        self.line.send(Listening(request.wish.seq, 0, number, 8000 + number))
        self.work()
        port = request.result()
        port.wanted = wanted
        return port

    def hand(self, *numbers: int, probe: bool = False) -> None:
        for number in numbers:
            client, theirs = socket.socketpair()
            client.settimeout(DEADLINE)
            with theirs:
                handoff = wire.Handoff(number, probe=probe, family=int(socket.AF_UNIX))
                self.line.hand_over(wire.encode(handoff), theirs.fileno())
            self.clients.append(client)

    def work(self) -> list[int]:
        """Take what is wanted, as a host does; the listeners of what was taken."""
        found = []
        while (taken := self.ports.take()) is not None:
            found.append(taken.listener)
            self.ports.deliver(taken)
        return found

    def heard(self, kind: type | None = None) -> list[wire.Up]:
        found = []
        while (datagram := self.line.receive()) is not None:
            message = decode_up(datagram)
            if message is not None and (kind is None or isinstance(message, kind)):
                found.append(message)
        return found

    def report(self) -> Report:
        self.ports.report()
        report = self.heard(Report)[-1]
        assert isinstance(report, Report)
        return report

    @property
    def rings(self) -> bool:
        """Whether a host's loop would be woken."""
        return bool(select.select([self.ports.letterbox.fileno()], [], [], 0)[0])

    def later(self, seconds: float) -> None:
        self.now += seconds

    def finish(self, port: Port, count: int = 1) -> None:
        for _ in range(count):
            taken = self.ports.pick(port)
            assert taken is not None
            os.close(taken.fd)
            self.ports.finished(taken)


@contextmanager
def a_dock() -> Iterator[Dock]:
    with a_line(100) as (line, letterbox):
        ports = Ports(Watched.over(letterbox), Facts(7, 3, 2))
        dock = Dock(line, ports)
        ports.clock = lambda: dock.now

        def kick() -> None:
            dock.kicks += 1

        def ended() -> None:
            dock.ends += 1

        ports.kick, ports.ended = kick, ended
        try:
            yield dock
        finally:
            for port in list(ports.open_ports.values()):
                ports.close(port)
            for client in dock.clients:
                client.close()
            ports.letterbox.close()


# --- what is taken


def test_what_nobody_asks_for_stays_where_the_master_can_take_it_back() -> None:
    with a_dock() as dock:
        port = dock.open(0)
        dock.hand(0, 0)
        assert dock.work() == []
        assert dock.line.unclaimed() == 2
        port.wanted = 1
        assert dock.work() == [0, 0]
        dock.finish(port, 2)


def test_who_looks_in_vain_is_not_woken_by_the_same_again() -> None:
    """Or a loop that waits for its descriptor would spin."""
    with a_dock() as dock:
        dock.open(0)
        dock.hand(0)
        assert dock.rings
        dock.work()
        assert not dock.rings
        dock.hand(0)
        assert dock.rings, "but by the next one"
        dock.work()
        assert not dock.rings


def test_an_aside_is_read_though_nobody_asks_for_anything() -> None:
    with a_dock() as dock:
        dock.open(0)
        dock.heard()
        dock.line.nudge()
        assert dock.rings
        dock.work()
        assert len(dock.heard(Report)) == 1


def test_a_connection_that_lies_unwanted_has_the_worker_ask_for_no_more_until_somebody_asks() -> None:
    with a_dock() as dock:
        port = dock.open(0)
        dock.hand(0)
        dock.work()
        assert dock.report().taking
        dock.later(2 * NEGLECT)
        assert not dock.report().taking
        dock.ports.asked()
        assert dock.report().taking
        port.wanted = 1
        assert dock.work() == [0]
        dock.finish(port)


def test_what_is_not_asked_for_makes_way_for_what_is() -> None:
    with a_dock() as dock:
        held, asked = dock.open(0), dock.open(1, wanted=1)
        dock.hand(0, 0, 1)
        assert dock.work() == [0, 0, 1]
        assert (len(held.queue), len(asked.queue)) == (2, 1)
        dock.finish(held, 2)
        dock.finish(asked)


def test_of_a_listener_whose_queue_is_full_the_worker_takes_its_leave_for_a_while() -> None:
    with a_dock() as dock:
        held, asked = dock.open(0), dock.open(1, wanted=1)
        dock.heard()
        dock.hand(*[0] * BATCH, 0, 1)
        assert dock.work() == [0] * BATCH
        assert dock.heard(Attend) == [Attend(0, False)]
        assert dock.work() == [], "the next is left to the master, ..."
        dock.later(GRACE)
        assert dock.work() == [0, 1], "... which may have nobody to give it to"
        dock.finish(held, BATCH)
        assert dock.heard(Attend) == []
        dock.finish(held)
        assert dock.heard(Attend) == [Attend(0, True)]
        dock.finish(asked)


def test_while_an_answer_is_awaited_nothing_stands_before_it() -> None:
    with a_dock() as dock:
        held = dock.open(0)
        dock.hand(0, 0)
        second = dock.open(1)
        assert (held.number, len(held.queue), second.number) == (0, 2, 1)
        dock.finish(held, 2)


def test_a_probe_is_for_the_worker_whatever_it_serves() -> None:
    with a_dock() as dock:
        port = dock.open(5, wanted=1)
        dock.hand(0, probe=True)
        assert dock.work() == [0]
        dock.finish(port)
        assert dock.ports.taken == 0
        dock.ports.close(port)
        dock.hand(0, probe=True)
        dock.work()
        assert dock.clients[-1].recv(1) == b"", "with no listener at all it is answered by being closed"


# --- addresses


def test_what_is_closed_here_is_left_to_the_master_for_a_while_and_then_closed() -> None:
    with a_dock() as dock:
        port = dock.open(0, wanted=1)
        dock.heard()
        dock.hand(0)
        dock.ports.close(port)
        assert dock.heard() == [Attend(0, False)]
        assert dock.work() == []
        found = dock.line.recall()
        assert isinstance(found, tuple)
        os.close(found[1])
        dock.hand(0)
        dock.later(GRACE)
        dock.work()
        assert dock.clients[-1].recv(1) == b""
        assert (dock.ports.taken, dock.ports.closed) == (1, 1)


def test_who_opens_again_gets_what_was_left() -> None:
    with a_dock() as dock:
        dock.ports.close(dock.open(0, wanted=1))
        dock.hand(0)
        again = dock.open(0, wanted=1)
        dock.work()
        dock.finish(again)
        assert dock.ports.closed == 1


def test_the_how_manieth_free_port_is_counted_by_host() -> None:
    with a_dock() as dock:
        for host in ("127.0.0.1", "::1", "127.0.0.1"):
            dock.ports.ask(Listen(0, host), lambda: None)
        dock.ports.ask(Listen(0, "127.0.0.1", 80), lambda: None)
        dock.ports.ask(Listen(0, path="/x"), lambda: None)
        wishes = [m for m in dock.heard() if isinstance(m, Listen)]
        assert [(w.host, w.port, w.index) for w in wishes[:4]] == [
            ("127.0.0.1", 0, 0), ("::1", 0, 0), ("127.0.0.1", 0, 1), ("127.0.0.1", 80, 0),
        ]  # fmt: skip
        assert len({wish.seq for wish in wishes}) == 5


def test_an_errno_rises_as_the_error_that_it_is() -> None:
    with a_dock() as dock:
        request = dock.ports.ask(Listen(0, "::1", 80), lambda: None)
        dock.line.send(Listening(request.wish.seq, errno.EACCES))
        dock.work()
        with pytest.raises(PermissionError, match=r"\[::1\]:80"):
            request.result()


def test_an_answer_to_nobody_is_left_again() -> None:
    with a_dock() as dock:
        request = dock.ports.ask(Listen(0, "127.0.0.1"), lambda: None)
        dock.ports.abandon(request)
        dock.heard()
        dock.line.send(Listening(request.wish.seq, 0, 3, 80))
        dock.line.send(Listening(999, 0, 4, 80))
        dock.work()
        assert dock.heard(Attend) == [Attend(3, False)]
        assert dock.ports.open_ports == {}


def test_nobody_opens_more_than_the_master_allows() -> None:
    with a_dock() as dock:
        for number in range(wire.MAX_LISTENERS):
            dock.open(number)
        with pytest.raises(OSError, match="64 addresses") as caught:
            dock.ports.ask(Listen(0, "127.0.0.1"), lambda: None)
        assert caught.value.errno == errno.EMFILE
        dock.ports.close(dock.ports.open_ports[0])
        dock.ports.ask(Listen(0, "127.0.0.1"), lambda: None)


def test_what_stood_before_an_answer_is_kept_for_who_opens_again_and_not_for_ever() -> None:
    with a_dock() as dock:
        dock.ports.close(dock.open(0))
        dock.hand(0)
        other = dock.open(1)
        dock.later(GRACE)
        assert dock.ports.open == 1
        dock.ports.beat()
        assert dock.ports.open == 0
        dock.ports.close(other)


# --- readiness


def test_a_worker_is_ready_with_all_its_first_listeners() -> None:
    with a_dock() as dock:
        dock.open(4)
        dock.ports.report()
        assert dock.heard(Ready) == [], "the next one may follow at once"
        dock.open(2)
        dock.later(SETTLED)
        dock.ports.report()
        (ready,) = dock.heard(Ready)
        assert isinstance(ready, Ready)
        assert ready.listeners == (4, 2)
        dock.ports.report()
        assert dock.heard(Ready) == [], "it is said once"


def test_a_program_may_be_ready_without_a_listener_and_may_wait_with_one() -> None:
    with a_dock() as dock:
        dock.ports.set_ready(False)
        dock.open(0)
        dock.later(SETTLED)
        dock.ports.report()
        assert dock.heard(Ready) == []
        dock.ports.set_ready(True)
        dock.ports.report()
        assert len(dock.heard(Ready)) == 1
    with a_dock() as dock:
        dock.ports.set_ready(True)
        dock.ports.report()
        assert dock.heard(Ready) == [Ready(os.getpid(), listeners=())]


def test_what_a_full_line_does_not_take_is_said_later_and_in_order() -> None:
    with a_dock() as dock:
        port = dock.open(0)
        while dock.ports.letterbox.send(Report(0)):
            pass
        dock.ports.close(port)
        dock.ports.ask(Listen(0, "127.0.0.1", 80), lambda: None)
        dock.heard()
        dock.ports.report()
        first, second, third = dock.heard()
        assert first == Attend(0, False)
        assert isinstance(second, Listen)
        assert isinstance(third, Report)


# --- the end


def test_the_end_comes_when_the_last_connection_is_closed() -> None:
    with a_dock() as dock:
        port = dock.open(0, wanted=1)
        dock.hand(0, 0)
        dock.line.half_close()
        with pytest.raises(HungUp):
            dock.work()
        dock.ports.hang_up()
        assert dock.ports.hung_up
        dock.finish(port)
        assert dock.ends == 0
        dock.finish(port)
        assert dock.ends == 1


def test_who_waits_for_an_address_is_told_that_there_will_be_none() -> None:
    with a_dock() as dock:
        request = dock.ports.ask(Listen(0, "127.0.0.1"), lambda: None)
        dock.ports.hang_up()
        with pytest.raises(OSError, match="cannot open"):
            request.result()
        late = dock.ports.ask(Listen(0, "127.0.0.1"), lambda: None)
        assert late.answer == Listening(late.wish.seq, errno.ESHUTDOWN)


# --- sockets to accept from


def test_a_socket_can_be_polled_and_accepted_from() -> None:
    with a_dock() as dock, ListeningSocket(dock.open(0), dock.ports) as sock:
        sock.setblocking(False)
        sock.listen(5)
        assert (sock.getsockname(), sock.family) == (("127.0.0.1", 8000), socket.AF_INET)
        with pytest.raises(BlockingIOError):
            sock.accept()
        dock.hand(0, 0)
        assert not select.select([sock], [], [], 0)[0], "the host has not looked yet"
        dock.work()
        assert select.select([sock], [], [], 0)[0]
        assert dock.line.unclaimed() == 2, "none is taken before it is accepted"
        for left in (1, 0):
            connection, _ = sock.accept()
            with connection:
                connection.send(b"here")
            assert bool(select.select([sock], [], [], 0)[0]) == bool(left)
        assert [client.recv(9) for client in dock.clients] == [b"here", b"here"]
        assert dock.ports.closed == 2
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_a_file_made_of_a_connection_keeps_it_open() -> None:
    with a_dock() as dock, ListeningSocket(dock.open(0), dock.ports) as sock:
        sock.settimeout(DEADLINE)
        dock.hand(0)
        connection, _ = sock.accept()
        file = connection.makefile("rb")
        connection.close()
        assert dock.ports.open == 1
        file.close()
        assert dock.ports.open == 0


def test_without_descriptors_nobody_is_told_that_he_could_accept() -> None:
    """Or whoever polls would spin until there are some."""
    with a_dock() as dock, ListeningSocket(dock.open(0), dock.ports) as sock:
        sock.setblocking(False)
        dock.hand(0)
        dock.work()
        dock.ports.able = False
        with pytest.raises(BlockingIOError):
            sock.accept()
        assert not select.select([sock], [], [], 0)[0]
        dock.ports.able = True
        dock.work()
        assert select.select([sock], [], [], 0)[0]
        sock.accept()[0].close()


def test_a_connection_left_to_somebody_else_is_open_until_he_closes_it() -> None:
    with a_dock() as dock, ListeningSocket(dock.open(0), dock.ports) as sock:
        dock.hand(0)
        connection, _ = sock.accept()
        other = socket.socket(fileno=connection.detach())  # as ssl does
        connection.close()
        dock.ports.beat()
        assert dock.ports.open == 1
        other.close()
        with open(os.devnull, "rb"):  # its number is in use again
            dock.ports.beat()
        assert dock.ports.open == 0


def test_an_accept_has_a_timeout_and_a_closed_socket_is_one() -> None:
    with a_dock() as dock:
        sock = ListeningSocket(dock.open(0), dock.ports)
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.accept()
        sock.close()
        sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.accept()
        assert dock.ports.open_ports == {}
