"""Has each worker a control group of its own, so that nothing that it starts can outlive it?

Where the master may make groups (`may_have_groups`), all that is in a worker's group is killed when the worker has
ended, whatever sessions, parents and environments it has.  Elsewhere, and for what was started before, `orphans` tells
by other signs.  `protocol.family.cgroup` has the picture.

The directory is made before the master gives up root, and then given to its new user.  To move a process takes the
right to write to the group that contains both the old and the new one, and that is the outer group, which stays root's.
The kernel asks who opened the file and not who writes, so one descriptor of the directory's ``cgroup.procs`` is opened
by root and kept: a process goes into the directory through it, and from there into its group.

The master holds a lock on the directory.  When it was killed, the next start in the same outer group takes the lock,
and ends and removes what no worker is left to end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from logging import DEBUG, WARNING
from pathlib import Path

import trio
from attrs import define

from ..logs.log import tell
from ..protocol.family import cgroup
from ..protocol.family.lineage import Seen
from ..waiting import close

IMPORTS = "imports"
"""The group of the templates.  What an import has started serves the workers, so no end of a template ends it."""

_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
"""Seconds between attempts to remove the group of what was killed; a process takes a moment to end."""

_END_S = 0.5
"""Seconds for the same at the end of the master, and at the start of the next."""


@define(eq=False)
class Cgroups:
    """The directory of one master, and the groups in it.  Owns its descriptors."""

    place: Path
    _lock: int
    """The directory, locked for as long as this process lives."""
    _entry: int
    """Its ``cgroup.procs``, opened by the user that made it."""
    _told: bool = False
    _kills: bool = True

    @classmethod
    def make(cls) -> Cgroups | None:
        """The groups of a master that starts now, swept after those that were killed; None where it may have none."""
        outer = cgroup.own()
        if outer is None or not may_have_groups(outer):
            return None
        try:
            _sweep(outer)
            made = cls._made(outer / f"{cgroup.PREFIX}{secrets.token_hex(6)}")
        except OSError as error:
            tell("cgroups.none", f"no control groups for workers in {outer}: {error.strerror}", level=DEBUG)
            return None
        tell("cgroups.made", f"workers have control groups in {made.place}", level=DEBUG)
        return made

    @classmethod
    def _made(cls, place: Path) -> Cgroups:
        with contextlib.ExitStack() as undo:
            place.mkdir()
            undo.callback(os.rmdir, place)
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if another start has just taken it for a leftover
            (place / IMPORTS).mkdir()
            undo.callback(os.rmdir, place / IMPORTS)
            entry = os.open(place / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            undo.pop_all()
            return cls(place, lock, entry)

    def give_ownership(self, uid: int, gid: int) -> None:
        """Let this user make groups, and move processes between them.  Called by root."""
        for path in (self.place, self.place / "cgroup.procs", self.place / "cgroup.kill", self.place / IMPORTS):
            with contextlib.suppress(OSError):  # Linux before 5.14 has no cgroup.kill; and in a user namespace
                os.chown(path, uid, gid)
        with contextlib.suppress(OSError):
            os.chown(self.place / IMPORTS / "cgroup.procs", uid, gid)

    async def admit_worker(self, pid: int) -> None:
        """Put a new worker into a group of its own.  It must not have started anything yet."""
        await self._admit(pid, self.place / str(pid))

    async def admit_template(self, pid: int) -> None:
        """Put a new template where all are."""
        await self._admit(pid, self.place / IMPORTS)

    async def _admit(self, pid: int, group: Path) -> None:
        # In a thread, and uncancelled: mostly 0.1 ms, but the kernel may wait some 15 ms for all its processors.
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._move, pid, group)
        except ProcessLookupError:
            pass  # it has ended at once
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            if not self._told:
                self._told = True
                tell("cgroups.not_moved", f"a worker could not get a control group of its own: {error}", level=WARNING)

    def _move(self, pid: int, group: Path) -> None:
        group.mkdir(exist_ok=True)
        os.pwrite(self._entry, b"%d" % pid, 0)
        (group / "cgroup.procs").write_text(str(pid))

    async def end_of(self, pid: int, kill: bool) -> list[Seen]:
        """The worker has ended, and was reaped: kill what is in its group; returns that.  Removes the group."""
        self._kills = kill
        group = self.place / str(pid)
        ended = cgroup.end(group) if kill and cgroup.members(group) else []
        for pause in _PAUSES:
            if cgroup.remove(group) or not kill:
                break
            await trio.sleep(pause)
        return ended

    def close(self) -> None:
        """All workers have ended: end what is left, and remove the directory, if this user may."""
        if self._kills:
            for entry in os.scandir(self.place):
                if entry.is_dir():
                    cgroup.end(Path(entry.path))
        cgroup.gone_within(self.place, _END_S if self._kills and os.access(self.place.parent, os.W_OK) else 0.0)
        close(self._entry)
        close(self._lock)


def may_have_groups(outer: Path) -> bool:
    """Whether groups may be made in this one, apart from rights: under systemd only in one that it has delegated.

    systemd marks those of units with ``Delegate=yes``, and is the only one to write to the others.
    """
    return not os.path.isdir("/run/systemd/system") or is_delegated(outer)


def is_delegated(group: Path) -> bool:
    """Whether systemd (251 or newer) has left this group to what runs in it."""
    try:
        return os.getxattr(group, "user.delegate") == b"1"
    except OSError:
        return False


def _sweep(outer: Path) -> None:
    """End and remove what masters that were killed have left."""
    for place in outer.glob(f"{cgroup.PREFIX}*"):
        with contextlib.suppress(OSError):  # its master lives, or another start sweeps at this moment
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                cgroup.gone_within(place, _END_S if cgroup.sweep(place) else 0.0)
            finally:
                close(lock)
