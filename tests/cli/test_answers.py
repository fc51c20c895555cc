"""What a verb does with any answer, and where its output cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rrmaster.cli.arguments import parse_arguments
from rrmaster.cli.main import main

HOSTILE = [
    b"[" * 100_000,
    b"5",
    b"nonsense",
    b"\xff\xfe",
    b'{"status": null}',
    b'{"status": "x"}',
    b'{"status": [1]}',
    b'{"status": 0}',
    b'{"status": 0, "snapshot": 5}',
    b'{"status": 0, "snapshot": {"workers": [1]}}',
    b'{"status": 1e999}',
    b'{"status": 256}',
    b'{"status": "0"}',
    b'{"status": true}',
    b'{"status": 1, "error": "\\u001b]0;owned\\u0007"}',
    json.dumps({"status": 0, "snapshot": dict.fromkeys(
        ("name", "pid", "version", "application", "policy", "time", "uptime_s", "size", "generation", "accepted",
         "recalled_from_late", "recalled_from_dead", "suspensions", "breaches", "lost"), "\x1b[31m")}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE)
@pytest.mark.parametrize("verb", [["status"], ["workers"], ["stop"], ["logs"], ["events"], ["reload"]])
def test_any_answer_ends_in_an_exit_status_and_drives_no_terminal(
    verb: list[str], answer: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = os.fspath(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer_one() -> None:
            with contextlib.suppress(OSError):
                sock, _ = listener.accept()
                with sock:
                    sock.recv(4096)
                    sock.sendall(answer + b"\n")

        thread = threading.Thread(target=answer_one)
        thread.start()
        status = main([*verb, "--control", path])
        thread.join(10)
    said = capsys.readouterr()
    assert status in range(256)
    assert status or b'{"status": 0' in answer
    assert "\x1b" not in said.out + said.err
    assert "Traceback" not in said.err


def test_what_logs_says_itself_has_the_fields_of_every_other_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"time": 1.0, "level": "info", "event": "worker.output", "text": "hello"}
    line |= {"slot": 3, "pid": 4711, "generation": 2, "stream": "stdout"}
    answers = {"entry": line}, {"missed": 17}, {"status": 0, "text": "the master has stopped"}
    path = os.fspath(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.recv(4096)
                sock.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in answers))

        thread = threading.Thread(target=answer)
        thread.start()
        assert main(["logs", "-f", "--json", "--control", path]) == 0
        thread.join(10)
    printed, missed, ended = map(json.loads, capsys.readouterr().out.splitlines())
    assert printed == line
    assert missed.keys() == line.keys() | {"missed"}
    assert (missed["event"], missed["missed"], missed["slot"]) == ("follow.missed", 17, None)
    assert ended.keys() == line.keys() | {"ended"}
    assert (ended["event"], ended["ended"]) == ("follow.ended", "the master has stopped")


@pytest.mark.parametrize("words", [["check", "rrmaster.demo:hello"], ["--help"], ["status", "--help"], ["--version"]])
def test_a_full_disk_is_one_line_and_not_a_success(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rrmaster", *words]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "cannot write the output: No space left on device" in ended.stderr


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("-k", "--runtime"),
        ("--loop", "--runtime"),
        ("--timeout", "--request-timeout"),
        ("--limit-concurrency", "--worker-connections"),
        ("--timeout-graceful-shutdown", "--graceful-timeout"),
        ("--reuse-port", "nothing needs it"),
        ("--header", "the application sets its own"),
    ],
)
def test_an_option_of_another_server_says_what_is_written_here(option: str, meant: str) -> None:
    (said,) = parse_arguments([option, "x", "a:b"]).unknown
    assert said.startswith(f"{option}: there is no such option; ")
    assert meant in said


def test_all_mistakes_are_told_at_once_each_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The word behind an unknown option may be its value, so what is served is left open."""
    argv = ["--loop", "x", "--threds", "3", "--port", "x", "--window=0", "--keyfile", "k", "a:b"]
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["--loop:", "--threds:", "--port:", "--window:"]
    assert main(["--keyfile", "k", "--ciphers", "c", "--hang-timeout", "0.6", "a:b"]) == 2
    assert [line[:10] for line in capsys.readouterr().err.splitlines()] == ["rrmaster: "] * 3
