"""Three replicas behind a proxy, and what their clients lose: `python run.py [PROXY] [SERVER] [CASE]`, as root.

Without arguments: each case behind nginx and HAProxy, with rrmaster and with `uvicorn --workers` in its place.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

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

    def in_hand(self) -> int:
        """The requests that the application has in progress, or had when it was killed."""
        return sum(file.read_bytes()[0] for file in self.host.directory.glob(f"{self.host.name}.*.in-hand"))

    def forget(self) -> None:
        for file in self.host.directory.glob(f"{self.host.name}.*.in-hand"):
            file.unlink()


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


# --- what happens: each case returns when its event was over, and what the victim had in hand


def rolling(replicas: list[Replica]) -> tuple[float, int]:
    began = time.time()
    for replica in replicas:
        replica.replace()
        time.sleep(SETTLED)
    return began, 0


def killed(replicas: list[Replica]) -> tuple[float, int]:
    victim = replicas[1]
    when, in_hand = victim.host.kill(), victim.in_hand()
    victim.forget()
    time.sleep(8)
    victim.start()
    time.sleep(SETTLED)
    return when, in_hand


def cut_off(replicas: list[Replica]) -> tuple[float, int]:
    victim = replicas[1]
    victim.host.plug("down")
    when, in_hand = time.time(), victim.in_hand()
    time.sleep(20)
    victim.host.plug("up")
    time.sleep(SETTLED)
    return when, in_hand


def slow(replicas: list[Replica]) -> tuple[float, int]:
    """Each answer of one replica takes half a second more."""
    mark = replicas[1].host.directory / f"{replicas[1].host.name}.slow"
    mark.touch()
    when = time.time()
    time.sleep(12)
    mark.unlink()
    return when, 0


def unheard(replicas: list[Replica]) -> tuple[float, int]:
    """No replica answers a health check in time, as on a crowded machine, and all of them serve."""
    when = time.time()
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for replica in replicas:
            replica.host.signal("rrmaster.admin", number)
        time.sleep(SETTLED)
    return when, 0


CASES = {"rolling": rolling, "killed": killed, "cut off": cut_off, "slow": slow, "unheard": unheard}
CHECKED = ("haproxy", "rrmaster")
"""Where health checks have a port of their own."""


# --- one trial


def proxy_command(proxy: str, server: str, directory: Path) -> str:
    if proxy == "nginx":
        return f"nginx -c {HERE}/nginx.conf -g daemon\toff;pid\t{directory}/nginx.pid;error_log\tstderr;"
    config = (HERE / "haproxy.cfg").read_text()
    if server == "uvicorn":  # it knows no PROXY protocol, and its only port answers the health checks
        config = config.replace(" send-proxy-v2", "").replace(" port 9000", "")
    (directory / "haproxy.cfg").write_text(config)
    return f"haproxy -db -f {directory}/haproxy.cfg"


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
    when, in_hand = CASES[case](replicas)
    load.send_signal(signal.SIGTERM)
    load.wait(PATIENCE)
    for host in hosts.values():
        host.kill()
    for file in [*directory.glob("*.in-hand"), *directory.glob("*.pid")]:
        file.unlink()
    return told(json.loads((directory / "ledger.json").read_text()), when, in_hand)


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
