"""A descriptor that the kernel cannot watch is waited for all the same."""

from __future__ import annotations

import errno
import os
import select
import socket

import pytest
import trio

from rrmaster import waiting
from rrmaster.waiting import readable, unwatch, writable


class Unwatchable:
    """An epoll that cannot do what it is asked."""

    def __init__(self, code: int) -> None:
        self.code = code

    def unregister(self, fd: int) -> None:
        raise OSError(self.code, os.strerror(self.code))


def no_room(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    async def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(trio.lowlevel, "wait_readable", fail)
    monkeypatch.setattr(trio.lowlevel, "wait_writable", fail)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOMEM, errno.EEXIST, errno.EPERM])
async def test_a_wait_that_the_kernel_refuses_to_watch_ends_when_there_is_something(
    code: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    no_room(monkeypatch, code)
    ours, its = socket.socketpair()
    with ours, its:
        await writable(ours.fileno())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readable, ours.fileno())
            await trio.sleep(60)
            assert nursery.child_tasks, "nothing has come yet"
            its.send(b"x")


@pytest.mark.parametrize("code", [errno.EBADF, errno.EFAULT])
async def test_a_descriptor_that_is_none_is_told(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    no_room(monkeypatch, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        await readable(0)


def test_a_descriptor_that_cannot_be_forgotten_is_forgotten_when_it_is_closed() -> None:
    unwatch(Unwatchable(errno.ENOMEM), 3)  # type: ignore[arg-type]
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        unwatch(Unwatchable(errno.EBADF), 3)  # type: ignore[arg-type]
    with select.epoll() as epoll:
        ours, its = socket.socketpair()
        with its:
            epoll.register(ours.fileno(), select.EPOLLIN)
            its.send(b"x")
            ours.close()
            assert epoll.poll(0) == []


@pytest.mark.parametrize("code", [errno.EINTR, errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_close_that_fails_has_closed(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        waiting.close(1000)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        waiting.close(1_000_000)
