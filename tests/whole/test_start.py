"""A start that cannot succeed: one clear line, the right status, and no process left."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.whole.harness import OWN_FRAME, PROGRAMS, ask, rrmaster, running

SERVE = ("--workers", "2", "--bind", "127.0.0.1:0", "--app-dir", str(PROGRAMS))


@pytest.mark.parametrize(
    ("application", "said"),
    [
        ("never_boots:app", "RuntimeError: the application cannot be imported"),
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("handlers:nothing", "module 'handlers' has no attribute 'nothing'"),
        ("handlers:_kept", "cannot be called"),
        ("posixpath:basename", "is not async"),
    ],
)
def test_an_application_that_cannot_start_says_why_once(application: str, said: str):
    ended = rrmaster(*SERVE, application)
    assert ended.returncode == 3
    assert ended.stderr.count(said) == 1
    assert OWN_FRAME not in ended.stderr


async def test_every_slot_is_tried_whatever_the_number_of_processors():
    async with running("boots_in_slot_4:app", workers=5, ready=False) as master:
        served = await master.said(r"worker (\d) .*: proving -> serving")
        assert served[1] == "4"
        assert await ask(master.port)


async def test_with_listen_when_ready_clients_are_refused_until_a_worker_serves(tmp_path: Path):
    gate = tmp_path / "gate"
    (tmp_path / "waits.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.02)\n"
        "async def handler(stream):\n    await stream.send_all(b'welcome')\n"
    )
    options = ("--listen-when", "ready")
    async with running("waits:handler", *options, workers=1, app_dir=tmp_path, ready=False) as master:
        await master.said("serves waits:handler on ")
        for _ in range(3):
            with pytest.raises(AssertionError, match="refused"):
                await ask(master.port)
        gate.touch()
        await master.said("ready: 1 of 1 workers serve")
        assert await ask(master.port) == b"welcome"
        assert await master.stop() == 0


def test_a_worker_that_is_never_ready_is_given_up_with_its_stacks():
    ended = rrmaster(*SERVE, "--ready-timeout", "1500ms", "never_ready:app")  # it must get this far
    assert ended.returncode == 3
    assert "it was not ready after 1.5 s" in ended.stderr
    assert "never_ready.py" in ended.stderr


def test_an_address_in_use_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = rrmaster("--bind", address, "rrmaster.demo:echo")
    assert ended.returncode == 4
    assert f"cannot listen on {address}: another program listens there" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_nothing_stays_open_when_the_second_address_fails(tmp_path: Path):
    path = tmp_path / "first.sock"
    ended = rrmaster("--bind", f"unix:{path}", "--bind", "192.0.2.1:1", "rrmaster.demo:echo")
    assert ended.returncode == 4
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to serve"),
        (("handlers",), "module:attribute"),
        (("a:b", "c:d"), "one application is served"),
        (("a:b", "--wrokers", "3"), "did you mean --workers?"),
        (("a:b", "--workers", "none"), "--workers: 'none' is not a number of workers"),
        (("a:b", "--workers"), "expected one argument"),
        (("a:b", "--bind", "unix:"), "--bind: unix: needs a path"),
        (("a:b", "--bind", "host:port"), "--bind: 'port' is not a port"),
        (("a:b", "--port", "70000"), "--port: '70000' is not a port"),
        (("a:b", "--unix-mode", "rw"), "--unix-mode"),
        (("a:b", "--backlog", "-1"), "--backlog"),
        (("a:b", "--policy", "fairest"), "--policy: 'fairest' is not a valid policy"),
        (("a:b", "--policy", "nowhere:rule"), "--policy 'nowhere:rule' cannot be loaded"),
        (("a:b", "--window", "0"), "--window"),
        (("a:b", "--recall-after", "soon"), "--recall-after: 'soon' is not a duration"),
        (("a:b", "--worker-connections", "0"), "--worker-connections"),
        (("a:b", "--ready-timeout", "0"), "--ready-timeout"),
        (("a:b", "--graceful-timeout", "1 fortnight"), "--graceful-timeout"),
        (("a:b", "--hang-timeout", "0.1"), "hang timeout"),
        (("a:b", "--heartbeat", "0"), "--heartbeat"),
        (("a:b", "--user", "nobody-by-this-name"), "--user: there is no user"),
        (("a:b", "--group", "nobody-by-this-name"), "--group: there is no group"),
        (("a:b", "--umask", "9"), "--umask"),
        (("a:b", "--log-level", "shouting"), "--log-level"),
        (("a:b", "--app-dir", "/nowhere"), "--app-dir: '/nowhere' is no directory"),
        (("a:b", "--chdir", "/nowhere"), "--chdir: cannot change"),
        (("a:b", "--config", "/nowhere.toml"), "/nowhere.toml: cannot be read"),
        (("a:b", "--daemon"), "systemd"),
        (("a:b", "--reload", "--reload-dir", "/nowhere"), "--reload-dir: '/nowhere' is no directory"),
        (("a:b", "--reload", "--reload-include", "."), "--reload-include: '.' matches no file"),
        (("a:b", "--reload-dir", "."), "--reload-dir says what --reload watches, and there is no --reload"),
        (("a:b", "--reload-include", "*.html"), "--reload-include says what --reload watches"),
        (("a:b", "--reload-exclude", "tests"), "--reload-exclude says what --reload watches"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: tuple[str, ...], said: str):
    ended = rrmaster("-b", "127.0.0.1:0", *arguments) if arguments else rrmaster()
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("rrmaster: ")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RRMASTER_WINDOW": "x"}, "RRMASTER_WINDOW"),
        ({"WEB_CONCURRENCY": "many"}, "WEB_CONCURRENCY"),
        ({"PORT": "http"}, "PORT"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(environ: dict[str, str], said: str):
    ended = rrmaster("a:b", environ=environ)
    assert ended.returncode == 2
    assert f"rrmaster: {said}: " in ended.stderr


def test_a_mistake_in_a_file_names_the_file_and_the_key(tmp_path: Path):
    (tmp_path / "rrmaster.toml").write_text('application = "a:b"\nworker = 3\n')
    ended = rrmaster(cwd=tmp_path)
    assert ended.returncode == 2
    assert "rrmaster.toml: there is no setting 'worker'; did you mean workers?" in ended.stderr


def test_a_file_is_read_and_flags_win(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text('[tool.rrmaster]\napplication = "never_boots:app"\nworkers = 2\n')
    ended = rrmaster("-b", "127.0.0.1:0", "-w", "1", "--app-dir", str(PROGRAMS), cwd=tmp_path)
    assert ended.returncode == 3
    assert "with 1 worker," in ended.stderr


def test_a_misspelt_variable_is_reported(tmp_path: Path):
    ended = rrmaster(*SERVE, "never_boots:app", environ={"RRMASTER_WORKRES": "3"})
    assert (
        "RRMASTER_WORKRES is not a setting of rrmaster and is ignored; did you mean RRMASTER_WORKERS?" in ended.stderr
    )


def test_only_root_becomes_another_user(tmp_path: Path):
    if os.getuid() == 0:
        pytest.skip("root may")
    ended = rrmaster("--user", "root", "-b", "127.0.0.1:0", "rrmaster.demo:echo")
    assert ended.returncode == 1
    assert "only root" in ended.stderr


def test_a_master_that_is_told_to_end_while_it_starts_leaves_nothing_behind(tmp_path: Path):
    files = ("--bind", f"unix:{tmp_path}/s", "--pid", str(tmp_path / "pid"), "--control", str(tmp_path / "control"))
    ended = rrmaster(*SERVE, *files, "--policy", "impatient:policy", "rrmaster.demo:echo")
    assert (ended.returncode, list(tmp_path.iterdir())) == (0, [])
    assert "received SIGTERM" in ended.stderr


def test_a_pid_file_of_a_living_process_is_respected(tmp_path: Path):
    (tmp_path / "pid").write_text(str(os.getpid()))
    ended = rrmaster("--pid", str(tmp_path / "pid"), "-b", "127.0.0.1:0", "rrmaster.demo:echo")
    assert ended.returncode == 1
    assert f"process {os.getpid()} is running" in ended.stderr
    assert (tmp_path / "pid").read_text() == str(os.getpid())


def test_help_names_every_option_and_signal():
    said = rrmaster("--help").stdout
    for word in ("--bind", "--workers", "--policy", "--graceful-timeout", "TTIN", "exit status", "rrmaster.demo:hello"):
        assert word in said
