"""An interpreter that has loaded the command line, and forks for each command: a cold one takes 0.2 s to begin.

Asked by `harness.rrmaster`, through the socket that is its stdin's neighbour: one connection for each command.
"""

import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any

import rrmaster.cli.commands  # loaded before the first fork
import rrmaster.control.client
import rrmaster.service.run  # noqa: F401
from rrmaster.cli.main import main


def serve(listener: socket.socket) -> None:
    """Serve until stdin ends, which happens when the tests end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        asked, _ = listener.accept()
        with asked:
            message, fds, _, _ = socket.recv_fds(asked, 1 << 20, 3)
            if os.fork() == 0:
                listener.close()
                asked.send(b"%d" % os.getpid())
                asked.send(b"%d" % obey(json.loads(message), fds))
                os._exit(0)
        for fd in fds:
            os.close(fd)


def obey(order: dict[str, Any], fds: list[int]) -> int:
    """Run the command in this process; returns its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    try:
        if order["user"] is not None:
            os.setgroups([])
            os.setgid(order["user"])
            os.setuid(order["user"])
        status = main(order["words"])
    except SystemExit as end:  # argparse has shown its help
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as neighbour:
        serve(neighbour)
