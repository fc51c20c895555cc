#!/bin/bash
# Behind gunicorn --preload no worker can start a process if the import has started one, since Python 3.14 by default.
#
# Expected    a pool that an import has used and closed is over. Each worker starts its own processes, as the application
#             does with one worker, without --preload, and with any other start method.
# Versions    CPython 3.11 to 3.15 with the start method "forkserver", on Linux the default since 3.14; gunicorn 27.0.1
# Behaviour   the server of that method outlives the pool, and workers that are forked afterwards remember its pid.
#             Before each start they look whether it lives, by waitpid. It is not their child, but their parent's: the
#             first line of each pool, process, queue or manager in a worker is ChildProcessError: No child processes.
# Output      see KNOWN below: the answer of a request that counts in a pool, by start method and import
# Date        2026-11-29
# Why         a library that computes something at its import, in two processes, breaks an application that has passed
#             its tests; with 3.13 it worked, because "fork" was the default. `multiprocessing.get_context("spawn")`, in
#             the import or in the request, works, and so does a pool that only the requests use.
set -eu
lab=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check gunicorn==27.0.1
cd "$lab"
export HOME=$lab
cat > shop.py <<'PROGRAM'
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

METHOD = get_context(os.environ["METHOD"])


def counted():
    with ProcessPoolExecutor(2, METHOD) as pool:
        return sum(pool.map(len, ["cup", "spoon"]))


if os.environ["AT_IMPORT"] == "counts":
    counted()


def app(environ, start_response):
    try:
        told, status = str(counted()), "200 OK"
    except OSError as error:
        told, status = repr(error), "500 Internal Server Error"
    start_response(status, [("Content-Type", "text/plain")])
    return [told.encode()]
PROGRAM
cat > see.py <<'PROGRAM'
import http.client
import itertools
import os
import socket
import subprocess
import time

KNOWN = {
    ("fork", "counts nothing"): "8",
    ("fork", "counts"): "8",
    ("spawn", "counts nothing"): "8",
    ("spawn", "counts"): "8",
    ("forkserver", "counts nothing"): "8",
    ("forkserver", "counts"): "ChildProcessError(10, 'No child processes')",
}


def asked(port):
    until = time.monotonic() + 20
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


found = {}
for method, at_import in itertools.product(("fork", "spawn", "forkserver"), ("counts nothing", "counts")):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["v/bin/gunicorn", "--preload", "--no-control-socket", "--bind", f"127.0.0.1:{port}", "shop:app"]
    environment = {**os.environ, "METHOD": method, "AT_IMPORT": at_import}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            found[method, at_import] = asked(port)
        finally:
            server.terminate()
    print(f"{method}, the import {at_import}: {found[method, at_import]}")
raise SystemExit(0 if found == KNOWN else "changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
