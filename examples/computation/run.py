"""What does a computation cost the other requests?  `python run.py` measures each way, and draws `latency.svg`.

One worker, so that nothing hides: two clients ask for computations without a pause, and one asks for the page `/` every
20 ms.  Then the pool of processes is looked for after a reload and after a worker that was killed.

`--save FILE` keeps what was measured in place of a drawing, and `--beside FILE` adds the threads of such a run to the
table and the drawing: that is how a build without the interpreter lock comes into them.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS, EVERY_S, COMPUTING = 12.0, 0.02, 2
PATIENCE = 60.0
"""Seconds until a wait fails."""


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


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


class Fleet:
    """A master of one worker."""

    def __init__(self, directory):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.control = directory / "control.sock"
        quick = ("--probation", "100ms", "--soak", "100ms")
        where = ("--bind", f"127.0.0.1:{self.port}", "--control", str(self.control))
        self.command = (sys.executable, "-m", "rrmaster", "--workers", "1", *where, *quick, "app:app")

    def verb(self, *words):
        command = [sys.executable, "-m", "rrmaster", *words, "--control", str(self.control)]
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)

    def is_ready(self):
        return self.verb("status", "--ready").returncode == 0

    def ask(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body


def measure(fleet, way):
    """The milliseconds of each request for the page, and how many computations a second were done beside."""
    end, done = time.monotonic() + SECONDS, [0] * COMPUTING

    def compute(number):
        while time.monotonic() < end:
            status, _ = fleet.ask(f"/{way}")
            done[number] += status == 200

    clients = [threading.Thread(target=compute, args=(number,)) for number in range(COMPUTING if way else 0)]
    for client in clients:
        client.start()
    times, due = [], time.monotonic()
    while (now := time.monotonic()) < end:
        assert fleet.ask("/")[0] == 200
        times.append((time.monotonic() - now) * 1000)
        due = max(due + EVERY_S, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0.0))
    for client in clients:
        client.join()
    return sorted(times), sum(done) / SECONDS


def warm_up(fleet, way):
    """What is made at the first requests (processes, connections) is not measured."""
    clients = [threading.Thread(target=fleet.ask, args=(f"/{way}",)) for _ in range(2 * COMPUTING)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def row(title, times, rate):
    p50, p99 = times[len(times) // 2], times[min(int(len(times) * 0.99), len(times) - 1)]
    print(f"| {title} | {rate:.1f} | {p50:.0f} ms | {p99:.0f} ms | {times[-1]:.0f} ms |", flush=True)


def draw(found):
    import matplotlib  # here, because a run that saves needs none

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.figure(figsize=(7, 4))
    for title, times in found.items():
        plt.plot(times, [100 * (place + 1) / len(times) for place in range(len(times))], label=title)
    plt.xscale("log")
    plt.xlabel("time of a request for the page, ms")
    plt.ylabel("% that took at most so long")
    plt.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)  # above: no curve is behind it
    plt.grid(alpha=0.3)
    plt.tight_layout()
    plt.savefig(HERE / "latency.svg", metadata={"Date": None})


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pool_is_replaced(fleet, how):
    """Whether all processes of the pool end, and others compute, when the worker is replaced by this."""
    assert fleet.ask("/process")[0] == 200
    before = json.loads(fleet.ask("/pool")[1])
    how()
    until(lambda: not any(map(lives, before)))
    until(fleet.is_ready)
    assert fleet.ask("/process")[0] == 200
    return len(before), len(json.loads(fleet.ask("/pool")[1]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", type=Path, metavar="FILE")
    parser.add_argument("--beside", type=Path, metavar="FILE")
    options = parser.parse_args()
    queue = shutil.which("redis-server") is not None
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        environ = {}
        if queue:
            path = Path(name) / "redis.sock"
            redis = ("redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--logfile", "/dev/null")
            stack.enter_context(started(*redis))
            until(path.exists)
            environ = {"REDIS_URL": f"unix://{path}"}
            for _ in range(2):
                worker = ("-m", "rq.cli", "worker", "--url", environ["REDIS_URL"], "--quiet")
                stack.enter_context(started(sys.executable, *worker))
        fleet = Fleet(Path(name))
        stack.enter_context(started(*fleet.command, **environ))
        until(fleet.is_ready)
        lock = "with" if json.loads(fleet.ask("/lock")[1]) else "without"
        crowd = f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.0f}"
        print(f"Python {sys.version.split()[0]}, {lock} the interpreter lock, {crowd}\n")
        print("| where it is computed | computations/s | page p50 | p99 | longest |\n|---|---|---|---|---|")
        found = {}
        ways = {"nowhere": "", "in the loop": "loop", "2 threads": "thread", "2 processes": "process"}
        for title, way in (ways | ({"RQ, 2 workers": "queue"} if queue else {})).items():
            if way:
                warm_up(fleet, way)
            found[title] = measure(fleet, way)
            row(title, *found[title])
        if options.save:
            options.save.write_text(json.dumps(found))
        else:
            if options.beside:
                found["2 threads, no lock"] = json.loads(options.beside.read_text())["2 threads"]
                row("2 threads, no lock", *found["2 threads, no lock"])
            draw({title: times for title, (times, _) in found.items()})
        print("\n| the worker | processes of its pool before | others after |\n|---|---|---|")
        for title, how in (
            ("is reloaded", lambda: fleet.verb("reload")),
            ("is killed (SIGKILL)", lambda: os.kill(pid_of_worker(fleet), signal.SIGKILL)),
        ):
            before, after = pool_is_replaced(fleet, how)
            print(f"| {title} | {before}, all ended | {after} |", flush=True)


def pid_of_worker(fleet):
    (worker,) = json.loads(fleet.verb("workers", "--json").stdout)
    return worker["pid"]


if __name__ == "__main__":
    main()
