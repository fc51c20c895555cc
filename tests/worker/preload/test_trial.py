"""Where an import leaves a doubt, a process is forked and tried, and one that hangs or dies decides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rrmaster.cli.checks.forks import explained
from rrmaster.config.settings import Settings
from rrmaster.protocol.family import lineage

WAITS = """
import os, queue, signal, threading, time, rrmaster
work = queue.Queue()
def start():
    threading.Thread(target=work.get, daemon=True, name="a-sender").start()
start()
os.register_at_fork(after_in_child=start)
HERE = os.path.dirname(__file__)
def note(what):
    with open(f"{HERE}/notes", "a") as file:
        file.write(f"{what}\\n")
"""
"""A thread that a library starts again after a fork, and that waits for work: the doubt."""

ANSWERS = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"x"]
"""


def told(folder: Path, code: str, **chosen: Any) -> dict[str, Any]:
    """What `rrmaster check --fork --json` says of this application."""
    (folder / "shop.py").write_text(WAITS + code)
    text, trouble = explained(Settings("shop:app", app_dir=str(folder), **chosen), as_json=True)
    assert trouble == ""
    found: dict[str, Any] = json.loads(text)
    return found


def test_an_application_that_passes_is_forked(tmp_path: Path) -> None:
    found = told(tmp_path, ANSWERS)
    assert found["forked"]
    (thread,) = found["traces"]
    assert thread["trace"] == "started a thread (a-sender)"
    assert thread["modules"] == ["shop"]
    assert "a trial fork answered GET / and ended well" in thread["why"]


def test_a_trial_does_all_that_a_worker_does(tmp_path: Path) -> None:
    code = """
import atexit
@rrmaster.on_fork
def begin():
    note(f"began {os.environ.get('RRMASTER_TRIAL')} {os.environ['RRMASTER_WORKER_SLOT']}")
    atexit.register(note, "ended")
def app(environ, start_response):
    me = rrmaster.current_worker()
    note(f"asked {environ['PATH_INFO']} of {me.id}, {[t.name for t in threading.enumerate()].count('a-sender')}")
    start_response("503 Service Unavailable", [])
    return []
"""
    found = told(tmp_path, code, probe="http:/health")
    assert found["forked"], "that it is not well now says nothing of forks"
    assert (tmp_path / "notes").read_text().splitlines() == ["began 1 0", "asked /health of 0, 1", "ended"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "def app(environ, start_response): os.kill(os.getpid(), signal.SIGKILL)",
            "closed GET / without an answer (SIGKILL)",
        ),
        ("def app(environ, start_response): os._exit(7)", "closed GET / without an answer (exit status 7)"),
        ("rrmaster.on_fork(lambda: os._exit(7))" + ANSWERS, "ended before it was ready (exit status 7)"),
        ("rrmaster.on_fork(lambda: 1 / 0)" + ANSWERS, "could not start: ZeroDivisionError: division by zero"),
        (
            "import atexit\nrrmaster.on_fork(lambda: atexit.register(os._exit, 7))" + ANSWERS,
            "answered GET /, and failed at its end (exit status 7)",
        ),
        ("async def app(stream): os._exit(7)", "failed at its end (exit status 7)"),
    ],
)
def test_one_that_dies_is_imported_by_each_worker(code: str, words: str, tmp_path: Path) -> None:
    found = told(tmp_path, code)
    assert not found["forked"]
    (trial,) = [each for each in found["traces"] if each["trace"].startswith("left a process whose trial fork")]
    assert trial["trace"].endswith(words)
    assert all(each["verdict"] == "prevents forking" for each in found["traces"])


def test_one_that_hangs_is_imported_by_each_worker_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    code = """
import subprocess, sys
class polars:
    def DataFrame(_):
        note(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
        note(os.getpid())
        signal.pause()
sys.modules["polars"] = polars
"""
    found = told(tmp_path, code + ANSWERS)
    assert not found["forked"]
    assert "left a process whose trial fork did not finish an operation of polars within" in json.dumps(found)
    for pid in (tmp_path / "notes").read_text().split():
        assert lineage.look(int(pid)) is None or lineage.look(int(pid)).ended


def test_what_prevents_a_fork_for_certain_is_not_tried(tmp_path: Path) -> None:
    code = "NAME = os.getpid()\nrrmaster.on_fork(lambda: note('tried'))" + ANSWERS
    found = told(tmp_path, code)
    assert not found["forked"]
    assert not (tmp_path / "notes").exists()
    assert {each["verdict"] for each in found["traces"]} == {"prevents forking", "in doubt"}


def test_an_application_without_doubts_is_not_tried(tmp_path: Path) -> None:
    code = "\nwork.put(1)\nrrmaster.on_fork(lambda: note('tried'))\nfor of in threading.enumerate()[1:]: of.join()\n"
    (tmp_path / "shop.py").write_text(WAITS.replace("os.register_at_fork(after_in_child=start)", "") + code + ANSWERS)
    text, _ = explained(Settings("shop:app", app_dir=str(tmp_path)), as_json=True)
    assert json.loads(text)["forked"]
    assert not (tmp_path / "notes").exists()


def test_a_handler_of_forks_that_hangs_is_no_end_of_the_template() -> None:
    code = """
import os, threading
from rrmaster.worker.preload.trial import forking
forking.PATIENCE_S = 0.2
held = threading.Lock()
held.acquire()
os.register_at_fork(after_in_child=held.acquire)
print(forking.fork_once())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "FirstFork(renewed=(), hangs=True)\n"
