"""A reload reads the configuration again: a mistake refuses it before any worker starts, and addresses can change."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
from ast import literal_eval
from pathlib import Path

import pytest
import trio
import trustme

from tests.whole.harness import BRIEF, PATIENCE, ask, is_free, running


async def reload(master, said: str) -> None:
    count = master.text.count(said) + 1
    master.signal(signal.SIGHUP)
    await master.said(said, count)


async def test_a_mistake_in_the_configuration_refuses_the_reload_and_nothing_starts(tmp_path: Path):
    file = tmp_path / "rrmaster.toml"
    file.write_text("window = 4\n")
    async with running("handlers:facts", *BRIEF, "--config", str(file), workers=2) as master:
        before = master.workers
        file.write_text("windw = 4\n")
        await reload(master, "there is no setting 'windw'; did you mean window?")
        assert master.workers == before
        file.write_text("window = 5\n")
        await reload(master, "committed")
        await master.said("draining -> gone", 2)
        # Ids count up: no worker was started for the reload that was refused.
        assert literal_eval((await ask(master.port)).decode())[1] in (3, 4)


async def test_addresses_are_opened_before_the_old_ones_close(tmp_path: Path):
    file, path = tmp_path / "rrmaster.toml", tmp_path / "new.sock"
    file.write_text('bind = ["127.0.0.1:0"]\n')
    async with running("handlers:quick", *BRIEF, "--config", str(file), bind=None, workers=1) as master:
        port = master.port
        file.write_text('bind = ["192.0.2.1:9"]\n')
        await reload(master, "cannot listen on 192.0.2.1:9")
        assert await ask(port)
        file.write_text(f'bind = ["unix:{path}"]\n')
        await reload(master, "committed")
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(b"?")
            assert int(await stream.receive_some()) in master.workers
        assert is_free(port)
        assert await master.stop() == 0
        assert not path.exists()


TELLS_WHERE = """
import os

async def handler(stream):
    await stream.receive_some(1)
    await stream.send_all(f"{__file__} {os.getcwd()} {open('note').read()}".encode())
"""


@pytest.mark.parametrize("preload", ["auto", "off"])
@pytest.mark.parametrize("layout", ["capistrano", "kubernetes", "app-dir"])
async def test_a_reload_follows_a_link_that_was_switched(tmp_path: Path, layout: str, preload: str) -> None:
    """``current -> releases/1``, and a ConfigMap's ``..data``, in whose mount the files are links themselves."""
    releases = [tmp_path / "releases" / number for number in ("1", "2")]
    for release in releases:
        release.mkdir(parents=True)
        (release / "shop.py").write_text(TELLS_WHERE)
        (release / "note").write_text(release.name)
    link = tmp_path / ("..data" if layout == "kubernetes" else "current")
    link.symlink_to(releases[0])
    where = ("--app-dir", str(link)) if layout == "app-dir" else ("--app-dir", ".", "--chdir", str(link))
    if layout == "app-dir":
        (tmp_path / "note").write_text("-")
        where = (*where, "--chdir", str(tmp_path))
    async with running("shop:handler", *BRIEF, *where, "--preload", preload, workers=2) as master:
        assert str(releases[0] / "shop.py") in (await ask(master.port)).decode()
        new = tmp_path / "new"
        new.symlink_to(releases[1])
        new.rename(link)
        # A worker that is replaced before the reload has the code of its generation.
        victim = min(master.workers)
        os.kill(victim, signal.SIGKILL)
        await master.until(lambda: victim not in master.workers and len(master.workers) == 2, "it is replaced")
        answers = {(await ask(master.port)).decode() for _ in range(8)}
        assert all(str(releases[0] / "shop.py") in answer for answer in answers)
        await reload(master, "committed")
        await master.said(f"from {releases[1]}")
        answer = (await ask(master.port)).decode()
        assert str(releases[1] / "shop.py") in answer
        if layout != "app-dir":
            assert answer.endswith(f"{releases[1]} 2")
        shutil.rmtree(releases[0])
        await reload(master, "committed")


TELLS_RELEASE = """
import os

async def handler(stream):
    await stream.send_all(os.environ["RELEASE"].encode())
"""


@pytest.mark.parametrize("preload", ["auto", "off"])
async def test_a_reload_reads_all_its_files_through_a_link_that_was_switched(tmp_path: Path, preload: str) -> None:
    """The configuration, what it names, the variables, the certificate, and the log file."""
    (tmp_path / "shop.py").write_text(TELLS_RELEASE)
    link, new, ca = tmp_path / "current", tmp_path / "new", trustme.CA()
    releases = [tmp_path / "releases" / number for number in ("1", "2")]
    for release in releases:
        release.mkdir(parents=True)
        issued = ca.issue_cert(f"release-{release.name}.test")
        issued.private_key_and_cert_chain_pem.write_to_path(release / "pair.pem")
        (release / "env").write_text(f"RELEASE={release.name}\n")
        named = {"env-file": "current/env", "certfile": f"{link}/pair.pem", "log-file": "current/log"}
        lines = [f'{key} = "{value}"' for key, value in named.items()]
        (release / "rrmaster.toml").write_text("\n".join([f"workers = {release.name}", *lines]))
    link.symlink_to(releases[0])
    options = ("--chdir", str(tmp_path), "-c", "current/rrmaster.toml", "--preload", preload)
    async with running("shop:handler", *BRIEF, *options, workers=None, app_dir=tmp_path, ready=False) as master:
        log = releases[0] / "log"
        await said_in(log, "ready: (1) of 1 workers serve")
        port = int(await said_in(log, r"127\.0\.0\.1:(\d+)"))
        assert await shown(port, ca) == ("release-1.test", b"1")
        new.symlink_to(releases[1])
        new.rename(link)
        master.signal(signal.SIGHUP)
        log = releases[1] / "log"
        await said_in(log, "(serving) -> draining, reload")
        assert await shown(port, ca) == ("release-2.test", b"2")
        shutil.rmtree(releases[0])
        count = log.read_text().count("committed")
        master.signal(signal.SIGHUP)
        await said_in(log, rf"(?s)(?:committed.*){{{count}}}(committed)")
        assert await shown(port, ca) == ("release-2.test", b"2")
        assert await master.stop() == 0


async def said_in(log: Path, pattern: str) -> str:
    """What a line of a log file holds, as soon as it does."""
    with trio.fail_after(PATIENCE):
        while not log.exists() or (found := re.search(pattern, log.read_text())) is None:
            await trio.sleep(0.01)
    return str(found[1])


async def shown(port: int, ca: trustme.CA) -> tuple[str, bytes]:
    """The name in the certificate that is shown to a client, and the answer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    ca.configure_trust(context)
    with trio.fail_after(PATIENCE):
        async with trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", port), context) as secure:
            await secure.do_handshake()
            return secure.getpeercert()["subjectAltName"][0][1], await secure.receive_some()


async def test_a_new_number_of_workers_is_taken(tmp_path: Path):
    file = tmp_path / "rrmaster.toml"
    file.write_text("workers = 1\n")
    async with running("handlers:quick", *BRIEF, "--config", str(file), workers=None) as master:
        file.write_text("workers = 3\n")
        await reload(master, "committed")
        await master.until(lambda: sorted(master.workers.values()) == [0, 1, 2], "three serve")


async def test_a_stop_during_a_reload_leaves_no_socket_file(tmp_path: Path):
    file, path = tmp_path / "rrmaster.toml", tmp_path / "new.sock"
    file.write_text('bind = ["127.0.0.1:0"]\n')
    options = ["--probation", "60s", "--config", str(file)]
    async with running("handlers:quick", *options, bind=None, workers=1) as master:
        file.write_text(f'bind = ["unix:{path}"]\n')
        master.signal(signal.SIGHUP)
        await master.said("probation of 60 s")
        assert path.exists()
        assert await master.stop() == 0
        assert not path.exists()


async def test_the_environment_file_is_read_again_and_one_that_cannot_be_refuses_the_reload(tmp_path: Path):
    file = tmp_path / "env"
    file.write_text("SHOP_COLOUR=red\n")
    async with running("handlers:colour", *BRIEF, "--env-file", str(file), workers=1) as master:
        file.write_text("'a=b'=1\n")
        await reload(master, "reload refused")
        assert await ask(master.port) == b"red"
        file.write_text("SHOP_COLOUR=blue\n")
        await reload(master, "committed")
        await master.said("draining -> gone")
        assert await ask(master.port) == b"blue"
        assert "blue" not in master.text, "it may be a secret"
