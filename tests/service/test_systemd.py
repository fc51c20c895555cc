"""What systemd hears of us, and whether it understands the unit we write."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.cli import main
from rrmaster.config.settings import Settings, options
from rrmaster.service.systemd import Notifier, unit

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)

APP = "shop.main:app"


# --- what it hears


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """systemd's end, and the name of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ours:
        if request.param == "path":
            name = str(tmp_path / "notify")
            ours.bind(name)
        else:
            name = f"@rrmaster-test-{os.getpid()}-{id(ours)}"
            ours.bind("\0" + name[1:])
        yield ours, name


def notifier(name: str, **more: str) -> Notifier:
    return Notifier.from_environment({"NOTIFY_SOCKET": name} | more, os.getpid())


def heard(ours: socket.socket) -> list[str]:
    messages = []
    try:
        while True:
            messages.append(ours.recv(4096).decode())
    except BlockingIOError:
        return messages


def test_a_life_as_systemd_hears_it(systemd: tuple[socket.socket, str]) -> None:
    ours, name = systemd
    us = notifier(name)
    us.ready("4 of 4 workers serve")
    us.reloading()
    us.ready()
    us.status("reload refused:\nREADY=1")
    us.stopping()
    us.close()
    ready, reloading, again, status, stopping = heard(ours)
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
def test_where_nobody_listens_nothing_happens(environ: dict[str, str]) -> None:
    us = Notifier.from_environment(environ, 1)
    us.ready()
    us.status("fine")
    assert us.watchdog == 0.0
    us.close()
    us.stopping()


def make_noise(ours: socket.socket) -> None:
    """Leave no room in its queue."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
        other.connect(ours.getsockname())
        with suppress(BlockingIOError):
            while True:
                other.send(b"noise")


async def test_signs_of_life_push_nothing_out_that_waits_to_be_said(
    systemd: tuple[socket.socket, str], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, name = systemd
    us = notifier(name, WATCHDOG_USEC="1000000")
    make_noise(ours)
    us.ready()
    nursery.start_soon(us.feed, trio.lowlevel.checkpoint)
    await trio.sleep(60)
    assert set(heard(ours)) == {"noise"}
    await trio.sleep(1)
    assert heard(ours)[:2] == ["READY=1", "WATCHDOG=1"]
    us.close()


def test_what_a_busy_systemd_has_no_room_for_is_said_later_in_order(systemd: tuple[socket.socket, str]) -> None:
    ours, name = systemd
    us = notifier(name)
    make_noise(ours)
    us.ready()
    us.reloading()
    assert set(heard(ours)) == {"noise"}
    us.stopping()
    assert [message.split("=")[0] for message in heard(ours)] == ["READY", "RELOADING", "STOPPING"]
    us.close()


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
def test_the_watchdog_is_ours_if_it_says_so(environ: dict[str, str], seconds: float) -> None:
    us = notifier("/nobody", **{key: value.format(pid=os.getpid()) for key, value in environ.items()})
    assert us.watchdog == seconds
    us.close()


async def test_the_watchdog_is_fed_at_half_its_time_while_the_loop_turns(
    systemd: tuple[socket.socket, str], nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    ours, name = systemd
    us = notifier(name, WATCHDOG_USEC="10000000")
    turns = trio.Event()

    async def alive() -> None:
        await turns.wait()

    nursery.start_soon(us.feed, alive)
    await wait_all_tasks_blocked()
    mock_clock.jump(60.0)
    await wait_all_tasks_blocked()
    assert heard(ours) == [], "a loop that does not turn is not alive"
    turns.set()
    await wait_all_tasks_blocked()
    assert set(heard(ours)) == {"WATCHDOG=1"}
    for _ in range(3):
        mock_clock.jump(5.0)
        await wait_all_tasks_blocked()
        assert heard(ours) == ["WATCHDOG=1"]
    us.close()


async def test_feeding_sends_what_was_left_unsaid_even_without_a_watchdog(
    systemd: tuple[socket.socket, str], nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    ours, name = systemd
    us = notifier(name)
    us._unsent.append(b"READY=1")
    nursery.start_soon(us.feed, trio.sleep_forever)
    await wait_all_tasks_blocked()
    assert heard(ours) == ["READY=1"]
    us.close()


async def test_feeding_ends_where_nobody_listens() -> None:
    await Notifier().feed(trio.sleep_forever)


# --- the unit


def keys(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def command(line: str) -> list[str]:
    """A command line as systemd reads it, for words without its rarer escapes."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


EXAMPLES = [
    Settings(APP),
    Settings(
        APP, bind=["0.0.0.0:80", "[::1]:8080", "unix:/run/a b/%s$x\\\"y.sock"], workers="2:8", surge="50%", name="shop",
        unix_mode="660", recall_after="7ms", target_busy="60%", max_memory="1GiB", log_file="/var/log/shop/app.log",
        log_max_size="5MB", user="www-data", group="www-data", umask="027", graceful_timeout="90s", probe="http:/up",
    ),
    Settings(APP, bind="fd://3", chdir="/tmp", control="/tmp/x.sock", workers=3, max_age="1h"),
]  # fmt: skip


@pytest.mark.parametrize("chosen", EXAMPLES)
def test_the_unit_starts_what_the_settings_say(chosen: Settings) -> None:
    text = unit(chosen, user="nobody", directory="/srv", python="/usr/bin/python3")
    python, m, package, *argv = command(keys(text)["ExecStart"])
    assert (python, m, package) == ("/usr/bin/python3", "-m", "rrmaster")
    again, _, _ = main._settings(main._parse(argv))
    elsewhere = ("chdir", "user", "group", "control")
    for name in options():
        if name not in elsewhere:
            assert getattr(again, name) == getattr(chosen, name), name
    assert keys(text)["WorkingDirectory"] == (chosen.chdir or "/srv")
    assert keys(text)["User"] == (chosen.user or "nobody")
    assert again.control in keys(text)["ExecReload"]


@LAW
@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1))
def test_no_path_breaks_out_of_its_line(path: str) -> None:
    text = unit(Settings(APP, log_file=path, control=path), user="nobody", directory="/srv")
    line = keys(text)["ExecStart"]
    assert not re.search(r"[^%]%(%%)*[^%]", re.sub(r"%%", "", line)), "no specifier"
    assert not re.search(r"\$", line.replace("$$", "")), "no variable"
    assert line.endswith(APP)


def test_systemd_waits_as_long_as_we_do() -> None:
    found = keys(unit(Settings(APP, ready_timeout="2m", graceful_timeout="90s"), user="nobody"))
    assert float(found["TimeoutStartSec"]) > 120
    assert float(found["TimeoutStopSec"]) > 90
    assert (found["KillMode"], found["Type"], found["OOMPolicy"]) == ("mixed", "notify", "continue")
    assert found["RestartPreventExitStatus"] == "2"


def test_a_reload_without_the_verb_is_a_signal() -> None:
    assert keys(unit(Settings(APP), user="x", reload_verb=False, version=255))["Type"] == "notify-reload"
    old = keys(unit(Settings(APP), user="x", reload_verb=False, version=252))
    assert (old["Type"], old["ExecReload"]) == ("notify", "/bin/kill -HUP $MAINPID")


def test_what_came_from_a_file_stays_in_the_file() -> None:
    chosen = Settings(APP, workers=4, window=5)
    origins = {"application": "shop.toml", "workers": "shop.toml", "window": "command line", "bind": "default"}
    line = keys(unit(chosen, user="x", config="/etc/shop.toml", origins=origins))["ExecStart"]
    assert "--config=/etc/shop.toml" in line
    assert "--window=5" in line
    assert "--workers" not in line
    assert APP not in line


@pytest.mark.parametrize(
    ("path", "hidden", "kept"),
    [
        ("/home/me/shop", "ProtectHome", "PrivateTmp"),
        ("/tmp/shop", "PrivateTmp", "ProtectHome"),
        ("/srv/shop", "", "ProtectHome"),
    ],
)
def test_what_it_needs_is_not_hidden_from_it(path: str, hidden: str, kept: str) -> None:
    found = keys(unit(Settings(APP), user="x", directory=path, python="/usr/bin/python3"))
    assert hidden not in found
    assert kept in found


def test_a_low_port_needs_one_capability_and_no_more() -> None:
    low = keys(unit(Settings(APP, bind=":443"), user="www-data"))
    assert low["AmbientCapabilities"] == low["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    high = keys(unit(Settings(APP, bind=":8000"), user="www-data"))
    assert high["CapabilityBoundingSet"] == ""
    assert "AmbientCapabilities" not in high


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here to ask")
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_systemd_understands_the_unit(number: int, tmp_path: Path) -> None:
    file = tmp_path / "shop.service"
    text = unit(EXAMPLES[number], user="daemon", directory=str(tmp_path), python=sys.executable)
    file.write_text(text.replace("User=www-data", "User=daemon").replace("Group=www-data", "Group=daemon"))
    asked = ["systemd-analyze", "verify", "--man=no", str(file)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    ours = [line for line in done.stderr.splitlines() if "shop.service" in line]
    assert ours == []
