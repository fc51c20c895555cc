"""What systemd is told of a master, and when."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.service.sd_notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket of a systemd, and its name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemds_end:
        if request.param == "path":
            name = str(tmp_path / "notify")
            systemds_end.bind(name)
        else:
            name = f"@rrmaster-test-{os.getpid()}-{id(systemds_end)}"
            systemds_end.bind("\0" + name[1:])
        yield systemds_end, name


def notifier(name: str, **more: str) -> Notifier:
    return Notifier.from_environment({"NOTIFY_SOCKET": name} | more, os.getpid())


def received(systemds_end: socket.socket) -> list[str]:
    messages = []
    try:
        while True:
            messages.append(systemds_end.recv(4096).decode())
    except BlockingIOError:
        return messages


def test_systemd_is_told_of_start_reload_status_and_stop(systemd: tuple[socket.socket, str]) -> None:
    systemds_end, name = systemd
    sender = notifier(name)
    sender.ready("4 of 4 workers serve")
    sender.reloading()
    sender.ready()
    sender.status("reload refused:\nREADY=1")
    sender.stopping()
    sender.close()
    ready, reloading, again, status, stopping = received(systemds_end)
    assert ready == "READY=1\nSTATUS=4 of 4 workers serve"
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", reloading)
    assert again == "READY=1"
    assert status == "STATUS=reload refused: READY=1", "a newline in it would be another message"
    assert stopping == "STOPPING=1"


@pytest.mark.parametrize(
    "environ",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "/nobody/here"},
     {"NOTIFY_SOCKET": "/" + "x" * 300}, {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "soon"}],
)  # fmt: skip
def test_without_systemd_nothing_happens(environ: dict[str, str]) -> None:
    sender = Notifier.from_environment(environ, 1)
    sender.ready()
    sender.status("fine")
    assert sender.watchdog == 0.0
    sender.close()
    sender.stopping()


def fill_queue(systemds_end: socket.socket) -> None:
    """Fill the queue of a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
        other.connect(systemds_end.getsockname())
        with suppress(BlockingIOError):
            while True:
                other.send(b"noise")


async def test_signs_of_life_push_out_no_unsent_message(
    systemd: tuple[socket.socket, str], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    systemds_end, name = systemd
    sender = notifier(name, WATCHDOG_USEC="1000000")
    fill_queue(systemds_end)
    sender.ready()
    nursery.start_soon(sender.feed, trio.lowlevel.checkpoint)
    await trio.sleep(60)
    assert set(received(systemds_end)) == {"noise"}
    await trio.sleep(1)
    assert received(systemds_end)[:2] == ["READY=1", "WATCHDOG=1"]
    sender.close()


def test_messages_that_a_busy_systemd_has_no_room_for_are_sent_later_in_order(
    systemd: tuple[socket.socket, str],
) -> None:
    systemds_end, name = systemd
    sender = notifier(name)
    fill_queue(systemds_end)
    sender.ready()
    sender.reloading()
    assert set(received(systemds_end)) == {"noise"}
    sender.stopping()
    assert [message.split("=")[0] for message in received(systemds_end)] == ["READY", "RELOADING", "STOPPING"]
    sender.close()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "{pid}"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": ""}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
    ],
)
def test_the_watchdog_is_for_this_process_if_it_names_it_or_none(environ: dict[str, str], seconds: float) -> None:
    sender = notifier("/nobody", **{key: value.format(pid=os.getpid()) for key, value in environ.items()})
    assert sender.watchdog == seconds
    sender.close()


async def test_the_watchdog_is_fed_at_half_its_time_while_the_loop_turns(
    systemd: tuple[socket.socket, str], nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    systemds_end, name = systemd
    sender = notifier(name, WATCHDOG_USEC="10000000")
    turns = trio.Event()

    async def alive() -> None:
        await turns.wait()

    nursery.start_soon(sender.feed, alive)
    await wait_all_tasks_blocked()
    mock_clock.jump(60.0)
    await wait_all_tasks_blocked()
    assert received(systemds_end) == [], "a loop that does not turn is not alive"
    turns.set()
    await wait_all_tasks_blocked()
    assert set(received(systemds_end)) == {"WATCHDOG=1"}
    for _ in range(3):
        mock_clock.jump(5.0)
        await wait_all_tasks_blocked()
        assert received(systemds_end) == ["WATCHDOG=1"]
    sender.close()


async def test_feeding_sends_unsent_messages_even_without_a_watchdog(
    systemd: tuple[socket.socket, str], nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    systemds_end, name = systemd
    sender = notifier(name)
    sender._unsent.append(b"READY=1")
    nursery.start_soon(sender.feed, trio.sleep_forever)
    await wait_all_tasks_blocked()
    assert received(systemds_end) == ["READY=1"]
    sender.close()


async def test_feeding_ends_at_once_without_systemd() -> None:
    await Notifier().feed(trio.sleep_forever)
