"""The files of examples/replicas fit each other, and its clients keep an honest ledger (the trial needs root)."""

from __future__ import annotations

import json
import re
import runpy
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from rrmaster.config.settings import Settings
from rrmaster.config.sources import from_table, read
from tests.whole.harness import PATIENCE, ROOT, running, status

HERE = ROOT / "examples" / "replicas"
NGINX, HAPROXY = ((HERE / name).read_text() for name in ("nginx.conf", "haproxy.cfg"))


def settings() -> Settings:
    table = tomllib.loads((HERE / "rrmaster.toml").read_text())
    return read([from_table(table, "rrmaster.toml")])[0]


def seconds(text: str, name: str) -> float:
    """A time in a proxy's configuration."""
    found = re.search(rf"\b{name}[= ](\d+)(ms|s)\b", text)
    assert found, name
    return int(found[1]) / (1000 if found[2] == "ms" else 1)


def test_the_drain_begins_after_haproxy_has_learned_that_the_replica_is_not_ready() -> None:
    fall = int(re.search(r"fall (\d+)", HAPROXY)[1])  # type: ignore[index]
    learned = fall * (seconds(HAPROXY, "inter") + seconds(HAPROXY, "timeout check"))
    assert learned < settings().shutdown_delay


def test_nginx_tries_a_server_that_has_failed_by_a_new_connection() -> None:
    """On an old one to a host that is cut off a request would wait for its answer, and a POST would be lost."""
    assert seconds(NGINX, "keepalive_timeout") < seconds(NGINX, "fail_timeout")


def test_no_proxy_gives_up_a_request_that_a_draining_worker_may_finish() -> None:
    for text, name in ((NGINX, "proxy_read_timeout"), (HAPROXY, "timeout server")):
        assert seconds(text, name) <= settings().graceful_timeout


def test_both_proxies_know_the_same_three_replicas_and_rrmaster_trusts_them() -> None:
    checked, unchecked = HAPROXY.split("\nbackend unchecked")
    servers = [re.findall(r"(10\.99\.0\.\d+):8000", text) for text in (NGINX, checked, unchecked)]
    assert servers == [["10.99.0.11", "10.99.0.12", "10.99.0.13"]] * 3
    assert "use_backend unchecked if { nbsrv(shop) eq 0 }" in checked
    assert settings().forwarded_allow_ips == settings().proxy_allow_from


async def test_the_ledger_has_each_request_once(tmp_path: Path) -> None:
    ledger, control = tmp_path / "ledger.json", tmp_path / "control.sock"
    options = ("-c", str(HERE / "rrmaster.toml"), "--control", str(control), "--admin", f"unix:{tmp_path}/admin.sock")
    environ = {"LAB": str(tmp_path), "REPLICA": "replica1"}
    async with running("app:app", *options, workers=None, app_dir=HERE, environ=environ) as master:
        command = [sys.executable, str(HERE / "load.py"), f"127.0.0.1:{master.port}", "4", str(ledger)]
        load = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL)
        await served(control, 8)
        load.send_signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            assert await load.wait() == 0
        entries = json.loads(ledger.read_text())
        assert {(how, replica) for *_, how, replica in entries} == {("200", "replica1")}
        await served(control, len(entries))
        assert await requests(control) == len(entries)


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What examples/replicas/run.py has."""
    monkeypatch.syspath_prepend(str(HERE))
    return runpy.run_path(str(HERE / "run.py"))


def test_each_proxy_has_a_place_for_the_log_of_whom_it_asked(trial: dict[str, Any]) -> None:
    for file, place, _ in trial["LOGS"].values():
        assert (HERE / file).read_text().count(place) == 1


ASKED = {
    "nginx": """
        request 100.5 1.0 10.99.0.12:8000
        request 100.5 1.0 10.99.0.12:8000, 10.99.0.11:8000
        request 100.5 1.0 10.99.0.11:8000
        request 99.9 1.0 10.99.0.12:8000
        request 101.5 1.0 10.99.0.12:8000, 10.99.0.13:8000
        [error] request 100.5 1.0 10.99.0.12:8000
    """,
    "haproxy": """
        request 100500 1000 replica2/0
        request 100500 1000 replica1/+1
        request 100500 1000 replica1/0
        request 99900 1000 replica2/0
        request 101500 1000 replica3/+1
        Server shop/replica2 is DOWN
    """,
}


@pytest.mark.parametrize(("proxy", "silent"), [("nginx", 0), ("haproxy", 1)])
def test_what_the_victim_had_in_hand_was_sent_before_it_was_dead_and_unanswered(
    trial: dict[str, Any], proxy: str, silent: int
) -> None:
    """Of requests that ended before the death, began after it, or were sent to others alone, none counts."""
    host = SimpleNamespace(name="replica2", address="10.99.0.12")
    event = trial["Event"](100.0, 100.1, SimpleNamespace(host=host))
    ledger = [[at, at + 0.2, "POST", "/", how, ""] for at in (99.0, 99.9, 100.2) for how in ("cut off", "502")]
    found = trial["in_hand"](proxy, dedent(ASKED[proxy]), ledger, event)
    assert found == 2 + silent, "HAProxy writes no line of a request whose client it closes without an answer"
    assert trial["in_hand"](proxy, dedent(ASKED[proxy]), ledger, trial["Event"](100.0, 100.1)) == 0


async def served(control: Path, count: int) -> None:
    """Wait until the workers have served this number of requests."""
    with trio.fail_after(2 * PATIENCE):
        while await requests(control) < count:
            await trio.sleep(0.1)


async def requests(control: Path) -> int:
    return sum(worker.requests or 0 for worker in (await status(control)).workers)
