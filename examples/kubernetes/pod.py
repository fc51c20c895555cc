"""The life of a pod, acted out: `python pod.py [--scale 0.1] [--pre-stop] [--stuck]`

Command, probes and times are those of `base/deployment.yaml`; this is the kubelet, and the proxies with clients behind
them.  They learn of the end late: they send for another five seconds, and then on connections that they have kept.
The configuration is mounted as the kubelet does it: a link to a link to a directory, which is renamed over.

`--scale` multiplies the times, but not those after which a pod is given up.  `--pre-stop` sleeps in a hook in place of
--shutdown-delay, and with `--stuck` one request never ends.
"""

import argparse
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

import trio
import yaml

HERE = Path(__file__).resolve().parent
CLIENTS = 8
LAG = 5.0
"""Seconds between TERM and the moment from which no new connection comes."""


class Volume:
    """A ConfigMap, or a Secret, that is mounted."""

    def __init__(self, directory: Path, files: dict[str, str]) -> None:
        self.directory, self.version = directory, 0
        self.publish(files)
        for name in files:
            (directory / name).symlink_to(f"..data/{name}")

    def publish(self, files: dict[str, str]) -> None:
        """Write a new directory, rename the link over, and remove the old directory."""
        self.version += 1
        link, new = self.directory / "..data", self.directory / f"..2026_11_29_{self.version}"
        old = link.resolve() if link.is_symlink() else None
        new.mkdir()
        for name, text in files.items():
            (new / name).write_text(text)
        (self.directory / "..data_tmp").symlink_to(new.name)
        (self.directory / "..data_tmp").rename(link)
        if old is not None:
            shutil.rmtree(old)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_closed(stream: trio.SocketStream) -> bool:
    """Whether the other side has ended it while it was idle, which any client looks at before it sends."""
    return bool(select.select([stream.socket], [], [], 0)[0])


async def get(port: int, path: str) -> int:
    """The status of an answer; 0 if there was none."""
    async with Connection(port) as connection:
        return await connection.get(path)


class Connection:
    """A client's connection, which is kept for as long as the other side keeps it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stream: trio.SocketStream | None = None

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop()

    async def drop(self) -> None:
        if self.stream is not None:
            await trio.aclose_forcefully(self.stream)
            self.stream = None

    async def is_kept(self) -> bool:
        if self.stream is not None and is_closed(self.stream):
            await self.drop()
        return self.stream is not None

    async def get(self, path: str) -> int:
        data = b""
        try:
            if self.stream is None:
                self.stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            await self.stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while not data.partition(b"\r\n\r\n")[2]:
                more = await self.stream.receive_some()
                if not more:
                    break
                data += more
        except (OSError, trio.BrokenResourceError):
            data = b""
        if not data or b"connection: close" in data.lower():
            await self.drop()
        return int(data.split()[1]) if data else 0


class Pod:
    """A pod with one container, as its manifest says."""

    def __init__(self, scale: float, pre_stop: bool, directory: Path) -> None:
        self.scale = scale
        spec = yaml.safe_load((HERE / "base" / "deployment.yaml").read_text())["spec"]["template"]["spec"]
        (self.container,) = spec["containers"]
        self.grace = spec["terminationGracePeriodSeconds"]
        config = yaml.safe_load((HERE / "base" / "configmap.yaml").read_text())["data"]
        table = tomllib.loads(config["rrmaster.toml"])
        delay, graceful = (int(table[key].removesuffix("s")) for key in ("shutdown_delay", "graceful_timeout"))
        self.pre_stop = delay if pre_stop else 0
        self.volume = Volume(directory, config)
        self.port, self.admin = free_port(), free_port()
        path = str(directory / "rrmaster.toml")
        self.command = [path if word == "/etc/shop/rrmaster.toml" else word for word in self.container["command"]]
        self.command = [sys.executable, "-m", *self.command, "--app-dir", str(HERE)]
        self.command += ["--bind", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}"]
        self.command += ["--control", str(directory / "control.sock")]
        self.command += ["--shutdown-delay", f"{0 if pre_stop else round(1000 * delay * scale)}ms"]
        self.command += ["--graceful-timeout", f"{round(1000 * graceful * scale)}ms"]
        self.log = directory / "log"
        self.endpoint = trio.Event()
        self.removed = trio.Event()
        self.ledger: Counter[int] = Counter()
        self.began = time.monotonic()
        self.said: list[str] = []

    def say(self, what: str) -> None:
        self.said.append(what)
        print(f"{time.monotonic() - self.began:6.1f} s  {what}", flush=True)

    async def live(self, stuck: bool) -> int:
        """From its start to its end; returns its exit status, or -9 if it was killed."""
        cpus = math.ceil(float(self.container["resources"]["limits"]["cpu"]))
        environ = os.environ | {"WEB_CONCURRENCY": str(cpus)}
        with self.log.open("wb") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            process = await trio.lowlevel.open_process(self.command, env=environ, **streams)
        self.say("the container starts")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.probe)
                await self.endpoint.wait()
                for _ in range(CLIENTS):
                    nursery.start_soon(self.client)
                if stuck:
                    nursery.start_soon(get, self.port, "/stuck")
                await trio.sleep(5 * self.scale)
                self.say("it is deleted" + (f"; the hook sleeps for {self.pre_stop} s" if self.pre_stop else ""))
                nursery.start_soon(self.remove_the_endpoint)
                with trio.move_on_after(self.grace) as in_time:
                    await trio.sleep(self.pre_stop * self.scale)
                    self.say("TERM")
                    process.send_signal(signal.SIGTERM)
                    await process.wait()
                self.say("KILL" if in_time.cancelled_caught else f"ended with status {process.returncode}")
                if process.returncode is None:
                    process.kill()
                # The clients go on until they hear of it: to a pod that has ended too early their requests fail.
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        return int(process.returncode or 0)

    async def probe(self) -> None:
        """The kubelet: the startup probe until it succeeds, then readiness."""
        probes = self.container
        failures, asked = 0, probes["startupProbe"]
        while not self.removed.is_set():
            await trio.sleep(asked["periodSeconds"] * (self.scale if self.endpoint.is_set() else 1))
            well = await get(self.admin, asked["httpGet"]["path"]) == 200
            failures = 0 if well else failures + 1
            if well and not self.endpoint.is_set():
                self.say("ready: it is among the endpoints")
                self.endpoint.set()
                asked = probes["readinessProbe"]
            if failures == asked["failureThreshold"]:
                if not self.endpoint.is_set():
                    raise TimeoutError(f"the startup probe has failed:\n{self.log.read_text()}")
                self.say("not ready, says the readiness probe")

    async def remove_the_endpoint(self) -> None:
        await trio.sleep(LAG * self.scale)
        self.say(f"no longer among the endpoints; {self.ledger[200]} requests answered so far")
        self.removed.set()

    async def client(self) -> None:
        async with Connection(self.port) as connection:
            while await connection.is_kept() or not self.removed.is_set():
                self.ledger[await connection.get("/")] += 1
                await trio.sleep(0.01)


async def life(scale: float = 1.0, pre_stop: bool = False, stuck: bool = False) -> tuple[int, Pod]:
    with tempfile.TemporaryDirectory() as directory:
        pod = Pod(scale, pre_stop, Path(directory))
        status = await pod.live(stuck)
        failed = pod.ledger.total() - pod.ledger[200]
        pod.say(f"{pod.ledger.total()} requests, {failed} failed")
        return status, pod


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--pre-stop", action="store_true")
    parser.add_argument("--stuck", action="store_true")
    sys.exit(trio.run(lambda: life(**vars(parser.parse_args())))[0])
