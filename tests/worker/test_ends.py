"""How connections end is on the page as it happens, so that it is known of a worker that is killed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rrmaster.processes.worker_figures import WorkerFigures
from rrmaster.protocol import wire
from rrmaster.protocol.pages.figures import Counting
from rrmaster.worker.connection import Connection
from rrmaster.worker.duty import Duty, Identity
from rrmaster.worker.load.places import AHEAD
from tests.fakes import a_line
from tests.worker.test_duty import Master, finish, take


@contextmanager
def counting_duty() -> Iterator[tuple[Master, Duty, WorkerFigures]]:
    """A worker's duty, and the master's view of its page."""
    figures = WorkerFigures.open()
    (fd,) = figures.page
    with a_line(100) as (line, letterbox):
        master = Master(line)
        try:
            yield master, Duty(letterbox, Identity(7, 3, 2), 0.5, counting=Counting.inherit(os.dup(fd))), figures
        finally:
            master.close()
            figures.close()


def test_the_page_knows_of_each_end_before_any_report() -> None:
    with counting_duty() as (master, duty, figures):
        master.hand(4)
        taken = [take(duty) for _ in range(4)]
        assert figures.ends() == (0, 0)
        duty.gave_away(taken[0], taken[1])
        assert figures.ends() == (0, 2)
        finish(duty, taken[2])
        assert figures.ends() == (1, 2)
        finish(duty, taken[0])  # this process closes its descriptor of one that it has parked
        assert (figures.ends(), duty.open) == ((1, 2), 1)
        assert not master.heard()
        duty.report()
        report = master.report()
        assert (report.closed, report.parked) == (3, 2)
        finish(duty, taken[1])
        finish(duty, taken[3])
        figures.close()
        assert figures.ends() == (2, 2), "after its end, too"


def test_a_probe_is_in_neither_count() -> None:
    with counting_duty() as (master, duty, figures):
        master.hand(probe=True)
        finish(duty, take(duty))
        assert (figures.ends(), duty.closed) == ((0, 0), 0)


@pytest.mark.parametrize("parked", [1, 3])
def test_places_that_are_free_again_are_reported_at_once(parked: int) -> None:
    with counting_duty() as (master, duty, _):
        duty.park_with(os.close, 3 + AHEAD)  # so many may lie in the letterbox
        master.hand(3)
        taken = [take(duty) for _ in range(3)]
        duty.report()
        master.heard()
        duty.gave_away(*taken[:parked])
        assert master.report().parked == parked
        duty.gave_away(*taken[parked:])
        assert not master.heard(), "there was one already"
        for one in taken:
            finish(duty, one)


def test_a_connection_counts_as_closed_before_its_client_can_know() -> None:
    ours, theirs = socket.socketpair()
    seen = []
    with ours:
        ours.setblocking(False)
        connection = Connection(fileno=theirs.detach())
        connection.watch(lambda: seen.append(_has_ended(ours)))
        file = connection.makefile("rb")
        connection.close()
        assert not seen, "the file keeps it open"
        file.close()
        assert seen == [False]
        assert _has_ended(ours)
        connection.close()
        assert seen == [False], "once"


def _has_ended(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return False


def test_a_lane_without_its_descriptor_is_an_aside_that_was_read() -> None:
    """Or the master would take it for a message that lies in the letterbox, for ever."""
    with counting_duty() as (master, duty, _):
        duty.park_with(os.close, 0)
        assert master.line.sock.send(wire.encode(wire.Lane()))
        assert duty.take() is None
        assert master.report().asides == 1


def test_what_a_worker_closes_while_it_ends_is_cut_and_counts_nowhere() -> None:
    with counting_duty() as (master, duty, figures):
        master.hand(3)
        taken = [take(duty) for _ in range(3)]
        finish(duty, taken[0])
        duty.gave_away(taken[1])
        duty.counting.cut()
        finish(duty, taken[2])
        finish(duty, taken[1])
        assert figures.ends() == (1, 1)
        duty.report()
        assert master.report().closed == 2, "it looks busier than it is, and nothing comes to it any longer"
