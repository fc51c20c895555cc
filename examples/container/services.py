"""The services of compose.yaml without Docker, and what visitors lose: `python services.py ROOT`, as root.

ROOT also has redis-server, and nginx 1.27.3 or newer, in the place of the two other images.  Each container is a host
(a network namespace), and dnsmasq at 127.0.0.11 answers the name of a service with the addresses of its containers, as
Docker does.  20 visitors put things into their baskets (POST /api) and look at them (GET /), while containers are
replaced, killed and restarted.
"""

import ctypes
import http.client
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml
from image import HERE, LAB, PATIENCE, Container, Stage, build, enter, run

NETWORK, VISITORS, PAUSE_S = "10.98.0", 20, 0.05
CLONE_NEWNET = 0x40000000
COMPOSE = yaml.safe_load((HERE / "compose.yaml").read_text())["services"]
SETTLED_S = 6.0
"""Between two replacements: longer than nginx's fail_timeout, for it meets a new container before that is ready."""


class Names:
    """Docker's DNS: the addresses that each service has now."""

    def __init__(self) -> None:
        self.file, self.addresses = LAB / "hosts", dict[str, str | None]()
        self.servers: list[subprocess.Popen[bytes]] = []
        self.file.touch()

    def serve(self, host: str) -> None:
        where = "--listen-address=127.0.0.11 --bind-interfaces --port=53 --local-ttl=0 --max-cache-ttl=0 --cache-size=0"
        files = f"--local=/#/ --no-resolv --no-hosts --addn-hosts={self.file} --conf-file=/dev/null"
        command = f"ip netns exec {host} dnsmasq --keep-in-foreground --pid-file= --user=root {where} {files}"
        server = subprocess.Popen([*command.split(), "--log-facility=-"], stderr=subprocess.PIPE)
        assert server.stderr is not None
        said = server.stderr.readline()  # from here on it reads the file again at HUP, which ends it earlier
        if b"started" not in said:
            sys.exit(f"dnsmasq of {host}: {said.decode()}{server.stderr.readline().decode()}")
        self.servers.append(server)

    def change(self, address: str, service: str | None) -> None:
        """This address is a service's from now on, or nothing is there."""
        run("ip", "link", "set", f"c{address.rpartition('.')[2]}", "up" if service else "down")
        self.addresses |= {address: service}
        lines = [f"{where} {name}\n" for where, name in self.addresses.items() if name]
        self.file.write_text("".join(lines))
        for server in self.servers:
            server.send_signal(signal.SIGHUP)


class Services:
    """What `docker compose up` starts."""

    def __init__(self, image: Stage, others: dict[str, Stage]) -> None:
        ctypes.CDLL(None).unshare(CLONE_NEWNET)  # only now: the image was built with the machine's network
        run("mount", "-t", "tmpfs", "lab-run", "/run")  # `ip netns` keeps its names there
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "lab", "type", "bridge")
        run("ip", "link", "set", "lab", "up")
        run("ip", "addr", "add", f"{NETWORK}.254/24", "dev", "lab")
        self.image, self.others = image, others
        self.names = Names()
        self.numbers = itertools.count(2)
        self.running: dict[str, list[tuple[str, Container]]] = {}

    def host(self) -> str:
        number = next(self.numbers)
        name, address = f"c{number}", f"{NETWORK}.{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", name, "master", "lab", "up")
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        self.names.serve(name)
        return address

    def start(self, service: str, address: str = "") -> None:
        """A container of a service, at the address of an old one or at a new one; returns when it is healthy."""
        said = COMPOSE[service]
        address = address or self.host()
        host = f"c{address.rpartition('.')[2]}"
        ours = "build" in said
        stage = self.image if ours else self.others[service]
        environ = said.get("environment", {})
        container = Container(stage, stage.user, said.get("command", stage.cmd), host, not ours, **environ)
        self.names.change(address, service)
        check = said.get("healthcheck", {}).get("test", [])[1:] or (stage.healthcheck if ours else ["true"])
        container.until(lambda: container.execute(*check).returncode == 0, f"{service} is healthy")
        self.running.setdefault(service, []).append((address, container))

    def up(self) -> None:
        left = dict(COMPOSE)
        while left:
            service = next(name for name in left if not any(need in left for need in left[name].get("depends_on", {})))
            for _ in range(left.pop(service).get("deploy", {}).get("replicas", 1)):
                self.start(service)
        (address, container), *_ = self.running["nginx"]
        first = Visitor(0, address)  # it has no health check: it listens, and has asked for the addresses
        container.until(lambda: first.send("GET", "/", None)[0] == "200", "nginx answers")

    def stop(self, service: str, number: int = signal.SIGTERM) -> str:
        """End the oldest container of a service; its name ends with it.  Returns what is said of its end."""
        address, container = self.running[service][0]
        status, seconds = container.end(number)
        del self.running[service][0]
        self.names.change(address, None)
        return f"status {status} after {seconds:.1f} s"


class Visitor(threading.Thread):
    """One browser, whose requests are sent once; half of them keep their connection."""

    def __init__(self, number: int, address: str) -> None:
        super().__init__(daemon=True)
        self.address, self.keep, self.cookie = address, number % 2 == 0, f"visitor={uuid.uuid4().hex}"
        self.ledger: list[tuple[float, float, str, str]] = []
        self.bought: list[str] = []
        self.doubtful: set[str] = set()
        self.over = threading.Event()
        self.connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        for turn in itertools.count():
            if self.over.is_set():
                break
            if turn % 3:
                self.ask("GET", "/")
            else:
                self.buy(f"thing-{turn}")
            time.sleep(PAUSE_S)

    def buy(self, thing: str) -> None:
        if self.ask("POST", "/api", thing)[0] == "200":
            self.bought.append(thing)
        else:
            self.doubtful.add(thing)  # an error says not whether it was done

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[str, str]:
        began = time.time()
        found = self.send(method, path, body)
        self.ledger.append((began, time.time(), method, found[0]))
        return found

    def send(self, method: str, path: str, body: str | None) -> tuple[str, str]:
        if self.connection is None or not self.keep:
            self.connection = http.client.HTTPConnection(self.address, 8080, timeout=30)
        headers = {"Cookie": self.cookie} | ({} if self.keep else {"Connection": "close"})
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            return str(answer.status), answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            self.connection = None
            return type(error).__name__, ""

    def has_the_basket(self) -> bool:
        """Whether it has each thing that was acknowledged, in order, and nothing that was never sent."""
        status, text = self.send("GET", "/", None)
        found = text.split()
        known = [thing for thing in found if thing not in self.doubtful]
        return status == "200" and known == self.bought and set(found) <= set(self.bought) | self.doubtful


# --- what happens


def nothing(services: Services) -> str:
    time.sleep(8)
    return ""


def replaced(service: str) -> Callable[[Services], str]:
    """One container after the other, each by one with another address."""

    def happens(services: Services) -> str:
        said = []
        for _ in range(len(services.running[service])):
            said.append(services.stop(service))
            services.start(service)
            time.sleep(SETTLED_S)
        return "; ".join(said)

    return happens


def killed(services: Services) -> str:
    """KILL, and `restart: unless-stopped` starts it again with its address."""
    address = services.running["api"][0][0]
    said = services.stop("api", signal.SIGKILL)
    services.start("api", address)
    time.sleep(SETTLED_S)
    return said


def restarted_at_once(services: Services) -> str:
    """`docker compose restart web`: all containers of the service at the same time."""
    old = [address for address, _ in services.running["web"]]
    for _, container in services.running["web"]:
        os.kill(container.pid, signal.SIGTERM)
    for _, container in services.running["web"]:
        container.outside.wait(PATIENCE)
    for address in old:
        services.names.change(address, None)
    services.running["web"] = []
    for address in old:
        services.start("web", address)
    time.sleep(SETTLED_S)
    return ""


CASES: dict[str, Callable[[Services], str]] = {
    "nothing happens": nothing,
    "web, one by one": replaced("web"),
    "api, one by one": replaced("api"),
    "api: one killed": killed,
    "web: both at once": restarted_at_once,
}


def told(case: str, visitors: list[Visitor], began: float, said: str) -> str:
    """The line of the table."""
    ended = time.time()
    entries = [entry for visitor in visitors for entry in list(visitor.ledger) if began <= entry[1] <= ended]
    failed = Counter(f"{method} {how}" for _, _, method, how in entries if how != "200")
    slowest = max(end - begin for begin, end, *_ in entries)
    ways = ", ".join(f"{count} {way}" for way, count in failed.most_common())
    return f"{case:18}{len(entries):>9}{failed.total():>8}{slowest:>8.1f} s  {ways or said}"


def nginx_and_redis(base: Path) -> dict[str, Stage]:
    """In the place of those images: their commands, and where they find what compose.yaml mounts."""
    redis, nginx = Stage(base, "redis"), Stage(base, "nginx")
    redis.workdir = "/var/lib/redis"
    (nginx.root / "etc/nginx/nginx.conf").write_text((HERE / "nginx.conf").read_text())
    nginx.cmd = ["nginx", "-g", "daemon off;"]
    for stage in (redis, nginx):
        stage.environ["PATH"] += ":/usr/sbin"
        stage.finish(read_only=False)
    COMPOSE["redis"]["command"] += ["--protected-mode", "no"]  # as the image's entry point says
    return {"redis": redis, "nginx": nginx}


def main(base: Path) -> None:
    enter()
    image = build(base, say=lambda line: None)
    (image.root / "etc/resolv.conf").write_text("nameserver 127.0.0.11\n")
    image.finish()
    services = Services(image, nginx_and_redis(base))
    services.up()
    visitors = [Visitor(number, services.running["nginx"][0][0]) for number in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    print(f"{'':18}{'requests':>9}{'failed':>8}{'slowest':>10}", flush=True)
    for case, happens in CASES.items():
        began = time.time()
        said = happens(services)
        print(told(case, visitors, began, said), flush=True)
    for visitor in visitors:
        visitor.over.set()
    for visitor in visitors:
        visitor.join()
    print(f"{sum(visitor.has_the_basket() for visitor in visitors)} of {VISITORS} visitors have their basket")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
