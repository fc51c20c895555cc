"""Programs that have a master in them, and fork children beside it."""

import os
import signal
import sys
import threading
import time
from multiprocessing import get_context

import trio

import rrmaster

context = get_context("fork")


async def handler(stream):
    await stream.send_all(b"served")


def square(number: int) -> int:
    return number * number


def sleeping_child() -> int:
    child = context.Process(target=time.sleep, args=(60,), daemon=False)
    child.start()
    assert child.pid is not None
    return child.pid


async def block() -> None:
    """A master for the time of a block.  What follows the child's number is said when the block has ended."""
    async with rrmaster.open_master(rrmaster.Settings("master_that_forks:handler", bind="127.0.0.1:0")) as master:
        await master.scale(2)
        child = await trio.to_thread.run_sync(sleeping_child)
        workers = [worker.pid for worker in master.workers.values()]
        print(master.addresses[0].rpartition(":")[2], child, *workers, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
    print("ended", flush=True)
    sys.stdin.readline()
    os._exit(0)  # multiprocessing waits for its children


def forks_beside() -> None:
    sys.stdin.readline()
    with context.Pool(2) as pool:  # its end is `terminate`
        print(pool.map(square, [1, 2, 3]), flush=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        pid = sleeping_child()
        os.kill(pid, number)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    print(sleeping_child(), flush=True)


def process(pid_file: str) -> None:
    """A process that is a master, with a thread that forks."""
    threading.Thread(target=forks_beside, daemon=True).start()
    ended = rrmaster.run("master_that_forks:handler", bind="127.0.0.1:0", workers=1, pid=pid_file)
    print(f"status {ended}", flush=True)
    sys.stdin.readline()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "block":
        trio.run(block)
    else:
        process(sys.argv[1])
