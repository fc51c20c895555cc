"""The idle pool holds connections and reads no byte; what a worker sends harms nothing but itself."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import struct
import time

import pytest

from rrmaster.protocol.parking.lane import END, MOST, ORDER, PARK, record
from tests.idle.conftest import LONG, PATIENCE, Pool


def test_a_client_that_speaks_comes_back_with_all_it_has_said(pool: Pool):
    client, server = pool.connection()
    lane = pool.lane()
    pool.park(lane, server, memo=b"what was known")
    pool.counted(taken=1, held=1)
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    listener, memo, back = pool.returned()
    assert (listener, memo, back.recv(100)) == (7, b"what was known", b"GET / HTTP/1.1\r\n\r\n")
    back.sendall(b"answer")
    assert client.recv(100) == b"answer"
    pool.counted(taken=1, returned=1, held=0)


def test_a_client_that_has_spoken_before_it_is_parked_comes_back_at_once(pool: Pool):
    client, server = pool.connection()
    client.sendall(b"early")
    pool.park(pool.lane(), server)
    assert pool.returned()[2].recv(100) == b"early"


def test_a_blank_line_wakes_nothing_and_is_not_lost(pool: Pool):
    client, server = pool.connection()
    other, others = pool.connection()
    pool.park(pool.lane(), server, others)
    client.sendall(b"\r\n")
    other.sendall(b"GET")
    assert pool.returned()[2].recv(100) == b"GET"
    assert pool.count("held") == 1
    client.sendall(b"GET")
    back = pool.returned()[2]
    assert back.recv(100) == b"\r\nGET"
    assert back.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


def test_one_byte_wakes_a_connection_that_was_parked_so(pool: Pool):
    client, server = pool.connection()
    pool.park(pool.lane(), server, wakes=1)
    client.sendall(b"!")
    assert pool.returned()[2].recv(100) == b"!"


def test_a_client_that_leaves_is_counted_and_one_that_only_ends_its_side_is_answered(pool: Pool):
    leaving, first = pool.connection()
    resetting, second = pool.connection()
    asking, third = pool.connection()
    pool.park(pool.lane(), first, second, third)
    pool.counted(held=3)
    leaving.close()
    resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    resetting.close()
    pool.counted(left=2, held=1)
    asking.sendall(b"question")
    asking.shutdown(socket.SHUT_WR)
    back = pool.returned()[2]
    assert back.recv(100) == b"question"
    back.sendall(b"answer")
    assert asking.recv(100) == b"answer"


def test_a_connection_is_closed_when_its_time_is_over_even_if_its_worker_keeps_a_copy(pool: Pool):
    client, server = pool.connection()
    copy = server.dup()
    pool.sockets.append(copy)
    pool.park(pool.lane(), server, rest=0.0)
    assert client.recv(100) == b""
    pool.counted(expired=1, held=0)


@pytest.mark.parametrize("rest", [float("nan"), float("-inf"), -1e300])
def test_a_time_that_is_no_time_is_over(pool: Pool, rest: float):
    client, server = pool.connection()
    pool.park(pool.lane(), server, rest=rest)
    assert client.recv(100) == b""


def test_what_is_no_connection_is_refused_and_hurts_nothing(pool: Pool):
    lane = pool.lane()
    ends = os.pipe()
    descriptors = [*ends, os.open(os.devnull, os.O_RDONLY), os.memfd_create("page"), os.dup(pool.page)]
    kinds = [(socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX, socket.SOCK_SEQPACKET), (socket.AF_NETLINK, 3)]
    sockets = [socket.socket(*kind) for kind in kinds] + [pool.listener.dup(), socket.socket(socket.AF_UNIX)]
    sockets[-1].bind("")
    sockets[-1].listen()
    for fd in [*descriptors, *(sock.fileno() for sock in sockets)]:
        socket.send_fds(lane, [PARK.pack(1) + record(time.monotonic() + LONG, 0, 3, b"")], [fd])
    pool.counted(refused=len(descriptors) + len(sockets), held=0)
    for fd in descriptors:
        os.close(fd)
    for sock in sockets:
        sock.close()
    client, server = pool.connection()
    pool.park(lane, server)
    client.sendall(b"well")
    assert pool.returned()[2].recv(100) == b"well"


def test_messages_that_are_none_are_refused(pool: Pool):
    lane = pool.lane()
    _, server = pool.connection()
    rubbish = [b"\x01", b"\xff\xff", PARK.pack(1), PARK.pack(1) + record(0.0, 0, 9, b""), b"?" * 5000]
    for message in rubbish:
        socket.send_fds(lane, [message], [server.fileno()])
    pool.until(lambda: pool.count("refused") >= len(rubbish))
    assert pool.count("held") == 0
    lane.send(PARK.pack(2) + record(0.0, 0, 3, b"") * 2)  # without their descriptors
    pool.until(lambda: pool.count("refused") >= len(rubbish) + 2)


def test_a_connection_that_nobody_describes_and_that_lingers_delays_nothing(pool: Pool):
    lane = pool.lane()
    _, server = pool.connection()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:  # its client reads nothing
            server.send(bytes(1 << 16))
    socket.send_fds(lane, [b"?"], [server.fileno()])
    server.close()
    client, another = pool.connection()
    pool.park(lane, another)
    client.sendall(b"well")
    assert pool.returned()[2].recv(100) == b"well"
    pool.counted(refused=2, returned=1)  # the message, and what came with it


def test_the_same_connection_a_thousand_times_is_one(pool: Pool):
    client, server = pool.connection()
    lane = pool.lane()
    for _ in range(1000 // 50):
        copies = [server.dup() for _ in range(50)]
        pool.park(lane, *copies)
    pool.counted(taken=1, refused=999, held=1)
    client.sendall(b"once")
    assert pool.returned()[2].recv(100) == b"once"
    pool.counted(returned=1, held=0)


def test_what_a_worker_has_done_to_a_socket_is_undone(pool: Pool):
    client, server = pool.connection()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 20)
    server.setblocking(False)
    pool.park(pool.lane(), server)
    client.sendall(b"GET")
    back = pool.returned()[2]
    assert struct.unpack("ii", back.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0] == 0
    assert back.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert os.get_blocking(back.fileno())


def test_what_the_kernel_has_closed_for_want_of_descriptors_is_counted(pool: Pool):
    lane = pool.lane()
    client, server = pool.connection()
    pool.park(lane, server)
    pool.counted(held=1)
    taken = {int(name) for name in os.listdir(f"/proc/{pool.process.pid}/fd")}
    lowest = min(set(range(len(taken) + 1)) - taken)
    resource.prlimit(pool.process.pid, resource.RLIMIT_NOFILE, (lowest, lowest))
    lost, server = pool.connection()
    pool.park(lane, server)
    assert lost.recv(1) == b""
    pool.counted(lost=1, taken=2, held=1)
    client.sendall(b"still here")
    assert pool.returned()[2].recv(100) == b"still here"


def test_a_master_that_takes_nothing_loses_nothing(pool: Pool):
    """More than the line to the master holds: the rest waits in the pool, in the order in which they have spoken."""
    lane = pool.lane()
    clients = []
    for _ in range(6):
        pairs = [pool.connection() for _ in range(MOST)]
        pool.park(lane, *(server for _, server in pairs), memo=b"m" * 128)
        clients += [client for client, _ in pairs]
    pool.counted(held=len(clients))
    for number, client in enumerate(clients):
        client.sendall(b"%4d" % number)
    pool.until(lambda: pool.count("returned") > 200)
    said = []
    for _ in clients:
        back = pool.returned()[2]
        said.append(int(back.recv(4)))
        back.close()
    assert sorted(said) == list(range(len(clients)))
    pool.counted(returned=len(clients), held=0)


def test_told_to_end_it_hands_over_what_has_spoken_and_closes_the_rest(pool: Pool):
    lane = pool.lane()
    silent, first = pool.connection()
    brief, second = pool.connection()
    pool.park(lane, first, second)
    pool.counted(held=2)
    brief.sendall(b"G")  # too little to wake it
    pool.line.send(ORDER.pack(END, 0))
    assert silent.recv(1) == b""
    assert pool.returned()[2].recv(1) == b"G"
    assert pool.process.wait(PATIENCE) == 0
    assert (pool.count("expired"), pool.count("returned"), pool.count("held")) == (1, 1, 0)


def test_what_a_dead_worker_has_parked_stays_and_its_lane_is_read_to_the_end(pool: Pool):
    lane = pool.lane()
    client, server = pool.connection()
    pool.park(lane, server)
    lane.close()
    pool.counted(held=1)
    pool.until(lambda: _waits(pool.line))
    client.sendall(b"and then")
    assert pool.returned()[2].recv(100) == b"and then"
    assert pool.ended == [(1, 1)]


def _waits(line: socket.socket) -> bool:
    """Whether a message can be read."""
    return bool(select.select([line], [], [], 0)[0])
