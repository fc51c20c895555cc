"""A pod's life, acted out by examples/kubernetes/pod.py, and what a reload sees of a mounted ConfigMap that changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from attrs import define

pytest.importorskip("yaml")

from examples.kubernetes.pod import Volume, life
from tests.whole.harness import BRIEF, ask, rrmaster, running, status


async def test_clients_lose_nothing_though_endpoints_are_removed_later_than_a_pod_is_told_to_end() -> None:
    with trio.fail_after(150):
        ended, pod = await life(scale=0.3)
    assert ended == 0
    assert pod.ledger.keys() == {200}
    ready, term, removed, end = (
        next(number for number, said in enumerate(pod.said) if said.startswith(words))
        for words in ("ready", "TERM", "no longer", "ended with status 0")
    )
    assert ready < term < removed < end


@define
class Mounted:
    """A ConfigMap and a Secret beside each other."""

    config: Volume
    secret: Volume


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    (tmp_path / "config").mkdir()
    (tmp_path / "secret").mkdir()
    return Mounted(
        Volume(tmp_path / "config", {"rrmaster.toml": configuration(tmp_path, 1)}),
        Volume(tmp_path / "secret", {"shop.env": "GREETING=one\n"}),
    )


def configuration(directory: Path, workers: int) -> str:
    return f'application = "greets:handler"\nworkers = {workers}\nenv_file = "{directory}/secret/shop.env"\n'


GREETS = """
import os

async def handler(stream):
    await stream.send_all(os.environ["GREETING"].encode())
"""


async def reloaded(control: Path) -> tuple[int, str]:
    done = await trio.to_thread.run_sync(lambda: rrmaster("reload", "--control", str(control)))
    return done.returncode, done.stdout + done.stderr


async def test_a_reload_follows_each_swap_of_a_mounted_file_and_a_broken_one_changes_nothing(
    mounted: Mounted, tmp_path: Path
) -> None:
    (tmp_path / "greets.py").write_text(GREETS)
    file, control = str(tmp_path / "config" / "rrmaster.toml"), tmp_path / "control.sock"
    options = ("-c", file, "--control", str(control), *BRIEF)
    async with running("greets:handler", *options, workers=None, app_dir=tmp_path) as master:
        assert await ask(master.port) == b"one"
        for greeting, workers in (("two", 2), ("three", 1)):
            mounted.config.publish({"rrmaster.toml": configuration(tmp_path, workers)})
            mounted.secret.publish({"shop.env": f"GREETING={greeting}\n"})
            assert (await reloaded(control))[0] == 0
            assert await ask(master.port) == greeting.encode()
            assert (await status(control)).size == workers
        mounted.config.publish({"rrmaster.toml": "workers = many\n"})
        code, said = await reloaded(control)
        assert code == 10
        assert "is no TOML" in said
        assert await ask(master.port) == b"three"
        assert not [name for name in os.listdir(f"/proc/{master.pid}/fd") if "..2026" in _target(master.pid, name)]


def _target(pid: int, descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except FileNotFoundError:
        return ""  # closed since
