"""Does Prometheus answer what the dashboard asks, and can it evaluate the alerts?  `python run.py`, for half a minute.

A real Prometheus (Debian's) with prometheus.yml, but for its ports, scrapes a fleet of two workers under some load.
Everything is started here and ended here.  The status is 1 if a query has no answer or a rule fails.
"""

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

HERE = Path(__file__).resolve().parent
DASHBOARD = HERE.parent / "grafana" / "dashboard.json"
SECONDS, CLIENTS, SCRAPE = 25.0, 4, "1s"
PATIENCE = 60.0
"""Seconds until a wait fails."""


@contextlib.contextmanager
def started(*command):
    """A process, which is asked why if a wait fails."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=HERE, stderr=said)
        try:
            yield process
        except TimeoutError:
            said.seek(0)
            sys.exit(f"{' '.join(command)} has said:\n{said.read().decode()}")
        finally:
            process.terminate()
            process.wait(PATIENCE)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def ask(port, path):
    """Status and body of a page; 0 if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.1)


def copy_of_the_configuration(directory, admin):
    """With other ports, and a scrape each second, so that there are rates after half a minute."""
    text = (HERE / "prometheus.yml").read_text()
    assert "127.0.0.1:9000" in text
    text = text.replace("127.0.0.1:9000", f"127.0.0.1:{admin}").replace("interval: 5s", f"interval: {SCRAPE}")
    (directory / "prometheus.yml").write_text(text.replace("interval: 15s", "interval: 1s"))
    shutil.copy(HERE / "alerts.yml", directory)
    return directory / "prometheus.yml"


def load(port):
    def client():
        while time.monotonic() < end:
            ask(port, "/")

    end = time.monotonic() + SECONDS
    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()


def series(port, expression):
    """How many series a query of the dashboard has, with the variables that Grafana puts in."""
    for variable, value in {"$instance": ".*", "$__rate_interval": "15s"}.items():
        expression = expression.replace(variable, value)
    status, body = ask(port, f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    found = json.loads(body)
    return len(found["data"]["result"]) if (status, found["status"]) == (200, "success") else 0


def main():
    version = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=True)
    print(" ".join((version.stdout + version.stderr).split()[:3]), flush=True)
    port, admin, own = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        where = ("--bind", f"127.0.0.1:{port}", "--control", str(directory / "control.sock"), "--workers", "2")
        admin_page = ("--admin", f"127.0.0.1:{admin}")
        stack.enter_context(started(sys.executable, "-m", "rrmaster", *where, *admin_page, "app:app"))
        file = copy_of_the_configuration(directory, admin)
        storage = (f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{own}")
        stack.enter_context(started("prometheus", f"--config.file={file}", *storage))
        until(lambda: ask(port, "/")[0] == 200 and ask(admin, "/readyz")[0] == 200 and ask(own, "/-/ready")[0] == 200)
        load(port)
        unanswered = 0
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            counts = [series(own, target["expr"]) for target in panel["targets"]]
            unanswered += counts.count(0)
            print(f"{panel['title']:35} {' '.join(map(str, counts))}", flush=True)
        (group,) = json.loads(ask(own, "/api/v1/rules")[1])["data"]["groups"]
        failing = [rule["name"] for rule in group["rules"] if rule["health"] != "ok"]
        firing = [rule["name"] for rule in group["rules"] if rule["state"] != "inactive"]
    print(
        f"{unanswered} queries have no answer; of {len(group['rules'])} rules {len(failing)} fail, {len(firing)} fire"
    )
    sys.exit(bool(unanswered or failing))


if __name__ == "__main__":
    main()
