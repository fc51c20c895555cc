"""What can be asked of a master, and what is answered."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.presentation import CommandLine, as_json
from rrmaster.config.settings import Settings
from rrmaster.control.requests import STACKS_S, Refused, new_size
from rrmaster.control.server import GOODBYE_S
from rrmaster.logs.access import close_access_log, open_access_log
from rrmaster.rules.rollout import Phase
from rrmaster.status.model import from_json
from tests.control.serving import EMPTY, serving


async def test_a_status_is_the_snapshot(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        (answer,) = await served.ask(do="status")
        assert answer["status"] == 0
        assert from_json(answer["snapshot"]) == EMPTY


async def test_several_requests_may_follow_on_one_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.connect()
        for _ in range(3):
            await client.send(do="status")
            assert (await client.answer())[-1]["status"] == 0


async def test_a_request_may_come_in_pieces(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.connect()
        for piece in (b'{"do"', b": ", b'"status"}', b"\n"):
            await client.stream.send_all(piece)
        assert (await client.answer())[-1]["status"] == 0


@pytest.mark.parametrize(("to", "size"), [("8", 8), ("+2", 6), ("-1", 3), ("auto", 7)])
async def test_scale_takes_numbers_steps_and_auto(tmp_path: Path, to: str, size: int) -> None:
    async with serving(tmp_path) as served:
        answer = await served.end_of(do="scale", to=to)
        assert answer == {"status": 0, "text": f"scaling from 4 to {size} workers"}
        assert served.operator.asked == [("scale", size)]


@pytest.mark.parametrize("to", ["", "-4", "0", "1025", "many", "+", "--1", "1.5", "²", " 3", "+99999"])
def test_scale_to_what_cannot_be_is_refused(to: str) -> None:
    with pytest.raises(Refused) as refused:
        new_size(to, 4, lambda: 7)
    assert refused.value.status == 2


async def test_restart_and_retire_name_a_slot_that_is_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert (await served.end_of(do="restart", slot=2))["status"] == 0
        assert (await served.end_of(do="retire", slot=1))["status"] == 0
        assert await served.end_of(do="restart", slot=9) == {"status": 1, "error": "no worker serves in slot 9"}
        assert (await served.end_of(do="restart", slot="2"))["status"] == 2
        assert served.operator.asked == [("restart", 2), ("retire", 1)]


async def test_stop_is_answered_and_done(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert (await served.end_of(do="stop"))["status"] == 0
        await served.operator.stopping.wait()
        assert (await served.end_of(do="stop", now=True))["status"] == 0
        await served.until(lambda: served.operator.asked == ["stop", "hurry", "stop"])


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"", 2), (b"status", 2), (b"[1]", 2), (b'{"do": "dance"}', 2), (b"{}", 2), (b"\xff\xfe", 2), (b"[" * 4000, 2)],
)
async def test_nonsense_is_answered_with_what_is_wrong(tmp_path: Path, line: bytes, status: int) -> None:
    async with serving(tmp_path) as served:
        client = await served.connect()
        await client.stream.send_all(line + b"\n")
        (answer,) = await client.answer()
        assert answer["status"] == status
        assert answer["error"]
        assert (await served.end_of(do="status"))["status"] == 0


async def test_a_fault_of_ours_ends_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.operator.broken = True
        assert await served.end_of(do="status") == {
            "status": 1,
            "error": "a fault of rrmaster; the master's log has it",
        }
        served.operator.broken = False
        assert (await served.end_of(do="status"))["status"] == 0


async def test_events_follow_all_but_what_workers_print(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.follow(do="events")
        served.prints(1, "hello")
        served.log("worker 1 has gone", slot=1, path=Path("/x"))
        entry = {"time": 1.0, "level": "info", "event": "worker.exited", "text": "worker 1 has gone"}
        assert await client.line() == {"entry": {"slot": 1, "path": "/x"} | entry}


async def test_a_line_of_the_access_log_in_json_is_among_what_workers_print(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.log("worker 3 (pid 103) has ended")
        served.log("GET / HTTP/1.1", "worker.access", slot=3, pid=103, generation=1, stream="stdout", status=200)
        told, _ = await served.ask(do="events", lines=10)
        assert told["entry"]["event"] == "worker.exited"
        told, _ = await served.ask(do="logs", slot=3, lines=10)
        assert (told["entry"]["text"], told["entry"]["status"]) == ("GET / HTTP/1.1", 200)


async def test_a_follower_gets_all_that_was_logged_before_the_master_stopped_and_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.follow(do="events")
        for number in range(3):
            served.log(f"worker {number} has gone")
        await served.server.say_goodbye()
        *lines, end = await client.answer()
        assert [line["entry"]["text"] for line in lines] == [f"worker {number} has gone" for number in range(3)]
        assert end == {"status": 0, "text": "the master has stopped"}


async def test_a_follower_that_does_not_read_is_not_waited_for_at_the_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as served:
        await served.follow(do="events")
        for _ in range(1000):
            served.log("x" * 4000)
        began = trio.current_time()
        await served.server.say_goodbye()
        assert trio.current_time() - began == pytest.approx(GOODBYE_S)


async def test_the_settings_in_force_are_told_with_how_the_master_was_started(tmp_path: Path) -> None:
    started = CommandLine(("-w", "4"), "/srv", {"RRMASTER_WINDOW": "6"})
    async with serving(tmp_path, command_line=started) as served:
        answer = await served.end_of(do="config")
        assert answer["settings"] == as_json(served.operator.settings)
        assert answer["started"] == {
            "argv": ["-w", "4"], "directory": "/srv", "environment": {"RRMASTER_WINDOW": "6"}
        }  # fmt: skip
    async with serving(tmp_path) as served:
        assert (await served.end_of(do="config"))["started"] is None, "inside a program"


async def test_without_a_log_file_there_is_none_to_open_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        end = await served.end_of(do="reopen")
        assert end["status"] == 1
        assert end["error"].startswith("there is no log file to open again")


async def test_an_access_log_alone_is_opened_again_as_well(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    open_access_log(Settings("shop:app", access_log=str(path)))
    try:
        async with serving(tmp_path) as served:
            end = await served.end_of(do="reopen")
            assert end == {"status": 0, "text": f"{path}: opened again", "files": [str(path)]}
    finally:
        close_access_log()


async def test_logs_shows_the_last_lines_of_one_slot(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for number in range(10):
            served.prints(number % 2, f"line {number}")
        *lines, end = await served.ask(do="logs", slot=1, lines=3)
        assert [line["entry"]["text"] for line in lines] == ["line 5", "line 7", "line 9"]
        assert end == {"status": 0}
        assert len(await served.ask(do="logs", lines=100)) == 11


async def test_an_entry_logged_in_another_thread_reaches_a_follower(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.follow(do="logs")
        await wait_all_tasks_blocked()
        threading.Thread(target=served.prints, args=(0, "from a thread")).start()
        line = await client.line()
        assert line is not None
        assert line["entry"]["text"] == "from a thread"


async def test_stacks_are_what_the_worker_writes_next(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(tmp_path) as served:
        served.prints(1, "before")

        async def dump() -> None:
            await served.until(lambda: ("stacks", 1) in served.operator.asked)
            await trio.sleep(STACKS_S - 0.1)  # it may have been busy
            for text in ("Thread 0x1:", '  File "shop.py", line 3'):
                served.prints(1, text)
            served.prints(2, "another worker")

        served.nursery.start_soon(dump)
        *lines, end = await served.ask(do="stacks", slot=1)
        assert [line["entry"]["text"] for line in lines] == ["Thread 0x1:", '  File "shop.py", line 3']
        assert end == {"status": 0}


async def test_stacks_that_do_not_come_are_not_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(tmp_path) as served:
        end = await served.end_of(do="stacks", slot=1)
        assert end["status"] == 1
        assert f"nothing for {STACKS_S:g} s" in end["error"]


@pytest.mark.parametrize(
    ("phase", "status"),
    [(Phase.COMMITTED, 0), (Phase.REFUSED, 10), (Phase.ROLLED_BACK, 11), (Phase.OUT_OF_TIME, 12)],
)
async def test_a_reload_sends_its_progress_and_ends_with_its_result(tmp_path: Path, phase: Phase, status: int) -> None:
    async with serving(tmp_path) as served:
        reload, rollout = served.operator.reload, served.operator.reload.rollout
        rollout.say("starting")
        client = await served.connect(do="reload")
        assert (await client.line())["line"] == "starting"
        rollout.say("half way")
        reload.wake()
        assert (await client.line())["line"] == "half way"
        rollout.phase, rollout.reason = phase, "because" if status else ""
        rollout.say("over")
        reload.wake()
        assert (await client.line())["line"] == "over"
        (last,) = await client.answer()
        assert last["status"] == status
        assert last.get("error") == ("because" if status else None)


async def test_a_second_reload_is_told_that_another_runs_unless_it_supersedes(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.operator.busy = True
        served.operator.reload.rollout.phase = Phase.COMMITTED
        assert await served.end_of(do="reload") == {"status": 13, "error": "a reload runs already: soaking"}
        assert (await served.end_of(do="reload", supersede=True))["status"] == 0


async def test_a_client_that_leaves_during_a_reload_is_forgotten(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.connect(do="reload")
        await served.until(lambda: served.server.log.followers == 1)
        await client.stream.aclose()
        await served.until(lambda: served.server.log.followers == 0 and not served.server.sessions)
