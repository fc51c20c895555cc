"""One worker, then four: `python run.py [autocannon|wrk] [WORKERS ...]` asks each fleet for two pages.

It prints a table and draws it.  autocannon is taken from the PATH, from `node_modules` here, or by `npx`; wrk from the
PATH.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS, CONNECTIONS, ROUNDS = 8, 50, 3
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


@contextlib.contextmanager
def redis_server(directory):
    path = directory / "redis.sock"
    with started("redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--logfile", "/dev/null"):
        until(path.exists)
        yield f"unix://{path}"


@contextlib.contextmanager
def fleet(directory, workers, url):
    """A master of so many workers; yields its port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    control = directory / f"{workers}.sock"
    where = ("--bind", f"127.0.0.1:{port}", "--control", str(control), "--workers", str(workers))
    ready = [sys.executable, "-m", "rrmaster", "status", "--ready", "all", "--control", str(control)]
    with started(sys.executable, "-m", "rrmaster", *where, "app:app", REDIS_URL=url):
        until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)
        yield port


# --- the tools


def autocannon(url):
    """Requests a second, and milliseconds at 50 % and 99 %; and how many requests failed."""
    here = HERE / "node_modules" / ".bin" / "autocannon"
    found = shutil.which("autocannon") or (str(here) if here.exists() else None)
    command = [found] if found else ["npx", "--yes", "autocannon"]
    command += ["--json", "--no-progress", "-c", str(CONNECTIONS), "-d", str(SECONDS), url]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    failed = said["errors"] + said["non2xx"]  # its errors include its timeouts
    return said["requests"]["average"], said["latency"]["p50"], said["latency"]["p99"], failed


def wrk(url):
    """The same of wrk."""
    command = ["wrk", "--latency", "-t", "2", "-c", str(CONNECTIONS), "-d", f"{SECONDS}s", "--timeout", "10s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def percent(number):
        value, unit = re.search(rf"^\s+{number}%\s+([\d.]+)(us|ms|s) *$", said, re.M).groups()
        return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]

    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed = sum(map(int, errors.groups() if errors else ())) + int(refused[1] if refused else 0)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), percent(50), percent(99), failed


def main():
    words = sys.argv[1:]
    tool = wrk if "wrk" in words else autocannon
    sizes = [int(word) for word in words if word.isdecimal()] or [1, 4]
    load = os.getloadavg()[0]
    print(f"{tool.__name__}, {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS} s, the median of them; "
          f"{os.cpu_count()} processors, load {load:.0f} before it began\n")  # fmt: skip
    print("| page | workers | requests/s | p50 | p99 | failed |\n|---|---|---|---|---|---|")
    rates = {}
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as url:
        found = {}
        # Round by round, so that a noisy neighbour disturbs all of them.
        with contextlib.ExitStack() as stack:
            ports = {workers: stack.enter_context(fleet(Path(name), workers, url)) for workers in sizes}
            for _ in range(ROUNDS):
                for page in ("cpu", "database"):
                    for workers, port in ports.items():
                        found.setdefault((page, workers), []).append(tool(f"http://127.0.0.1:{port}/{page}"))
        for (page, workers), rounds in sorted(found.items()):
            rate, p50, p99, _ = sorted(rounds)[len(rounds) // 2]
            rates[page, workers] = rate
            failed = sum(round_[3] for round_ in rounds)
            print(f"| {page} | {workers} | {rate:.0f} | {p50:.0f} ms | {p99:.0f} ms | {failed} |", flush=True)
    draw(rates)


def draw(rates):
    import matplotlib  # here, so that the rest needs none

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7, 3.2))
    for page, axis in zip(("cpu", "database"), axes, strict=True):
        sizes = [workers for asked, workers in rates if asked == page]
        bars = axis.bar(list(map(str, sizes)), [rates[page, workers] for workers in sizes], color="#36c")
        axis.bar_label(bars, fmt="%.0f")
        axis.margins(y=0.1)  # the number of the tallest bar is below the frame
        axis.set_title(f"/{page}")
        axis.set_xlabel("workers")
        axis.set_ylabel("requests a second")
    figure.tight_layout()
    figure.savefig(HERE / "load.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
