"""The operator's socket: who may ask, what is answered, and what a bad client costs."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import Factory, define, evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.control.client import Client, NoMaster, reach
from rrmaster.control.server import (
    IDLE_S,
    KEPT,
    MAX_REQUEST,
    PACE_S,
    SEND_S,
    STACKS_S,
    VISITORS,
    Control,
    Refused,
    Ring,
    new_size,
)
from rrmaster.control.socket_paths import (
    CannotClaim,
    Place,
    Taken,
    claim_by_name,
    directories_to_search,
    usable_directory,
)
from rrmaster.logs.log import Entry
from rrmaster.rules.plan import Goal
from rrmaster.rules.rollout import Phase, Rollout, Trial
from rrmaster.status.model import Snapshot, from_json
from rrmaster.supervision.reload_progress import Busy, Reload
from tests.fakes import DEADLINE

US = os.geteuid()

EMPTY = Snapshot("shop", 1, "0", "a:b", "least-loaded", 0.0, 0.0, 4, 1, 0, 0, 0, 0, 0, 0)


@define(eq=False, slots=False)
class FakeOperator:
    """Remembers what it was asked."""

    asked: list[object] = Factory(list)
    snapshot: Snapshot = EMPTY
    reload: Reload = Factory(lambda: Reload(Rollout(2, Goal(2, surge=2), Trial(2.0, 2.0, 600.0), 0.0, 2)))
    busy: bool = False
    broken: bool = False
    stopping: trio.Event = Factory(trio.Event)

    def status(self) -> Snapshot:
        if self.broken:
            raise RuntimeError("a bug")
        return self.snapshot

    def scale(self, size: int) -> None:
        self.asked.append(("scale", size))
        self.snapshot = evolve(self.snapshot, size=size)

    def automatic_size(self) -> int:
        return 7

    def begin_reload(self, supersede: bool = False) -> Reload:
        if self.busy and not supersede:
            raise Busy("a reload runs already: soaking")
        return self.reload

    def restart(self, slot: int) -> None:
        if slot > 3:
            raise LookupError(f"no worker serves in slot {slot}")
        self.asked.append(("restart", slot))

    def retire(self, slot: int) -> None:
        self.asked.append(("retire", slot))

    def stacks(self, slot: int) -> None:
        self.asked.append(("stacks", slot))

    async def stop(self) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append("stop")
        self.stopping.set()

    def hurry(self, graceful: float = 0.0) -> None:
        self.asked.append("hurry")


@define(eq=False)
class Guest:
    """A client of the test's."""

    stream: trio.SocketStream
    _unread: bytes = b""

    async def say(self, **request: Any) -> None:
        await self.stream.send_all(json.dumps(request).encode() + b"\n")

    async def line(self) -> dict[str, Any] | None:
        """The next line of an answer; None: the master has closed the connection."""
        with trio.fail_after(100):
            while b"\n" not in self._unread:
                data = await self.stream.receive_some()
                if not data:
                    return None
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def answer(self) -> list[dict[str, Any]]:
        """All lines of one answer."""
        lines: list[dict[str, Any]] = []
        while not lines or "status" not in lines[-1]:
            line = await self.line()
            assert line is not None, lines
            lines.append(line)
        return lines


@define(eq=False)
class Desk:
    """A control server at work, and clients of it."""

    control: Control
    operator: FakeOperator
    place: Place
    nursery: trio.Nursery
    guests: list[Guest] = Factory(list)

    async def visit(self, **request: Any) -> Guest:
        """One more client, and its first request; it is let in when this returns."""
        arrived = len(self.guests) + 1
        guest = Guest(await trio.open_unix_socket(os.fspath(self.place.path)))
        self.guests.append(guest)
        await self.until(lambda: self.control.arrivals == arrived)
        if request:
            await guest.say(**request)
        return guest

    async def follow(self, **request: Any) -> Guest:
        """One that waits for what comes."""
        before = self.control.followers
        guest = await self.visit(follow=True, **request)
        await self.until(lambda: self.control.followers == before + 1)
        return guest

    async def ask(self, **request: Any) -> list[dict[str, Any]]:
        """One request on a connection of its own; all lines of the answer."""
        guest = await self.visit(**request)
        lines = await guest.answer()
        await guest.stream.aclose()
        return lines

    async def end_of(self, **request: Any) -> dict[str, Any]:
        return (await self.ask(**request))[-1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it on whatever clock the test has."""
        with trio.fail_after(DEADLINE):
            while not condition():
                await trio.sleep(0.001)

    def log(self, text: str, event: str = "worker.exited", **fields: object) -> None:
        self.control.note(Entry(1.0, "info", event, text, fields))

    def prints(self, slot: int, text: str, stream: str = "stderr") -> None:
        self.log(text, "worker.output", slot=slot, pid=100 + slot, generation=1, stream=stream)


@asynccontextmanager
async def a_desk(tmp_path: Path, uid: int = US) -> AsyncIterator[Desk]:
    operator = FakeOperator()
    place = Place.claim(tmp_path / "control.sock")
    async with _closing(place), trio.open_nursery() as nursery:
        control = Control(operator, place.socket, uid)
        desk = Desk(control, operator, place, nursery)
        nursery.start_soon(control.serve)
        try:
            yield desk
        finally:
            nursery.cancel_scope.cancel()
            for guest in desk.guests:
                guest.stream.socket.close()


@asynccontextmanager
async def _closing(place: Place) -> AsyncIterator[None]:
    try:
        yield
    finally:
        place.close()


# --- what is answered


async def test_a_status_is_the_snapshot(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        (answer,) = await desk.ask(do="status")
        assert answer["status"] == 0
        assert from_json(answer["snapshot"]) == EMPTY


async def test_several_requests_may_follow_on_one_connection(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.visit()
        for _ in range(3):
            await guest.say(do="status")
            assert (await guest.answer())[-1]["status"] == 0


async def test_a_request_may_come_in_pieces(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.visit()
        for piece in (b'{"do"', b": ", b'"status"}', b"\n"):
            await guest.stream.send_all(piece)
        assert (await guest.answer())[-1]["status"] == 0


@pytest.mark.parametrize(("to", "size"), [("8", 8), ("+2", 6), ("-1", 3), ("auto", 7)])
async def test_scale_takes_numbers_steps_and_auto(tmp_path: Path, to: str, size: int) -> None:
    async with a_desk(tmp_path) as desk:
        answer = await desk.end_of(do="scale", to=to)
        assert answer == {"status": 0, "text": f"scaling from 4 to {size} workers"}
        assert desk.operator.asked == [("scale", size)]


@pytest.mark.parametrize("to", ["", "-4", "0", "1025", "many", "+", "--1", "1.5", "²", " 3", "+99999"])
def test_scale_to_what_cannot_be_is_refused(to: str) -> None:
    with pytest.raises(Refused) as refused:
        new_size(to, 4, lambda: 7)
    assert refused.value.status == 2


async def test_restart_and_retire_name_a_slot_that_is_there(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        assert (await desk.end_of(do="restart", slot=2))["status"] == 0
        assert (await desk.end_of(do="retire", slot=1))["status"] == 0
        assert await desk.end_of(do="restart", slot=9) == {"status": 1, "error": "no worker serves in slot 9"}
        assert (await desk.end_of(do="restart", slot="2"))["status"] == 2
        assert desk.operator.asked == [("restart", 2), ("retire", 1)]


async def test_stop_is_answered_and_done(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        assert (await desk.end_of(do="stop"))["status"] == 0
        await desk.operator.stopping.wait()
        assert (await desk.end_of(do="stop", now=True))["status"] == 0
        await desk.until(lambda: desk.operator.asked == ["stop", "hurry", "stop"])


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"", 2), (b"status", 2), (b"[1]", 2), (b'{"do": "dance"}', 2), (b"{}", 2), (b"\xff\xfe", 2), (b"[" * 4000, 2)],
)
async def test_nonsense_is_answered_with_what_is_wrong(tmp_path: Path, line: bytes, status: int) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.visit()
        await guest.stream.send_all(line + b"\n")
        (answer,) = await guest.answer()
        assert answer["status"] == status
        assert answer["error"]
        assert (await desk.end_of(do="status"))["status"] == 0


async def test_a_fault_of_ours_ends_nothing(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        desk.operator.broken = True
        assert await desk.end_of(do="status") == {"status": 1, "error": "a fault of rrmaster; the master's log has it"}
        desk.operator.broken = False
        assert (await desk.end_of(do="status"))["status"] == 0


# --- reload


@pytest.mark.parametrize(
    ("phase", "status"),
    [(Phase.COMMITTED, 0), (Phase.REFUSED, 10), (Phase.ROLLED_BACK, 11), (Phase.OUT_OF_TIME, 12)],
)
async def test_a_reload_tells_its_progress_and_ends_with_its_result(tmp_path: Path, phase: Phase, status: int) -> None:
    async with a_desk(tmp_path) as desk:
        reload, rollout = desk.operator.reload, desk.operator.reload.rollout
        rollout.say("starting")
        guest = await desk.visit(do="reload")
        assert (await guest.line())["line"] == "starting"
        rollout.say("half way")
        reload.wake()
        assert (await guest.line())["line"] == "half way"
        rollout.phase, rollout.reason = phase, "because" if status else ""
        rollout.say("over")
        reload.wake()
        assert (await guest.line())["line"] == "over"
        (last,) = await guest.answer()
        assert last["status"] == status
        assert last.get("error") == ("because" if status else None)


async def test_a_second_reload_is_told_that_another_runs_unless_it_supersedes(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        desk.operator.busy = True
        desk.operator.reload.rollout.phase = Phase.COMMITTED
        assert await desk.end_of(do="reload") == {"status": 13, "error": "a reload runs already: soaking"}
        assert (await desk.end_of(do="reload", supersede=True))["status"] == 0


async def test_whoever_leaves_a_reload_is_forgotten(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.visit(do="reload")
        await desk.until(lambda: desk.control.followers == 1)
        await guest.stream.aclose()
        await desk.until(lambda: desk.control.followers == 0 and not desk.control.visitors)


# --- events and logs


async def test_events_follow_all_but_what_workers_print(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.follow(do="events")
        desk.prints(1, "hello")
        desk.log("worker 1 has gone", slot=1, path=Path("/x"))
        entry = {"time": 1.0, "level": "info", "event": "worker.exited", "text": "worker 1 has gone"}
        assert await guest.line() == {"entry": {"slot": 1, "path": "/x"} | entry}


async def test_logs_shows_the_last_lines_of_one_slot(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        for number in range(10):
            desk.prints(number % 2, f"line {number}")
        *lines, end = await desk.ask(do="logs", slot=1, lines=3)
        assert [line["entry"]["text"] for line in lines] == ["line 5", "line 7", "line 9"]
        assert end == {"status": 0}
        assert len(await desk.ask(do="logs", lines=100)) == 11


async def test_what_is_logged_in_another_thread_reaches_who_follows(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.follow(do="logs")
        await wait_all_tasks_blocked()
        threading.Thread(target=desk.prints, args=(0, "from a thread")).start()
        line = await guest.line()
        assert line is not None
        assert line["entry"]["text"] == "from a thread"


async def test_a_follower_that_is_outrun_is_told_how_much_it_missed(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.follow(do="logs")
        for number in range(KEPT + 5):  # before the server has its next turn
            desk.prints(0, str(number))
        assert await guest.line() == {"missed": 5}
        line = await guest.line()
        assert line is not None
        assert line["entry"]["text"] == "5"


def test_a_ring_is_bounded() -> None:
    ring = Ring()
    for number in range(3 * KEPT):
        ring.add({"text": number})
    missed, last, kept = ring.after(0)
    assert (missed, last, len(kept)) == (2 * KEPT, 3 * KEPT, KEPT)
    assert ring.after(last) == (0, last, [])
    assert ring.after(last - 2)[2] == [{"text": last - 2}, {"text": last - 1}]


async def test_stacks_are_what_the_worker_writes_next(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with a_desk(tmp_path) as desk:
        desk.prints(1, "before")

        async def dump() -> None:
            await desk.until(lambda: ("stacks", 1) in desk.operator.asked)
            await trio.sleep(STACKS_S - 0.1)  # it may have been busy
            for text in ("Thread 0x1:", '  File "shop.py", line 3'):
                desk.prints(1, text)
            desk.prints(2, "somebody else")

        desk.nursery.start_soon(dump)
        *lines, end = await desk.ask(do="stacks", slot=1)
        assert [line["entry"]["text"] for line in lines] == ["Thread 0x1:", '  File "shop.py", line 3']
        assert end == {"status": 0}


async def test_stacks_that_do_not_come_are_not_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with a_desk(tmp_path) as desk:
        end = await desk.end_of(do="stacks", slot=1)
        assert end["status"] == 1
        assert f"nothing for {STACKS_S:g} s" in end["error"]


# --- bad clients


async def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guest = await desk.visit()
        await guest.stream.send_all(b"x" * (MAX_REQUEST + 1))
        (answer,) = await guest.answer()
        assert answer["status"] == 1
        assert await guest.line() is None


async def test_who_says_nothing_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with a_desk(tmp_path) as desk:
        silent, half = await desk.visit(), await desk.visit()
        await half.stream.send_all(b'{"do": ')
        before = trio.current_time()
        assert await silent.line() is None
        assert await half.line() is None
        assert trio.current_time() - before <= IDLE_S + 1


async def test_who_does_not_read_is_dropped_and_the_others_are_served(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with a_desk(tmp_path) as desk:
        await desk.follow(do="logs")
        for _ in range(KEPT):
            desk.prints(0, "x" * 4000)  # 4 MB, far beyond any socket's buffer
        assert (await desk.end_of(do="status"))["status"] == 0
        await trio.sleep(SEND_S + 1)
        assert desk.control.followers == 0
        assert desk.control.visitors == []


async def test_when_all_places_are_taken_the_most_silent_makes_room(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        guests = [await desk.visit() for _ in range(VISITORS)]
        assert (await desk.end_of(do="status"))["status"] == 0
        assert await guests[0].line() is None
        await guests[1].say(do="status")
        assert (await guests[1].answer())[-1]["status"] == 0


async def test_when_all_are_being_answered_one_more_is_asked_to_come_again(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        for _ in range(VISITORS):
            await desk.follow(do="events")
        guest = await desk.visit()
        assert await guest.answer() == [
            {"status": 1, "error": f"{VISITORS} clients are being answered; try again later"}
        ]


async def test_a_flood_of_requests_is_paced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    asked = 0

    def count() -> Snapshot:
        nonlocal asked
        asked += 1
        return EMPTY

    async with a_desk(tmp_path) as desk:
        monkeypatch.setattr(desk.operator, "status", count)
        guests = [await desk.visit() for _ in range(4)]
        before = trio.current_time()
        for guest in guests:
            await guest.stream.send_all(b'{"do": "status"}\n' * 200)
        await trio.sleep(1)
        assert 0 < asked <= (trio.current_time() - before) / PACE_S + 1


@pytest.mark.skipif(US != 0, reason="only root can become another user")
async def test_another_user_is_refused_even_if_the_file_lets_him_in() -> None:
    # Not pytest's directory, which is closed to other users.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        async with a_desk(Path(directory)) as desk:
            desk.place.path.chmod(0o666)
            answer = await trio.to_thread.run_sync(_ask_as_nobody, desk.place.path)
    assert answer["status"] == 1
    assert answer["error"] == "this master obeys user 0 and root; you are user 65534"


async def test_who_is_neither_root_nor_the_masters_user_is_refused(tmp_path: Path) -> None:
    async with a_desk(tmp_path, uid=US + 1) as desk:
        answer = await desk.end_of(do="status")
        assert (answer["status"] == 0) == (US == 0)


def _ask_as_nobody(path: Path) -> dict[str, Any]:
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        's.sendall(b\'{"do": "status"}\\n\'); print(s.makefile().readline())'
    )
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", program, path],
        capture_output=True, text=True, timeout=DEADLINE, user=65534, check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# --- its place


def test_the_socket_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        place = Place.claim(tmp_path / "x.sock")
    finally:
        os.umask(before)
    found = os.lstat(place.path).st_mode
    place.close()
    assert stat.S_ISSOCK(found)
    assert stat.S_IMODE(found) == 0o600


def test_there_is_no_moment_in_which_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            modes.append(stat.S_IMODE(os.lstat(address).st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        Place.claim(tmp_path / "x.sock").close()
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_stale_file_is_replaced_and_a_living_master_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    place = Place.claim(path)
    with pytest.raises(Taken, match=f"pid {os.getpid()} listens"):
        Place.claim(path)
    place.close()
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.sock").write_text("precious")
    with pytest.raises(CannotClaim, match="no socket"):
        Place.claim(tmp_path / "x.sock")
    assert (tmp_path / "x.sock").read_text() == "precious"


def test_at_the_end_only_what_is_ours_is_removed(tmp_path: Path) -> None:
    first = Place.claim(tmp_path / "x.sock")
    os.unlink(first.path)
    second = Place.claim(tmp_path / "x.sock")
    first.close()
    assert second.path.exists()
    second.close()
    assert not second.path.exists()


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotClaim, match="longer than"):
        Place.claim(tmp_path / ("x" * 120))


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotClaim, match="No such file"):
        Place.claim(tmp_path / "nowhere" / "x.sock")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    tmp_path.chmod(0o700)
    return {"XDG_RUNTIME_DIR": os.fspath(tmp_path)}


def test_a_second_master_without_a_name_gets_the_next_default_one(environ: dict[str, str]) -> None:
    places = [claim_by_name(None, environ, US) for _ in range(3)]
    assert [place.path.stem for place in places] == ["default", "default-2", "default-3"]
    for place in places:
        place.close()


def test_a_name_that_is_taken_is_refused(environ: dict[str, str]) -> None:
    place = claim_by_name("shop", environ, US)
    with pytest.raises(Taken):
        claim_by_name("shop", environ, US)
    place.close()


def test_the_directory_is_made_closed_to_others(environ: dict[str, str], tmp_path: Path) -> None:
    directory = usable_directory(environ, US)
    assert directory == tmp_path / "rrmaster"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_that_others_may_write_to_is_not_used(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rrmaster").mkdir()
    (tmp_path / "rrmaster").chmod(0o777)
    with pytest.raises(CannotClaim, match="closed to others"):
        usable_directory(environ, US)


def test_a_link_in_place_of_the_directory_is_not_followed(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "rrmaster").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotClaim):
        usable_directory(environ, US)


# --- the client


@pytest.fixture
def alone(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which no other master of this machine is found."""
    directories = [tmp_path / "rrmaster"]
    monkeypatch.setattr("rrmaster.control.client.directories_to_search", lambda environ, uid: directories)
    return environ


def test_the_only_master_is_found_without_being_named(alone: dict[str, str]) -> None:
    place = claim_by_name("shop", alone, US)
    sock, path = reach(None, None, alone, US)
    sock.close()
    assert path == place.path.resolve()
    place.close()


def test_among_several_one_has_to_say_which(alone: dict[str, str]) -> None:
    places = [claim_by_name(name, alone, US) for name in ("blog", "shop")]
    with pytest.raises(NoMaster, match="several masters live: blog, shop; say which with --name"):
        reach(None, None, alone, US)
    sock, path = reach(None, "shop", alone, US)
    sock.close()
    assert path.stem == "shop"
    for place in places:
        place.close()


def test_a_stale_socket_is_no_master(alone: dict[str, str]) -> None:
    path = usable_directory(alone, US) / "old.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    with pytest.raises(NoMaster, match="nobody listens there; its master has ended"):
        reach(None, None, alone, US)
    place = claim_by_name("shop", alone, US)
    sock, _ = reach(None, None, alone, US)
    sock.close()
    place.close()


def test_no_socket_at_all_says_where_it_was_looked_for(alone: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(NoMaster, match=f"no master answers: there is no control socket in {tmp_path}"):
        reach(None, None, alone, US)
    with pytest.raises(NoMaster, match="no master named 'shop' answers"):
        reach(None, "shop", alone, US)
    with pytest.raises(NoMaster, match="there is no such socket"):
        reach(os.fspath(tmp_path / "no.sock"), None, alone, US)


def test_a_master_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    place = Place.claim(tmp_path / "x.sock")
    client = Client(*reach(os.fspath(place.path), None, {}, US))
    with pytest.raises(NoMaster, match=r"has not answered for 0\.1 s"):
        list(client.ask("status", patience=0.1))
    client.close()
    place.close()


def test_a_master_that_ends_while_it_is_asked_is_told(tmp_path: Path) -> None:
    place = Place.claim(tmp_path / "x.sock")
    client = Client(*reach(os.fspath(place.path), None, {}, US))
    place.close()
    with pytest.raises(NoMaster, match="the master has ended"):
        list(client.ask("status"))
    client.close()


def test_root_looks_after_everybodys_masters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path))
    named = tmp_path / f"rrmaster-{US}"
    named.mkdir(mode=0o700)
    (tmp_path / "rrmaster-99999").mkdir(mode=0o700)  # not that user's
    (tmp_path / "rrmaster-x").mkdir(mode=0o700)
    found = directories_to_search({}, 0)
    assert named in found
    assert not {tmp_path / "rrmaster-99999", tmp_path / "rrmaster-x"} & set(found)
