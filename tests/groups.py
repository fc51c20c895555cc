"""Control groups for tests: one in which a master may make groups of its own, or one in which it may not."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rrmaster.protocol.family import cgroup

ENTER = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
"""What a shell does that goes into a group, and becomes the command after it."""


@contextmanager
def outer_group(most: str = "max") -> Iterator[Path | None]:
    """A group with room for `most` groups in it, which ends with all that is in it; None where none can be made."""
    own = cgroup.own()
    group = own / f"test-{secrets.token_hex(6)}" if own is not None else None
    try:
        if group is not None:
            group.mkdir()
    except OSError:
        group = None
    if group is None or not (group / "cgroup.kill").exists():
        yield None
        return
    with suppress(OSError):  # not every kernel has it here, and only a machine with systemd needs it
        os.setxattr(group, "user.delegate", b"1")
    (group / "cgroup.max.descendants").write_text(most)
    try:
        yield group
    finally:
        (group / "cgroup.kill").write_text("1")
        assert cgroup.gone_within(group, 20.0)


@pytest.fixture
def group() -> Iterator[Path]:
    """A group in which masters may make groups."""
    with outer_group() as made:
        if made is None:
            pytest.skip("no control groups can be made here")
        yield made


@pytest.fixture
def no_groups() -> Iterator[tuple[str, ...]]:
    """A command that starts another where it can make no groups."""
    with outer_group("0") as made:
        yield entering(made) if made is not None else ()


def entering(group: Path) -> tuple[str, ...]:
    """A command that starts another in a group."""
    return ("/bin/sh", "-c", ENTER, str(group))


def within(group: Path) -> list[Path]:
    """The directories of masters in it."""
    return list(group.glob(f"{cgroup.PREFIX}*"))


def until_empty(group: Path) -> bool:
    """Wait until no process is in it or below it."""
    deadline = time.monotonic() + 20
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    return "populated 0" in (group / "cgroup.events").read_text()
