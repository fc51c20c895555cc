"""Which libraries can be forked?  Tries real ones, each as an application uses it; not a part of the tests or of CI.

    python -m tests.libraries                     in a new environment, with the versions of libraries.txt: some minutes
    python -m tests.libraries --python PYTHON     in an environment that has them
    python -m tests.libraries redis numpy         only the rows with one of these words

Each row of libraries.toml is an application, and `rrmaster check` says whether it is served and forked.  Where a fork
needs more than an import to be right, two workers are started and asked, too; and where they read what the import has
opened, what eight clients at once are answered is compared with `--preload off`.  The status is the number of rows that
are not as written there.  The table in docs/howto/preload.md tells of the same rows.

Rows that need a service find it by these variables of the environment, and are not tried without:

    POSTGRES=postgresql://postgres@127.0.0.1:5432/postgres  REDIS=redis://127.0.0.1:6379  CHROMIUM=/usr/bin/chromium

HTTP is the address of a service that is always there: it answers each request with 200, and /arrived with the bodies
that were posted to it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from attrs import frozen

ROOT = Path(__file__).parent.parent

PACKAGES = ROOT / "tests" / "libraries.txt"
"""The libraries, with versions."""


@frozen
class Row:
    """A library, and an application that uses it in the usual way."""

    name: str
    code: str
    expected: str
    """``forked``, or a regular expression for what `rrmaster check` says instead."""
    same: bool = False
    """Two workers that eight clients ask at once answer as with ``--preload off``."""
    then: str = ""
    """A regular expression for the log of two forked workers that are asked for a while; empty: it is not started."""
    both: str = ""
    """The same for what the log has of each of the two."""
    needs: str = ""
    """The variable of the environment without which it is not tried."""

    @property
    def log(self) -> str:
        """What the log of two forked workers is to have; empty: they are not started."""
        one, other = (f"worker {slot} .*{self.both}" for slot in (0, 1))
        return f"{one}.*{other}|{other}.*{one}" if self.both else self.then


ASGI = "async def app(scope, receive, send): ...\n"
"""What an application has whose code makes none."""


def rows() -> list[Row]:
    """The rows of libraries.toml."""
    found = tomllib.loads((ROOT / "tests" / "libraries.toml").read_text())["row"]
    return [Row(**row) for row in found]


def tried(row: Row, python: str) -> str:
    """What `rrmaster check` says of it: ``forked``, or its reason, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        makes_one = re.search(r"^app\b", row.code, re.MULTILINE)
        Path(folder, "shop.py").write_text(row.code + ("" if makes_one else ASGI))
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": folder}
        command = [python, "-m", "rrmaster", "check", "--ready-timeout", "120s", "shop:app"]
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    found = re.search(r"while it was imported, it (.*?); to fork them", said)
    if found:
        return found[1]
    return "forked" if done.returncode == 0 else f"{done.returncode}: {said[-300:]}"


def served(row: Row, python: str) -> bool:
    """Whether the log of two forked workers that are asked again and again has what is expected, within 300 s."""
    with fleet(row, python, "auto") as log:
        return _is_said(log, row.log, time.monotonic() + 300)


def same(row: Row, python: str) -> bool:
    """Whether forked workers answer like those that import the application, each asked 16 times by 8 clients."""
    found = []
    for preload in ("auto", "off"):
        with fleet(row, python, preload) as log:
            _is_said(log, "ready: 2 of 2", time.monotonic() + 300)
            port = re.search(r"serves \S+ on (http://\S+)", log.read_text())
            assert port is not None
            with ThreadPoolExecutor(8) as clients:
                found.append(Counter(clients.map(partial(_answer, port[1]), range(16))))
            text = log.read_text()
        if ("has imported" in text) != (preload == "auto"):
            print(text)
            return False
    alike = found[0] == found[1] and not any(answer.startswith(_FAILED) for answer in found[0])
    if not alike:
        print(f"    forked {found[0]}, else {found[1]}")
    return alike


_FAILED = b"failed: "


def _answer(url: str, _: int) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return bytes(answer.read())
    except OSError as error:
        return _FAILED + str(error).encode()


@contextlib.contextmanager
def fleet(row: Row, python: str, preload: str) -> Iterator[Path]:
    """Two workers, as long as the block; its log."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "shop.py").write_text(row.code)
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": folder}
        command = [python, "-m", "rrmaster", "-w", "2", "-b", "127.0.0.1:0", "--control", f"{folder}/c"]
        with Path(folder, "log").open("w") as log:
            command += ["--ready-timeout", "120s", "--preload", preload, "shop:app"]
            master = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
        try:
            yield Path(folder, "log")
        finally:
            master.terminate()
            master.wait(120)


def _is_said(log: Path, what: str, deadline: float) -> bool:
    while time.monotonic() < deadline:
        text = log.read_text()
        if re.search(what, text, re.DOTALL) and ("has imported" in text or what.startswith("ready")):
            return True
        if port := re.search(r"serves \S+ on (http://\S+)", text):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(port[1], timeout=5).close()
        time.sleep(0.05)
    return False


class Service(BaseHTTPRequestHandler):
    """Stands in for what clients of S3, Elasticsearch, Stripe and others talk to, and collects events and spans."""

    protocol_version = "HTTP/1.1"
    arrived: ClassVar[deque[bytes]] = deque(maxlen=1000)
    """The last bodies that were posted, by all clients."""

    def do_GET(self, body: bytes = b'{"id": "x", "object": "customer"}') -> None:
        if self.path == "/arrived":
            body = b"\n".join(self.arrived)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        self.read()
        self.do_GET(b"")

    def do_HEAD(self) -> None:
        self.do_GET(b"")

    def do_POST(self) -> None:
        body = self.read()
        self.arrived.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        self.do_GET()

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, *_: object) -> None:
        """It keeps no log."""


@contextlib.contextmanager
def service() -> Iterator[None]:
    """A service as long as the block, whose address is in the environment."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ["HTTP"] = f"http://127.0.0.1:{server.server_port}"
        yield
        server.shutdown()


def environment(folder: str) -> str:
    """A new environment with the libraries, in this folder; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([f"{folder}/bin/pip", "install", "-q", "--disable-pip-version-check", "-r", PACKAGES], check=True)
    return f"{folder}/bin/python"


def judged(row: Row, python: str) -> tuple[bool, str]:
    """Whether it is as written, and its line."""
    if row.needs and row.needs not in os.environ:
        return True, f"not tried   {row.name}: it needs {row.needs}"
    found = tried(row, python)
    right = found == row.expected or (row.expected != "forked" and re.search(row.expected, found) is not None)
    if right and row.log:
        right = served(row, python)
    if right and row.same:
        right = same(row, python)
    return right, f"{'as written' if right else 'DIFFERENT '}  {row.name}: {found}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python")
    parser.add_argument("--jobs", type=int, default=1, help="as many rows at once")
    parser.add_argument("words", nargs="*")
    given = parser.parse_args()
    chosen = [row for row in rows() if not given.words or any(word in row.name for word in given.words)]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, service(), ThreadPoolExecutor(given.jobs) as jobs:
        python = given.python or environment(folder)
        for right, line in jobs.map(partial(judged, python=python), chosen):
            wrong += not right
            print(line, flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
