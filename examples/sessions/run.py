"""Does a visitor keep the basket, and does everybody hear what one says?  `python run.py` starts it all and tells.

A real Redis (Debian's redis-server) on a socket of its own, masters on free ports, and visitors from 127.0.0.2 to
127.0.0.21.  Everything is started here and ended here.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from websockets.sync.client import connect

HERE = Path(__file__).resolve().parent
VISITORS, THINGS, WORKERS = 20, 6, 4
PATIENCE = 60.0
"""Seconds until a wait fails."""


# --- what is started


@contextlib.contextmanager
def started(*command, **environ):
    """A process, which is asked why if a wait fails."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=HERE, env=os.environ | environ, stderr=said)
        try:
            yield process
        except TimeoutError:
            said.seek(0)
            sys.exit(f"{' '.join(command)} has said:\n{said.read().decode()}")
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextlib.contextmanager
def redis_server(directory):
    path = directory / "redis.sock"
    with started("redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--logfile", "/dev/null"):
        until(path.exists)
        yield f"unix://{path}"


class Fleet:
    """A master of four workers on one port."""

    def __init__(self, directory, name):
        self.control, self.port = directory / f"{name}.sock", free_port()

    @contextlib.contextmanager
    def serving(self, *options, **environ):
        quick = ("--probation", "100ms", "--soak", "100ms")
        where = ("--bind", f"127.0.0.1:{self.port}", "--control", str(self.control), "--workers", str(WORKERS))
        with started(sys.executable, "-m", "rrmaster", *where, *quick, *options, **environ):
            until(lambda: self.ask("status", "--ready", "all"))
            yield self

    def ask(self, *verb):
        command = [sys.executable, "-m", "rrmaster", *verb, "--control", str(self.control)]
        return subprocess.run(command, capture_output=True, cwd=HERE, check=False).returncode == 0


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


# --- visitors


class Visitor:
    """One browser: an address, a cookie, and a connection of its own for each request."""

    def __init__(self, number):
        self.address, self.cookie, self.bought, self.workers = f"127.0.0.{number + 2}", "", [], set()

    def ask(self, port, method, path):
        connection = http.client.HTTPConnection("127.0.0.1", port, PATIENCE, source_address=(self.address, 0))
        headers = {"Cookie": self.cookie, "X-Visitor": self.address, "Connection": "close"}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        if cookie := answer.getheader("Set-Cookie"):
            self.cookie = cookie.partition(";")[0]
        self.workers.add(found["worker"])
        connection.close()
        return found

    def buy(self, port, thing):
        self.ask(port, "POST", f"/basket/{thing}")
        self.bought.append(thing)

    def has_all(self, port):
        return self.ask(port, "GET", "/basket")["basket"] == self.bought


def trial(title, options, environ, replicas, directory):
    """Buy at each replica in turn, reload, buy again, and look into the basket at each; prints who has it."""
    with contextlib.ExitStack() as stack:
        fleets = [Fleet(directory, f"{len(os.listdir(directory))}-{number}") for number in range(replicas)]
        for fleet in fleets:
            stack.enter_context(fleet.serving(*options, **environ))
        visitors = [Visitor(number) for number in range(VISITORS)]

        def buy(things):
            for thing in things:
                for visitor in visitors:
                    visitor.buy(fleets[thing % replicas].port, f"thing-{thing}")

        def kept():
            return sum(all(visitor.has_all(fleet.port) for fleet in fleets) for visitor in visitors)

        buy(range(THINGS))
        before = kept()
        for fleet in fleets:
            assert fleet.ask("reload")
        buy(range(THINGS, THINGS + 2))
        workers = sum(len(visitor.workers) for visitor in visitors) / VISITORS
        print(f"| {title} | {replicas} | {workers:.1f} | {before} of {VISITORS} | {kept()} of {VISITORS} |", flush=True)


def chat(title, port):
    """Ten visitors say one thing each; all twenty, over all workers, hear it."""
    heard, came = [0] * VISITORS, [0.0] * VISITORS
    with contextlib.ExitStack() as stack:
        visitors = [stack.enter_context(connect(f"ws://127.0.0.1:{port}/chat")) for _ in range(VISITORS)]

        def listen(number):
            for expected in range(10):
                text = visitors[number].recv(PATIENCE)
                came[number] = time.monotonic()
                heard[number] += text.partition(" ")[0] == str(expected)

        listeners = [threading.Thread(target=listen, args=(number,)) for number in range(VISITORS)]
        for listener in listeners:
            listener.start()
        took = []
        for number in range(10):
            began = time.monotonic()
            visitors[number].send(f"{number} says visitor {number}")
            until(lambda number=number: min(heard) > number)
            took.append(max(came) - began)
        for listener in listeners:
            listener.join()
    print(f"| {title} | {sum(heard)} of {10 * VISITORS} | {sorted(took)[5] * 1000:.0f} ms |", flush=True)


def main():
    if shutil.which("redis-server") is None:
        sys.exit("this needs redis-server (Debian: apt install redis-server)")
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as url:
        directory = Path(name)
        flask, starlette = ["--interface", "wsgi", "shop_flask:app"], ["--factory", "shop_starlette:app"]
        print("| session | replicas | workers a visitor met | has the basket | after a reload |\n|---|---|---|---|---|")
        for replicas in (1, 2):
            trial("Flask-Session, Redis", flask, {"REDIS_URL": url}, replicas, directory)
            trial("starsessions, Redis", starlette, {"REDIS_URL": url}, replicas, directory)
        trial("memory, least-loaded", ["shop_memory:app"], {}, 1, directory)
        trial("memory, ip-hash", ["--policy", "ip-hash", "shop_memory:app"], {}, 1, directory)
        trial("memory, ip-hash", ["--policy", "ip-hash", "shop_memory:app"], {}, 2, directory)
        print("\n| chat | heard | until all have it (median) |\n|---|---|---|")
        fleet = Fleet(directory, "chat")
        with fleet.serving("chat_redis:app", REDIS_URL=url):
            chat("Redis pub/sub", fleet.port)
        port = free_port()
        with started(sys.executable, "chat_master.py", str(port), str(WORKERS)):
            until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            chat("me.send, master.broadcast", port)


if __name__ == "__main__":
    main()
