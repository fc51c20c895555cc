"""The two ends of a line, on the real kernel."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from rrmaster.protocol import wire
from rrmaster.protocol.channel import _SO_PASSRIGHTS, DescriptorLost, HungUp, Letterbox
from rrmaster.protocol.line import Line, message_cost
from tests.fakes import a_line, run_alone


@contextmanager
def numbered(count: int) -> Iterator[list[int]]:
    """Descriptors that can be told from each other, also as copies."""
    ends = []
    for number in range(count):
        ends.append(os.memfd_create("numbered"))
        os.write(ends[-1], b"%d" % number)
    try:
        yield ends
    finally:
        for fd in ends:
            os.close(fd)


def number_of(fd: int) -> int:
    """The number of a descriptor of `numbered`, which is closed."""
    try:
        return int(os.pread(fd, 10, 0))
    finally:
        os.close(fd)


def hand(line: Line, fd: int, listener: int = 0) -> None:
    line.hand_over(wire.encode(wire.Handoff(listener)), fd)


def hand_without_end(line: Line, fd: int) -> None:
    for _ in range(1000):
        hand(line, fd)


def taken(letterbox: Letterbox) -> int:
    """The number of the descriptor that the worker takes now."""
    found = letterbox.take()
    assert found is not None
    assert found[1] is not None
    return number_of(found[1])


def recalled(line: Line) -> int:
    """The descriptor that the master recalls now."""
    found = line.recall()
    assert isinstance(found, tuple)
    return found[1]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- counting


def test_the_kernel_counts_what_is_not_taken() -> None:
    with a_line(100) as (line, letterbox), numbered(50) as fds:
        for sent, fd in enumerate(fds):
            assert line.unclaimed() == sent
            hand(line, fd)
        for left in range(49, -1, -1):
            taken(letterbox)
            assert line.unclaimed() == left


def test_a_nudge_weighs_as_much_as_a_handoff() -> None:
    with a_line() as (line, _), numbered(1) as fds:
        assert line.nudge()
        assert line.unclaimed() == 1
        hand(line, fds[0])
        assert line.unclaimed() == 2
        assert message_cost() > 0


@pytest.mark.parametrize("window", [1, 2, 3, 8, 50, 250])
def test_a_window_fits_and_the_line_is_writable_again_when_half_of_it_is_taken(window: int) -> None:
    with a_line(window) as (line, letterbox), numbered(1) as fds:
        poll = select.epoll()
        poll.register(line.fileno(), select.EPOLLOUT)
        for _ in range(window):
            hand(line, fds[0])
        assert line.nudge(), "a nudge fits beside a full window"
        letterbox_left = window + 1
        if window > 1:
            assert poll.poll(0) == []
        while not poll.poll(0):
            found = letterbox.take()
            assert found is not None
            letterbox_left -= 1
            if found[1] is not None:
                os.close(found[1])
        assert letterbox_left <= max(window // 2, 1)
        if window > 3:
            assert letterbox_left >= window // 4
        poll.close()


@pytest.mark.parametrize("window", [8, 250])
def test_a_line_may_be_cut_for_less_and_again_for_all(window: int) -> None:
    with a_line(window) as (line, letterbox), numbered(1) as fds, closing(select.epoll()) as poll:
        poll.register(line.fileno(), select.EPOLLOUT)
        line.set_window(2)
        for _ in range(2):
            hand(line, fds[0])
        assert poll.poll(0) == [], "full, for a window of 2"
        assert taken(letterbox) == 0
        assert poll.poll(0) != []
        line.set_window(window)
        for _ in range(window - 1):
            hand(line, fds[0])
        assert line.unclaimed() == window


def test_a_line_that_is_full_says_so_and_does_not_block() -> None:
    with a_line(1) as (line, _), numbered(1) as fds:
        with pytest.raises(BlockingIOError):
            hand_without_end(line, fds[0])
        assert not line.nudge()


# --- recall


def test_a_recall_takes_the_oldest_and_the_rest_stays_in_order() -> None:
    with a_line() as (line, letterbox), numbered(4) as fds:
        for listener, fd in enumerate(fds):
            hand(line, fd, listener)
        found = line.recall()
        assert isinstance(found, tuple)
        assert found[0] == wire.Handoff(0)
        assert number_of(found[1]) == 0
        assert [taken(letterbox) for _ in range(3)] == [1, 2, 3]


def test_a_connection_is_the_workers_or_the_keys_and_never_both() -> None:
    with a_line(100) as (line, letterbox), numbered(30) as fds:
        for fd in fds:
            hand(line, fd)
        seen = []
        for turn in range(30):
            if turn % 3:
                seen.append(taken(letterbox))
            else:
                seen.append(number_of(recalled(line)))
        assert seen == list(range(30))
        assert line.recall() is None
        assert letterbox.take() is None


def test_recall_works_after_the_half_close() -> None:
    with a_line() as (line, letterbox), numbered(2) as fds:
        for fd in fds:
            hand(line, fd)
        line.half_close()
        assert number_of(recalled(line)) == 0
        assert taken(letterbox) == 1
        assert line.recall() is None


def test_a_recalled_nudge_is_returned_because_the_worker_will_never_read_it() -> None:
    with a_line() as (line, _), numbered(1) as fds:
        line.nudge()
        hand(line, fds[0])
        assert line.recall() == wire.Nudge()
        assert number_of(recalled(line)) == 0


def test_the_oldest_message_is_read_without_taking_it() -> None:
    with a_line() as (line, letterbox), numbered(1) as fds:
        assert line.oldest() is None
        line.hand_over(wire.encode(wire.Handoff(7, recalled=3)), fds[0])
        before = open_descriptors()
        assert line.oldest() == wire.Handoff(7, recalled=3)
        assert (open_descriptors(), line.unclaimed()) == (before, 1)
        assert taken(letterbox) == 0


def test_a_copy_leaves_the_oldest_where_it_is_until_it_is_dropped() -> None:
    with a_line() as (line, letterbox), numbered(2) as fds:
        for fd in fds:
            hand(line, fd)
        for _ in range(2):
            found = line.copy_oldest()
            assert found is not None
            assert number_of(found[1]) == 0
            assert line.unclaimed() == 2
        line.drop_oldest()
        assert line.unclaimed() == 1
        assert taken(letterbox) == 1
        assert line.copy_oldest() is None
        line.drop_oldest()


def test_a_full_descriptor_table_loses_nothing_that_is_copied() -> None:
    run_alone("""
import os
from tests import fakes
from rrmaster.protocol import wire
from rrmaster.protocol.channel import DescriptorLost
with fakes.a_line() as (line, letterbox):
    fd = os.open("/dev/null", os.O_RDONLY)
    for listener in range(3):
        line.hand_over(wire.encode(wire.Handoff(listener)), fd)
    relieve = fakes.fill_the_table()
    for _ in range(10):
        try:
            line.copy_oldest()
        except DescriptorLost:
            pass
        else:
            raise AssertionError("there was room")
    assert line.unclaimed() == 3
    relieve()
    for listener in range(3):
        handoff, copy = line.copy_oldest()
        assert handoff.listener == listener
        os.close(copy)
        line.drop_oldest()
    assert line.unclaimed() == 0
""")


def test_a_take_with_a_full_descriptor_table_raises_descriptor_lost() -> None:
    run_alone("""
import os
from tests import fakes
from rrmaster.protocol import wire
from rrmaster.protocol.channel import DescriptorLost
with fakes.a_line() as (line, letterbox):
    line.hand_over(wire.encode(wire.Handoff()), 0)
    relieve = fakes.fill_the_table()
    try:
        letterbox.take()
    except DescriptorLost:
        pass
    else:
        raise AssertionError("there was room")
    assert letterbox.take() is None
    relieve()
""")


# --- the end


def test_a_half_close_delivers_everything_and_then_the_end() -> None:
    with a_line() as (line, letterbox), numbered(5) as fds:
        for fd in fds:
            hand(line, fd)
        line.half_close()
        assert [taken(letterbox) for _ in range(5)] == [0, 1, 2, 3, 4]
        for _ in range(2):
            with pytest.raises(HungUp):
                letterbox.take()
        assert letterbox.send(wire.Report(5)), "it can still report"
        assert line.receive() == wire.encode(wire.Report(5))


def test_a_half_close_twice_or_after_the_end_is_nothing() -> None:
    with a_line() as (line, letterbox):
        letterbox.line.shutdown(socket.SHUT_RDWR)
        line.half_close()
        line.half_close()


@pytest.mark.parametrize("unread", [0, 3])
def test_a_dead_master_leaves_the_worker_what_it_had_handed_over(unread: int) -> None:
    line = Line.open(8)
    letterbox = Letterbox.inherit(os.dup(line.key.fileno()))
    with numbered(3) as fds:
        for fd in fds:
            hand(line, fd)
        for _ in range(unread):  # unread reports make the kernel say ECONNRESET first
            letterbox.send(wire.Report(0))
        line.close()
        assert [taken(letterbox) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(HungUp):
            letterbox.take()
        assert not letterbox.send(wire.Report(3))
    letterbox.close()


def test_a_dead_workers_reports_are_read_and_then_no_end_of_stream() -> None:
    with a_line() as (line, letterbox), numbered(2) as fds:
        for fd in fds:
            hand(line, fd)
        letterbox.send(wire.Report(1))
        letterbox.send(wire.Report(2))
        letterbox.close()
        assert line.receive() == wire.encode(wire.Report(1))
        assert line.receive() == wire.encode(wire.Report(2))
        assert line.receive() is None
        hand(line, fds[0])  # the line does not refuse either
        assert line.unclaimed() == 3


def test_a_workers_closed_side_reads_as_empty() -> None:
    with a_line() as (line, letterbox):
        letterbox.line.shutdown(socket.SHUT_WR)
        assert line.receive() == b""


# --- a worker cannot hurt the master


def test_a_worker_that_clears_o_nonblock_does_not_make_the_master_wait() -> None:
    with a_line() as (line, letterbox), numbered(1) as fds:
        fcntl.fcntl(letterbox.line.fileno(), fcntl.F_SETFL, 0)
        assert fcntl.fcntl(line.key.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK == 0, "the flag is shared"
        assert line.recall() is None
        assert line.copy_oldest() is None
        assert line.oldest() is None
        assert line.receive() is None
        line.drop_oldest()
        assert letterbox.take() is None
        with pytest.raises(BlockingIOError):
            hand_without_end(line, fds[0])


def test_credentials_asked_for_by_the_worker_do_not_cost_the_descriptor() -> None:
    with a_line() as (line, letterbox), numbered(2) as fds:
        letterbox.line.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        for fd in fds:
            hand(line, fd)
        found = line.copy_oldest()
        assert found is not None
        assert number_of(found[1]) == 0
        assert number_of(recalled(line)) == 0
        assert taken(letterbox) == 1


def test_a_worker_can_send_no_descriptor_into_the_master() -> None:
    with a_line() as (line, letterbox), numbered(1) as fds:
        before = open_descriptors()
        try:
            letterbox.line.sendmsg([b"take this"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        except PermissionError:
            assert line.receive() is None, "the kernel refused all of it"
        else:
            assert line.receive() == b"take this", "the data came, and the descriptor did not"
        assert open_descriptors() == before


def test_a_kernel_that_knows_so_passrights_refuses_the_sender() -> None:
    with a_line() as (line, letterbox), numbered(1) as fds:
        try:
            assert line.sock.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS) == 0
        except OSError:
            pytest.skip("this kernel has no SO_PASSRIGHTS")
        with pytest.raises(PermissionError):
            letterbox.line.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def test_a_message_that_is_too_large_is_recognised() -> None:
    with a_line() as (line, letterbox):
        letterbox.line.send(bytes(wire.MAX_UP + 1000))
        datagram = line.receive()
        assert datagram is not None
        assert len(datagram) == wire.MAX_UP + 1


# --- descriptors


def test_received_descriptors_are_closed_on_exec() -> None:
    with a_line() as (line, letterbox), numbered(1) as fds:
        for _ in range(3):
            hand(line, fds[0])
        for found in (line.copy_oldest(), line.recall(), letterbox.take()):
            assert isinstance(found, tuple)
            assert found[1] is not None
            assert not os.get_inheritable(found[1])
            os.close(found[1])
        assert not os.get_inheritable(line.fileno())
        assert not os.get_inheritable(line.key.fileno())
        assert not os.get_inheritable(letterbox.fileno())


def test_a_workers_own_children_do_not_inherit_its_line() -> None:
    with a_line() as (line, _):
        fd = os.dup(line.key.fileno())
        os.set_inheritable(fd, True)  # as it comes to a worker
        letterbox = Letterbox.inherit(fd)
        assert not os.get_inheritable(letterbox.fileno())
        letterbox.close()


def test_descriptors_that_come_with_the_end_of_the_line_are_closed() -> None:
    with a_line() as (line, letterbox), numbered(2) as fds:
        before = open_descriptors()
        line.sock.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        with pytest.raises(HungUp):
            letterbox.take()
        assert open_descriptors() == before


@pytest.mark.parametrize("count", [2, 5, 60])
def test_of_several_descriptors_the_first_is_kept_and_the_surplus_closed(count: int) -> None:
    with a_line() as (line, letterbox), numbered(count) as fds:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        before = open_descriptors()
        for _ in range(2):
            line.sock.sendmsg([wire.encode(wire.Handoff())], rights)
        found = letterbox.take()
        assert found is not None
        assert found[1] is not None
        assert number_of(found[1]) == 0
        assert open_descriptors() == before
        os.close(recalled(line))
        assert open_descriptors() == before


def test_a_descriptor_that_comes_with_a_nudge_belongs_to_the_taker() -> None:
    with a_line() as (line, letterbox), numbered(1) as fds:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        line.sock.sendmsg([wire.encode(wire.Nudge())], rights)
        found = letterbox.take()
        assert found is not None
        assert found[0] == wire.Nudge()
        assert found[1] is not None
        os.close(found[1])


def test_a_handoff_without_its_descriptor_raises_descriptor_lost() -> None:
    with a_line() as (line, letterbox):
        line.sock.send(wire.encode(wire.Handoff()))
        with pytest.raises(DescriptorLost):
            letterbox.take()


def test_a_letterbox_must_be_a_socket() -> None:
    with numbered(1) as fds, pytest.raises(OSError, match="socket"):
        Letterbox.inherit(fds[0])


def test_a_closed_line_closes_what_lies_in_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, a_line() as (line, letterbox):
        with theirs:
            hand(line, theirs.fileno())
        letterbox.close()
        line.close()
        ours.settimeout(5)
        assert ours.recv(1) == b"", "the client reads the end of its connection"
