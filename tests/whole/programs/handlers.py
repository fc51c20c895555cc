"""Stream handlers that do one thing each.  Those that answer do so with their process id."""

import ctypes
import os
import signal
import sys
import time

import trio

from rrmaster import current_worker


def _me() -> bytes:
    return b"%d\n" % os.getpid()


async def ident(stream):
    """Send the process id at once, and hold the connection until the client closes it."""
    await stream.send_all(_me())
    await stream.receive_some()


async def quick(stream):
    await stream.receive_some()
    await stream.send_all(_me())


async def slow(stream):
    """Answer 200 ms after the question."""
    await stream.receive_some()
    await trio.sleep(0.2)
    await stream.send_all(_me())


async def brief(stream):
    """Answer 20 ms after the question."""
    await stream.receive_some()
    await trio.sleep(0.02)
    await stream.send_all(_me())


async def blocks(stream):
    """Block the whole worker for the milliseconds that the client sends."""
    data = await stream.receive_some()
    time.sleep(int(data) / 1000)
    await stream.send_all(_me())


async def blocks_for_good(stream):
    """Send the process id, and block the whole worker until it is killed."""
    await stream.send_all(_me())
    time.sleep(3600)


async def ill(stream):
    """Obey the client's first byte."""
    deed = (await stream.receive_some())[:1]
    if deed == b"s":
        ctypes.string_at(0)
    if deed == b"x":
        os._exit(7)
    if deed == b"r":
        raise ValueError("the handler's own trouble")
    if deed == b"R":
        current_worker().retire("it says so")
    if deed == b"p":
        current_worker().set_ready(False)
    if deed == b"z":
        os.kill(os.getpid(), signal.SIGSTOP)
    await stream.send_all(_me())


async def facts(stream):
    me = current_worker()
    names = ("RRMASTER_WORKER_SLOT", "RRMASTER_WORKER_ID", "RRMASTER_WORKER_COUNT", "RRMASTER_GENERATION")
    seen = [os.environ.get(name) for name in names]
    others = [name for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "RRMASTER_LINE") if name in os.environ]
    await stream.send_all(repr((me.slot, me.id, me.generation, seen, others, os.getpgid(0) == os.getpid())).encode())


async def surroundings(stream):
    """Send the umask and the working directory."""
    await stream.receive_some()
    os.umask(mask := os.umask(0))
    await stream.send_all(repr((mask, os.getcwd())).encode())


async def ignores_term(stream):
    """Ignore cancellation and SIGTERM."""
    await stream.send_all(_me())
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def leaks(stream):
    """Keep a descriptor for each connection."""
    _kept.append(os.open(os.devnull, os.O_RDONLY))
    await stream.receive_some()
    await stream.send_all(_me())


_kept: list[int] = []


async def prints(stream):
    """Print what the client sends, on both outputs."""
    data = (await stream.receive_some()).decode()
    print("out", data)
    print("err", data, file=sys.stderr)
    await stream.send_all(_me())


async def floods(stream):
    """Print 50 MB, and answer after it."""
    await stream.receive_some()
    line = b"x" * 79 + b"\n"
    for _ in range(5):
        view = memoryview(line * 131_072)
        while view:
            view = view[os.write(1, view) :]
    await stream.send_all(_me())


async def colour(stream):
    await stream.receive_some()
    await stream.send_all(os.environ.get("SHOP_COLOUR", "none").encode())
