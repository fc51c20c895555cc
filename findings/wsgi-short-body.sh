#!/bin/bash
# An upload whose client goes away half-way is a complete, shorter body to a WSGI application.
#
# Expected    wsgi.input.read(CONTENT_LENGTH) returns that many bytes or raises: the server knows that 60 are missing.
# Versions    gunicorn 27.0.1, hypercorn 0.18.0, granian 2.8.9, a2wsgi 1.10.10 on uvicorn 0.54.0, Werkzeug 3.1.9,
#             waitress 3.0.2
# Behaviour   40 of 100 bytes arrive, then the client closes. Four of five servers answer read(100) with 40 bytes and
#             no error. Werkzeug's Request.get_data() on gunicorn passes the 40 bytes on, too (it does have a
#             ClientDisconnected, but trusts a server that says wsgi.input_terminated). waitress does not call the
#             application at all: it waits for the whole body first.
# Output      gunicorn, hypercorn, granian, a2wsgi: 40 of 100. Werkzeug on gunicorn: 40 of 100. waitress: not called.
# Date        2026-11-28
# Why         half a file is stored as a whole one, and no log says so. An application compares len(body) with
#             CONTENT_LENGTH itself. The same code on an ASGI framework raises ClientDisconnect.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check gunicorn==27.0.1 hypercorn==0.18.0 granian==2.8.9 \
    a2wsgi==1.10.10 uvicorn==0.54.0 werkzeug==3.1.9 waitress==3.0.2
cd "$lab"
export HOME=$lab
cat > shop.py <<'PROGRAM'
from pathlib import Path

from a2wsgi import WSGIMiddleware
from werkzeug.wrappers import Request, Response

SEEN = Path("seen")


def plain(environ, start):
    wanted = int(environ["CONTENT_LENGTH"])
    try:
        SEEN.write_text(f"{len(environ['wsgi.input'].read(wanted))} of {wanted}")
    except Exception as error:
        SEEN.write_text(f"raised {error!r}")
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]


@Request.application
def framework(request):
    try:
        SEEN.write_text(f"{len(request.get_data())} of {request.content_length}")
    except Exception as error:
        SEEN.write_text(f"raised {error!r}")
    return Response("ok")


wrapped = WSGIMiddleware(plain)
PROGRAM
cat > see.py <<'PROGRAM'
import socket
import subprocess
import sys
import time
from pathlib import Path

SEEN = Path("seen")
GUNICORN = "gunicorn --no-control-socket -k gthread -b 127.0.0.1:{port}"
SERVERS = {
    "gunicorn": f"{GUNICORN} shop:plain",
    "hypercorn": "hypercorn -b 127.0.0.1:{port} shop:plain",
    "granian": "granian --interface wsgi --port {port} shop:plain",
    "a2wsgi on uvicorn": "uvicorn --port {port} shop:wrapped",
    "Werkzeug on gunicorn": f"{GUNICORN} shop:framework",
    "waitress": "waitress-serve --listen 127.0.0.1:{port} shop:plain",
}


def connect(port):
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=3)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def what_the_application_sees(command):
    SEEN.unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["v/bin/python", *f"v/bin/{command.format(port=port)}".split()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with connect(port) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 100\r\n\r\n" + b"x" * 40)
            time.sleep(0.3)  # the application reads, and waits for the rest
        end = time.monotonic() + 1.5
        while not SEEN.exists() and time.monotonic() < end:
            time.sleep(0.05)
        return SEEN.read_text() if SEEN.exists() else "not called"
    finally:
        process.terminate()
        process.wait(10)


seen = {name: what_the_application_sees(command) for name, command in SERVERS.items()}
for name, what in seen.items():
    print(f"{name}: {what}")
if list(seen.values()) != ["40 of 100"] * 5 + ["not called"]:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
