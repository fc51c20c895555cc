"""Did the kernel kill a process because memory ran out?

Such a kill is a SIGKILL like any other, but the kernel counts it: for the control group of the victim, or at least for
the machine.  `KillsForMemory` looks at the count every second, and again when a worker has ended by SIGKILL.  If it has
risen shortly before, that is why.  (The kernel's log names the victim, but only root may read it, and in a container
its numbers are those of the machine.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import trio
from attrs import Factory, define, field

LOOK_S = 1.0
"""Seconds between two looks at the count; one takes 20 us."""

RECENT_S = 10.0
"""Seconds for which a kill explains an end.  A process with much memory takes a while from the signal to its end."""


def count_of_kills(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> Callable[[], int]:
    """A function that returns the kernel's present count: this control group's if there is one, else the machine's."""
    for file in _counters(root, proc):
        if _read(file) is not None:
            return lambda file=file: _read(file) or 0  # type: ignore[misc]  # the loop variable as a default
    return lambda: 0


def _counters(root: Path, proc: Path) -> Iterator[Path]:
    """Where the count may be; see the kernel's cgroup-v2 (memory.events) and cgroup-v1/memory (memory.oom_control)."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        places = [path.lstrip("/"), ""]  # a container may see the machine's path, but have its own group mounted
        if number == "0":
            yield from (root / place / "memory.events" for place in places)
        elif "memory" in controllers.split(","):
            yield from (root / "memory" / place / "memory.oom_control" for place in places)
    yield proc / "vmstat"


def _read(file: Path) -> int | None:
    try:
        fields = dict(line.split(None, 1) for line in file.read_text().splitlines() if " " in line)
        return int(fields["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


@define(eq=False)
class KillsForMemory:
    """The kernel's recent kills, each of which explains the end of one process."""

    count: Callable[[], int] = Factory(count_of_kills)
    _known: int = field(init=False)
    _recent: deque[float] = field(factory=deque, init=False)
    """When each was noticed, on trio's clock."""

    def __attrs_post_init__(self) -> None:
        self._known = self.count()

    async def run(self) -> None:
        """Look every second, until cancelled: a kill of long ago explains nothing."""
        while True:
            await trio.sleep(LOOK_S)
            self._look()

    def take(self) -> bool:
        """Whether a process that has just ended by SIGKILL was one of those; if so, it is that one."""
        self._look()
        if not self._recent:
            return False
        self._recent.popleft()
        return True

    def _look(self) -> None:
        now, count = trio.current_time(), self.count()
        self._recent.extend([now] * min(max(count - self._known, 0), 1000))
        self._known = count
        while self._recent and now - self._recent[0] > RECENT_S:
            self._recent.popleft()
