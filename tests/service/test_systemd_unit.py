"""The unit starts what the settings say, and systemd understands it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.cli.arguments import parse_arguments
from rrmaster.cli.configuration import settings_from
from rrmaster.config.settings import Settings, options
from rrmaster.service.systemd_unit import unit

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)

APP = "shop.main:app"


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


def test_a_master_with_a_user_of_its_own_starts_as_root_and_its_socket_is_its_own() -> None:
    chosen = Settings(APP, user="www-data", group="www", master_user="shop", bind="127.0.0.1:80", name="shop")
    found = keys(unit(chosen, directory="/srv", python="/usr/bin/python3"))
    assert not {"User", "Group", "CapabilityBoundingSet"} & set(found)
    again, _, _ = settings_from(parse_arguments(command(found["ExecStart"])[4:]))
    assert (again.user, again.group, again.master_user) == ("www-data", "www", "shop")
    assert found["ExecStartPre"] == "/bin/chown shop /run/rrmaster-shop"


@pytest.mark.parametrize("chosen", EXAMPLES)
def test_the_unit_starts_what_the_settings_say(chosen: Settings) -> None:
    text = unit(chosen, user="nobody", directory="/srv", python="/usr/bin/python3")
    python, safe, m, package, *argv = command(keys(text)["ExecStart"])
    assert (python, safe, m, package) == ("/usr/bin/python3", "-P", "-m", "rrmaster")
    again, _, _ = settings_from(parse_arguments(argv))
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


def test_systemd_waits_as_long_as_the_master_does() -> None:
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


def test_what_was_said_is_written_though_it_equals_the_default() -> None:
    """A file may say otherwise: --bind 127.0.0.1:8000 beside a file with 0.0.0.0 must not open the service to all."""
    default = Settings(APP)
    everything = {name: "command line" for name in options() if name not in ("chdir", "user", "group", "control")}
    line = keys(unit(default, user="x", config="/etc/shop.toml", origins=everything))["ExecStart"]
    for text in (
        "--bind=127.0.0.1:8000",
        f"--window={default.window}",
        "--no-access-log",
        "--policy=least-loaded",
        "--workers=auto",
    ):
        assert text in line
    assert "--bind" not in keys(unit(default, user="x", origins={"bind": "default"}))["ExecStart"]


def test_what_another_option_implies_is_not_written() -> None:
    """The file may lose its `reload = true` later, and must then get the probation of a service."""
    chosen = Settings(APP, reload=True, soak="3s")
    for where in ("/srv/rrmaster.toml", "command line"):
        line = keys(unit(chosen, user="x", origins={"reload": where, "soak": "command line"}))["ExecStart"]
        assert ("--reload" in line, "--soak=3.0" in line) == (where == "command line", True)
        for implied in ("--probation", "--graceful-timeout", "--rollback-window", "--workers"):
            assert implied not in line


@pytest.mark.parametrize(
    ("path", "hidden", "kept"),
    [
        ("/home/me/shop", "ProtectHome", "PrivateTmp"),
        ("/tmp/shop", "PrivateTmp", "ProtectHome"),
        ("/srv/shop", "", "ProtectHome"),
    ],
)
def test_no_directory_that_the_service_needs_is_hidden_from_it(path: str, hidden: str, kept: str) -> None:
    found = keys(unit(Settings(APP), user="x", directory=path, python="/usr/bin/python3"))
    assert hidden not in found
    assert kept in found


@pytest.mark.parametrize(("choice", "said"), [("auto", "yes"), ("off", "yes"), ("on", None)])
def test_the_unit_forbids_new_privileges_unless_the_service_needs_them(choice: str, said: str | None) -> None:
    assert keys(unit(Settings(APP, new_privileges=choice))).get("NoNewPrivileges") == said


@pytest.mark.parametrize(("mode", "delegated", "protected"), [("tree", "yes", None), ("group", None, "yes")])
def test_the_unit_delegates_control_groups_where_workers_get_them(
    mode: str, delegated: str | None, protected: str | None
) -> None:
    found = keys(unit(Settings(APP, kill_mode=mode)))
    assert (found.get("Delegate"), found.get("ProtectControlGroups")) == (delegated, protected)


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
