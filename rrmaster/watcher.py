"""Has the code changed (--reload): which files count as code, and when is a change complete?

watchfiles watches the directories, in Rust over inotify.  This module says which files are code, describes a change in
words, and ends the watching thread together with the master.

It does not use `watchfiles.awatch`: on trio, cancelling that waits for the watching thread, which only the cancellation
itself would end, and Ctrl-C takes up to 5 s (measured: 4.6 s; watchfiles 1.3, trio 0.35).  `watchfiles.watch`, in a
thread of our own, reads a flag every `STEP_MS`; and it polls where inotify sees nothing (WSL, or
WATCHFILES_FORCE_POLLING is set).

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
"""Milliseconds without a save that complete a change: what an editor or `git checkout` writes at once is one change.
Also the longest time that ending the thread takes.  watchfiles' default."""

DEBOUNCE_MS = 1600
"""Milliseconds after which a change is reported even if saves keep coming.  watchfiles' default."""

MISSING_S = 0.2
"""Seconds between looks for a directory that is missing: the checkout of another branch brings it back."""

CODE = "*.py"
"""The files that are code by default."""

MAX_NAMED = 3
"""Files of one change that are named in the log: a checkout changes hundreds."""


# --- which files


@frozen
class CodeFiles:
    """The set of files that are the application's code."""

    folders: tuple[str, ...]
    """Absolute paths."""
    include: tuple[str, ...] = (CODE,)
    exclude: tuple[str, ...] = ()
    """Globs, matched against the end of a path (`PurePath.match`); these also against each directory above the file."""
    ignored: Callable[[str], bool] = lambda path: False
    """Whether a path below a folder is never code: caches, version control, temporary files of editors."""

    def holds(self, path: str) -> bool:
        """Whether this file is code."""
        file, shown = PurePath(path), self.shown(path)
        if not any(file.match(glob) for glob in self.include) or self.ignored(shown):
            return False
        places = [file, *file.parents][: len(PurePath(shown).parts)]
        return not any(place.match(glob) for place in places for glob in self.exclude)

    def holds_below(self, path: str) -> bool:
        """Whether this is a directory with code in it.

        Asked for a new directory: files written into it before the kernel watches it, or moved in with it, cause no
        event of their own.
        """
        for folder, below, files in os.walk(path):
            if any(self.holds(os.path.join(folder, file)) for file in files):
                return True
            below[:] = [name for name in below if not self.ignored(self.shown(os.path.join(folder, name)))]
        return False

    def shown(self, path: str) -> str:
        """The path relative to the innermost watched folder, as a person would write it."""
        below = [os.path.relpath(path, folder) for folder in self.folders if _is_below(path, folder)]
        return min(below, key=len, default=path)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def in_words(files: Collection[str]) -> str:
    """``shop.py``, or ``cart.py and shop.py``, or ``a.py, b.py, c.py and 97 more``."""
    names = sorted(files, key=lambda name: (name.count("/"), name))
    if len(names) > MAX_NAMED:
        names[MAX_NAMED:] = [f"{len(names) - MAX_NAMED} more"]
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _directory_of(application: str) -> str:
    """The directory of the code: that of a program's file; for an application, the working directory."""
    return os.path.dirname(application) or "." if is_program(application) else "."


def watcher_for(settings: Settings) -> CodeWatcher | None:
    """The watcher that the settings ask for; None without --reload.  Raises SettingsError."""
    if not settings.reload:
        return None
    try:
        from watchfiles import Change, DefaultFilter
    except ImportError:
        raise SettingsError("--reload needs watchfiles: pip install 'rrmaster[reload]'") from None
    folders = settings.reload_dir or (settings.app_dir or _directory_of(settings.application),)
    for folder in folders:
        if not os.path.isdir(folder):
            raise SettingsError(f"--reload-dir: {folder!r} is no directory")
    # Applied to paths below a watched folder only: the project itself may be in a directory called .git or .tox.
    default = DefaultFilter()
    code = CodeFiles(
        tuple(dict.fromkeys(map(os.path.abspath, folders))),
        (CODE, *settings.reload_include),
        settings.reload_exclude,
        lambda path: not default(Change.modified, path),
    )
    return CodeWatcher(code)


# --- when


@define(eq=False)
class CodeWatcher:
    """Watches the code, from `run` to its cancellation.

    Error handling: an error of the kernel or of watchfiles is logged once and ends the watching.  The workers go on.
    """

    code: CodeFiles
    begun: trio.Event = Factory(trio.Event)
    """Set once every later save is noticed, or once it is known that none will be."""
    _limiter: trio.CapacityLimiter = Factory(lambda: trio.CapacityLimiter(1))
    """Not trio's default limiter: this thread is occupied all the time, and the default ones start processes."""

    async def run(self, changed: Callable[[list[str]], None]) -> None:
        """Call `changed` with the files of each change.  A folder that is removed is watched again when it is back."""
        tell("watch.started", f"watching {' and '.join(self.code.folders)} for changes", folders=self.code.folders)
        gone: list[str] = []
        while gone := await self._watch(changed, gone):
            text = f"{' and '.join(gone)} has gone; nothing is watched until it is back"
            tell("watch.away", text, level=WARNING, folders=gone)
            while not all(map(os.path.isdir, gone)):
                await trio.sleep(MISSING_S)
            self.begun = trio.Event()
        self.begun.set()

    async def _watch(self, changed: Callable[[list[str]], None], back: list[str]) -> list[str]:
        """Watch until it fails, or until folders are removed, and return those.  Folders `back` count as changed."""
        flag, gone = _StopFlag(trio.lowlevel.current_trio_token(), self.begun), list[str]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flag.raise_when_cancelled)
            if back:
                nursery.start_soon(self._report_back, back, changed)
            with contextlib.closing(self._changes(flag)) as changes:
                while not gone and (files := await self._next(changes)):
                    gone = [folder for folder in self.code.folders if folder in files]
                    if not gone:
                        _forget_bytecode(files)
                        changed([self.code.shown(file) for file in files])
            nursery.cancel_scope.cancel()
        return gone

    async def _report_back(self, folders: list[str], changed: Callable[[list[str]], None]) -> None:
        await self.begun.wait()
        changed(folders)

    async def _next(self, changes: Iterator[list[str]]) -> list[str] | None:
        """The files of the next change; None at the end, or after an error."""
        try:
            return await trio.to_thread.run_sync(next, changes, None, limiter=self._limiter)
        except (OSError, RuntimeError) as error:  # OSError from the kernel, RuntimeError from watchfiles
            tell("watch.failed", f"--reload no longer watches the code: {_why(error)}", level=ERROR)
            return None

    def _changes(self, flag: _StopFlag) -> Generator[list[str], None, None]:
        """The files of each change.  Its `next` blocks, so it is called in a thread."""
        from watchfiles import watch

        changes = watch(
            *self.code.folders,
            watch_filter=self._matters,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            rust_timeout=0,
            stop_event=flag,
            # ignore_permission_denied stays off: watchfiles 1.3 would stop half way, without an error.
        )
        for change in changes:
            yield sorted({path for _, path in change})

    def _matters(self, change: Any, path: str) -> bool:
        if path in self.code.folders:
            return bool(change.name == "deleted")
        return self.code.holds(path) or (change.name == "added" and self.code.holds_below(path))


@define(eq=False)
class _StopFlag:
    """The flag that the watching thread reads every `STEP_MS`, to see whether it must end.

    The thread reads it for the first time when it has begun to watch, so that sets `begun`.
    """

    token: trio.lowlevel.TrioToken
    begun: trio.Event
    raised: bool = False
    _read: bool = False

    def is_set(self) -> bool:
        if not self._read:
            self._read = True
            self.token.run_sync_soon(self.begun.set)
        return self.raised

    async def raise_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.raised = True


def _forget_bytecode(files: Iterable[str]) -> None:
    """Remove the .pyc files of these sources.

    A .pyc identifies its source by size and time in whole seconds, so after two saves within one second it may hold the
    first one.
    """
    for file in files:
        if file.endswith(".py"):
            # There is none, it cannot be removed by this user, or this Python has no caches at all.
            with contextlib.suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(file))


def _why(error: Exception) -> str:
    if "limit reached" in str(error) or "os error 24" in str(error):  # the limits of watches and of instances
        return (
            "inotify's limits are reached; raise fs.inotify.max_user_watches and max_user_instances (sysctl), "
            "watch less (--reload-dir), or set WATCHFILES_FORCE_POLLING=1"
        )
    if isinstance(error, PermissionError):
        return f"{error}; name the directories to watch (--reload-dir)"
    return str(error)
