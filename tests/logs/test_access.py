"""The access log in the master: a line with the mark goes to its own sink, or becomes an entry with fields."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings
from rrmaster.logs import access as module
from rrmaster.logs.access import MARK, close_access_log, follow, open_access_log, split
from rrmaster.logs.formats import OutputSource
from rrmaster.logs.log import Entry, subscribe
from rrmaster.logs.setup import to_descriptor
from rrmaster.logs.worker_output import OutputLog
from tests.logs.test_log import untouched as untouched
from tests.logs.test_sinks import until

SOURCE = OutputSource(3, 4711, 2, "stdout")


@pytest.fixture(autouse=True)
def no_access_log() -> Iterator[None]:
    yield
    module.access.use(None)


@pytest.fixture
def entries() -> Iterator[list[Entry]]:
    found: list[Entry] = []
    end = subscribe(found.append)
    yield found
    end()


def test_only_a_line_with_the_mark_is_one_of_the_access_log() -> None:
    assert split(["a", MARK + "b", f" {MARK}c"]) == (["b"], ["a", f" {MARK}c"])
    assert split(["a"]) == ([], ["a"])


def test_lines_go_to_the_file_and_what_else_is_printed_to_the_log(tmp_path, entries: list[Entry]) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.log"
    open_access_log(Settings("shop:app", access_log=str(path)))
    OutputLog(SOURCE).take([MARK + "one", "printed", MARK + "two"])
    until(lambda: path.read_text() == "one\ntwo\n")
    close_access_log()
    assert [entry.text for entry in entries] == ["printed"]


def test_usr1_opens_a_file_that_was_moved_away_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path, log = tmp_path / "a.log", OutputLog(SOURCE)
    open_access_log(Settings("shop:app", access_log=str(path)))
    log.take([MARK + "one"])
    until(lambda: path.read_text() == "one\n")
    path.rename(tmp_path / "moved")
    assert module.reopen_all() == [str(path)]
    until(path.exists)
    log.take([MARK + "two"])
    until(lambda: path.read_text() == "two\n")
    close_access_log()
    assert (tmp_path / "moved").read_text() == "one\n"


def test_a_reload_follows_to_another_file_and_keeps_the_old_one_if_it_cannot(tmp_path, untouched, pipe) -> None:  # type: ignore[no-untyped-def]
    to_descriptor(pipe[1], "info", "text")
    first, second, log = tmp_path / "a.log", tmp_path / "b.log", OutputLog(SOURCE)
    open_access_log(Settings("shop:app", access_log=str(first)))
    log.take([MARK + "one"])
    follow(Settings("shop:app", access_log=str(second)))
    log.take([MARK + "two"])
    follow(Settings("shop:app", access_log=str(tmp_path / "no" / "c.log")))
    log.take([MARK + "three"])
    until(lambda: first.read_text() == "one\n")
    until(lambda: second.read_text() == "two\nthree\n")
    close_access_log()


def test_a_full_disk_delays_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    open_access_log(Settings("shop:app", access_log="/dev/full"))
    OutputLog(SOURCE).take([MARK + "one"])
    sink = module.access.sink
    assert sink is not None
    until(lambda: sink.dropped == 1)
    close_access_log()


def test_a_reader_that_has_stalled_delays_nothing_and_what_does_not_fit_is_counted(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    open_access_log(Settings("shop:app", access_log=str(path)))
    log, sink = OutputLog(SOURCE), module.access.sink
    assert sink is not None
    for _ in range(100):
        log.take([MARK + "x" * 100_000] * 2)
    assert sink.dropped > 0
    os.close(reader)  # the thread, which still waits in write, ends with an error


def test_without_a_sink_a_line_is_an_entry_with_a_field_for_each_atom(entries: list[Entry]) -> None:
    text = json.dumps({"request": "GET / HTTP/1.1", "status": 200})
    OutputLog(SOURCE).take([MARK + text, MARK + "no JSON"])
    assert [(entry.event, entry.text) for entry in entries] == [
        ("worker.access", "GET / HTTP/1.1"),
        ("worker.access", "no JSON"),
    ]
    assert entries[0].fields["status"] == 200
    assert entries[0].fields["slot"] == 3


def test_a_file_that_cannot_be_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match=r"--access-log: cannot write .*No such file"):
        open_access_log(Settings("shop:app", access_log=str(tmp_path / "no" / "a.log")))
