"""Programs that open their own addresses: alone, and in a fleet."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define

import rrmaster
from tests.whole.harness import BRIEF, PATIENCE, PROGRAMS, ROOT, Running, ask, connect, gone, is_free, running

ANY = "127.0.0.1:0"


def program(name: str, *arguments: str, workers: int = 2, **more: Any) -> AbstractAsyncContextManager[Running]:
    """A master with a program from the folder `programs`."""
    options = more.pop("options", ())
    return running(str(PROGRAMS / name), *options, workers=workers, bind=None, arguments=arguments, **more)


def port_of(master: Running, number: int = 0) -> int:
    """The port of the N-th address that was opened."""
    return int(re.findall(r"listening on 127\.0\.0\.1:(\d+)", master.text)[number])


@define(eq=False)
class Strings:
    """A client of the puppet in one worker (see programs/puppet.py)."""

    stream: trio.SocketStream

    async def __call__(self, deed: str) -> str:
        """The puppet's answer, without its slot."""
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(deed.encode())
            answer = bytes(await self.stream.receive_some())
        return answer.decode().partition(" ")[2].strip()


async def strings(master: Running, workers: int = 2) -> list[Strings]:
    """The puppets of all workers, by slot: held connections are spread evenly."""
    found: dict[int, Strings] = {}
    while len(found) < workers:
        stream = await connect(port_of(master))
        master.clients.append(stream)
        with trio.fail_after(PATIENCE):
            await stream.send_all(b"argv")
            found.setdefault(int(bytes(await stream.receive_some()).split()[0]), Strings(stream))
    return [found[slot] for slot in sorted(found)]


async def slots_at(port: int) -> set[int]:
    """The slots that answer at an address: of two that serve, both get some of four connections."""
    return {int((await ask(port)).split()[1]) for _ in range(4)}


KINDS = [
    ("on_trio.py",),
    ("on_asyncio.py",),
    ("on_asyncio.py", "--uvloop"),
    ("on_sockets.py", "threads"),
    ("on_sockets.py", "blocking"),
    ("on_sockets.py", "asyncio"),
]


@pytest.mark.parametrize("words", KINDS, ids=" ".join)
async def test_the_same_file_runs_alone_and_in_a_fleet(words: tuple[str, ...]):
    if "--uvloop" in words:
        pytest.importorskip("uvloop")
    async with program(*words, ANY) as master:
        answers = [(await ask(port_of(master), b"hear")).split() for _ in range(6)]
        assert {int(pid) for _, pid, _ in answers} == set(master.workers)
        assert {(place, data) for place, _, data in answers} == {(b"0", b"hear")}
        assert await master.stop() == 0
        assert len(re.findall(r"draining -> gone, exited with status 0", master.text)) == 2
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PROGRAMS / words[0]), *words[1:], ANY],
        stdout=-1,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        with trio.fail_after(PATIENCE):
            said = b""
            while not said.endswith(b"\n"):
                said += bytes(await process.stdout.receive_some()) or b"(it has ended)\n"
        match = re.match(rb"open 0 \('127\.0\.0\.1', (\d+)\)", said)
        assert match
        assert (await ask(int(match[1]), b"alone")).split() == [b"0", b"%d" % process.pid, b"alone"]
    finally:
        process.kill()
        await process.wait()


async def test_addresses_are_opened_once_for_all_workers_that_ask(tmp_path: Path):
    """Two workers with puppets: the addresses that each asks for, the workers that serve them, and errors by errno."""
    control = ("--control", str(tmp_path / "control.sock"))
    async with program("puppet.py", "--port", "80", "-w", options=control) as master:
        first, second = await strings(master)
        assert str(["--port", "80", "-w"])[1:-1] in await first("argv")

        # The n-th free port is the same for all, and another than the one before.
        port = await first(f"open a {ANY}")
        assert await slots_at(int(port)) == {0}, "only one has asked for it yet"
        assert await second(f"open a {ANY}") == port
        assert await slots_at(int(port)) == {0, 1}
        other = await first(f"open b {ANY}")
        assert other not in (port, str(port_of(master)))
        assert (await ask(int(other), b"x")).split()[0] == b"b", "each has its own handler"

        # An address that cannot be opened is an error at the call that asks for it.
        assert await first(f"open c 127.0.0.1:{port}") == "EADDRINUSE", "twice in one worker"
        assert await second(f"open c 127.0.0.1:{other}") == other, "a free port is known by its number, too"
        assert await first("open d 192.0.2.1:80") == "EADDRNOTAVAIL"
        assert await first(f"open d {tmp_path}/nowhere/x.sock") == "ENOENT"
        with socket.socket() as busy, socket.socket(socket.AF_UNIX) as busy_too:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            taken = busy.getsockname()[1]
            assert await second(f"open e 127.0.0.1:{taken}") == "EADDRINUSE"
            busy_too.bind(f"{tmp_path}/busy")
            busy_too.listen()
            assert await second(f"open e {tmp_path}/busy") == "EADDRINUSE"
        assert await second(f"open e 127.0.0.1:{taken}") == str(taken), "asked for again, it is there"

        # A path of any length, relative to the worker's directory or not, and its file.
        deep = tmp_path / ("d" * 100)
        deep.mkdir()
        path = deep / "x.sock"
        assert await first(f"open f {os.path.relpath(path, ROOT)}") == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        # One worker closes; the other serves on.
        assert await first("close a") == "None"
        assert await slots_at(int(port)) == {1}
        assert await first(f"open a 127.0.0.1:{port}") == port
        assert await slots_at(int(port)) == {0, 1}

        # Both close: clients wait, and are served when a worker opens the address again.
        assert await first("close a") == await second("close a") == "None"
        waiting = await connect(int(port))
        master.clients.append(waiting)
        await waiting.send_all(b"waited")
        assert await second(f"open a 127.0.0.1:{port}") == port
        with trio.fail_after(PATIENCE):
            assert bytes(await waiting.receive_some()) == b"a 1 waited"

        # A replacement gets the same address.
        pid = next(pid for pid, slot in master.workers.items() if slot == 1)
        os.kill(pid, signal.SIGKILL)
        await master.said(r"worker 1 .*-> serving", times=2)
        first, second = await strings(master)
        assert await second(f"open a {ANY}") == port
        assert await first(f"open a 127.0.0.1:{port}") == port
        status = await _status(*control)
        assert f"127.0.0.1:{port}, backlog 0 of 50 listens" in status, "served by all"
        assert re.search(rf"127\.0\.0\.1:{other}, backlog 0 of 50, served by 1 of 2", status)
        assert await first("draining") == "False"
        for client in master.clients:
            await client.aclose()
        assert await master.stop() == 0
        assert not path.exists(), "the master removes what it made"
        assert is_free(int(port))
        await master.said(f"the main task has ended in {re.escape(str(ROOT))}", times=2)


async def _status(*which: str) -> str:
    command = [sys.executable, "-m", "rrmaster", "status", *which]
    done = await trio.run_process(command, capture_stdout=True, cwd=ROOT)
    return " ".join(done.stdout.decode().split())


async def test_a_storm_of_kills_costs_what_dead_workers_had_in_hand_and_nothing_else():
    """Every client has exactly one outcome; none is refused or hangs, and no more are cut than workers had taken."""
    ledger: Counter[str] = Counter()
    async with program("on_trio.py", ANY, workers=4) as master:
        port, over = port_of(master), trio.Event()

        async def client() -> None:
            while not over.is_set():
                await ask(port, b"?", ledger)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(client)
            for victim in range(8):
                await master.until(lambda: len(master.workers) >= 3, "three serve")
                answered = ledger["answered"]
                os.kill(sorted(master.workers)[victim % 3], signal.SIGKILL)
                await master.said("was ended by SIGKILL", times=victim + 1)
                with trio.fail_after(PATIENCE):
                    while ledger["answered"] < answered + 20:
                        await trio.lowlevel.checkpoint()
            over.set()
        await master.until(lambda: len(master.workers) == 4, "all are replaced")
        assert await master.stop() == 0
        lost = sum(map(int, re.findall(r"had (\d+) connections? in its hands", master.text)))
        accepted = int((await master.said(r"stopped: (\d+) connections accepted"))[1])
    assert ledger.keys() <= {"answered", "cut off"}
    assert ledger["cut off"] <= lost <= 8 * 8, "a worker has a batch in its hands at most"
    assert ledger.total() == accepted


async def test_a_reload_of_a_program_loses_no_client_and_keeps_its_addresses():
    ledger: Counter[str] = Counter()
    async with program("on_asyncio.py", ANY, ANY, options=BRIEF) as master:
        ports, over = (port_of(master, 0), port_of(master, 1)), trio.Event()

        async def client(port: int) -> None:
            while not over.is_set():
                await ask(port, b"?", ledger)

        before = set(master.workers)
        async with trio.open_nursery() as nursery:
            for port in ports:
                nursery.start_soon(client, port)
            master.signal(signal.SIGHUP)
            await master.said(r"exited with status 0", times=2)
            over.set()
        assert before.isdisjoint(master.workers)
        assert [(await ask(port)).split()[0] for port in ports] == [b"0", b"1"]
        assert master.text.count("said goodbye") == 2, "serve_forever returns, and the program ends by itself"
        assert master.text.count("listening on") == 2, "each was opened once"
        assert await master.stop() == 0
    assert ledger.keys() == {"answered"}


async def test_a_drained_program_finishes_what_it_has_and_then_ends():
    async with program("puppet.py") as master:
        first, second = await strings(master)
        master.signal(signal.SIGTERM)
        await master.said("draining", times=2)
        with trio.fail_after(PATIENCE):
            for each in (first, second):
                while await each("draining") != "True":
                    pass  # the master says so a moment before it tells them
        await first.stream.aclose()
        await master.said("the main task has ended")
        await master.said(r"worker 0 .* exited with status 0")
        assert await second("argv"), "the other one is still at work"
        await second.stream.aclose()
        assert await master.ended() == 0
        assert "Cancelled" not in master.text


async def test_term_to_a_workers_program_has_it_replaced_first():
    async with program("puppet.py") as master:
        pid = next(pid for pid, slot in master.workers.items() if slot == 1)
        os.kill(pid, signal.SIGTERM)
        await gone(pid)
        await master.said(r"worker 1 .*draining -> gone, exited with status 0")
        assert master.text.index("worker 1 (pid", master.text.index("ready:")) < master.text.index("-> gone")
        assert len(master.workers) == 2


ENDS = {
    "returns": ("pass", "ended before it was ready (it returned). A program is ready once"),
    "exits": ("import sys; sys.exit(0)", "ended before it was ready (exit status 0)"),
    "raises": ("raise ZeroDivisionError('its own')", "ZeroDivisionError: its own"),
    "is no Python": ("def", "SyntaxError"),
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_program_that_ends_before_it_is_ready_has_failed_and_the_log_says_why(how: str, tmp_path: Path):
    text, words = ENDS[how]
    (tmp_path / "ends.py").write_text(text)
    async with running(str(tmp_path / "ends.py"), workers=1, bind=None, ready=False) as master:
        assert await master.ended() == 3
        assert words in master.text
        assert "runpy" not in master.text, "our own frames are nobody's affair"


async def test_a_program_that_exits_or_leaves_while_it_serves_is_replaced():
    async with program("puppet.py") as master:
        first, second = await strings(master)
        await first.stream.send_all(b"exit 7")
        await master.said(r"worker 0 .*serving -> gone, exited with status 7")
        # As a program does when its address cannot be opened.
        assert await second("open c 192.0.2.1:80") == "EADDRNOTAVAIL"
        assert await second("leave") == "None"
        assert await second("draining") == "True"
        await second.stream.aclose()
        await master.said(r"worker 1 .*draining -> gone, exited with status 0")
        for slot in (0, 1):
            await master.said(rf"worker {slot} .*proving -> serving", times=2)
        assert len(await strings(master)) == 2


MODULE = """
import os, sys, rrmaster, trio
async def main():
    print("argv", sys.argv, __name__, __package__, os.path.basename(sys.path[0]))
    listeners = await rrmaster.open_tcp_listeners(0, host="127.0.0.1")
    await trio.serve_listeners(lambda stream: stream.send_all(b"module"), listeners)
trio.run(main)
"""


async def test_a_package_runs_as_with_python_m_and_check_tries_it(tmp_path: Path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "__main__.py").write_text(MODULE)
    environ = {"RRMASTER_CHDIR": str(tmp_path), "PORT": "1"}
    options = ["-m", "shop", "-v", "--bind", "its own"]
    async with running(options[1], options[0], bind=None, arguments=options[2:], workers=1, environ=environ) as master:
        assert await ask(port_of(master)) == b"module"
        assert "__main__ shop" in master.text
        assert str(options[2:])[1:] in master.text
        assert await master.stop() == 0
    command = [sys.executable, "-m", "rrmaster", "check", "--chdir", str(tmp_path), *options]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, cwd=ROOT)
    assert b"a program is not forked\n-m shop would be served" in done.stdout


WITHOUT_RIGHTS = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: without them root obeys modes, too
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""


async def test_what_is_forbidden_rises_where_it_was_asked_for_and_what_bind_opened_is_there(tmp_path: Path):
    (tmp_path / "theirs").mkdir(mode=0o500)
    under = (sys.executable, "-c", WITHOUT_RIGHTS)
    async with program("puppet.py", workers=1, options=("--bind", ANY), under=under) as master:
        given = int((await master.said(r"puppet.py on 127.0.0.1:(\d+) with"))[1])
        (only,) = await strings(master, 1)
        assert await only(f"open a {tmp_path}/theirs/x.sock") == "EACCES"
        assert await only(f"open a 127.0.0.1:{given}") == str(given)
        assert (await ask(given, b"x")).split()[0] == b"a"


async def test_what_one_listener_is_not_asked_for_does_not_stop_another():
    """The letterbox has one head: a connection there that the program does not accept makes way for others."""
    async with program("puppet.py", workers=1, options=("--graceful-timeout", "500ms")) as master:
        (only,) = await strings(master, 1)
        port = int(await only(f"open a {ANY}"))
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            neglected = busy.getsockname()[1]
        assert await only(f"hold 127.0.0.1:{neglected}") == "held"
        master.clients += [await connect(neglected) for _ in range(40)]
        for _ in range(20):
            assert (await ask(port, b"x")).split()[0] == b"a"
        assert await master.stop() == 0


async def test_a_program_that_hangs_is_killed_with_its_stacks_in_the_log():
    options = ("--hang-timeout", "2s", "--heartbeat", "200ms")
    async with program("puppet.py", workers=1, options=options) as master:
        (only,) = await strings(master, 1)
        os.kill(next(iter(master.workers)), signal.SIGRTMIN + 3)
        await master.said(r"puppet\.py:\d+ in main")
        await only.stream.send_all(b"block 60")
        await master.said("its loop has not reported for too long")
        await master.said(r'puppet\.py", line \d+ in do')
        await master.said("proving -> serving", times=2)


async def test_a_fleet_of_programs_in_a_trio_program():
    settings = rrmaster.Settings(str(PROGRAMS / "puppet.py"), arguments=["x"], workers=1, graceful_timeout="1s")
    async with rrmaster.open_master(settings) as master:
        assert master.addresses == ()
        with trio.fail_after(PATIENCE):
            async with master.events() as events:
                async for event in events:
                    if isinstance(event, rrmaster.WorkerListening):
                        break
                (address,) = event.addresses
                assert master.addresses == (address,)
                host, _, port = address.rpartition(":")
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    await master.workers[event.id].send("from the master")
                    await stream.send_all(b"repeat after me")
                    async for event in events:
                        if isinstance(event, rrmaster.WorkerMessage):
                            break
                    assert event.message == ["from the master", "after", "me"]
                    assert bytes(await stream.receive_some()) == b"0 said\n"
