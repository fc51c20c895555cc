#!/bin/bash
# requests returns 103 for a page that is there, and 200 as soon as niquests is installed beside it.
#
# Expected    103 Early Hints is an interim answer, as 100 is: a client that does not know it skips it (RFC 9110, 15.2).
# Versions    CPython 3.11 to 3.13 (urllib.request, http.client), gunicorn 27.0.1 with its new `wsgi.early_hints`, and its ASGI
#             worker with http.response.informational; requests 2.34.2 on urllib3 2.8.0, niquests 3.21.2, httpx 0.28.1
# Behaviour   http.client skips 100 and takes each other 1xx for the answer: status 103, an empty body, and the 200
#             stays unread. urllib.request raises HTTPError for that. requests returns it; `ok` is true, and
#             raise_for_status() raises nothing. niquests depends on urllib3-future, which takes the place of urllib3
#             in the environment: the same requests, unchanged, then says 200. httpx always does. gunicorn
#             sends the hints to each client of HTTP/1.1, whether it has asked for any or not.
# Output      (the same for both workers) urllib: HTTPError 103; http.client: 103, 0 bytes; requests 103, ok True;
#             httpx 200. With niquests installed, requests 200, ok True, and the others as before
# Date        2026-11-29
# Why         the health check of an image without curl (`python -c "urllib.request.urlopen(...)"`) fails, and a job with
#             requests goes on with an empty body, from the day on which the application sends its first hint; and the
#             developer's environment, in which some other tool uses niquests, does not show it.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check gunicorn==27.0.1 requests==2.34.2 urllib3==2.8.0 \
    httpx==0.28.1
cd "$lab"
export HOME=$lab
cat > shop.py <<'PROGRAM'
STYLE = "</style.css>; rel=preload; as=style"


def by_wsgi(environ, start):
    environ["wsgi.early_hints"]([("Link", STYLE)])
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]


async def by_asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.informational", "status": 103, "headers": [(b"link", STYLE.encode())]})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
PROGRAM
cat > see.py <<'PROGRAM'
import http.client
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import httpx
import requests


def by_urllib(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return f"HTTPError {error.code}"


def by_http_client(url):
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=5)
    connection.request("GET", "/")
    answer = connection.getresponse()
    status, size = answer.status, len(answer.read())
    connection.close()
    return f"{status}, {size} bytes"


def by_requests(url):
    answer = requests.get(url, timeout=5)
    answer.raise_for_status()
    return f"{answer.status_code}, ok {answer.ok}"


WAYS = {
    "urllib": by_urllib,
    "http.client": by_http_client,
    "requests": by_requests,
    "httpx": lambda url: httpx.get(url, timeout=5).status_code,
}
KNOWN = {
    "urllib": "HTTPError 103",
    "http.client": "103, 0 bytes",
    "requests": f"{sys.argv[1]}, ok True",
    "httpx": 200,
}


def wait_for(port):
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def seen_of(*worker):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["v/bin/python", "v/bin/gunicorn", "--no-control-socket", "-b", f"127.0.0.1:{port}", "-k", *worker]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        return {name: way(f"http://127.0.0.1:{port}/") for name, way in WAYS.items()}
    finally:
        process.terminate()
        process.wait(10)


for worker in (("gthread", "shop:by_wsgi"), ("asgi", "shop:by_asgi")):
    seen = seen_of(*worker)
    print(f"gunicorn -k {worker[0]}:", seen)
    if seen != KNOWN:
        sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py 103
v/bin/pip install -q --disable-pip-version-check niquests==3.21.2
echo "with niquests:"
v/bin/python see.py 200
