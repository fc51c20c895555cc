"""Three replicas behind a proxy, and what their clients lose: `python run.py [PROXY] [SERVER] [CASE]`, as root.

Without arguments: each case behind nginx and HAProxy, with rrmaster and with `uvicorn --workers` in its place.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lab

HERE = Path(__file__).resolve().parent
WORKERS, CLIENTS = 2, 24
IMPORT = 6
"""Seconds in which the application is imported: more than nginx's fail_timeout, as with large ones."""

PATIENCE = 180.0
"""Seconds until a wait of the trial fails."""

SETTLED = 6.0
"""Seconds between a replica that is ready and the end of the next: more than nginx's fail_timeout."""


class Replica:
    """A host with a server of two workers."""

    def __init__(self, host: lab.Host, server: str, proxy: str) -> None:
        self.host, self.server, self.proxy = host, server, proxy
        self.environ = {"LAB": str(host.directory), "IMPORT_SECONDS": str(IMPORT)}
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        name = self.host.name
        if self.server == "rrmaster":
            command = f"-m rrmaster -c rrmaster.toml --control {self.host.directory}/{name}.sock"
            command += " --proxy-protocol v2" if self.proxy == "haproxy" else ""
        else:
            command = f"-m uvicorn app:app --workers {WORKERS} --host 0.0.0.0 --port 8000 --log-level warning"
            command += " --timeout-graceful-shutdown 10 --timeout-keep-alive 75 --forwarded-allow-ips 10.99.0.4"
        self.process = self.host.start(f"{sys.executable} {command}", REPLICA=name, **self.environ)
        wait(self.is_ready, self.host)

    def is_ready(self) -> bool:
        port = 9000 if self.server == "rrmaster" else 8000
        return answers(f"http://{self.host.address}:{port}/readyz")

    def replace(self) -> None:
        """A new release of it: TERM, its end, its start."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.start()


def answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait(true: Callable[[], bool], host: lab.Host) -> None:
    """Wait until this holds of a server on `host`."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        lab.reap()
        if time.monotonic() > deadline:
            sys.exit(f"no server is ready on {host.name}:\n{host.log()}")
        time.sleep(0.05)


# --- what happens: each case returns when it happened, and to which replica


class Event(NamedTuple):
    """When it began and was over, in seconds since the epoch, and the replica that has answered nothing since."""

    began: float
    over: float
    victim: Replica | None = None


def rolling(replicas: list[Replica]) -> Event:
    began = time.time()
    for replica in replicas:
        replica.replace()
        time.sleep(SETTLED)
    return Event(began, time.time())


def killed(replicas: list[Replica]) -> Event:
    victim = replicas[1]
    event = Event(*victim.host.kill(), victim)
    time.sleep(8)
    victim.start()
    time.sleep(SETTLED)
    return event


def cut_off(replicas: list[Replica]) -> Event:
    victim = replicas[1]
    event = Event(*victim.host.plug("down"), victim)
    time.sleep(20)
    victim.host.plug("up")
    time.sleep(SETTLED)
    return event


def slow(replicas: list[Replica]) -> Event:
    """Each answer of one replica takes half a second more."""
    mark = replicas[1].host.directory / f"{replicas[1].host.name}.slow"
    mark.touch()
    began = time.time()
    time.sleep(12)
    mark.unlink()
    return Event(began, time.time())


def unheard(replicas: list[Replica]) -> Event:
    """No replica answers a health check in time, as on a crowded machine, and all of them serve."""
    began = time.time()
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for replica in replicas:
            replica.host.signal("rrmaster.admin", number)
        time.sleep(SETTLED)
    return Event(began, time.time())


CASES = {"rolling": rolling, "killed": killed, "cut off": cut_off, "slow": slow, "unheard": unheard}
CHECKED = ("haproxy", "rrmaster")
"""Where health checks have a port of their own."""


# --- one trial

LOGS = {
    "nginx": (
        "nginx.conf",
        "access_log off;",
        "log_format asked 'request $msec $request_time $upstream_addr'; access_log /dev/stdout asked;",
    ),
    "haproxy": (
        "haproxy.cfg",
        "mode http\n",
        'mode http\n log stdout format raw daemon\n log-format "request %[date(0,ms)] %Ta %s/%rc"\n',
    ),
}
"""Of each proxy: its file, and what in it becomes a log: when a request ended, how long it took, and who was asked."""

SECOND = {"nginx": 1, "haproxy": 1000}
"""In these logs."""


def proxy_command(proxy: str, server: str, directory: Path) -> str:
    """Its configuration is the file here, and a log of who was asked."""
    file, place, log = LOGS[proxy]
    config = (HERE / file).read_text().replace(place, log)
    if proxy == "haproxy" and server == "uvicorn":  # no PROXY protocol, and its only port answers the health checks
        config = config.replace(" send-proxy-v2", "").replace(" port 9000", "")
    (directory / file).write_text(config)
    if proxy == "nginx":
        return f"nginx -c {directory}/{file} -g daemon\toff;pid\t{directory}/nginx.pid;error_log\tstderr;"
    return f"haproxy -db -f {directory}/{file}"


def trial(hosts: dict[str, lab.Host], proxy: str, server: str, case: str) -> str:
    directory = hosts["proxy"].directory
    replicas = [Replica(host, server, proxy) for name, host in hosts.items() if name.startswith("replica")]
    for replica in replicas:
        replica.start()
    hosts["proxy"].start(proxy_command(proxy, server, directory))
    address = f"{hosts['proxy'].address}:8080"
    wait(lambda: answers(f"http://{address}/"), hosts["proxy"])
    load = hosts["load"].start(f"{sys.executable} load.py {address} {CLIENTS} {directory}/ledger.json")
    time.sleep(4)
    event = CASES[case](replicas)
    load.send_signal(signal.SIGTERM)
    load.wait(PATIENCE)
    for host in hosts.values():
        host.kill()
    ledger = json.loads((directory / "ledger.json").read_text())
    asked = in_hand(proxy, hosts["proxy"].log(), ledger, event)
    for file in [*directory.glob("*.log"), *directory.glob("*.pid")]:
        file.unlink()
    return told(ledger, event.began, asked)


def in_hand(proxy: str, log: str, ledger: list, event: Event) -> int:
    """The requests that the proxy had sent to the victim, and that had no answer when it died.

    The application of a victim knows of fewer: those that it has begun.  Others are in buffers of the kernel, which
    takes bytes for a process that dies until its sockets are closed, and nothing tells the proxy so.
    """
    if event.victim is None:
        return 0
    host, spans = event.victim.host, []
    for ended, took, servers in re.findall(r"^request ([\d.]+) (-?[\d.]+) (.+)$", log, re.M):
        # nginx names all servers that it asked, HAProxy the last one, and "/+1" if it was not the first.
        if any(word in servers for word in (host.address, f"{host.name}/", "/+")):
            spans.append(((float(ended) - float(took)) / SECOND[proxy], float(ended) / SECOND[proxy]))
    if proxy == "haproxy":  # it logs none whose client it closes without an answer
        spans += [(began, ended) for began, ended, _, _, how, _ in ledger if how == "cut off"]
    return sum(began <= event.over and ended >= event.began for began, ended in spans)


def told(ledger: list, event: float, in_hand: int) -> str:
    """The rest of a line of the table."""
    failed = Counter(f"{method} {how}" for _, _, method, _, how, _ in ledger if how != "200")
    last = max((began - event for began, *_, how, _ in ledger if how != "200"), default=0)
    times = sorted(ended - began for began, ended, _, path, how, _ in ledger if how == "200" and path == "/")
    after = [replica for began, *_, replica in ledger if began > event]
    figures = [
        len(ledger),
        failed.total(),
        in_hand or "-",
        f"{times[len(times) * 99 // 100]:.1f} s",
        f"{times[-1]:.1f} s",
    ]
    figures.append(f"{100 * after.count('replica2') // len(after)} %")
    ways = ", ".join(f"{count} {way}" for way, count in failed.most_common())
    return "".join(f"{figure:>10}" for figure in figures) + f"  {ways}" + (f", to {last:.1f} s" if failed else "")


def main() -> None:
    words = sys.argv[1:]
    lab.enter()
    os.chdir(HERE)
    place = lab.Lab()
    hosts = {f"replica{number}": place.host(f"replica{number}", 10 + number) for number in (1, 2, 3)}
    hosts |= {"proxy": place.host("proxy", 4), "load": place.host("load", 5)}
    heads = ["requests", "failed", "in hand", "p99", "slowest", "replica 2"]
    print(f"{'case':9}{'proxy':8} {'server':9}" + "".join(f"{head:>10}" for head in heads) + "  failures", flush=True)
    for case in CASES:
        for proxy in ("nginx", "haproxy"):
            for server in ("rrmaster", "uvicorn"):
                possible = case != "unheard" or (proxy, server) == CHECKED
                if possible and all(word in (case, proxy, server) for word in words):
                    print(f"{case:8} {proxy:8} {server:9}{trial(hosts, proxy, server, case)}", flush=True)


if __name__ == "__main__":
    main()
