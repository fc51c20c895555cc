"""An application whose requests fork children, end them by SIGTERM, and say how that went."""

import os
import pty
import signal
import subprocess
import time
from multiprocessing import get_context

from rrmaster.worker.stacks import DUMP_SIGNAL


def square(number: int) -> int:
    return number * number


def by_pool() -> str:
    with get_context("fork").Pool(2) as pool:  # its end is `terminate`
        return str(pool.map(square, [1, 2, 3]))


def by_process() -> str:
    child = get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(10)
    return str(child.exitcode)


def _ended(pid: int) -> str:
    os.kill(pid, signal.SIGTERM)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def by_fork() -> str:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return _ended(pid)


def by_pty() -> str:
    pid, end = pty.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    try:
        return _ended(pid)
    finally:
        os.close(end)


def by_command() -> str:
    child = subprocess.Popen(["sleep", "60"], preexec_fn=os.getpid)
    child.terminate()
    return str(child.wait(10))


def by_stacks() -> str:
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), DUMP_SIGNAL)
        os.kill(os.getpid(), signal.SIGTERM)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


WAYS = {
    "/stacks": by_stacks,
    "/pool": by_pool,
    "/process": by_process,
    "/fork": by_fork,
    "/pty": by_pty,
    "/command": by_command,
}


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    answer = f"{WAYS[scope['path']]()} {os.getpid()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": answer})


def wsgi(environ, start_response):
    answer = f"{WAYS[environ['PATH_INFO']]()} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [answer]
