"""Which changes of the code count, how a change is described, and when does watching end?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import watchfiles

from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings
from rrmaster.logs import log
from rrmaster.watcher import Code, Watch, in_words, watched

PATIENCE = 10.0


# --- files that count


def code(**settings: object) -> Code:
    watch = watched(Settings("app:f", reload=True, **settings))
    assert watch is not None
    return watch.code


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("shop.py", True),
        ("shop/cart/views.py", True),
        ("shop.txt", False),
        ("shop.pyc", False),
        ("shop", False),
        ("page.html", True),
        ("shop/templates/page.html", True),
        ("tests/test_shop.py", False),
        ("shop/tests/deep/down/page.html", False),
        ("model_gen.py", False),
        ("build/lib/shop.py", False),
        ("shop/build.py", True),
        (".venv/lib/python3.11/site-packages/trio/__init__.py", False),
        (".git/hooks/hook.py", False),
        ("node_modules/gyp/gyp.py", False),
        ("shop/__pycache__/shop.py", False),
        (".#shop.py", False),
        ("shop.py~", False),
    ],
)
def test_code_is_what_the_globs_say(name: str, counts: bool, tmp_path: Path):
    watched_code = code(
        reload_dir=[str(tmp_path)], reload_include=["*.html"], reload_exclude=["tests", "*_gen.py", "build/*"]
    )
    assert watched_code.holds(f"{tmp_path}/{name}") == counts


def test_what_lies_above_the_watched_directory_excludes_nothing(tmp_path: Path):
    home = tmp_path / "tests" / ".venv" / "project"
    home.mkdir(parents=True)
    assert code(reload_dir=[str(home)], reload_exclude=["tests"]).holds(f"{home}/shop.py")


def test_python_itself_may_be_excluded(tmp_path: Path):
    """As with uvicorn: --reload-exclude '*.py' leaves what --reload-include names."""
    pages = code(reload_dir=[str(tmp_path)], reload_include=["*.html"], reload_exclude=["*.py"])
    assert pages.holds(f"{tmp_path}/a.html")
    assert not pages.holds(f"{tmp_path}/a.py")


def test_the_directory_of_the_application_is_watched_unless_others_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    assert code().folders == (str(tmp_path),)
    assert code(app_dir="src").folders == (str(tmp_path / "src"),)
    assert code(app_dir="src", reload_dir=[".", str(tmp_path)]).folders == (str(tmp_path),)


def test_a_file_is_called_by_its_path_from_the_innermost_directory():
    both = Code(("/srv/shop", "/srv/shop/plugins", "/"))
    assert both.shown("/srv/shop/plugins/a.py") == "a.py"
    assert both.shown("/srv/shop/cart/a.py") == "cart/a.py"
    assert both.shown("/srv/shopping/a.py") == "srv/shopping/a.py"


def test_a_change_is_said_in_a_few_words():
    assert in_words(["shop.py"]) == "shop.py"
    assert in_words(["shop.py", "a/b.py", "cart.py"]) == "cart.py, shop.py and a/b.py"
    assert in_words([f"{n:03}.py" for n in range(100)]) == "000.py, 001.py, 002.py and 97 more"


def test_nothing_is_watched_unless_it_is_asked_for():
    assert watched(Settings("app:f")) is None


def test_a_missing_library_is_one_line_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(SettingsError, match=r"^--reload needs watchfiles: pip install 'rrmaster\[reload\]'$"):
        watched(Settings("app:f", reload=True))


# --- when


@pytest.fixture
def said() -> Iterator[list[log.Entry]]:
    entries: list[log.Entry] = []
    unsubscribe = log.subscribe(entries.append)
    yield entries
    unsubscribe()


@asynccontextmanager
async def watching(*folders: Path) -> AsyncIterator[trio.MemoryReceiveChannel[list[str]]]:
    """The changes that are reported for these folders.  Waits for the end of the watcher."""
    watch = Watch(Code(tuple(map(str, folders))))
    told, changes = trio.open_memory_channel[list[str]](100)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, told.send_nowait)
            await watch.begun.wait()
            yield changes
            nursery.cancel_scope.cancel()


async def test_many_saves_at_once_are_one_change(tmp_path: Path):
    async with watching(tmp_path) as changes:
        for n in range(20):
            (tmp_path / f"{n % 5}.py").write_text(str(n))
        seen, count = set[str](), 0
        while len(seen) < 5:
            seen.update(await changes.receive())
            count += 1
        assert count <= 2  # one, unless this process had to wait in between


async def test_a_new_directory_is_watched_as_well(tmp_path: Path):
    async with watching(tmp_path) as changes:
        (tmp_path / "empty").mkdir()
        (tmp_path / "shop" / "cart").mkdir(parents=True)
        (tmp_path / "shop" / "cart" / "a.py").touch()
        await told(changes, "shop", "shop/cart/a.py")  # the file may have come before its directory was watched
        (tmp_path / "shop" / "cart" / "b.txt").touch()
        (tmp_path / "shop" / "cart" / "b.py").touch()
        await told(changes, "shop/cart/b.py")
        (tmp_path / "shop").rename(tmp_path / "store")
        await told(changes, "store")


async def told(changes: trio.MemoryReceiveChannel[list[str]], *names: str) -> None:
    """Wait until one of these files is reported; earlier changes do not matter, except those that must never count."""
    while not (files := set(await changes.receive())) & set(names):
        assert files <= {"shop", "shop/cart/a.py", "shop/cart/b.py"}


async def test_a_directory_that_moves_in_is_a_change_if_there_is_code_in_it(tmp_path: Path):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere / "texts", elsewhere / "shop" / "cart"):
        folder.mkdir(parents=True)
    (elsewhere / "shop" / "cart" / "a.py").touch()
    (elsewhere / "texts" / "a.txt").touch()
    async with watching(project) as changes:
        (elsewhere / "texts").rename(project / "texts")
        (elsewhere / "shop").rename(project / "shop")
        assert await changes.receive() == ["shop"]


async def test_the_end_takes_no_time_and_leaves_no_descriptor(tmp_path: Path):
    async with watching(tmp_path):  # descriptors that trio and the library open once
        pass
    before = set(os.listdir("/proc/self/fd"))
    began = trio.current_time()
    async with watching(tmp_path):
        during = {fd for fd in os.listdir("/proc/self/fd") if _is_inotify(fd)}
    assert trio.current_time() - began < 2.0  # of watchfiles' own 5 s
    assert during
    with trio.fail_after(PATIENCE):  # the library's thread closes them
        while set(os.listdir("/proc/self/fd")) - before:
            await trio.lowlevel.checkpoint()
    assert not [thread for thread in threading.enumerate() if "watch" in thread.name]


def _is_inotify(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:inotify"
    except FileNotFoundError:  # listing them opens one
        return False


async def test_a_directory_that_goes_is_watched_again_when_it_is_back(tmp_path: Path, said: list[log.Entry]):
    folder = tmp_path / "src"
    folder.mkdir()
    async with watching(folder) as changes:
        shutil.rmtree(folder)
        while not any(entry.event == "watch.away" for entry in said):
            await trio.lowlevel.checkpoint()
        folder.mkdir()
        assert await changes.receive() == [str(folder)]
        (folder / "a.py").touch()
        assert await changes.receive() == ["a.py"]


async def test_what_cannot_be_watched_is_said_once_and_nothing_else_happens(
    tmp_path: Path, said: list[log.Entry], monkeypatch
):
    def refused(*_: object, **__: object) -> Iterator[set]:
        raise OSError('OS file watch limit reached. about ["/x"]')
        yield

    monkeypatch.setattr(watchfiles, "watch", refused)
    with trio.fail_after(PATIENCE):
        await Watch(Code((str(tmp_path),))).run(lambda files: pytest.fail("nothing changed"))
    failed = [entry.text for entry in said if entry.event == "watch.failed"]
    assert len(failed) == 1
    assert "fs.inotify.max_user_watches" in failed[0]


async def test_no_bytecode_outlives_its_source(tmp_path: Path):
    """The .pyc of a file saved twice within a second, at the same size, would be taken for that of the second."""
    source = tmp_path / "a.py"
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir()
    cached.touch()
    async with watching(tmp_path) as changes:
        source.write_text("1")
        await changes.receive()
        assert not cached.exists()
