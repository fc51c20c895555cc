"""The bench computes its figures correctly, and the published figures are the measured ones."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__, apps, each_request, latency, machine, programs, proxies, publish, requests
from bench.balance import Held
from bench.conduct import conduct
from bench.fleets import Contender, Wanted, all_running, present, running
from bench.machine import HOME, RESULTS, quantile
from bench.rounds import IDEAL, OURS, Record, Target, number
from bench.traffic import LATE, Request, Run, Traffic, send
from tests.pages import DOCS, PAGES

COLUMN = ("kept", "p99 ms")


def record(**servers: list[float | None]) -> Record:
    """A record with one column for these servers, a value for each round."""
    found = Record("any")
    for server, values in servers.items():
        for value in values:
            found.add(server.replace("_", " "), *COLUMN, value)
    return found


# --- statistics


def test_a_quantile_is_the_least_value_that_this_share_does_not_exceed() -> None:
    values = random.Random(1).sample(range(1, 1001), 1000)
    assert [quantile(values, share) for share in (0.0, 0.5, 0.99, 0.999, 1.0)] == [1, 500, 990, 999, 1000]
    assert quantile([7.0], 0.99) == 7.0
    assert math.isnan(quantile([], 0.5))


def test_a_ratio_is_the_median_of_those_of_the_rounds_and_not_the_ratio_of_the_medians() -> None:
    ratio = record(rrmaster=[10.0, 1.0, 30.0], uvicorn=[5.0, 10.0, 60.0]).ratios(*COLUMN, "uvicorn")
    assert ratio is not None
    assert (ratio.median, ratio.least, ratio.most) == (0.5, 0.1, 2.0)


def test_a_round_without_a_figure_is_left_out_and_does_not_shift_the_others() -> None:
    ratio = record(rrmaster=[1.0, 2.0, 3.0], uvicorn=[2.0, None, math.inf]).ratios(*COLUMN, "uvicorn")
    assert ratio is not None
    assert (ratio.least, ratio.most) == (0.5, 0.5)


def test_we_are_compared_with_the_best_peer_and_the_simulation_is_none() -> None:
    found = record(rrmaster=[6.0], granian=[100.0], uvicorn=[50.0], ideal=[1.0])
    assert {IDEAL, OURS} == {"ideal", "rrmaster"}
    verdict = found.verdict(Target(*COLUMN, 0.13))
    assert verdict is not None
    assert (verdict.peer, verdict.spread.median, verdict.met) == ("uvicorn", 0.12, True)
    other_way = found.verdict(Target(*COLUMN, 0.13, at_most=False))
    assert other_way is not None
    assert (other_way.peer, other_way.met) == ("granian", False)


def test_a_target_is_missed_by_the_least_excess_and_by_one_peer_that_is_better() -> None:
    found = record(rrmaster=[1.021], uvicorn=[1.0])
    assert [v.met for v in found.verdicts([Target(*COLUMN, 1.02, "itself"), Target(*COLUMN, 1.03, "itself")])] == [
        False,
        True,
    ]
    better = [Target(*COLUMN, against="none better", slack=slack) for slack in (0.0, 0.1)]
    assert [verdict.met for verdict in found.verdicts(better)] == [False, True]
    assert found.verdicts([Target(*COLUMN, None), Target("kept", "nothing")]) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (0.1234, "0.123"), (1.016, "1.02"), (26.45, "26.4"), (812.3, "812"), (12345, "12,345")],
)
def test_a_number_has_three_digits_that_say_something(value: float, words: str) -> None:
    assert number(value) == words


def test_ideal_serves_in_order_by_the_worker_that_is_free_first() -> None:
    all_block = [Request(0.0, 0.0, 0.0, False, True, "hung") for _ in range(latency.WORKERS)]
    after = [Request(0.001, 0.0, 0.0, False, False, "hung"), Request(0.5, 0.0, 0.0, False, False, "hung")]
    waited, at_once = latency.ideal(Run([*all_block, *after])).requests[-2:]
    block = apps.BLOCK / 1e6
    assert waited.took == pytest.approx(block - 0.001 + latency.OVERHEAD)
    assert at_once.took == pytest.approx(latency.OVERHEAD)


def test_unevenness_counts_workers_that_have_nothing() -> None:
    left, right = socket.socketpair()
    with left, right:
        held = Held(0, random.Random(1), [(left, 1), (left, 1), (left, 2), (left, 2)])
        assert held.unevenness([1, 2]) == 1.0
        assert held.unevenness([1, 2, 3, 4]) == 2.0


# --- traffic


@pytest.fixture
def hello() -> Iterator[int]:
    """The port of a trivial server that answers one request on each connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return  # shut down
                with client:
                    wrong = b"GET /block" in client.recv(4096)
                    status = b"503 Busy" if wrong else b"200 OK"
                    client.sendall(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\ncontent-length: 2\r\n\r\nhi")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="one of the generators is C")


@pytest.fixture(params=[pytest.param(False, marks=needs_cc, id="c"), pytest.param(True, id="python")])
def generator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two load generators."""
    monkeypatch.setattr(programs, "python_clients", request.param)


@pytest.mark.usefixtures("generator")
def test_the_generator_keeps_its_rate_and_tells_the_fate_of_every_request(hello: int) -> None:
    run = send(Traffic(0.5, rate=400, blocking=0.25, seed=7), hello)
    assert 150 < len(run.requests) < 250
    assert {request.outcome for request in run.requests if not request.blocking} == {"answered"}
    assert {request.outcome for request in run.requests if request.blocking} == {"wrong"}
    assert run.failed == {"wrong": sum(request.blocking for request in run.requests)}
    again = send(Traffic(0.5, rate=400, blocking=0.25, seed=7), hello)
    assert [(r.due, r.blocking) for r in again.requests] == [(r.due, r.blocking) for r in run.requests]


@pytest.mark.usefixtures("generator")
def test_the_generator_calls_refused_what_no_server_listens_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        run = send(Traffic(0.1, rate=200), taken.getsockname()[1])
    assert len(run.requests) > 5
    assert run.failed == {"refused": len(run.requests)}


@pytest.mark.usefixtures("generator")
def test_the_generator_counts_from_when_a_request_was_due_and_gives_up_on_the_hung() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        run = send(Traffic(0.1, rate=100, patience=0.2), silent.getsockname()[1])
    assert len(run.requests) > 2
    assert run.failed == {"hung": len(run.requests)}
    assert all(request.took >= 0.2 for request in run.requests)


MIXED = Traffic(0.4, rate=400, clients=8, kept=0.5, blocking=0.2, thinking=1e-3, seed=11)


@needs_cc
def test_both_generators_send_the_same_and_count_the_same(hello: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for python in (False, True):
        monkeypatch.setattr(programs, "python_clients", python)
        runs.append(send(MIXED, hello))
    schedules = [[(r.due, r.kept, r.blocking, r.outcome) for r in run.requests] for run in runs]
    assert {(r.kept, r.blocking) for r in runs[0].requests} == {(a, b) for a in (False, True) for b in (False, True)}
    assert schedules[0] == schedules[1]


@needs_cc
def test_both_generators_keep_a_closed_loop_closed(hello: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for python in (False, True):
        monkeypatch.setattr(programs, "python_clients", python)
        run = send(Traffic(0.2, clients=4), hello)
        assert len(run.requests) > 20
        assert run.failed == {}
        spans = [(r.due, r.due + r.took - 2e-6) for r in run.requests]  # each is rounded to a microsecond
        assert max(sum(begin <= at < end for begin, end in spans) for at, _ in spans) <= 4


@pytest.mark.parametrize(
    ("heard", "what"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", ("", False)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", ("a", True)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: Close\r\n\r\nhi", ("a", False)),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nhi", ("w", False)),
        (b"HTTP/1.1 200 OK\r\n\r\nhi", ("w", False)),
        (b"x" * requests.HEAD, ("w", False)),
    ],
)
def test_an_answer_is_whole_when_its_length_has_come(heard: bytes, what: tuple[str, bool]) -> None:
    assert requests.whole(heard) == what


def test_a_machine_without_a_compiler_has_python_clients_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "BUILD", tmp_path)
    monkeypatch.setattr(programs, "_build", lambda: tmp_path)
    programs.why_not_c.cache_clear()
    try:
        assert programs.client("requests")[1:] == ["-m", "bench.requests"]
        assert programs.client("load")[1:] == ["-m", "bench.load"]
        assert "no C compiler (cc): the clients are Python" in programs.said_of_clients()[0]
    finally:
        programs.why_not_c.cache_clear()


@needs_cc
def test_a_program_that_cc_does_not_compile_is_missing_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.c").write_text("int main(void) { return }")
    monkeypatch.setattr(programs, "HOME", tmp_path)
    monkeypatch.setattr(programs, "_build", lambda: tmp_path)
    with pytest.raises(programs.Missing, match=r"cc does not compile broken\.c"):
        programs.compiled("broken")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.c"]


def test_a_run_with_one_request_in_fifty_late_is_not_believed() -> None:
    def run(late: int) -> Run:
        return Run([Request(0.0, 2 * LATE if i < late else 0.0, 0.001, False, False, "answered") for i in range(100)])

    assert [run(0).late, run(1).late, run(2).late] == [False, False, True]


def test_the_same_paths_have_the_same_answers_by_wsgi() -> None:
    told: list[object] = []
    (body,) = apps.wsgi({"PATH_INFO": "/"}, lambda *args: told.append(args))
    assert body == apps.answer("/") == apps.HELLO
    assert told == [("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "14")])]


# --- servers


def test_a_server_that_is_not_on_this_machine_is_left_out_and_named_once() -> None:
    def command(want: Wanted) -> list[str]:
        raise AssertionError("nothing is started here")

    here = Contender("here", command, ("sys",))
    away = Contender("away", command, ("no_such_module",))
    program = Contender("program", command, ("no-such-program",), python=False)
    notes: list[str] = []
    assert present(notes, (here, away, program)) == present(notes, (here, away, program)) == [here]
    assert notes == ["away is not measured: no no_such_module", "program is not measured: no no-such-program"]


SAYS_AND_STAYS = "import sys, time; print('begins'); print('stands', flush=True); sys.stdin.read(); time.sleep(60)"

ENDS = "import sys; print('no, thank you'); sys.exit(7)"


def python(code: str, says: str = "^stands$") -> Contender:
    return Contender("any", lambda want: [sys.executable, "-c", code], says=says)


def test_a_server_that_says_so_serves_and_is_gone_after_the_block_though_it_does_not_obey() -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SAYS_AND_STAYS
    with running(python(stubborn), 1) as fleet:
        fleet.wait_until_it_serves()
        assert fleet.alive
    assert fleet.process.returncode == -signal.SIGKILL


def test_servers_that_run_together_are_asked_to_go_together() -> None:
    with all_running([python(SAYS_AND_STAYS)] * 2, 1) as fleets:
        assert all(fleet.alive for fleet in fleets)
    assert [fleet.process.returncode for fleet in fleets] == [-signal.SIGTERM] * 2


def test_a_server_that_ends_instead_is_told_with_its_last_words() -> None:
    with running(python(ENDS), 1) as fleet, pytest.raises(RuntimeError, match=r"status 7:\nno, thank you"):
        fleet.wait_until_it_serves()


# --- a run


def test_what_cannot_be_written_is_told_and_what_has_only_notes_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").write_text("a file is no directory")
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    found, empty = record(rrmaster=[1.5]), Record("none")
    empty.note("nothing was there to measure it")
    assert conduct([(found, (), lambda: None), (empty, (), lambda: None)]) == 0
    said = capsys.readouterr()
    assert "results are printed here and not kept: File exists" in said.err
    assert "1.50" in said.out
    assert "note: nothing was there to measure it" in said.out
    assert "written" not in said.out


# --- what is published


def test_every_figure_says_its_question_and_no_two_targets_are_the_same() -> None:
    for module in __main__.FIGURES.values():
        assert module.QUESTION.endswith("?")
        assert len(set(module.TARGETS)) == len(module.TARGETS)


@pytest.mark.parametrize("page", publish.PARTS, ids=lambda page: page.name)
def test_the_figures_of_a_page_are_those_of_the_results(page: Path) -> None:
    """To renew them: python -m bench --publish."""
    assert page.read_text() == publish.renewed(page)


MEASURED = re.compile(
    r"""\d\ ?(?:ns|us|µs)\b                                  # nobody sets anything in microseconds
      | \d[.,]\d+\ ?(?:m?s|%|[KMG]i?B)(?!\w)             # or to the tenth
      | \bp\d\d\b
      | \b\d{1,3},\d{3}\b
      | \b(?:[a-z]+|\d+)\ times\ the\s(?:processor|memory|requests|connections)
      | \bsome\ (?:tenths|hundredths|thousandths|milliseconds|microseconds)
      | \ba\ (?:millisecond|microsecond)\b
      | \b[Mm]easured\ on\b""",
    re.VERBOSE,
)
"""Figures that only a measurement gives.  Settings are whole numbers of milliseconds, seconds and MiB."""

SET = {"5,000": "reports a second that are a breach", "1,000": "events kept for a client of the control socket"}
"""Figures that look measured and are constants of the code."""


def measured_by_hand(text: str) -> list[str]:
    """Figures of a page outside of its generated parts, blocks and code."""
    text = re.sub(r"<!-- (\w+)\b[^>]*-->\n.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "", text)
    return [found for found in MEASURED.findall(text) if found not in SET]


DATED = DOCS / "decisions"
"""Records of what was tried: each figure there is of the day that its page names, and no later run renews it."""


@pytest.mark.parametrize("page", [page for page in PAGES if DATED not in page.parents], ids=lambda page: page.name)
def test_no_figure_of_a_page_is_written_by_hand(page: Path) -> None:
    """Measured figures are generated: see bench/publish.py."""
    assert measured_by_hand(page.read_text()) == []


@pytest.mark.parametrize(
    ("sentence", "figures"),
    [
        ("A request costs eleven times the processor time (320 us against 30).", 2),
        ("The master takes 0.35 s of CPU per GiB, a client waits 1.4 ms (p99 8 ms).", 3),
        ("10 reloads lost none of 4,261 requests.", 1),
        ("Replaced in some hundredths of a second; a handshake costs a millisecond or two.", 2),
        ("A handshake has 10 s, a line 4 KiB, `--recall-after` is 5 ms, `0.5 s`; more than 5,000 are a breach.", 0),
        ("<!-- any: from bench/results, not by hand -->\n23.5 us\n<!-- end of any -->\n", 0),
    ],
)
def test_what_is_measured_is_told_from_what_is_set(sentence: str, figures: int) -> None:
    assert len(measured_by_hand(sentence)) == figures


def test_what_was_not_measured_is_said_without_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    for words in (publish.cost_of_trio(), publish.gain_of_forking()):
        assert "python -m bench" in words
        assert not re.search(r"\d", words)


def test_what_trio_costs_is_said_beside_uvloop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = {"rrmaster": {"kept": {"CPU us": [30.0, 40.0]}}, "rrmaster trio": {"kept": {"CPU us": [330.0, 320.0]}}}
    (tmp_path / "throughput.json").write_text(json.dumps({"found": found}))
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    words = publish.cost_of_trio()
    assert "9.50 (8 to 11) times the processor time of the same on uvloop" in words
    assert "325 us against 35" in words


def test_what_forking_gains_is_told_of_those_that_were_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = {"rrmaster": {"replaced": {"ms": [37.2], "USS MiB": [8.7]}}, "uvicorn": {"replaced": {"ms": [None]}}}
    (tmp_path / "template.json").write_text(json.dumps({"found": found}))
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    assert publish.gain_of_forking().splitlines()[2:] == ["| rrmaster: forked | 37.2 ms | 8.70 MiB |"]


@pytest.mark.parametrize("plot", sorted((HOME / "plots").glob("*.svg")), ids=lambda plot: plot.stem)
def test_each_plot_is_drawn_from_the_results_that_lie_here(plot: Path) -> None:
    drawn_from = (RESULTS / f"{plot.stem}.json").read_bytes()
    assert f"sha256:{hashlib.sha256(drawn_from).hexdigest()}" in plot.read_text()


def test_every_image_of_the_readme_is_such_a_plot() -> None:
    assert {plot.stem for plot in (HOME / "plots").glob("*.svg")} >= {"balance", "latency"}


# --- proxies, and clients that keep connections


def test_a_proxy_keeps_few_connections_to_a_server_and_chooses_among_several(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(proxies, "find", lambda name: f"/usr/sbin/{name}")
    proxies.command("nginx", tmp_path, 4711, ["127.0.0.1:8000"], proxies.KEPT)
    text = (tmp_path / "nginx.conf").read_text()
    assert "keepalive 16;" in text
    assert "least_conn" not in text
    proxies.command("haproxy", tmp_path, 4711, ["unix:/a", "unix:/b"], proxies.KEPT)
    text = (tmp_path / "haproxy.conf").read_text()
    assert "server s1 unix@/b" in text
    assert "balance leastconn" in text


def test_a_proxy_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    found = Record("any")
    assert not [c.name for c in each_request.startable(found) if "least" in c.name]
    assert "nginx least_conn is not measured: no nginx" in found.notes
