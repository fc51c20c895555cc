"""The image without Docker: the Dockerfile is carried out line by line, and what it starts is a container.

`build(ROOT)` reads the Dockerfile with Docker's own parser (`pip install dockerfile`).  ROOT is a Debian with Python,
which takes the place of `python:3.13-slim`; it is not changed, for each stage is an overlay over it.  All mounts and
processes are in namespaces of their own, with which they end.
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
"""What Docker calls the context."""

INSIDE = "INSIDE_THE_ROOT"
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
LAB = Path("/mnt")
PATIENCE = 180.0
"""Seconds until a wait fails."""


def enter() -> None:
    """Run this program again in namespaces of its own.  It returns only there."""
    if INSIDE not in os.environ:
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvpe(apart[0], [*apart, sys.executable, *sys.argv], os.environ | {INSIDE: "1"})
    run("mount", "-t", "tmpfs", "lab", LAB)


def run(*words: object, **options: object) -> None:
    subprocess.run([str(word) for word in words], check=True, **options)  # type: ignore[call-overload]


class Stage:
    """A root file system, and what the Dockerfile has said of it."""

    def __init__(self, base: Path, name: str) -> None:
        self.directory = LAB / name
        for part in ("upper", "work", "root"):
            (self.directory / part).mkdir(parents=True)
        parts = f"lowerdir={base},upperdir={self.directory}/upper,workdir={self.directory}/work"
        self.root = self.directory / "root"
        run("mount", "-t", "overlay", "overlay", "-o", parts, self.root)
        self.environ = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        self.workdir, self.user = "/", "0:0"
        self.healthcheck: list[str] = []
        self.cmd: list[str] = []

    def follow(self, line: dockerfile.Command, stages: dict[str, "Stage"]) -> None:
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
                *sources, target = line.value
                whence = stages[line.flags[0].partition("=")[2]].root if line.flags else REPOSITORY
                if not line.flags and not all(map(may_be_seen, sources)):
                    sys.exit(f"{' '.join(sources)}: Dockerfile.dockerignore hides it")
                self.copy([whence / source.lstrip("/") for source in sources], target)
            case "RUN":
                self.build(line.value[0])
            case "EXPOSE":
                pass  # it is for readers
            case other:
                sys.exit(f"{other} is not known here")

    def copy(self, sources: list[Path], target: str) -> None:
        into = self.root / os.path.join(self.workdir, target).lstrip("/")
        for source in sources:
            if source.is_dir():
                caches = None if source.is_relative_to(LAB) else shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, into, symlinks=True, ignore=caches)
            else:
                into.mkdir(exist_ok=True, parents=True)
                shutil.copy(source, into)

    def build(self, command: str) -> None:
        """A RUN, with the machine's network and its way to packages."""
        lent = ("/etc/resolv.conf", "/etc/ssl/certs", "/proc", "/dev")
        for whence in lent:
            inside = self.root / whence.lstrip("/")
            if Path(whence).is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.touch()
            run("mount", "--bind", whence, inside)
        names = ("PIP_", "SSL_", "REQUESTS_")
        environ = self.environ | {name: value for name, value in os.environ.items() if name.startswith(names)}
        run(CHROOT, self.root, "sh", "-c", f"cd {self.workdir} && {command}", env=environ)
        for whence in reversed(lent):
            run("umount", self.root / whence.lstrip("/"))

    def finish(self, read_only: bool = True) -> None:
        """As containers see it: /dev has no shm, and a root that is read-only can be written nowhere but in /tmp.

        `bind`, because an overlay refuses a remount that repeats its directories, as mount of util-linux 2.41 does.
        """
        if read_only:
            run("mount", "-o", "remount,bind,ro", self.root)
        run("mount", "-t", "tmpfs", "-o", "mode=755", "dev", self.root / "dev")
        for name, major, minor in (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)):
            run("mknod", "-m", "666", self.root / "dev" / name, "c", major, minor)
        run("mount", "-o", "remount,bind,ro", self.root / "dev")


def may_be_seen(source: str) -> bool:
    """Whether Dockerfile.dockerignore, which ignores all but what it names, names this."""
    return f"!{source}" in (HERE / "Dockerfile.dockerignore").read_text().split()


def build(base: Path, say: Callable[[str], None] = print) -> Stage:
    """The image, not yet finished: a file may be put where a volume will be mounted."""
    stages: dict[str, Stage] = {}
    stage = None
    for line in dockerfile.parse_file(str(HERE / "Dockerfile")):
        say(f"{line.cmd} {' '.join([*line.flags, *line.value])}")
        if line.cmd.upper() == "FROM":
            stage = Stage(base, f"stage{len(stages)}")
            stages[line.value[-1]] = stage
            python = stage.root / "usr/local/bin/python"  # where the official image has it
            if not python.exists():
                python.symlink_to("/usr/bin/python3")
        else:
            assert stage is not None
            stage.follow(line, stages)
    assert stage is not None
    return stage


class Container:
    """A running container: its process 1, with a /tmp and processes of its own, in a network that has a name or none.

    It has no capabilities and gets no new privileges, as the manifests and compose.yaml say, unless it is `trusted`.
    """

    def __init__(
        self, stage: Stage, user: str, command: list[str], network: str = "", trusted: bool = False, **environ: str
    ) -> None:
        self.stage, self.user, self.trusted, self.environ = stage, user, trusted, stage.environ | environ
        self.root = stage.root
        self.log = Path(tempfile.mkdtemp()) / "log"
        begin = f"ip link set lo up && mount -t proc proc {self.root}/proc"
        begin += f' && mount -t tmpfs -o mode=1777,size=64m tmp {self.root}/tmp && exec "$@"'
        place = ["ip", "netns", "exec", network, "unshare"] if network else ["unshare", "--net"]
        apart = [*place, "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", begin, "begin"]
        with self.log.open("wb") as log:
            self.outside = subprocess.Popen(
                [*apart, CHROOT, str(self.root), *self.inside(command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def inside(self, command: list[str]) -> list[str]:
        """A command with this container's user, directory and environment, in which there is no HOME."""
        environ = [f"{name}={value}" for name, value in self.environ.items()]
        uid, gid = self.user.split(":")
        bound = [] if self.trusted else ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        privileges = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *bound]
        return [*privileges, "env", "-i", "-C", self.stage.workdir, *environ, *command]

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
        words = ["nsenter", "-t", str(self.pid), "--net", "--pid", "--mount", "--root", *self.inside(list(command))]
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline or self.outside.poll() is not None:
                sys.exit(f"in vain: {what}\n{self.log.read_text()}")
            time.sleep(0.1)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """A signal to its process 1; returns its exit status, and how many seconds it took."""
        began = time.monotonic()
        os.kill(self.pid, number)
        return self.outside.wait(PATIENCE), time.monotonic() - began
