"""nginx and HAProxy: before single servers, where they choose one for each request, and before any server.

``python -m bench.proxies KIND PORT WORKERS APP`` runs WORKERS uvicorns on unix sockets and a proxy before them, prints
the port when all answer, and ends with what it has started when it is told to.  KIND is ``nginx`` (least_conn) or
``haproxy`` (leastconn).

A proxy here has one process, which can do some ten thousand requests a second, and keeps its connections.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .programs import Missing

START = 30.0
"""Seconds until all servers answer."""

KEPT = 16
"""Connections that a proxy keeps to the server behind it, as in most examples: fewer than its clients have."""

_NGINX = """\
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_timeout 75; keepalive_requests 100000000;
    client_body_temp_path {home}/1; proxy_temp_path {home}/2; fastcgi_temp_path {home}/3; uwsgi_temp_path {home}/4;
    scgi_temp_path {home}/5;
    upstream servers {{
        {policy}
        {servers}
        keepalive {kept}; keepalive_requests 100000000; keepalive_timeout 75;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{ proxy_pass http://servers; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""

_HAPROXY = """\
global
    maxconn 4000
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    option http-keep-alive
    http-reuse always
listen servers
    bind 127.0.0.1:{port} backlog 2048
    balance leastconn
    {servers}
"""


def find(name: str) -> str:
    """The path of a proxy.  Raises Missing."""
    # Debian installs both where only root looks.
    found = shutil.which(
        name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    )
    if found is None:
        raise Missing(f"no {name}")
    return found


def command(kind: str, home: Path, port: int, servers: Sequence[str], kept: int, policy: str = "") -> list[str]:
    """The command of a proxy that listens at a port and passes requests on to servers.  Raises Missing."""
    program = find(kind)
    if kind == "nginx":
        lines = " ".join(f"server {server};" for server in servers)
        text = _NGINX.format(home=home, port=port, policy=policy, servers=lines, kept=kept)
    else:
        lines = "\n    ".join(f"server s{n} {server.replace('unix:', 'unix@')}" for n, server in enumerate(servers))
        text = _HAPROXY.format(port=port, servers=lines)
    home.chmod(0o755)  # nginx's worker may run as another user than the one that starts it
    file = home / f"{kind}.conf"
    file.write_text(text)
    return [program, "-c", str(file), "-p", str(home)] if kind == "nginx" else [program, "-db", "-f", str(file)]


@contextlib.contextmanager
def in_front_of(port: int, its_port: int) -> Iterator[int]:
    """nginx before the server at a port, during the block; gives its process id.  Raises Missing."""
    with tempfile.TemporaryDirectory() as home:
        start = command("nginx", Path(home), its_port, [f"127.0.0.1:{port}"], KEPT)
        proxy = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(its_port)
            yield proxy.pid
        finally:
            proxy.terminate()
            proxy.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens at {port}")
        time.sleep(0.01)


def _wait_for_answer(path: Path) -> None:
    deadline = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            sock.connect(str(path))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if sock.recv(100).startswith(b"HTTP/1.1 200"):
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing answers at {path}")
        time.sleep(0.02)


def main(kind: str, port: int, workers: int, app: str) -> None:
    """Run until a signal comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory() as home:
        sockets = [Path(home) / f"{number}.sock" for number in range(workers)]
        policy = "least_conn;" if kind == "nginx" else ""
        # Kept: as many to each server as there may be requests in progress.
        proxy = command(kind, Path(home), port, [f"unix:{path}" for path in sockets], 256, policy)
        options = ["--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75", app]
        started: list[subprocess.Popen[bytes]] = []
        try:
            server = [sys.executable, "-m", "uvicorn", *options, "--uds"]
            started.extend(subprocess.Popen([*server, str(path)]) for path in sockets)
            for path in sockets:
                _wait_for_answer(path)
            started.append(subprocess.Popen(proxy))
            _wait_for(port)
            print(port, flush=True)
            started[-1].wait()
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
