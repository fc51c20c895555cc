"""`rrmaster check --fork` says of each trace of an import whose it is, what it means, and what to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrmaster.cli.arguments import split_words
from rrmaster.cli.checks.advice import advice_on
from rrmaster.cli.main import NEVER_READY, OK, USAGE, main
from rrmaster.protocol.forks import safety
from rrmaster.protocol.forks.safety import OpenDescriptor, Traces, Verdict

POLLS = """
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True, name="a-poller").start()
"""


def test_each_trace_has_its_module_and_what_to_change(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "polls.py").write_text(POLLS)
    (tmp_path / "shop.py").write_text("import polls\nfile = open(__file__)\ndef app(environ, start_response): ...\n")
    assert main(["check", "--fork", "--app-dir", str(tmp_path), "shop:app"]) == OK
    text = capfd.readouterr().out
    assert text.startswith("workers of shop:app are not forked\n\nprevents forking: it started a thread (a-poller)\n")
    assert "  by      polls, imported by shop\n" in text
    assert "  change  start it in a function that @rrmaster.on_fork registers" in text
    assert f"harmless: it opened {tmp_path}/shop.py for reading (descriptor " in text
    assert "  by      shop itself\n" in text


LEADS = """
import fcntl, os, socket
SLOTS = [value for name, value in {**os.environ}.items() if name.endswith("_SLOT")]
LOCK = open("lock", "w")
fcntl.flock(LOCK, fcntl.LOCK_EX)
LISTENER = socket.create_server(("127.0.0.1", 0))
BANK = socket.create_connection(LISTENER.getsockname())
PAIR = socket.socketpair()
def app(environ, start_response): ...
"""


def test_what_is_found_is_said_once_and_with_what_a_reader_knows_it_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.py").write_text(LEADS)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--fork", "shop:app"]) == OK
    text = capfd.readouterr().out
    assert text.count(f"it locked {tmp_path}/lock") == 1
    assert text.count("it opened a socket (") == 1, "the one that listens"
    assert text.count("it opened a socket to 127.0.0.1:") == 1
    assert text.count("it opened a socket of a pair (") == 2
    by = "  by      shop:app, or a module of it: its source names the variable, or searches the environment for it"
    assert f"it asked for RRMASTER_WORKER_SLOT, which each worker has for itself\n{by}\n" in text
    assert "after its import" not in text


def test_threads_of_one_name_are_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "polls.py").write_text(POLLS * 3)
    (tmp_path / "shop.py").write_text("import polls\ndef app(environ, start_response): ...\n")
    assert main(["check", "--fork", "--app-dir", str(tmp_path), "shop:app"]) == OK
    text = capfd.readouterr().out
    assert text.count("it started a thread (a-poller)") == 1
    assert "it started a thread (a-poller), 3 times\n" in text


def test_the_import_to_be_moved_is_the_applications_own() -> None:
    _, todo = advice_on("started a thread (a-poller)", ["pdf.layout", "pdf", "shop.orders", "shop"])
    assert "it is the import of pdf that does it" in todo
    _, todo = advice_on("started a thread (a-poller)", ["shop.orders", "shop"])
    assert "the import of" not in todo


def test_programs_get_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.py").write_text("def app(environ, start_response): ...\n")
    assert main(["check", "--json", "--app-dir", str(tmp_path), "shop:app", "--fork"]) == OK
    found = json.loads(capfd.readouterr().out)
    assert found == {"application": "shop:app", "preload": "auto", "forked": True, "traces": []}


def test_what_cannot_be_explained_is_one_clear_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.py").write_text("import nowhere_to_be_found\n")
    assert main(["check", "--fork", "--app-dir", str(tmp_path), "shop:app"]) == NEVER_READY
    assert "No module named 'nowhere_to_be_found'" in capfd.readouterr().err
    assert main(["check", "--fork", "server.py"]) == NEVER_READY
    assert "is not forked: each worker runs it by itself" in capfd.readouterr().err
    assert main(["check", "--json", "shop:app"]) == USAGE
    assert "--json: it goes with --fork" in capfd.readouterr().err


def test_a_programs_own_words_stay_its_own() -> None:
    assert split_words(["-w", "2", "server.py", "--fork"], ("--fork",)) == (["-w", "2", "server.py", "--fork"], set())
    assert split_words(["--fork", "a:b"], ("--fork",)) == (["a:b"], {"--fork"})


PHRASES = [
    "started a thread (of compiled code, without a name)",
    *(what for _, what in safety._KINDS),
    "opened /srv/shop.db for writing",
    "locked /srv/lock (descriptor 7)",
    "made a lock or semaphore between processes (like multiprocessing.Lock)",
    safety.made_temporary("/tmp/x"),
    "left a process whose trial fork closed GET / without an answer",
    *safety.hindrances(
        Traces(),
        Traces(
            ("a-poller",),
            frozenset({OpenDescriptor(3, "socket:[1]", True)}),
            children=("node",),
            timer=True,
            looping=True,
            asked=("RRMASTER_WORKER_ID",),
            taken=("its process id (a.py:7)",),
            shared=("/srv/map", "/dev/zero"),
            lost=(
                "set a timer (timer_create)",
                "locked memory (mlock)",
                "asked for a signal at the death of its parent",
            ),
        ),
    ),
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_there_is_advice_on_all_that_prevents_a_fork(phrase: str) -> None:
    why, todo = advice_on(phrase, ["shop"])
    assert why != advice_on("unheard of", [])[0]
    assert todo
    assert "{" not in todo


def test_the_verdicts_are_those_that_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/howto/preload.md").read_text()
    assert Verdict.HINDRANCE.value in page
