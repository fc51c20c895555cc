"""Connections rest between two requests in the idle pool, and a worker is chosen when the next request is there."""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
import trio
from attrs import Factory, define

from rrmaster.status.model import PoolStatus
from tests.whole.harness import BRIEF, PATIENCE, Running, connect, running, status

SOON = ("--park-after", "1ms", "--keep-alive", "60s")


@define(eq=False)
class Client:
    """A client that keeps its connection, and makes another one only if the server has closed it."""

    master: Running
    seed: int
    random: random.Random = Factory(lambda self: random.Random(self.seed), takes_self=True)
    ends: Counter[str] = Factory(Counter)
    """How each request has ended."""
    pids: list[int] = Factory(list)
    """The workers that have answered."""
    stream: trio.SocketStream | None = None
    _read: bytes = b""
    _number: int = 0

    async def ask(self, kind: str = "whole") -> None:
        """One request, in its own way; its end is counted under exactly one name."""
        self._number += 1
        body = b"%d/%d/" % (self.seed, self._number) + b"z" * self.random.choice((0, 3, 40_000))
        try:
            with trio.fail_after(PATIENCE):
                if self.stream is None:
                    self.stream, self._read = await connect(self.master.port), b""
                    self.master.clients.append(self.stream)  # closed at the end of the test
                await getattr(self, f"_{kind}")(self.stream, body)
                pid, echoed = (await self._answer(self.stream)).split(b" ", 1)
            self.ends["answered" if echoed == body else "wrong"] += 1
            self.pids.append(int(pid))
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self.ends["cut"] += 1
            await self.close()

    async def close(self) -> None:
        if self.stream is not None:
            await trio.aclose_forcefully(self.stream)
            self.stream = None

    @staticmethod
    def _head(body: bytes, more: bytes = b"") -> bytes:
        return b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n%b\r\n" % (len(body), more)

    async def _pause(self) -> None:
        await trio.sleep(self.random.choice((0, 0.001, 0.003)) * self.random.random())

    async def _whole(self, stream: trio.SocketStream, body: bytes) -> None:
        await stream.send_all(self._head(body) + body)

    async def _halves(self, stream: trio.SocketStream, body: bytes) -> None:
        whole = self._head(body) + body
        cut = self.random.randrange(1, len(self._head(body)))
        await stream.send_all(whole[:cut])
        await self._pause()
        await stream.send_all(whole[cut:])

    async def _pieces(self, stream: trio.SocketStream, body: bytes) -> None:
        await stream.send_all(self._head(body))
        for at in range(0, len(body), 16_000):
            await self._pause()
            await stream.send_all(body[at : at + 16_000])

    async def _ahead(self, stream: trio.SocketStream, body: bytes) -> None:
        await stream.send_all(self._head(b"first") + b"first" + self._head(body) + body)
        assert (await self._answer(stream)).endswith(b" first")

    async def _expecting(self, stream: trio.SocketStream, body: bytes) -> None:
        await stream.send_all(self._head(body, b"Expect: 100-continue\r\n"))
        await self._pause()
        await stream.send_all(body)

    async def _with_a_blank_line(self, stream: trio.SocketStream, body: bytes) -> None:
        await stream.send_all(self._head(body) + body + b"\r\n")

    async def _answer(self, stream: trio.SocketStream) -> bytes:
        while (found := re.match(rb"(?s)(?:HTTP/1.1 100.*?\r\n\r\n)?(HTTP/1.1 200.*?\r\n\r\n)", self._read)) is None:
            await self._more(stream)
        size = int(re.search(rb"(?i)content-length: (\d+)", found[1])[1])  # type: ignore[index]
        while len(self._read) < found.end() + size:
            await self._more(stream)
        answer, self._read = self._read[found.end() : found.end() + size], self._read[found.end() + size :]
        if b"connection: close" in found[1].lower():
            await self.close()
        return answer

    async def _more(self, stream: trio.SocketStream) -> None:
        more = await stream.receive_some()
        if not more:
            raise trio.BrokenResourceError
        self._read += more


KINDS = ("whole", "halves", "pieces", "ahead", "expecting", "with_a_blank_line")


async def fuzz(client: Client, count: int) -> None:
    """Ask in all ways, with pauses about as long as it takes to be parked."""
    for _ in range(count):
        await client._pause()
        await client.ask(client.random.choice(KINDS))


async def all_at_once(clients: list[Client], count: int) -> Counter[str]:
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(fuzz, client, count)
    return sum((client.ends for client in clients), Counter())


async def pool_of(control: Path) -> PoolStatus:
    pool = (await status(control)).pool
    assert pool is not None
    return pool


async def resting(control: Path, count: int) -> PoolStatus:
    """Wait until so many connections rest."""
    with trio.move_on_after(PATIENCE):
        while (pool := await pool_of(control)).held != count or pool.pid is None:
            await trio.sleep(0.02)
        return pool
    raise AssertionError(await status(control))


@pytest.mark.parametrize(
    ("application", "options"),
    [
        ("parks:app", ("--runtime", "uvloop")),
        ("parks:app", ("--runtime", "asyncio", "--park-after", "1h", "--worker-connections", "1")),
        ("parks:wsgi", ()),
        ("parks:with_h11", ("--runtime", "asyncio")),
        ("parks:app", ("--runtime", "trio")),
    ],
)
async def test_no_byte_is_lost_or_doubled_at_the_moment_of_parking(application, options, tmp_path):
    control = tmp_path / "control"
    async with running(application, *SOON, *options, "--control", str(control), workers=2) as master:
        await master.said("rest in the idle pool")
        clients = [Client(master, seed) for seed in range(6)]
        ends = await all_at_once(clients, 15)
        assert ends == {"answered": 6 * 15}
        pool = await resting(control, 6)
        assert (await status(control)).accepted == 6
        assert pool.parked == pool.resumed + 6
        assert (pool.left, pool.expired, pool.refused, pool.lost) == (0, 0, 0, 0)
        for client in clients:
            await client.close()
        await resting(control, 0)
        assert (await pool_of(control)).left == 6
        assert await master.stop() == 0


@pytest.mark.parametrize("runtime", ["uvloop", "asyncio", "trio"])
async def test_a_blank_line_in_a_packet_of_its_own_keeps_no_connection_from_being_parked(runtime, tmp_path):
    control = tmp_path / "control"
    options = ("--runtime", runtime, "--park-after", "1s", "--keep-alive", "60s", "--control", str(control))
    async with running("parks:app", *options, workers=1) as master:
        await master.said("rest in the idle pool")
        client = Client(master, 1)
        await client.ask("whole")
        stream = client.stream
        assert stream is not None
        await stream.send_all(b"\r\n")
        pool = await resting(control, 1)
        await client.ask("whole")
        assert client.stream is stream
        assert (client.ends, pool.resumed) == ({"answered": 2}, 0)
        await client.close()


@pytest.mark.parametrize(("application", "options"), [("parks:app", ()), ("parks:wsgi", ("--threads", "1"))])
async def test_a_kept_connection_is_served_by_whichever_worker_is_free(application, options, tmp_path):
    """One worker is held; a client that it has answered before does not wait for it."""
    control = tmp_path / "control"
    async with running(application, *SOON, *options, "--control", str(control), workers=2) as master:
        await master.said("rest in the idle pool")
        clients = [Client(master, seed) for seed in range(4)]
        for client in clients:
            await client.ask()
        await resting(control, 4)
        [held] = await master.burst(1)
        await held.send_all(b"GET /hold HTTP/1.1\r\nHost: test\r\n\r\n")
        await master.said(r"holds (\d+)")
        holder = int((await master.said(r"holds (\d+)"))[1])
        for client in clients:
            await client.ask()
            assert client.pids[-1] != holder
        os.kill(holder, signal.SIGKILL)


@pytest.mark.parametrize("runtime", ["uvloop", "trio"])
async def test_a_reload_closes_no_connection(runtime):
    """What rests is served by the new workers; what is busy is parked after its answer."""
    async with running("parks:app", *SOON, *BRIEF, "--runtime", runtime, workers=2) as master:
        await master.said("rest in the idle pool")
        clients, old = [Client(master, seed) for seed in range(4)], set(master.workers)
        streams = []
        for client in clients:
            await client.ask()
            streams.append(client.stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_at_once, clients, 60)
            master.signal(signal.SIGHUP)
            await master.said("-> gone", times=2)
        for client in clients:
            await client.ask()
        assert [client.stream for client in clients] == streams
        assert not {client.pids[-1] for client in clients} & old
        assert sum((client.ends for client in clients), Counter()) == {"answered": 4 * 62}
        for client in clients:
            await client.close()


async def test_a_pool_that_is_killed_is_replaced_and_what_it_held_is_counted(tmp_path):
    control = tmp_path / "control"
    async with running("parks:app", *SOON, "--control", str(control), workers=2) as master:
        await master.said("rest in the idle pool")
        clients = [Client(master, seed) for seed in range(5)]
        for client in clients:
            await client.ask()
        pool = await resting(control, 5)
        assert pool.pid is not None
        os.kill(pool.pid, signal.SIGKILL)
        await master.said("5 connections that rested were closed with the idle pool")
        await master.said("rest in the idle pool", times=2)
        for client in clients:
            await client.ask()
            await client.ask()
        assert sum((client.ends for client in clients), Counter()) == {"answered": 10, "cut": 5}
        pool = await resting(control, 5)
        assert (pool.cut, pool.restarts) == (5, 1)
        for client in clients:
            await client.close()


async def test_a_pool_that_does_nothing_is_killed(tmp_path):
    control = tmp_path / "control"
    async with running("parks:app", *SOON, "--control", str(control), workers=1) as master:
        await master.said("rest in the idle pool")
        pool = await resting(control, 0)
        assert pool.pid is not None
        os.kill(pool.pid, signal.SIGSTOP)
        await master.said("has done nothing for 3 s")
        await master.said("rest in the idle pool", times=2)


async def test_the_proxys_client_is_known_to_each_worker(tmp_path):
    control = tmp_path / "control"
    options = ("--proxy-protocol", "v1", "--control", str(control))
    async with running("parks:app", *SOON, *options, workers=2) as master:
        await master.said("rest in the idle pool")
        client = Client(master, 1)
        [client.stream] = await master.burst(1)
        await client.stream.send_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n")
        for _ in range(3):
            await client.stream.send_all(b"GET /client HTTP/1.1\r\nHost: test\r\n\r\n")
            assert (await client._answer(client.stream)).split(b" ", 1)[1] == b"192.0.2.7:56324"
            await resting(control, 1)
        await client.close()


async def test_a_fleet_that_stops_answers_those_that_speak_and_closes_the_rest(tmp_path):
    control = tmp_path / "control"
    async with running("parks:app", *SOON, "--control", str(control), workers=2) as master:
        await master.said("rest in the idle pool")
        silent, asking = Client(master, 1), Client(master, 2)
        for client in (silent, asking):
            await client.ask()
        await resting(control, 2)
        master.signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            while asking.stream is not None:
                await asking.ask()
            assert silent.stream is not None
            assert await silent.stream.receive_some() == b""
        assert asking.ends["cut"] == 0
        assert await master.ended() == 0
        await silent.close()


@pytest.mark.parametrize(("application", "runtime"), [("parks_lines:lines", "trio"), ("parks_lines:streams", "uvloop")])
async def test_a_handler_gives_its_connection_back_between_two_lines(application, runtime, tmp_path):
    """It is called anew for each line, by a worker that is free, and knows the proxy's client."""
    control = tmp_path / "control"
    options = ("--proxy-protocol", "v1", "--control", str(control), "--runtime", runtime)
    async with running(application, *SOON, *options, workers=2) as master:
        await master.said("rest in the idle pool")
        [stream] = await master.burst(1)
        await stream.send_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n")
        for number in range(1, 4):
            await stream.send_all(b"line\n")
            with trio.fail_after(PATIENCE):
                assert await stream.receive_some() == b"LINE of 192.0.2.7\n"
            pool = await resting(control, 1)
            assert pool.parked == number
        assert sum(worker.open for worker in (await status(control)).workers) == 0


@pytest.mark.parametrize("application", ["parks:app", "parks:with_h11", "parks:wsgi"])
async def test_the_access_log_tells_which_connections_were_parked_before(application, tmp_path):
    control, path = tmp_path / "control", tmp_path / "access"
    logs = ("--access-log", str(path), "--access-log-format", "%(m)s %(parked)s")
    async with running(application, *SOON, *logs, "--control", str(control), workers=1) as master:
        await master.said("rest in the idle pool")
        client = Client(master, 1)
        await client.ask()
        await resting(control, 1)
        await client.ask()
        await resting(control, 1)
        expected = ["POST 0", "POST 1"]
        if application != "parks:wsgi":  # of which a websocket is no request
            key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            await client.stream.send_all(b"GET / HTTP/1.1\r\nHost: shop\r\n" + upgrade + key + b"\r\n")
            expected.append("WEBSOCKET 1")
        await until_lines(path, expected)
        await client.close()
        assert await master.stop() == 0


async def test_the_access_log_tells_which_connections_of_a_handler_were_parked_before(tmp_path):
    control, path = tmp_path / "control", tmp_path / "access"
    logs = ("--access-log", str(path), "--access-log-format", "%(h)s %(parked)s")
    async with running("parks_lines:lines", *SOON, *logs, "--control", str(control), workers=1) as master:
        await master.said("rest in the idle pool")
        [stream] = await master.burst(1)
        for _ in range(2):
            await stream.send_all(b"line\n")
            with trio.fail_after(PATIENCE):
                assert await stream.receive_some() == b"LINE of 127.0.0.1\n"
            await resting(control, 1)
        await until_lines(path, ["127.0.0.1 0", "127.0.0.1 1"])
        assert await master.stop() == 0


async def until_lines(path: Path, expected: list[str]) -> None:
    """Wait until the access log has as many lines, which are these."""
    with trio.fail_after(PATIENCE):
        while len(found := path.read_text().splitlines() if path.exists() else []) < len(expected):
            await trio.sleep(0.02)
    assert found == expected
