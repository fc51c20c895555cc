"""A program that owns a fleet: events, messages, fork, scale, reload, disconnect; and it leaves nothing behind."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import rrmaster
from rrmaster import (
    ReloadCommitted,
    ReloadRolledBack,
    ReloadStarted,
    WorkerChanged,
    WorkerDisconnected,
    WorkerEvent,
    WorkerExited,
    WorkerForked,
    WorkerListening,
    WorkerMessage,
    WorkerOnline,
)
from rrmaster.api.master import Master
from rrmaster.dispatch.acceptor import AcceptLoop
from tests.whole.harness import PATIENCE, PROGRAMS, ask, closed, gone, is_free


def settings(application: object = "talks:handler", **options: object) -> rrmaster.Settings:
    brief = {"bind": ["127.0.0.1:0"], "workers": 2, "app_dir": str(PROGRAMS), "probation": 0.1, "soak": 0.1}
    return rrmaster.Settings(application, **brief | options)


@asynccontextmanager
async def a_master(respawn: bool = True, **options: object) -> AsyncIterator[tuple[Master, list[object]]]:
    """A master whose fleet is complete, and all its events from the beginning."""
    told: list[object] = []

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with master.events() as events:
            task_status.started()
            async for event in events:
                told.append(event)  # noqa: PERF401  # it is looked at meanwhile

    with trio.fail_after(2 * PATIENCE):
        async with (
            trio.open_nursery() as nursery,
            rrmaster.open_master(settings(**options), respawn=respawn) as master,
        ):
            await nursery.start(listen)
            await master.scale(int(options.get("workers", 2)))  # type: ignore[call-overload]
            yield master, told


def port(master: Master) -> int:
    return int(master.addresses[0].rpartition(":")[2])


async def order(master: Master, words: str) -> str:
    """Send one order to one worker."""
    return (await ask(port(master), words.encode())).decode()


async def until(told: list[object], kind: type, **fields: object) -> object:
    """The first event of this kind, with these fields."""
    with trio.fail_after(PATIENCE):
        while True:
            for event in told:
                if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items()):
                    return event
            await trio.testing.wait_all_tasks_blocked(0.01)


def of(told: list[object], id_: int) -> list[str]:
    """The names of a worker's events, changes of state and messages aside."""
    other = (WorkerChanged, WorkerMessage)
    return [type(e).__name__ for e in told if isinstance(e, WorkerEvent) and e.id == id_ and not isinstance(e, other)]


LIFE = ["WorkerForked", "WorkerOnline", "WorkerListening", "WorkerDisconnected", "WorkerExited"]


# --- events


async def test_a_workers_life_is_told_in_order_with_how_it_ended() -> None:
    async with a_master(respawn=False, workers=4) as (master, told):
        first, second, third, fourth = master.workers.values()
        first.kill(signal.SIGKILL)
        await until(told, WorkerExited, id=first.id)
        assert await ask_for_exit(master, 42)
        await until(told, WorkerExited, code=42)
        left = list(master.workers.values())
        for worker in left:
            await worker.disconnect()
        assert not master.workers
    ends = {e.id: (e.code, e.signal, e.exited_after_disconnect) for e in told if isinstance(e, WorkerExited)}
    assert Counter(ends.values()) == {
        (None, signal.SIGKILL, False): 1,
        (42, None, False): 1,
        (0, None, True): 2,
    }
    assert ends[first.id] == (None, signal.SIGKILL, False)
    assert all(of(told, worker.id)[-3:] == LIFE[-3:] for worker in (first, second, third, fourth))
    assert [worker.is_dead() for worker in (first, second, third, fourth)] == [True] * 4


async def ask_for_exit(master: Master, status: int) -> bool:
    """The worker that gets this ends without an answer."""
    counts: Counter[str] = Counter()
    await ask(port(master), b"exit %d" % status, counts)
    return counts == {"cut off": 1}


async def test_every_event_of_a_worker_that_starts_later_is_seen_in_the_documented_order() -> None:
    async with a_master(workers=1) as (master, told):
        worker = await master.fork({"EXTRA": "yes"})
        assert (worker.slot, worker.is_connected(), worker.exited_after_disconnect) == (1, True, None)
        await master.scale(2)
        assert worker.state == "serving"
        who = (worker.id, worker.slot, worker.generation)
        await until(told, WorkerListening, id=worker.id)
        told_of_it = [e for e in told if isinstance(e, WorkerEvent) and e.id == worker.id]
        assert [e for e in told_of_it if not isinstance(e, WorkerChanged)] == [
            WorkerForked(*who), WorkerOnline(*who, worker.pid), WorkerListening(*who, master.addresses),
        ]  # fmt: skip
        await worker.disconnect()
        assert (worker.is_connected(), worker.is_dead(), worker.exited_after_disconnect) == (False, True, True)
        heir = await until(told, WorkerForked, slot=1, generation=1, id=worker.id + 1)
        await until(told, WorkerListening, id=heir.id)
    assert of(told, worker.id) == of(told, heir.id) == LIFE
    states = [(e.before, e.state) for e in told if isinstance(e, WorkerChanged) and e.id == worker.id]
    assert states == [
        ("booting", "proving"), ("proving", "serving"), ("serving", "draining"), ("draining", "gone"),
    ]  # fmt: skip


async def test_the_iteration_of_events_ends_with_the_master() -> None:
    seen = []

    async def follow(master: Master, task_status: trio.TaskStatus[None]) -> None:
        async with master.events() as events:
            task_status.started()
            seen.extend([event async for event in events])

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, rrmaster.open_master(settings(workers=1)) as master:
            await nursery.start(follow, master)
            await master.scale(1)
    assert isinstance(seen[-1], WorkerExited)


# --- fork, environment, scale, disconnect


async def test_a_forked_worker_and_its_replacement_have_the_environment_it_was_forked_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXTRA", "inherited")
    async with a_master(workers=1, env_file=None) as (master, told):
        worker = await master.fork({"EXTRA": "yes", "NEW": "too"})
        await master.scale(2)
        assert {await order(master, "env NEW") for _ in range(4)} == {"too", "-"}
        worker.kill(signal.SIGKILL)
        await until(told, WorkerExited, id=worker.id)
        await master.scale(2)
        assert {await order(master, "env EXTRA") for _ in range(4)} == {"yes", "inherited"}


async def test_scale_returns_when_that_number_serves_and_ids_are_never_used_again() -> None:
    async with a_master(workers=1) as (master, told):
        await master.scale(3)
        assert [w.state for w in master.workers.values()] == ["serving"] * 3
        await master.scale(1)
        assert [w.slot for w in master.workers.values()] == [0]
        await master.scale(2)
    ids = [e.id for e in told if isinstance(e, WorkerForked)]
    assert ids == sorted(set(ids))


async def test_disconnect_returns_when_the_last_worker_has_left_and_the_addresses_stay_open() -> None:
    async with a_master() as (master, told):
        held = await trio.open_tcp_stream("127.0.0.1", port(master))
        await held.send_all(b"who")
        holder = int(await held.receive_some())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(master.disconnect)
            await until(told, WorkerDisconnected, id=holder)
            (other,) = [id_ for id_ in list(master.workers) if id_ != holder] or [holder + 1]
            await until(told, WorkerExited, id=other)
            assert list(master.workers) == [holder], "one still serves its client"
            await held.aclose()
        assert not master.workers
        late = await trio.open_tcp_stream("127.0.0.1", port(master))
        await late.send_all(b"who")
        await master.scale(1)
        assert await late.receive_some(), "who came meanwhile has waited"
        await late.aclose()
        await master.disconnect()
        await master.disconnect()


async def test_all_workers_leave_and_others_come_again_and_again_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    """Several tasks disconnect at once, and one worker is told to end while it still finishes something."""
    async with a_master(bind=["127.0.0.1:0", f"unix:{tmp_path}/s"]) as (master, told):
        before = open_descriptors()
        for _ in range(2):
            assert await order(master, "who")
            held = await trio.open_unix_socket(tmp_path / "s")
            await held.send_all(b"who")
            holder = master.workers[int(await held.receive_some())]
            async with trio.open_nursery() as nursery:
                for leave in (master.disconnect, holder.disconnect, master.disconnect):
                    nursery.start_soon(leave)
                await held.send_all(b"drain")
                assert await held.receive_some() == b"draining"
                holder.kill()
            assert await closed(held) == b""
            await held.aclose()
            assert not master.workers
            await master.scale(2)
            assert open_descriptors() == before
        await master.disconnect()
    exits = [(e.id, e.code, e.signal, e.exited_after_disconnect) for e in told if isinstance(e, WorkerExited)]
    assert sorted(exits) == [(id_, 0, None, True) for id_ in range(1, 7)]


async def test_a_worker_that_disconnects_itself_finishes_what_it_has_and_is_replaced() -> None:
    async with a_master(workers=1) as (master, told):
        (worker,) = master.workers.values()
        held = await trio.open_tcp_stream("127.0.0.1", port(master))
        for _ in range(2):  # the second time it changes nothing
            await held.send_all(b"leave")
            assert await held.receive_some() == b"leaving"
        heir = await until(told, WorkerForked, id=worker.id + 1)
        left = await until(told, WorkerDisconnected, id=worker.id)
        assert told.index(left) < told.index(heir), "it waits for nobody"
        assert (worker.is_connected(), worker.is_dead()) == (False, False)
        await worker.send("to one that leaves")
        await master.workers[heir.id].send("to one whose application is not even loaded")
        await held.send_all(b"echo")
        await until(told, WorkerMessage, id=worker.id, message="to one that leaves")
        assert await order(master, "echo 1") == "heard enough"
        await until(told, WorkerMessage, id=heir.id, message="to one whose application is not even loaded")
        await worker.send("enough")
        await held.aclose()
        ended = await until(told, WorkerExited, id=worker.id)
        assert (ended.code, ended.exited_after_disconnect) == (0, True)


async def test_kill_and_disconnect_of_dead_workers_change_nothing_and_sending_to_them_is_an_error() -> None:
    async with a_master(respawn=False) as (master, told):
        worker, other = master.workers.values()

        async def send_for_ever() -> None:
            with pytest.raises(rrmaster.WorkerGone):
                await says_for_ever(worker)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_for_ever)
            await trio.testing.wait_all_tasks_blocked()  # the line is full
            worker.kill(signal.SIGKILL)
            await send_for_ever()  # and the master has not noticed yet
        await worker.disconnect()
        worker.kill(signal.SIGKILL)
        worker.kill()
        await worker.disconnect()
        assert worker.is_dead()
        assert of(told, worker.id)[-2:] == LIFE[-2:]
        assert sum(isinstance(e, WorkerExited) for e in told) == 1
        with pytest.raises(rrmaster.WorkerGone):
            await worker.send("hello?")
        assert await master.broadcast("anybody?") == 1
        assert await order(master, "who") == str(other.id)


async def says_for_ever(worker: rrmaster.Worker) -> None:
    while True:
        await worker.send("x" * 1_000)


# --- messages


async def test_messages_travel_both_ways_whole_and_in_order() -> None:
    values = [None, True, -1, 2.5, "text \N{SNOWMAN}", [1, [2]], {"a": {"b": []}}, "x" * 50_000]
    async with a_master(workers=1) as (master, told):
        (worker,) = master.workers.values()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(order, master, "echo")
            for value in values:
                await worker.send(value)
            for number in range(1_000):
                await worker.send(number)
            await worker.send("enough")
        assert await order(master, "tell 1000") == "told"
        await until(told, WorkerMessage, message=[worker.id, 999])
    heard = [e.message for e in told if isinstance(e, WorkerMessage)]
    assert heard == [*values, *range(1_000), *([worker.id, number] for number in range(1_000))]


async def test_a_message_too_large_is_an_error_where_it_is_sent_and_a_full_line_waits() -> None:
    async with a_master(workers=1) as (master, _):
        (worker,) = master.workers.values()
        for wrong in ("x" * 70_000, {1, 2}, float("nan"), object()):
            with pytest.raises(rrmaster.NoteRefused):
                await worker.send(wrong)
            with pytest.raises(rrmaster.NoteRefused):
                await master.broadcast(wrong)
        assert "has at most" in await order(master, "send 70000")
        assert await order(master, "send 50000") == "sent"
        with trio.move_on_after(0.2) as enough:
            while True:
                await worker.send("x" * 1_000)  # the worker does not read
        assert enough.cancelled_caught
        assert await order(master, "who") == str(worker.id), "connections do not wait behind messages"
        await worker.disconnect()


async def test_what_a_worker_said_before_it_died_is_heard() -> None:
    async with a_master(workers=1) as (master, told):
        (worker,) = master.workers.values()
        assert await order(master, "tell 100") == "told"
        worker.kill(signal.SIGKILL)
        await until(told, WorkerExited, id=worker.id)
        heard = [e.message for e in told if isinstance(e, WorkerMessage)]
        assert heard == [[worker.id, number] for number in range(100)]


# --- reload


async def test_a_reload_returns_what_was_committed_and_raises_what_was_refused(tmp_path: Path) -> None:
    code = tmp_path / "shop.py"
    code.write_text((PROGRAMS / "talks.py").read_text())
    async with a_master(application="shop:handler", app_dir=str(tmp_path)) as (master, told):
        result = await master.reload()
        assert result.generation == 2
        assert {w.generation for w in master.workers.values() if w.is_connected()} == {2}
        code.write_text("raise RuntimeError('bad code')\n")
        with pytest.raises(rrmaster.ReloadRefused, match="bad code") as refused:
            await master.reload()
        assert refused.value.status == 10
        assert await order(master, "who")
        kinds = (ReloadStarted, ReloadCommitted, ReloadRolledBack)
        assert [(type(e), e.generation) for e in told if isinstance(e, kinds)] == [
            (ReloadStarted, 2), (ReloadCommitted, 2), (ReloadStarted, 3), (ReloadRolledBack, 3),
        ]  # fmt: skip
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two_at_once, master)


async def two_at_once(master: Master) -> None:
    async def first() -> None:
        with pytest.raises(rrmaster.ReloadRefused, match="bad code"):
            await master.reload()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(rrmaster.ReloadRefused, match="a reload runs already") as busy:
            await master.reload()
        assert busy.value.status == 13


# --- callables


async def test_a_handler_and_a_policy_may_be_given_as_callables() -> None:
    import sys

    sys.path.insert(0, str(PROGRAMS))
    try:
        import talks
    finally:
        sys.path.pop(0)
    chosen = []

    def highest(candidates, peer):  # type: ignore[no-untyped-def]
        chosen.append(peer)
        return max(candidates, key=lambda candidate: candidate.slot)

    # On a busy machine the highest may be late, and then it is not shown.
    async with a_master(application=talks.handler, policy=highest, recall_after=PATIENCE) as (master, _):
        assert {await order(master, "who") for _ in range(4)} == {"2"}
        assert len(chosen) == 4
        assert "highest" in master.status().policy


async def test_several_masters_in_one_program_do_not_know_of_each_other() -> None:
    async with a_master(workers=1) as (one, told), a_master(workers=1) as (other, _):
        assert await order(one, "who") == await order(other, "who") == "1"
        await one.disconnect()
        assert await order(other, "who") == "1"
        assert all(e.id == 1 for e in told if isinstance(e, WorkerEvent))


# --- nothing is left behind


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> set[int]:
    return {int(pid) for pid in Path("/proc/self/task").joinpath(str(os.getpid()), "children").read_text().split()}


async def test_what_the_block_raises_rises_as_it_is() -> None:
    seen = []
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the block is what is tested
        async with rrmaster.open_master(settings(workers=1)) as master:
            await master.scale(1)
            seen += [port(master), *(worker.pid for worker in master.workers.values())]
            raise ZeroDivisionError
    address, pid = seen
    assert is_free(address)
    await gone(pid)


async def test_an_application_that_cannot_start_rises_from_the_block() -> None:
    with pytest.raises(rrmaster.Hopeless, match="there is no module"):
        async with rrmaster.open_master(settings("nowhere:app")):
            await trio.sleep(PATIENCE)


async def test_an_address_in_use_rises_before_anything_runs() -> None:
    before = children()
    async with a_master(workers=1) as (master, _):
        with pytest.raises(rrmaster.BindError):
            async with rrmaster.open_master(settings(bind=[master.addresses[0]])):
                raise AssertionError
    assert children() == before


class CancelAt(trio.abc.Instrument):
    """Cancels after `steps` steps of tasks."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.left, self.scope = step, scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233])
async def test_cancelled_at_any_step_of_start_reload_and_stop_nothing_is_left(steps: int, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    descriptors, processes = open_descriptors(), children()
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        cancel = CancelAt(steps, scope)
        trio.lowlevel.add_instrument(cancel)
        try:
            async with rrmaster.open_master(settings(workers=1, bind=[f"unix:{path}"], probation=0, soak=0)) as master:
                await master.scale(1)
                await master.reload()
        finally:
            trio.lowlevel.remove_instrument(cancel)
    assert not path.exists()
    assert children() == processes
    assert open_descriptors() == descriptors


async def test_a_master_whose_own_state_is_wrong_ends_when_its_workers_have_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a worker has in hand is answered, and the error is raised where the fleet was opened."""

    def fail(*arguments: object) -> bool:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    answers: list[bytes] = []
    told: list[object] = []

    async def finish(client: trio.SocketStream) -> None:
        with trio.CancelScope(shield=True), trio.fail_after(PATIENCE):
            await client.send_all(b"who")
            answers.append(await client.receive_some())
            await client.aclose()

    async def serve() -> None:
        nonlocal told
        async with a_master(workers=1) as (master, told), trio.open_nursery() as nursery:
            host, _, port = master.addresses[0].rpartition(":")
            client = await trio.open_tcp_stream(host, int(port))
            await client.send_all(b"who")
            assert await client.receive_some() == b"1"
            monkeypatch.setattr(AcceptLoop, "accept", fail)
            master._inner.dispatcher.wake()
            nursery.start_soon(finish, client)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await serve()
    assert caught.group_contains(OSError, match=os.strerror(errno.EBADF))
    assert answers == [b"1"]
    exits = [event for event in told if isinstance(event, WorkerExited)]
    assert [(event.code, event.exited_after_disconnect) for event in exits] == [(0, True)]


async def test_killed_workers_leak_nothing() -> None:
    async with a_master() as (master, told):
        before = open_descriptors()
        for kills in range(1, 13):
            serving = [worker for worker in master.workers.values() if worker.state == "serving"]
            serving[-1].kill(signal.SIGKILL)
            await until(told, WorkerExited, id=serving[-1].id)
            await until(told, WorkerListening, id=kills + 2)
        await master.scale(2)
        assert open_descriptors() == before
    exits = Counter(e.id for e in told if isinstance(e, WorkerExited))
    assert exits == dict.fromkeys(range(1, 15), 1)


async def told_by(master: Master) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await ask(port(master)))
    return found


async def test_a_program_that_asks_for_templates_has_them_and_keeps_its_own_children() -> None:
    libc = ctypes.CDLL(None)

    def adopts() -> bool:
        found = ctypes.c_int()
        libc.prctl(37, ctypes.byref(found), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
        return bool(found.value)

    async with a_master(application="forked:tells", preload="on") as (master, _):
        assert adopts()
        for _ in range(3):
            found = await told_by(master)
            assert found["parent"] == os.getpid()
            assert found["imported_by"] != found["pid"]
            child = subprocess.Popen(["/bin/sh", "-c", "exit 7"])
            worker = next(worker for worker in master.workers.values() if worker.pid == found["pid"])
            worker.kill(signal.SIGKILL)
            await gone(found["pid"])
            assert await trio.to_thread.run_sync(child.wait) == 7
        assert {template.state for template in master.status().templates} == {"in use"}
        await master.reload()
        await master.rollback()
        assert {worker.generation for worker in master.workers.values() if worker.state == "serving"} == {3}
    assert not adopts()


async def test_a_program_that_does_not_ask_for_templates_adopts_no_process() -> None:
    async with a_master(application="forked:tells") as (master, _):
        found = await told_by(master)
        assert found["imported_by"] == found["pid"]
        assert master.status().templates == ()
        with pytest.raises(rrmaster.ReloadRefused, match="there is nothing to go back to"):
            await master.rollback()
