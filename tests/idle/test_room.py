"""Which connection is closed when more are parked than may rest?"""

from __future__ import annotations

import resource

import pytest

from rrmaster.idle.places import MANY, SPARE, places
from rrmaster.protocol.parking.lane import LIMIT, ORDER
from tests.idle.conftest import Pool


@pytest.mark.parametrize("pool", [8], indirect=True)
def test_none_is_closed_while_a_place_is_free_and_then_a_worker_with_more_than_half_loses_its_oldest(pool: Pool):
    lane, other = pool.lane(), pool.lane()
    theirs = [pool.connection() for _ in range(3)]
    pool.park(other, theirs[0][1])  # the oldest of all
    pool.counted(held=1)
    ours = [pool.connection() for _ in range(8)]
    for _, server in ours[:7]:
        pool.park(lane, server)
    pool.counted(held=8, evicted=0)
    pool.park(lane, ours[7][1])
    pool.counted(held=8, evicted=1)
    assert ours[0][0].recv(1) == b""
    pool.park(other, *(server for _, server in theirs[1:]))
    pool.counted(held=8, evicted=3)
    assert ours[1][0].recv(1) == ours[2][0].recv(1) == b""
    lane.close()  # also where its worker is dead
    late = pool.connection()
    pool.park(other, late[1])
    pool.counted(held=8, evicted=4)
    assert ours[3][0].recv(1) == b""
    theirs[0][0].sendall(b"GET")
    assert pool.returned()[2].recv(3) == b"GET"


@pytest.mark.parametrize("pool", [8], indirect=True)
def test_when_no_worker_has_more_than_half_the_one_that_has_rested_longest_goes(pool: Pool):
    lane, other, third = pool.lane(), pool.lane(), pool.lane()
    ours, theirs = [pool.connection() for _ in range(4)], [pool.connection() for _ in range(4)]
    pool.park(lane, *(server for _, server in ours))
    pool.counted(held=4)
    pool.park(other, *(server for _, server in theirs))
    pool.counted(held=8)
    _, server = pool.connection()
    pool.park(third, server)
    pool.counted(held=8, evicted=1)
    assert ours[0][0].recv(1) == b""
    pool.line.send(ORDER.pack(LIMIT, 2))
    pool.until(lambda: pool.count("beat") > 0)
    _, server = pool.connection()
    pool.park(other, server)
    assert theirs[0][0].recv(1) == b""


@pytest.mark.parametrize("pool", [8], indirect=True)
def test_a_limit_that_is_raised_is_held_by_that_of_descriptors(pool: Pool):
    resource.prlimit(pool.process.pid, resource.RLIMIT_NOFILE, (SPARE + 10, SPARE + 10))
    pool.line.send(ORDER.pack(LIMIT, 100))
    lane = pool.lane()
    pairs = [pool.connection() for _ in range(12)]
    for _, server in pairs:
        pool.park(lane, server)
    pool.counted(taken=12, held=10, evicted=2, lost=0)
    assert pairs[0][0].recv(1) == pairs[1][0].recv(1) == b""


def test_a_limit_beyond_that_of_descriptors_is_told(monkeypatch, capsys):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert places(1024 - SPARE) == 1024 - SPARE
    assert capsys.readouterr().err == ""
    assert places(100_000) == 960
    assert "960 connections may rest, and not 100000 (--max-parked): the limit of descriptors is 1024" in (
        capsys.readouterr().err
    )


def test_where_no_limit_is_asked_for_that_of_descriptors_is_taken_without_a_word(monkeypatch, capsys):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert places(0) == 960
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    assert places(0) == MANY
    assert capsys.readouterr().err == ""
