"""What the image would be and run, without Docker: `python try.py ROOT`, as root.

ROOT is a Debian with Python, which takes the place of `python:3.13-slim` and is not changed:
`debootstrap --variant=minbase --include=python3,python3-venv stable ROOT`.  The Dockerfile is read by Docker's own
parser (`pip install dockerfile`) and carried out line by line on overlays.  Then its CMD is process 1 of a container
without HOME and /dev/shm, with a root that cannot be written, as the Dockerfile's user and as root.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dockerfile

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
INSIDE = "INSIDE_THE_ROOT"
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
LAB = Path("/mnt")
PATIENCE = 60.0
"""Seconds until a wait fails."""


def enter() -> None:
    """Run this program again in namespaces of its own, with which all mounts and processes end."""
    if INSIDE not in os.environ:
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvpe(apart[0], [*apart, sys.executable, *sys.argv], os.environ | {INSIDE: "1"})


def run(*words: object, **options: object) -> None:
    subprocess.run([str(word) for word in words], check=True, **options)  # type: ignore[call-overload]


class Stage:
    """A stage of the image: a root file system, and what the Dockerfile has said of it."""

    def __init__(self, base: Path, number: int) -> None:
        self.directory = LAB / f"stage{number}"
        for name in ("upper", "work", "root"):
            (self.directory / name).mkdir(parents=True)
        parts = f"lowerdir={base},upperdir={self.directory}/upper,workdir={self.directory}/work"
        self.root = self.directory / "root"
        run("mount", "-t", "overlay", "overlay", "-o", parts, self.root)
        python = self.root / "usr/local/bin/python"
        if not python.exists():
            python.symlink_to("/usr/bin/python3")
        self.environ = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        self.workdir, self.user = "/", "0:0"
        self.healthcheck: list[str] = []
        self.cmd: list[str] = []

    def follow(self, line: dockerfile.Command, stages: dict[str, "Stage"], wheels: str) -> None:
        match line.cmd.upper():
            case "ENV":
                self.environ |= dict(zip(line.value[::2], line.value[1::2], strict=True))
            case "WORKDIR":
                self.workdir = line.value[0]
                (self.root / self.workdir.lstrip("/")).mkdir(exist_ok=True)
            case "USER":
                self.user = line.value[0]
            case "HEALTHCHECK":
                self.healthcheck = list(line.value[1:])
            case "CMD":
                self.cmd = list(line.value)
            case "COPY":
                whence = stages[line.flags[0].partition("=")[2]].root if line.flags else HERE
                *sources, target = line.value
                self.copy([whence / source.lstrip("/") for source in sources], target)
            case "RUN":
                self.build(line.value[0], wheels)
            case "EXPOSE":
                pass  # it is for readers
            case other:
                sys.exit(f"{other} is not known here")

    def copy(self, sources: list[Path], target: str) -> None:
        into = self.root / os.path.join(self.workdir, target).lstrip("/")
        for source in sources:
            if source.is_dir():
                shutil.copytree(source, into, symlinks=True)
            else:
                into.mkdir(exist_ok=True)
                shutil.copy(source, into)

    def build(self, command: str, wheels: str) -> None:
        """A RUN, with the machine's network and its way to packages."""
        lent = {wheels: "wheels", "/etc/resolv.conf": "etc/resolv.conf", "/etc/ssl/certs": "etc/ssl/certs"}
        lent |= {"/proc": "proc", "/dev": "dev"}
        for whence, to in lent.items():
            inside = self.root / to
            if Path(whence).is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.touch()
            run("mount", "--bind", whence, inside)
        names = ("PIP_", "SSL_", "REQUESTS_")
        environ = self.environ | {name: value for name, value in os.environ.items() if name.startswith(names)}
        run(
            CHROOT,
            self.root,
            "sh",
            "-c",
            f"cd {self.workdir} && {command}",
            env=environ | {"PIP_FIND_LINKS": "/wheels"},
        )
        for to in reversed(lent.values()):
            run("umount", self.root / to)

    def finish(self) -> None:
        """As a container sees it: nothing can be written but /tmp, and /dev has no shm."""
        run("mount", "-o", "remount,ro", self.root)
        run("mount", "-t", "tmpfs", "-o", "mode=1777,size=64m", "tmp", self.root / "tmp")
        run("mount", "-t", "tmpfs", "-o", "mode=755", "dev", self.root / "dev")
        for name, major, minor in (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)):
            run("mknod", "-m", "666", self.root / "dev" / name, "c", major, minor)
        run("mount", "-o", "remount,ro", self.root / "dev")


class Container:
    """A running container: its process 1, in a network and among processes of its own."""

    def __init__(self, stage: Stage, user: str, command: list[str], **environ: str) -> None:
        self.stage, self.user, self.environ = stage, user, stage.environ | environ
        self.log = Path(tempfile.mkdtemp()) / "log"
        self.root = stage.root
        begin = f'ip link set lo up && mount -t proc proc {self.root}/proc && exec "$@"'
        apart = ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", begin, "begin"]
        with self.log.open("wb") as log:
            self.outside = subprocess.Popen(
                [*apart, *self.inside(command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def inside(self, command: list[str]) -> list[str]:
        """A command with this container's root, user, directory and environment, in which there is no HOME."""
        environ = [f"{name}={value}" for name, value in self.environ.items()]
        chroot = [CHROOT, f"--userspec={self.user}", "--groups=", str(self.root)]
        return [*chroot, "env", "-i", "-C", self.stage.workdir, *environ, *command]

    @property
    def pid(self) -> int:
        """Of its process 1, as seen from outside."""
        self.until(lambda: self.children() != [], "it starts")
        return self.children()[0]

    def children(self) -> list[int]:
        task = Path(f"/proc/{self.outside.pid}/task/{self.outside.pid}/children")
        return [int(word) for word in task.read_text().split()]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec` does."""
        words = ["nsenter", "-t", str(self.pid), "--net", "--pid", *self.inside(list(command))]
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def get(self, where: str) -> str:
        code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1{where}', timeout=5).read().decode())"
        return self.execute("python", "-c", code).stdout.strip().rpartition("\n")[2]

    def until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline or self.outside.poll() is not None:
                sys.exit(f"in vain: {what}\n{self.log.read_text()}")
            time.sleep(0.2)

    def end(self) -> tuple[int, float]:
        """TERM to its process 1; returns its exit status, and how long it took."""
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        status = self.outside.wait(PATIENCE)
        run("umount", self.root / "proc")
        return status, time.monotonic() - began


def life(stage: Stage, user: str, command: list[str], where: str = ":8000/", **environ: str) -> None:
    """One container from its start to its end, with a line for each thing that was seen."""
    container = Container(stage, user, command, **environ)
    redis = None
    if environ:
        redis = subprocess.Popen(
            ["nsenter", "-t", str(container.pid), "--net", "redis-server", "--save", "", "--dir", "/tmp"],
            stdout=subprocess.DEVNULL,
        )
    who = f"{' '.join(command)} as {user}"
    try:
        healthy = lambda: container.execute(*stage.healthcheck).returncode == 0  # noqa: E731
        container.until(healthy, "the health check succeeds")
        seen = [f"healthy: {container.execute(*stage.healthcheck).stdout.strip()}"]
        seen.append(f"GET {where} -> {container.get(where)!r}")
        status = container.execute("rrmaster", "status")
        seen.append(f"status {status.returncode}: {status.stdout.splitlines()[0]}")
        reload = container.execute("rrmaster", "reload")
        seen.append(f"reload {reload.returncode}: {reload.stdout.splitlines()[-1]}")
        written = container.execute("touch", "/app/x", "/venv/x", "/dev/shm/x", "/x").stdout.count("touch:")
        seen.append(f"{written} of 4 writes outside /tmp refused")
        orphan = container.execute("sh", "-c", "(sleep 0.1 &) ; exit 0").returncode
        time.sleep(1)
        zombies = container.execute("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null").stdout.count(") Z ")
        seen.append(f"exec {orphan}, zombies: {zombies}")
        ended, seconds = container.end()
        seen.append(f"TERM: status {ended} after {seconds:.1f} s")
    finally:
        if redis is not None:
            redis.kill()
            redis.wait()
        if container.outside.poll() is None:
            container.outside.kill()
            container.outside.wait()
    print(f"{who}\n    " + "\n    ".join(seen), flush=True)
    print("".join(f"    | {line}\n" for line in container.log.read_text().splitlines() if '"info"' not in line), end="")


def main(base: Path) -> None:
    enter()
    run("mount", "-t", "tmpfs", "lab", LAB)
    wheels = LAB / "wheels"
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, REPOSITORY)
    stages: dict[str, Stage] = {}
    stage = None
    for line in dockerfile.parse_file(str(HERE / "Dockerfile")):
        print(f"{line.cmd} {' '.join([*line.flags, *line.value])}", flush=True)
        if line.cmd.upper() == "FROM":
            stage = Stage(base, len(stages))
            stages[line.value[-1]] = stage
        else:
            assert stage is not None
            stage.follow(line, stages, str(wheels))
    assert stage is not None
    stage.finish()
    for user in (stage.user, "0:0"):
        life(stage, user, stage.cmd)
        life(stage, user, ["rrmaster", "shop:api"], REDIS_URL="redis://127.0.0.1:6379")
        life(
            stage,
            user,
            [*stage.cmd[:-1], "--admin", "0.0.0.0:9000", "--admin-allow-remote", stage.cmd[-1]],
            ":9000/readyz",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
