"""What an import leaves open, locked or made is each worker's own: the answers are those of `--preload off`."""

from __future__ import annotations

import os
import signal
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.whole.harness import PATIENCE, PROGRAMS, ROOT, Running, connect, gone, rrmaster, running

FORKED = "has imported shares:answers"


def environment(deed: str, folder: Path) -> dict[str, str]:
    """The import's deed, its files, and where its temporary files go."""
    (folder / "temporary").mkdir()
    return {"DEED": deed, "FOLDER": str(folder), "TMPDIR": str(folder / "temporary")}


def left_in(folder: Path) -> list[str]:
    return os.listdir(folder / "temporary")


@asynccontextmanager
async def sharing(deed: str, folder: Path, *options: str) -> AsyncIterator[Running]:
    async with running("shares:answers", *options, workers=2, environ=environment(deed, folder)) as master:
        yield master


async def answers(stream: trio.SocketStream, count: int = 1) -> list[str]:
    """The worker's answers to as many questions, one after the other, without its process id."""
    found = []
    with trio.fail_after(PATIENCE):
        for _ in range(count):
            await stream.send_all(b"?")
            found.append((await stream.receive_some()).decode().split(" ", 1)[1])
    return found


async def one_for_each(master: Running) -> list[trio.SocketStream]:
    """New connections that are held, one to each worker."""
    let_go(master)
    master.clients += [await connect(master.port) for _ in master.workers]
    return master.clients


def let_go(master: Running) -> None:
    """Close the connections: a worker that ends waits for them."""
    for client in master.clients:
        client.socket.close()
    master.clients.clear()


async def stopped(master: Running) -> int:
    let_go(master)
    return await master.stop()


# --- files that are read


@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        ("file", ["3456", "789a", "bcde"]),
        ("twice", ["0123", "4567", "89ab"]),
        ("gone", ["abcd", "efgh", ""]),
    ],
)
async def test_each_worker_reads_a_file_of_the_import_from_where_the_import_stopped(
    deed: str, expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "words").write_text("0123456789abcdefghij")
    async with sharing(deed, tmp_path) as master:
        assert FORKED in master.text
        (tmp_path / "words").unlink()
        assert [await answers(client, 3) for client in await one_for_each(master)] == [expected, expected]
        killed = next(iter(master.workers))
        os.kill(killed, signal.SIGKILL)
        await master.until(lambda: killed not in master.workers and len(master.workers) == 2, "it is replaced")
        assert expected[:1] in [await answers(client) for client in await one_for_each(master)]
        assert await stopped(master) == 0


def with_numbers(folder: Path) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.savez(folder / "numbers.npz", **{name: numpy.arange(90_000) for name in "abcd"})


def with_image(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.frombytes("L", (500, 500), os.urandom(250_000)).save(folder / "noise.png")


def with_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "words.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "abcd":
            archive.writestr(name, os.urandom(300_000))


@pytest.mark.parametrize(("deed", "make"), [("arrays", with_numbers), ("image", with_image), ("archive", with_archive)])
async def test_libraries_that_read_as_they_go_answer_right_from_both_workers_at_once(
    deed: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path)
    async with sharing(deed, tmp_path) as master:
        assert FORKED in master.text
        found: list[str] = []

        async def client() -> None:
            async with await connect(master.port) as stream:
                found.extend(await answers(stream, 3))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(client)
        assert len(found) == 24
        assert len(set(found)) == 1, found
        assert "rror" not in found[0]
        assert await master.stop() == 0


# --- locks, and memory between processes


async def test_one_worker_alone_holds_the_lock_that_the_import_takes(tmp_path: Path) -> None:
    (tmp_path / "leader").touch()
    async with sharing("leader", tmp_path) as master:
        await master.said(r"one by one: while it was imported, it locked \S+/leader \(descriptor \d+\); to fork them")
        found = [await answers(client) for client in await one_for_each(master)]
        assert sorted(found) == [[f"follower {tmp_path}/leader"], [f"leader {tmp_path}/leader"]]


async def test_workers_whose_import_did_not_get_the_lock_are_not_forked_either(tmp_path: Path) -> None:
    """The leader may be an old worker, in a reload: what is forked would never be the leader."""
    import fcntl

    with open(tmp_path / "leader", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with sharing("leader", tmp_path) as master:
            await master.said(r"one by one: while it was imported, it locked \S+/leader \(descriptor \d+\)")


@pytest.mark.parametrize(
    ("deed", "words", "expected"),
    [
        ("lock", r"made a lock or semaphore between processes \(like multiprocessing.Lock\); to fork", "True"),
        ("memory", r"made memory that forked processes share \(like mmap.mmap\(-1, ...\)\); to fork", "1"),
    ],
)
async def test_what_processes_share_through_memory_is_each_workers_own(
    deed: str, words: str, expected: str, tmp_path: Path
) -> None:
    async with sharing(deed, tmp_path) as master:
        await master.said(f"one by one: while it was imported, it {words}")
        for client in await one_for_each(master):
            assert await answers(client) == [expected]


# --- what the import makes and removes


@pytest.mark.parametrize("deed", ["directory", "removed"])
async def test_a_worker_that_ends_removes_its_own_temporary_directory_alone(deed: str, tmp_path: Path) -> None:
    async with sharing(deed, tmp_path) as master:
        await master.said(r"it made \S+/temporary/tmp\w+, a temporary name that each worker has for itself; to fork")
        assert len(left_in(tmp_path)) == 2, "that of the template is gone"
        ending = next(iter(master.workers))
        os.kill(ending, signal.SIGTERM)
        await gone(ending)
        await master.until(lambda: ending not in master.workers and len(master.workers) == 2, "it is replaced")
        found = [(await answers(client))[0].split() for client in await one_for_each(master)]
        assert sorted(os.path.basename(path) for path, _ in found) == sorted(left_in(tmp_path))
        assert [exists for _, exists in found] == ["True", "True"]
        assert await stopped(master) == 0
    assert left_in(tmp_path) == []


async def test_an_import_that_fails_removes_what_it_has_made(tmp_path: Path) -> None:
    environ = environment("fails", tmp_path)
    async with running("shares:answers", ready=False, workers=2, environ=environ) as master:
        assert await master.ended() == 3
        assert "the import fails" in master.text
    assert left_in(tmp_path) == []


async def test_check_removes_what_its_imports_have_made(tmp_path: Path) -> None:
    done = await trio.to_thread.run_sync(
        lambda: rrmaster(
            "check", "--app-dir", str(PROGRAMS), "shares:answers", environ=environment("directory", tmp_path)
        )
    )
    assert done.returncode == 0, done.stderr
    assert "one by one: while it was imported, it made" in done.stdout
    assert left_in(tmp_path) == []


async def test_each_forked_worker_runs_the_exit_handlers_of_the_import_and_no_template_does(tmp_path: Path) -> None:
    """What a client of errors or metrics has not sent yet, it sends then."""
    control = tmp_path / "control"
    async with sharing("flushes", tmp_path, "--control", str(control)) as master:
        assert FORKED in master.text
        await master.settled(control)
        workers = {str(pid) for pid in master.workers}
        assert await master.stop() == 0
    assert sorted((tmp_path / "flushed").read_text().split()) == sorted(workers)


def test_the_page_of_forked_workers_has_the_function_that_is_tested() -> None:
    program = (PROGRAMS / "with_prometheus.py").read_text()
    function = program[program.index("def forget_the_dead") : program.index("def app")]
    assert function in (ROOT / "docs/howto/preload.md").read_text()


async def test_a_gauge_of_prometheus_counts_the_workers_that_run_and_no_template(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    async with running("with_prometheus:app", workers=2, environ=environ) as master:
        assert "has imported with_prometheus:app" in master.text
        assert b"\nworkers_up 2.0\n" in await fetched(master)
        killed = next(iter(master.workers))
        os.kill(killed, signal.SIGKILL)
        await master.until(lambda: killed not in master.workers and len(master.workers) == 2, "it is replaced")
        assert b"\nworkers_up 2.0\n" in await fetched(master)
        assert await master.stop() == 0


async def test_an_import_is_counted_once_by_prometheus_and_a_trial_makes_no_request(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    async with running("with_prometheus:app", workers=2, environ=environ) as master:
        for asked in (1, 2):
            answer = await fetched(master)
            assert b"\nimports_total 1.0\n" in answer
            assert f"\nrequests_total {asked}.0\n".encode() in answer
        assert await master.stop() == 0
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


async def fetched(master: Running) -> bytes:
    """The answer to one request."""
    found = b""
    with trio.fail_after(PATIENCE):
        async with await connect(master.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
            async for data in stream:
                found += data
    return found
