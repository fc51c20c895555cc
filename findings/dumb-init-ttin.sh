#!/bin/bash
# Behind dumb-init the signal that adds a worker freezes the server, and then SIGTERM does not stop it.
#
# Expected    dumb-init hands on what it receives: kill -TTIN adds a worker to gunicorn, as it does without dumb-init.
# Versions    dumb-init 1.2.5.post1, gunicorn 27.0.1
# Behaviour   dumb-init takes TTIN, TTOU and TSTP for job control of a terminal, whether there is one or not. It sends
#             the whole group SIGSTOP instead, and stops itself. No request is answered; a health check's restart, which
#             begins with TERM, waits until the platform kills, because a stopped dumb-init hands nothing on. With
#             --single-child gunicorn does get TTIN and serves with one more, but dumb-init is stopped all the same,
#             and TERM does not arrive until CONT does. `--rewrite 21:0` only removes the signal.
# Output      alone: 1 -> 2 workers, answers, ended by TERM
#             dumb-init: 1 -> 1 workers, no answer, not ended by TERM
#             dumb-init --single-child: 1 -> 2 workers, answers, not ended by TERM
# Date        2026-11-29
# Why         both halves are documented, each in its own manual: gunicorn and others scale by TTIN and TTOU, images
#             put dumb-init first. `docker kill -s TTIN` in between is an outage that looks like a hang of the server.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check dumb-init==1.2.5.post1 gunicorn==27.0.1
cd "$lab"
export HOME=$lab
cat > shop.py <<'PROGRAM'
def app(environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PROGRAM
cat > see.py <<'PROGRAM'
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def answers(port, patience):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1.5).read() == b"ok"
        except OSError:
            time.sleep(0.1)
    return False


def ended(process, patience):
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        return False
    return True


def scaled(*launcher):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gunicorn = ["v/bin/python", "v/bin/gunicorn", "--no-control-socket", "-w", "1", "-b", f"127.0.0.1:{port}", "shop:app"]
    process = subprocess.Popen([*launcher, *gunicorn], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert answers(port, 10)
        master = children(process.pid)[0] if launcher else process.pid
        before = len(children(master))
        process.send_signal(signal.SIGTTIN)
        time.sleep(2)
        after, served = len(children(master)), answers(port, 1.6)
        process.terminate()
        return before, after, served, ended(process, 2)
    finally:
        for sent in (signal.SIGCONT, signal.SIGTERM):  # dumb-init continues, and hands both on
            process.send_signal(sent)
        if not ended(process, 5):
            os.kill(master, signal.SIGKILL)
            process.kill()


seen = {
    "alone": scaled(),
    "dumb-init": scaled("v/bin/dumb-init"),
    "dumb-init --single-child": scaled("v/bin/dumb-init", "--single-child"),
}
for name, (before, after, served, gone) in seen.items():
    said = "answers" if served else "no answer"
    print(f"{name}: {before} -> {after} workers, {said}, {'ended' if gone else 'not ended'} by TERM")
if list(seen.values()) != [(1, 2, True, True), (1, 1, False, False), (1, 2, True, False)]:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
