"""A template as the master sees it: what it receives and what it must not do; the test plays the process."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import Factory, define

from rrmaster.processes import template as module
from rrmaster.processes.process import Child, adopted, adopting
from rrmaster.processes.template import Lost, Template
from rrmaster.protocol import template_wire
from rrmaster.protocol.forks.safety import Finding
from rrmaster.protocol.template_wire import Forked, ForkFailed, Loaded, MemoryUse
from rrmaster.rules.backoff import Exit
from rrmaster.worker.preload.traces import findings_of, traces_now
from tests.fakes import DEADLINE
from tests.launches import a_launch


@define(eq=False)
class FakeProcess:
    """Ends when it is killed."""

    pid: int = 1
    over: trio.Event = Factory(trio.Event)
    signals: list[int] = Factory(list)

    async def wait(self) -> Exit:
        await self.over.wait()
        return Exit(signal=signal.SIGKILL)

    def signal(self, number: int, group: bool = False) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL:
            self.over.set()


@define(eq=False)
class Player:
    """The other end of a template's line, in the test's hands."""

    template: Template
    line: socket.socket
    children: list[subprocess.Popen[bytes]] = Factory(list)

    async def order(self) -> tuple[template_wire.ForkRequest, list[int]]:
        with trio.fail_after(DEADLINE):
            await trio.lowlevel.wait_readable(self.line)
        datagram, fds, _, _ = socket.recv_fds(self.line, template_wire.MAX, 8)
        order = template_wire.decode(datagram)
        assert isinstance(order, template_wire.ForkRequest)
        return order, fds

    def say(self, message: template_wire.Message | bytes, *fds: int) -> None:
        datagram = message if isinstance(message, bytes) else template_wire.encode(message)
        socket.send_fds(self.line, [datagram], fds)

    def fork(self, number: int) -> subprocess.Popen[bytes]:
        """A child of this process, as an adopted worker would be."""
        child = subprocess.Popen(["/bin/sleep", "60"], process_group=0)
        self.children.append(child)
        pidfd = os.pidfd_open(child.pid)
        self.say(Forked(number, child.pid), pidfd)
        os.close(pidfd)
        return child


@asynccontextmanager
async def a_player() -> AsyncIterator[Player]:
    ours, its = module._line()
    player = Player(Template(FakeProcess(), ours), its)
    with its, trio.fail_after(2 * DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(player.template.run)
            yield player
            player.template.lose("the test is over")
    for child in player.children:
        child.kill()
        child.wait()


@pytest.fixture
def null() -> AsyncIterator[int]:  # type: ignore[misc]
    fd = os.open(os.devnull, os.O_RDWR)
    yield fd  # type: ignore[misc]
    os.close(fd)


async def ordered(player: Player, null: int, found: list[object]) -> None:
    try:
        found.append(await player.template.worker([null] * 5, {"NAME": "value"}, ["--slot", "0"]))
    except Lost as lost:
        found.append(str(lost))


async def test_an_order_brings_descriptors_and_environment_and_the_forked_worker_is_let_go(null: int) -> None:
    async with a_player() as player:
        found: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ordered, player, null, found)
            order, fds = await player.order()
            assert (order.kind, order.environ, order.title) == ("worker", {"NAME": "value"}, ("--slot", "0"))
            assert len(fds) == template_wire.FDS["worker"]
            os.set_blocking(fds[-1], False)
            with pytest.raises(BlockingIOError):
                os.read(fds[-1], 1)
            forked = player.fork(order.number)
        (child,) = found
        assert isinstance(child, Child)
        assert child.pid == forked.pid
        assert os.read(fds[-1], 1), "only now"
        for fd in fds:
            os.close(fd)
        forked.kill()
        assert await child.wait() == Exit(signal=signal.SIGKILL)
        forked.returncode = -signal.SIGKILL


async def test_one_that_cannot_fork_says_why_and_is_asked_again(null: int) -> None:
    async with a_player() as player:
        found: list[object] = []
        for why in ("Cannot allocate memory", "Resource temporarily unavailable"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ordered, player, null, found)
                order, fds = await player.order()
                player.say(MemoryUse(1, 2, 3))
                player.say(ForkFailed(order.number, why))
            for fd in fds:
                os.close(fd)
            assert found.pop() == f"it could not fork: {why}"
            assert not player.template.fate
        assert player.template.weight == MemoryUse(1, 2, 3)


async def test_a_template_that_does_not_answer_is_lost_and_its_worker_ends_with_its_leash(
    null: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORK_S", 0.05)
    async with a_player() as player:
        found: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ordered, player, null, found)
            _, fds = await player.order()
        assert str(found).startswith("['it has not forked within 0.05 s")
        assert os.read(fds[-1], 1) == b""
        for fd in fds:
            os.close(fd)
        assert signal.SIGKILL in player.template.process.signals  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"?",
        b'{"is": "Order", "number": 1, "kind": "king"}',
        b'{"is": "Order", "number": 1, "kind": ["king"]}',
        b"x" * template_wire.MAX,
        b"{}",
    ],
)
async def test_one_that_talks_nonsense_is_lost(nonsense: bytes, null: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with a_player() as player:
        found: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ordered, player, null, found)
            _, fds = await player.order()
            player.say(nonsense, null, null, null)
        assert len(found) == 1
        assert isinstance(found[0], str)
        assert player.template.fate
        for fd in fds:
            os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before, "what it sent is closed"


async def test_one_that_says_too_much_is_lost() -> None:
    async with a_player() as player:
        for _ in range(3 * module.AT_ONCE):
            try:
                socket.send_fds(player.line, [template_wire.encode(Loaded())], [], socket.MSG_DONTWAIT)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                break
        with trio.fail_after(DEADLINE):
            await player.template.settled(DEADLINE)
            while not player.template.fate:
                await trio.testing.wait_all_tasks_blocked()
        assert player.template.fate == "it says too much"


async def test_a_process_that_is_no_child_or_another_child_is_refused(null: int) -> None:
    async with a_player() as player:
        found: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ordered, player, null, found)
            order, fds = await player.order()
            init = os.pidfd_open(1)
            player.say(Forked(order.number, 1), init)
            os.close(init)
        assert found == [player.template.fate]
        assert "no child of the master" in player.template.fate
        for fd in fds:
            os.close(fd)
    one, other = (subprocess.Popen(["/bin/sleep", "60"]) for _ in range(2))
    with pytest.raises(ValueError, match="it is not process"):
        adopted(os.pidfd_open(one.pid), other.pid)
    for child in (one, other):
        child.kill()
        child.wait()


def test_orphans_are_adopted_for_the_time_of_the_block() -> None:
    def adopts() -> bool:
        found = ctypes.c_int()
        ctypes.CDLL(None).prctl(37, ctypes.byref(found), 0, 0, 0)
        return bool(found.value)

    with adopting() as can:
        assert can == adopts()
        with adopting():
            assert adopts()
        assert adopts(), "as it was before"
    assert not adopts()


def test_where_there_is_no_proc_nothing_is_forked() -> None:
    now = traces_now()
    assert now is not None
    assert findings_of(None, now) == findings_of(now, None) == (Finding("could not be watched (there is no /proc)"),)
    assert findings_of(now, now) == ()


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_template_whose_master_has_died_exits(hangs: bool, tmp_path: Path) -> None:
    """While it imports, and when it waits for orders."""
    begun = tmp_path / "begun"
    code = f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(600)\n"
    (tmp_path / "shop.py").write_text((code if hangs else "") + "def app(environ, start_response): pass\n")
    ours, its = module._line()
    launch = a_launch("shop:app", app_dir=str(tmp_path), chdir=str(tmp_path)).encode()
    environ = os.environ | {"RRMASTER_TEMPLATE": str(its.fileno()), "RRMASTER_LAUNCH": launch}
    with its:
        command = [sys.executable, "-m", "rrmaster.worker"]
        process = subprocess.Popen(command, env=environ, pass_fds=[its.fileno()])
    with trio.fail_after(2 * DEADLINE):
        while hangs and not begun.exists():
            await trio.sleep(0.01)
        if not hangs:
            await trio.lowlevel.wait_readable(ours)
    trio.lowlevel.notify_closing(ours)
    ours.close()
    status = await trio.to_thread.run_sync(lambda: process.wait(DEADLINE))
    assert status == (-signal.SIGIO if hangs else 0)
