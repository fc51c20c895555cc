"""What the image would be and run, without Docker: `python try.py ROOT`, as root.  See image.py.

The CMD is process 1 of a container without HOME and /dev/shm, with a root that cannot be written and no capabilities,
as the Dockerfile's user, who has no line in /etc/passwd, and as root.  So are the other service, the same with an admin
port, and the command and the ConfigMap of ../kubernetes.
"""

import subprocess
import sys
import time
from pathlib import Path

import yaml
from image import HERE, Container, Stage, build, enter

MANIFESTS = HERE.parent / "kubernetes" / "base"


class Trial(Container):
    """A container, and a Redis that only it reaches."""

    def __init__(self, stage: Stage, user: str, command: list[str]) -> None:
        super().__init__(stage, user, command, REDIS_URL="redis://127.0.0.1:6379")
        words = ["nsenter", "-t", str(self.pid), "--net", "redis-server", "--save", "", "--dir", "/tmp"]
        self.redis = subprocess.Popen(words, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        for process in (self.redis, self.outside):
            process.kill()
            process.wait()

    def get(self, where: str) -> str:
        code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1{where}', timeout=5).read().decode())"
        return self.execute("python", "-c", code).stdout.strip().rpartition("\n")[2]

    def is_healthy(self) -> bool:
        return self.execute(*self.stage.healthcheck).returncode == 0

    def live(self, where: str) -> list[str]:
        """From its start to its end, with a line for each thing that was seen."""
        self.until(self.is_healthy, "the health check succeeds")
        seen = [f"healthy: {self.execute(*self.stage.healthcheck).stdout.strip()}"]
        seen.append(f"GET {where} -> {self.get(where)!r}")
        status = self.execute("rrmaster", "status")
        seen.append(f"status {status.returncode}: {status.stdout.splitlines()[0]}")
        reload = self.execute("rrmaster", "reload")
        seen.append(f"reload {reload.returncode}: {reload.stdout.splitlines()[-1]}")
        written = self.execute("touch", "/app/x", "/venv/x", "/dev/shm/x", "/x").stdout.count("touch:")
        seen.append(f"{written} of 4 writes outside /tmp refused")
        held = self.execute("sh", "-c", "grep -h -E 'CapEff|NoNewPrivs' /proc/1/status").stdout.split()
        seen.append(f"capabilities of process 1: {int(held[1], 16)}, no new privileges: {held[3]}")
        orphan = self.execute("sh", "-c", "(sleep 0.1 &) ; exit 0").returncode
        time.sleep(1)
        zombies = self.execute("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null").stdout.count(") Z ")
        seen.append(f"exec {orphan}, zombies: {zombies}")
        ended, seconds = self.end()
        seen.append(f"TERM: status {ended} after {seconds:.1f} s")
        return seen


def life(stage: Stage, user: str, command: list[str], where: str = ":8000/") -> None:
    trial = Trial(stage, user, command)
    try:
        seen = trial.live(where)
    finally:
        trial.close()
    print(f"{' '.join(command)} as {user}\n    " + "\n    ".join(seen), flush=True)
    print("".join(f"    | {line}\n" for line in trial.log.read_text().splitlines() if '"info"' not in line), end="")


def main(base: Path) -> None:
    enter()
    stage = build(base)
    config = yaml.safe_load((MANIFESTS / "configmap.yaml").read_text())["data"]
    pod = yaml.safe_load((MANIFESTS / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "config")
    directory = stage.root / mount["mountPath"].lstrip("/")
    directory.mkdir(parents=True)
    for name, text in config.items():
        (directory / name).write_text(text)
    stage.finish()
    admin = ["--admin", "0.0.0.0:9000", "--admin-allow-remote"]
    for user in (stage.user, "0:0"):
        life(stage, user, stage.cmd)
        life(stage, user, ["rrmaster", "shop:api"], ":8000/api")
        life(stage, user, [*stage.cmd[:-1], *admin, stage.cmd[-1]], ":9000/readyz")
        life(stage, user, pod["containers"][0]["command"], ":9000/readyz")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
