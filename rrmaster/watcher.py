"""Has the code changed: which files count, and when what was saved has come to rest.

For development (--reload).  watchfiles does the watching, in Rust over inotify; here stands which files are code, how a
change is put into words, and how its thread ends with us.

Not `watchfiles.awatch`: on trio its cancellation waits for the watching thread, which only the cancellation itself
would end, and Ctrl-C takes up to 5 s (measured: 4.6 s; watchfiles 1.3, trio 0.35).  `watchfiles.watch` in a thread of
ours asks a flag every `STEP_MS`; and it polls where inotify is blind (WSL, or WATCHFILES_FORCE_POLLING is set).

This module does not know what a change leads to.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from logging import ERROR, WARNING
from pathlib import PurePath
from typing import Any

import trio
from attrs import Factory, define, frozen

from .config.option import SettingsError
from .config.settings import Settings
from .logs.log import tell
from .protocol.launch import is_program

STEP_MS = 50
"""Milliseconds without another save that end a change: whatever an editor or `git checkout` writes in one go is one.
Also how long the end takes at most.  watchfiles' default."""

DEBOUNCE_MS = 1600
"""Milliseconds after which a change is told even if saves keep coming.  watchfiles' default."""

AWAY_S = 0.2
"""Seconds between looks for a directory that has gone: the checkout of another branch brings it back."""

CODE = "*.py"
"""What is code without being named."""

NAMED = 3
"""Files of one change that are named: a checkout changes hundreds."""


# --- which files


@frozen
class Code:
    """Which files are the application's code."""

    folders: tuple[str, ...]
    """Absolute paths."""
    include: tuple[str, ...] = (CODE,)
    exclude: tuple[str, ...] = ()
    """Globs, which fit the end of a path as `PurePath.match` has it; these fit a directory above the file, too."""
    ignored: Callable[[str], bool] = lambda path: False
    """Whether a path below a folder is never code: caches, version control, what editors write for themselves."""

    def holds(self, path: str) -> bool:
        """Whether a change of this file matters."""
        file, shown = PurePath(path), self.shown(path)
        if not any(file.match(glob) for glob in self.include) or self.ignored(shown):
            return False
        places = [file, *file.parents][: len(PurePath(shown).parts)]
        return not any(place.match(glob) for place in places for glob in self.exclude)

    def holds_below(self, path: str) -> bool:
        """Whether this is a directory with code in it.  What is written into a new one before the kernel is asked to
        watch that, too, nobody hears of; nor of what moves in with it."""
        for folder, below, files in os.walk(path):
            if any(self.holds(os.path.join(folder, file)) for file in files):
                return True
            below[:] = [name for name in below if not self.ignored(self.shown(os.path.join(folder, name)))]
        return False

    def shown(self, path: str) -> str:
        """The path as a person would write it: from the innermost watched folder on."""
        below = [os.path.relpath(path, folder) for folder in self.folders if _is_below(path, folder)]
        return min(below, key=len, default=path)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def in_words(files: Collection[str]) -> str:
    """``shop.py``, or ``cart.py and shop.py``, or ``a.py, b.py, c.py and 97 more``."""
    names = sorted(files, key=lambda name: (name.count("/"), name))
    if len(names) > NAMED:
        names[NAMED:] = [f"{len(names) - NAMED} more"]
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _home(application: str) -> str:
    """Where its code is looked for: a program's lies beside it, and all else in the working directory."""
    return os.path.dirname(application) or "." if is_program(application) else "."


def watched(settings: Settings) -> Watch | None:
    """What watches the code, if the settings want that.  Raises SettingsError."""
    if not settings.reload:
        return None
    try:
        from watchfiles import Change, DefaultFilter
    except ImportError:
        raise SettingsError("--reload needs watchfiles: pip install 'rrmaster[reload]'") from None
    folders = settings.reload_dir or (settings.app_dir or _home(settings.application),)
    for folder in folders:
        if not os.path.isdir(folder):
            raise SettingsError(f"--reload-dir: {folder!r} is no directory")
    # Asked for what lies below a watched folder alone: a project may itself live in somebody's .git or .tox.
    usual = DefaultFilter()
    code = Code(
        tuple(dict.fromkeys(map(os.path.abspath, folders))),
        (CODE, *settings.reload_include),
        settings.reload_exclude,
        lambda path: not usual(Change.modified, path),
    )
    return Watch(code)


# --- when


@define(eq=False)
class Watch:
    """Watches the code, from `run` to its cancellation.

    Error handling: what the kernel or watchfiles refuses is said once, and ends the watching; who serves, serves on.
    """

    code: Code
    begun: trio.Event = Factory(trio.Event)
    """Set once no save is missed any more, or it is known that all will be."""
    _limiter: trio.CapacityLimiter = Factory(lambda: trio.CapacityLimiter(1))
    """Of its own: the thread is never given back, and those of trio start processes."""

    async def run(self, changed: Callable[[list[str]], None]) -> None:
        """Call `changed` with the files of each change.  A folder that goes is watched again when it is back."""
        tell("watch.started", f"watching {' and '.join(self.code.folders)} for changes", folders=self.code.folders)
        gone: list[str] = []
        while gone := await self._watch(changed, gone):
            text = f"{' and '.join(gone)} has gone; nothing is watched until it is back"
            tell("watch.away", text, level=WARNING, folders=gone)
            while not all(map(os.path.isdir, gone)):
                await trio.sleep(AWAY_S)
            self.begun = trio.Event()
        self.begun.set()

    async def _watch(self, changed: Callable[[list[str]], None], back: list[str]) -> list[str]:
        """Until it fails, or some of the folders have gone: those.  What is `back` has changed, too."""
        flag, gone = _Flag(trio.lowlevel.current_trio_token(), self.begun), list[str]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flag.raise_when_cancelled)
            if back:
                nursery.start_soon(self._tell_back, back, changed)
            with contextlib.closing(self._changes(flag)) as changes:
                while not gone and (files := await self._next(changes)):
                    gone = [folder for folder in self.code.folders if folder in files]
                    if not gone:
                        _forget_bytecode(files)
                        changed([self.code.shown(file) for file in files])
            nursery.cancel_scope.cancel()
        return gone

    async def _tell_back(self, folders: list[str], changed: Callable[[list[str]], None]) -> None:
        await self.begun.wait()
        changed(folders)

    async def _next(self, changes: Iterator[list[str]]) -> list[str] | None:
        """The files of the next change; None at the end, whatever the reason."""
        try:
            return await trio.to_thread.run_sync(next, changes, None, limiter=self._limiter)
        except (OSError, RuntimeError) as error:  # of the kernel, and watchfiles' own
            tell("watch.failed", f"--reload does not watch the code any more: {_why(error)}", level=ERROR)
            return None

    def _changes(self, flag: _Flag) -> Generator[list[str], None, None]:
        """The files of each change, waited for in the thread that asks for them."""
        from watchfiles import watch

        changes = watch(
            *self.code.folders,
            watch_filter=self._matters,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            rust_timeout=0,
            stop_event=flag,  # and nothing is ignored: watchfiles 1.3 would stop half way, without a word
        )
        for change in changes:
            yield sorted({path for _, path in change})

    def _matters(self, change: Any, path: str) -> bool:
        if path in self.code.folders:
            return bool(change.name == "deleted")
        return self.code.holds(path) or (change.name == "added" and self.code.holds_below(path))


@define(eq=False)
class _Flag:
    """What the thread asks every `STEP_MS`: is it to end?  The first time it asks, it watches."""

    token: trio.lowlevel.TrioToken
    begun: trio.Event
    raised: bool = False
    _asked: bool = False

    def is_set(self) -> bool:
        if not self._asked:
            self._asked = True
            self.token.run_sync_soon(self.begun.set)
        return self.raised

    async def raise_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.raised = True


def _forget_bytecode(files: Iterable[str]) -> None:
    """A .pyc knows its source by size and whole seconds: of two saves within one second it may hold the first."""
    for file in files:
        if file.endswith(".py"):
            with contextlib.suppress(OSError, NotImplementedError):  # none there, not ours, or no caches at all
                os.unlink(importlib.util.cache_from_source(file))


def _why(error: Exception) -> str:
    if "limit reached" in str(error) or "os error 24" in str(error):  # of watches, and of instances
        return (
            "inotify's limits are reached; raise fs.inotify.max_user_watches and max_user_instances (sysctl), "
            "watch less (--reload-dir), or set WATCHFILES_FORCE_POLLING=1"
        )
    if isinstance(error, PermissionError):
        return f"{error}; name the directories to watch (--reload-dir)"
    return str(error)
