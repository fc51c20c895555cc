"""A program's listeners over a real line: which connections are taken when, which are left, and what is sent."""

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
from rrmaster.worker.duty import BATCH, Identity
from rrmaster.worker.programs.letterbox import EdgeTriggeredLetterbox
from rrmaster.worker.programs.port import Port
from rrmaster.worker.programs.ports import LEAVE_S, MORE_S, Ports
from rrmaster.worker.programs.ports_on_threads import ListeningSocket
from tests.fakes import DEADLINE, a_line

RECALL_AFTER = 0.05
"""Seconds; not the default, so that a number of the worker's own would be seen."""


@define(eq=False)
class Fixture:
    """A program's ports, the master's end of their line, and a clock that the test sets."""

    line: Line
    ports: Ports
    now: float = 100.0
    clients: list[socket.socket] = Factory(list)
    kicks: int = 0
    ends: int = 0

    def open(self, number: int, wanted: int = 0) -> Port:
        """Open a listener that has this number in the master."""
        request = self.ports.request(Listen(0, "127.0.0.1"), lambda: None)
        self.line.send(Listening(request.wish.seq, 0, number, 8000 + number))
        self.take_wanted()
        port = request.result()
        port.wanted = wanted
        return port

    def hand_over(self, *numbers: int, probe: bool = False) -> None:
        for number in numbers:
            client, theirs = socket.socketpair()
            client.settimeout(DEADLINE)
            with theirs:
                handoff = wire.Handoff(number, probe=probe, family=int(socket.AF_UNIX))
                self.line.hand_over(wire.encode(handoff), theirs.fileno())
            self.clients.append(client)

    def take_wanted(self) -> list[int]:
        """Take the wanted connections, as a host does, and return the listener of each."""
        found = []
        while (taken := self.ports.take()) is not None:
            found.append(taken.listener)
            self.ports.deliver(taken)
        return found

    def received(self, kind: type | None = None) -> list[wire.Up]:
        found = []
        while (datagram := self.line.receive()) is not None:
            message = decode_up(datagram)
            if message is not None and (kind is None or isinstance(message, kind)):
                found.append(message)
        return found

    def report(self) -> Report:
        self.ports.report()
        report = self.received(Report)[-1]
        assert isinstance(report, Report)
        return report

    @property
    def is_readable(self) -> bool:
        """Whether a host's loop would wake up."""
        return bool(select.select([self.ports.letterbox.fileno()], [], [], 0)[0])

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def finish(self, port: Port, count: int = 1) -> None:
        for _ in range(count):
            taken = self.ports.pop(port)
            assert taken is not None
            os.close(taken.fd)
            self.ports.finished(taken)


@contextmanager
def a_program() -> Iterator[Fixture]:
    with a_line(100) as (line, letterbox):
        ports = Ports(
            EdgeTriggeredLetterbox.over(letterbox), Identity(7, 3, 2), heartbeat=0.5, recall_after=RECALL_AFTER
        )
        program = Fixture(line, ports)
        ports.clock = lambda: program.now

        def kick() -> None:
            program.kicks += 1

        def ended() -> None:
            program.ends += 1

        ports.wake_host, ports.on_end = kick, ended
        try:
            yield program
        finally:
            for port in list(ports.open_ports.values()):
                ports.close(port)
            for client in program.clients:
                client.close()
            ports.letterbox.close()


# --- which connections are taken


def test_an_unwanted_connection_stays_where_the_master_can_take_it_back() -> None:
    with a_program() as program:
        port = program.open(0)
        program.hand_over(0, 0)
        assert program.take_wanted() == []
        assert program.line.unclaimed() == 2
        port.wanted = 1
        assert program.take_wanted() == [0, 0]
        program.finish(port, 2)


def test_a_host_is_not_woken_twice_for_one_unwanted_connection() -> None:
    """Otherwise a loop that waits for the letterbox would spin."""
    with a_program() as program:
        program.open(0)
        program.hand_over(0)
        assert program.is_readable
        program.take_wanted()
        assert not program.is_readable
        program.hand_over(0)
        assert program.is_readable, "the next connection wakes it"
        program.take_wanted()
        assert not program.is_readable


def test_a_nudge_is_read_although_no_connection_is_wanted() -> None:
    with a_program() as program:
        program.open(0)
        program.received()
        program.line.nudge()
        assert program.is_readable
        program.take_wanted()
        assert len(program.received(Report)) == 1


def test_a_worker_asks_for_no_more_while_a_connection_stays_unwanted_for_recall_after() -> None:
    with a_program() as program:
        port = program.open(0)
        program.hand_over(0)
        program.take_wanted()
        program.advance(0.9 * RECALL_AFTER)
        assert program.report().taking
        program.advance(0.2 * RECALL_AFTER)
        assert not program.report().taking
        program.ports.on_accept()
        assert program.report().taking
        port.wanted = 1
        assert program.take_wanted() == [0]
        program.finish(port)


def test_an_unwanted_connection_makes_way_for_a_wanted_one() -> None:
    with a_program() as program:
        held, asked = program.open(0), program.open(1, wanted=1)
        program.hand_over(0, 0, 1)
        assert program.take_wanted() == [0, 0, 1]
        assert (len(held.queue), len(asked.queue)) == (2, 1)
        program.finish(held, 2)
        program.finish(asked)


def test_a_listener_whose_queue_is_full_is_not_attended_until_the_queue_is_empty() -> None:
    with a_program() as program:
        held, asked = program.open(0), program.open(1, wanted=1)
        program.received()
        program.hand_over(*[0] * BATCH, 0, 1)
        assert program.take_wanted() == [0] * BATCH
        assert program.received(Attend) == [Attend(0, False)]
        assert program.take_wanted() == [], "the next is left to the master"
        program.advance(LEAVE_S)
        assert program.take_wanted() == [0, 1], "the master has not taken it back: no other worker has room"
        program.finish(held, BATCH)
        assert program.received(Attend) == []
        program.finish(held)
        assert program.received(Attend) == [Attend(0, True)]
        program.finish(asked)


def test_connections_before_an_awaited_answer_are_taken() -> None:
    with a_program() as program:
        held = program.open(0)
        program.hand_over(0, 0)
        second = program.open(1)
        assert (held.number, len(held.queue), second.number) == (0, 2, 1)
        program.finish(held, 2)


def test_a_probe_is_for_the_worker_whatever_it_serves() -> None:
    with a_program() as program:
        port = program.open(5, wanted=1)
        program.hand_over(0, probe=True)
        assert program.take_wanted() == [0]
        program.finish(port)
        assert program.ports.taken == 0
        program.ports.close(port)
        program.hand_over(0, probe=True)
        program.take_wanted()
        assert program.clients[-1].recv(1) == b"", "without any listener it is closed, which is an answer"


# --- addresses


def test_connections_of_a_closed_listener_are_left_to_the_master_and_then_closed() -> None:
    with a_program() as program:
        port = program.open(0, wanted=1)
        program.received()
        program.hand_over(0)
        program.ports.close(port)
        assert program.received() == [Attend(0, False)]
        assert program.take_wanted() == []
        found = program.line.recall()
        assert isinstance(found, tuple)
        os.close(found[1])
        program.hand_over(0)
        program.advance(LEAVE_S)
        program.take_wanted()
        assert program.clients[-1].recv(1) == b""
        assert (program.ports.taken, program.ports.closed) == (1, 1)


def test_a_listener_opened_again_gets_the_connections_that_were_left() -> None:
    with a_program() as program:
        program.ports.close(program.open(0, wanted=1))
        program.hand_over(0)
        again = program.open(0, wanted=1)
        program.take_wanted()
        program.finish(again)
        assert program.ports.closed == 1


def test_requests_for_a_free_port_are_counted_by_host() -> None:
    with a_program() as program:
        for host in ("127.0.0.1", "::1", "127.0.0.1"):
            program.ports.request(Listen(0, host), lambda: None)
        program.ports.request(Listen(0, "127.0.0.1", 80), lambda: None)
        program.ports.request(Listen(0, path="/x"), lambda: None)
        wishes = [m for m in program.received() if isinstance(m, Listen)]
        assert [(w.host, w.port, w.index) for w in wishes[:4]] == [
            ("127.0.0.1", 0, 0), ("::1", 0, 0), ("127.0.0.1", 0, 1), ("127.0.0.1", 80, 0),
        ]  # fmt: skip
        assert len({wish.seq for wish in wishes}) == 5


def test_an_errno_of_the_master_is_raised_as_its_oserror() -> None:
    with a_program() as program:
        request = program.ports.request(Listen(0, "::1", 80), lambda: None)
        program.line.send(Listening(request.wish.seq, errno.EACCES))
        program.take_wanted()
        with pytest.raises(PermissionError, match=r"\[::1\]:80"):
            request.result()


def test_a_listener_of_an_abandoned_request_is_closed_again() -> None:
    with a_program() as program:
        request = program.ports.request(Listen(0, "127.0.0.1"), lambda: None)
        program.ports.abandon(request)
        program.received()
        program.line.send(Listening(request.wish.seq, 0, 3, 80))
        program.line.send(Listening(999, 0, 4, 80))
        program.take_wanted()
        assert program.received(Attend) == [Attend(3, False)]
        assert program.ports.open_ports == {}


def test_a_program_opens_no_more_addresses_than_the_master_allows() -> None:
    with a_program() as program:
        for number in range(wire.MAX_LISTENERS):
            program.open(number)
        with pytest.raises(OSError, match="64 addresses") as caught:
            program.ports.request(Listen(0, "127.0.0.1"), lambda: None)
        assert caught.value.errno == errno.EMFILE
        program.ports.close(program.ports.open_ports[0])
        program.ports.request(Listen(0, "127.0.0.1"), lambda: None)


def test_connections_taken_before_an_answer_are_held_for_a_reopened_listener_and_not_for_ever() -> None:
    with a_program() as program:
        program.ports.close(program.open(0))
        program.hand_over(0)
        other = program.open(1)
        program.advance(LEAVE_S)
        assert program.ports.open == 1
        program.ports.beat()
        assert program.ports.open == 0
        program.ports.close(other)


# --- readiness


def test_a_worker_is_ready_with_all_its_first_listeners() -> None:
    with a_program() as program:
        program.open(4)
        program.ports.report()
        assert program.received(Ready) == [], "the program may ask for another address at once"
        program.open(2)
        program.advance(MORE_S)
        program.ports.report()
        (ready,) = program.received(Ready)
        assert isinstance(ready, Ready)
        assert ready.listeners == (4, 2)
        program.ports.report()
        assert program.received(Ready) == [], "it is sent once"


def test_a_program_may_be_ready_without_a_listener_and_may_wait_with_one() -> None:
    with a_program() as program:
        program.ports.set_ready(False)
        program.open(0)
        program.advance(MORE_S)
        program.ports.report()
        assert program.received(Ready) == []
        program.ports.set_ready(True)
        program.ports.report()
        assert len(program.received(Ready)) == 1
    with a_program() as program:
        program.ports.set_ready(True)
        program.ports.report()
        assert program.received(Ready) == [Ready(os.getpid(), listeners=())]


def test_messages_that_a_full_line_does_not_take_are_sent_later_and_in_order() -> None:
    with a_program() as program:
        port = program.open(0)
        while program.ports.letterbox.send(Report(0)):
            pass
        program.ports.close(port)
        program.ports.request(Listen(0, "127.0.0.1", 80), lambda: None)
        program.received()
        program.ports.report()
        first, second, third = program.received()
        assert first == Attend(0, False)
        assert isinstance(second, Listen)
        assert isinstance(third, Report)


# --- the end


def test_the_end_comes_when_the_last_connection_is_closed() -> None:
    with a_program() as program:
        port = program.open(0, wanted=1)
        program.hand_over(0, 0)
        program.line.half_close()
        with pytest.raises(HungUp):
            program.take_wanted()
        program.ports.hang_up()
        assert program.ports.hung_up
        program.finish(port)
        assert program.ends == 0
        program.finish(port)
        assert program.ends == 1


def test_a_request_without_an_answer_fails_when_the_master_hangs_up() -> None:
    with a_program() as program:
        request = program.ports.request(Listen(0, "127.0.0.1"), lambda: None)
        program.ports.hang_up()
        with pytest.raises(OSError, match="cannot open"):
            request.result()
        late = program.ports.request(Listen(0, "127.0.0.1"), lambda: None)
        assert late.answer == Listening(late.wish.seq, errno.ESHUTDOWN)


# --- sockets to accept from


def test_a_socket_can_be_polled_and_accepted_from() -> None:
    with a_program() as program, ListeningSocket(program.open(0), program.ports) as sock:
        sock.setblocking(False)
        sock.listen(5)
        assert (sock.getsockname(), sock.family) == (("127.0.0.1", 8000), socket.AF_INET)
        with pytest.raises(BlockingIOError):
            sock.accept()
        program.hand_over(0, 0)
        assert not select.select([sock], [], [], 0)[0], "the host has not looked into the letterbox yet"
        program.take_wanted()
        assert select.select([sock], [], [], 0)[0]
        assert program.line.unclaimed() == 2, "none is taken before it is accepted"
        for left in (1, 0):
            connection, _ = sock.accept()
            with connection:
                connection.send(b"here")
            assert bool(select.select([sock], [], [], 0)[0]) == bool(left)
        assert [client.recv(9) for client in program.clients] == [b"here", b"here"]
        assert program.ports.closed == 2
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_a_file_made_of_a_connection_keeps_it_open() -> None:
    with a_program() as program, ListeningSocket(program.open(0), program.ports) as sock:
        sock.settimeout(DEADLINE)
        program.hand_over(0)
        connection, _ = sock.accept()
        file = connection.makefile("rb")
        connection.close()
        assert program.ports.open == 1
        file.close()
        assert program.ports.open == 0


def test_without_a_free_descriptor_the_socket_is_not_readable() -> None:
    """Otherwise a server that polls it would spin until there is one."""
    with a_program() as program, ListeningSocket(program.open(0), program.ports) as sock:
        sock.setblocking(False)
        program.hand_over(0)
        program.take_wanted()
        program.ports.has_descriptors = False
        with pytest.raises(BlockingIOError):
            sock.accept()
        assert not select.select([sock], [], [], 0)[0]
        program.ports.has_descriptors = True
        program.take_wanted()
        assert select.select([sock], [], [], 0)[0]
        sock.accept()[0].close()


def test_a_connection_with_a_detached_descriptor_is_open_until_that_is_closed() -> None:
    with a_program() as program, ListeningSocket(program.open(0), program.ports) as sock:
        program.hand_over(0)
        connection, _ = sock.accept()
        other = socket.socket(fileno=connection.detach())  # as ssl does
        connection.close()
        program.ports.beat()
        assert program.ports.open == 1
        other.close()
        with open(os.devnull, "rb"):  # its number is in use again
            program.ports.beat()
        assert program.ports.open == 0


def test_accept_has_a_timeout_and_fails_on_a_closed_socket() -> None:
    with a_program() as program:
        sock = ListeningSocket(program.open(0), program.ports)
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.accept()
        sock.close()
        sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.accept()
        assert program.ports.open_ports == {}
