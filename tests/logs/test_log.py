"""Log entries: what is logged, what subscribers receive, how entries look, and where they go."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings
from rrmaster.logs import setup, sinks
from rrmaster.logs.formats import JsonFormat, OutputSource, TextFormat
from rrmaster.logs.log import Entry, logger, subscribe, tell
from rrmaster.logs.setup import start_logging, to_descriptor
from rrmaster.logs.worker_output import worker_output
from tests.logs.reading import read_all

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)

APP = "shop.main:app"

SOURCE = OutputSource(3, 4711, 2, "stderr")


@pytest.fixture
def untouched() -> Iterator[None]:
    """Restores the logger after the test."""
    before = logger.propagate, logger.level, list(logger.handlers)
    yield
    logger.propagate, logger.level, logger.handlers[:] = before[0], before[1], before[2]
    setup.attached.clear()


def read_text(fd: int) -> str:
    return read_all(fd).decode()


@pytest.mark.usefixtures("untouched")
def test_what_is_logged_is_written_with_time_and_level(pipe: tuple[int, int]) -> None:
    end = to_descriptor(pipe[1], "info", "text")
    logger.info("worker %d serves", 3)
    logger.debug("not this")
    logger.error("and this")
    end()
    first, second = read_text(pipe[0]).splitlines()
    assert first.endswith("info    worker 3 serves")
    assert second.endswith("error   and this")


@pytest.mark.usefixtures("untouched")
def test_after_the_end_nothing_is_written(pipe: tuple[int, int]) -> None:
    to_descriptor(pipe[1], "info", "text")()
    logger.propagate = False
    logger.info("too late")
    assert read_text(pipe[0]) == ""


def test_the_level_is_as_requested(untouched: None, pipe: tuple[int, int]) -> None:
    end = to_descriptor(pipe[1], "warning", "text")
    assert logger.level == logging.WARNING
    end()


# --- subscribers


@pytest.fixture
def heard(untouched: None) -> Iterator[list[Entry]]:
    """What a subscriber receives."""
    entries: list[Entry] = []
    logger.setLevel("INFO")
    unsubscribe = subscribe(entries.append)
    yield entries
    unsubscribe()


def test_a_subscriber_hears_the_event_and_its_fields(heard: list[Entry]) -> None:
    before = time.time()
    tell("worker.serving", "worker 3 serves", slot=3, pid=4711)
    (entry,) = heard
    assert before <= entry.time <= time.time()
    assert (entry.level, entry.event, entry.text) == ("info", "worker.serving", "worker 3 serves")
    assert entry.fields == {"slot": 3, "pid": 4711}


def test_an_entry_without_a_name_has_the_event_log(heard: list[Entry]) -> None:
    logger.warning("%d of %d", 3, 4)
    assert [(entry.level, entry.event, entry.text) for entry in heard] == [("warning", "log", "3 of 4")]


def test_a_subscriber_hears_events_at_any_level(heard: list[Entry]) -> None:
    logger.setLevel("ERROR")
    tell("some.detail", "not in the log", level=logging.DEBUG)
    logger.info("neither here nor there")
    assert [entry.event for entry in heard] == ["some.detail"]


def test_a_percent_sign_is_one(heard: list[Entry], pipe: tuple[int, int]) -> None:
    end = to_descriptor(pipe[1], "info", "text")
    tell("surge", "100% of %s")
    end()
    assert read_text(pipe[0]).endswith("100% of %s\n")
    assert heard[0].text == "100% of %s"


def test_a_callback_that_was_unsubscribed_receives_nothing(untouched: None) -> None:
    entries: list[Entry] = []
    unsubscribe = subscribe(entries.append)
    unsubscribe()
    unsubscribe()
    tell("any", "thing")
    logger.error("at all")
    assert entries == []


def test_a_subscriber_may_unsubscribe_within_its_callback(untouched: None) -> None:
    entries: list[Entry] = []
    leave = subscribe(lambda entry: leave())
    stay = subscribe(entries.append)
    tell("any", "thing")
    stay()
    assert len(entries) == 1


def test_a_subscriber_that_fails_does_not_stop_the_others_and_its_failures_are_logged_now_and_then(
    heard: list[Entry], pipe: tuple[int, int]
) -> None:
    def fails(entry: Entry) -> None:
        raise ValueError("its own trouble")

    unsubscribe = subscribe(fails)
    end = to_descriptor(pipe[1], "info", "text")
    for _ in range(100):
        tell("any", "thing")
    unsubscribe()
    end()
    assert [entry.event for entry in heard] == ["any"] * 100
    notes = re.findall(r"failed, (\d+) times now: (.*)", read_text(pipe[0]))
    assert [int(times) for times, _ in notes] == [1, 2, 4, 8, 16, 32, 64]
    assert notes[0][1] == "ValueError('its own trouble')"


# --- how it looks


def test_text_is_time_level_and_words() -> None:
    (line,) = TextFormat().entry(Entry(0.25, "warning", "any", "words", {"field": 1})).splitlines()
    assert re.fullmatch(rb"19\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.250 warning words", line)


def test_text_does_not_drive_the_terminal() -> None:
    assert b"\x1b" not in TextFormat().entry(Entry(0.0, "info", "any", "\x1b[31mred\nnext", {}))


def test_json_is_an_object_a_line() -> None:
    data = JsonFormat().entry(Entry(1767225599.9994, "info", "worker.gone", "it went", {"slot": 3, "time": "noon"}))
    assert json.loads(data) == {
        "time": "2025-12-31T23:59:59.999Z", "level": "info", "event": "worker.gone", "message": "it went", "slot": 3,
        "time_": "noon",
    }  # fmt: skip


fields = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.floats()) | st.builds(object),
    max_size=4,
)


@LAW
@given(st.text(), st.text(), fields)
def test_any_entry_is_one_line_of_json(event: str, text: str, more: dict[str, object]) -> None:
    data = JsonFormat().entry(Entry(1e9, "info", event, text, more))
    assert data.isascii()
    assert len(data.decode().splitlines()) == 1
    assert data.endswith(b"\n")
    assert json.loads(data)["level"] in ("info", "'info'")


@LAW
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_what_a_worker_prints_is_a_line_of_json_each(lines: list[str]) -> None:
    data = JsonFormat().output(SOURCE, lines, 1767225599.9994)
    assert [json.loads(line) for line in data.decode().splitlines()] == [
        {
            "time": "2025-12-31T23:59:59.999Z", "level": "warning", "event": "worker.output", "message": line,
            "slot": 3, "pid": 4711, "generation": 2, "stream": "stderr",
        }
        for line in lines
    ]  # fmt: skip


def test_a_value_that_refers_to_itself_is_logged_as_its_repr() -> None:
    circle: list[object] = []
    circle.append(circle)
    assert (
        json.loads(JsonFormat().entry(Entry(0.0, "info", "any", "words", {"circle": circle})))["message"] == "'words'"
    )


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("style", ["text", "json"])
def test_a_traceback_is_logged_with_its_message(pipe: tuple[int, int], style: str) -> None:
    end = to_descriptor(pipe[1], "info", style)
    try:
        raise ValueError("this one")
    except ValueError:
        logger.exception("trouble")
    end()
    text = read_text(pipe[0])
    assert "trouble" in text
    assert "ValueError: this one" in text
    assert style == "text" or "ValueError: this one" in json.loads(text)["exception"]


# --- what workers print


def test_a_workers_line_is_logged_with_its_slot_and_published_with_its_source(
    heard: list[Entry], pipe: tuple[int, int]
) -> None:
    end = to_descriptor(pipe[1], "info", "text")
    lines = worker_output(3, 4711, 2, "stdout")
    lines.feed(b"hello\nworld\n")
    lines.end()
    end()
    assert [line.split(" ", 2)[2] for line in read_text(pipe[0]).splitlines()] == [
        "info    worker 3 | hello",
        "info    worker 3 | world",
    ]
    assert [(entry.event, entry.text) for entry in heard] == [("worker.output", "hello"), ("worker.output", "world")]
    assert heard[0].fields == {"slot": 3, "pid": 4711, "generation": 2, "stream": "stdout"}


@pytest.mark.usefixtures("untouched")
def test_inside_another_program_its_handlers_get_the_lines(caplog: pytest.LogCaptureFixture) -> None:
    logger.propagate = True
    caplog.set_level("INFO", logger="rrmaster")
    worker_output(3, 4711, 2, "stderr").feed(b"hello\n")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", "worker 3 | hello")]


@pytest.mark.usefixtures("untouched")
def test_output_below_the_level_is_not_made_into_lines(pipe: tuple[int, int]) -> None:
    end = to_descriptor(pipe[1], "error", "text")
    lines = worker_output(3, 4711, 2, "stdout")
    lines.feed(b"hello\n")
    assert lines.flooding
    end()
    assert read_text(pipe[0]) == "", "and no dropped lines are reported"


@pytest.mark.usefixtures("untouched")
def test_output_is_dropped_while_the_log_is_full_and_every_line_is_counted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = to_descriptor(pipe[1], "info", "text")
    monkeypatch.setattr(sinks, "MAX_QUEUED", 0)
    lines = worker_output(3, 4711, 2, "stdout")
    lines.feed(b"one\ntwo\n")
    lines.end()
    monkeypatch.undo()
    end()
    assert re.search(r" warning 2 log lines were dropped", read_text(pipe[0]))


# --- where it goes


@pytest.mark.usefixtures("untouched")
def test_with_a_file_stderr_receives_only_the_masters_own_warnings(tmp_path: Path, pipe: tuple[int, int]) -> None:
    path = tmp_path / "app.log"
    end = start_logging(Settings(APP, log_file=str(path)), pipe[1])
    tell("master.ready", "all serve")
    tell("worker.lost", "one is lost", level=logging.WARNING)
    worker_output(3, 4711, 2, "stderr").feed(b"chatter\n")
    end()
    assert [line.split(maxsplit=3)[3] for line in path.read_text().splitlines()] == [
        "all serve", "one is lost", "worker 3 | chatter",
    ]  # fmt: skip
    assert [line.split(maxsplit=3)[3] for line in read_text(pipe[0]).splitlines()] == ["one is lost"]
    end()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", [None, "-"])
def test_without_a_file_all_goes_to_stderr(name: str | None, pipe: tuple[int, int]) -> None:
    end = start_logging(Settings(APP, log_file=name, log_format="json"), pipe[1])
    tell("master.ready", "all serve", serving=4)
    end()
    assert json.loads(read_text(pipe[0]))["serving"] == 4


@pytest.mark.usefixtures("untouched")
def test_a_file_that_cannot_be_written_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--log-file: cannot write '.*/no/app.log': No such file"):
        start_logging(Settings(APP, log_file=str(tmp_path / "no" / "app.log")))
    assert setup.attached == []


@pytest.mark.usefixtures("untouched")
def test_a_full_disk_is_reported_on_stderr_once(pipe: tuple[int, int]) -> None:
    end = start_logging(Settings(APP, log_file="/dev/full"), pipe[1])
    for _ in range(10):
        tell("master.ready", "all serve")
    end()
    assert re.findall(r"trouble with .*", read_text(pipe[0])) == [
        "trouble with the log file /dev/full: No space left on device"
    ]


@pytest.mark.usefixtures("untouched")
def test_the_file_is_opened_again_on_request(tmp_path: Path, pipe: tuple[int, int]) -> None:
    path = tmp_path / "app.log"
    end = start_logging(Settings(APP, log_file=str(path)), pipe[1])
    path.unlink()
    setup.reopen_files()
    end()
    assert path.exists()
