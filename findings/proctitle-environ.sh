#!/bin/bash
# A process that sets its title loses its environment, as every other process sees it.
#
# Expected    setproctitle changes what ps shows. psutil.Process(pid).environ() still tells the environment.
# Versions    setproctitle 1.3.8, psutil 7.2.2; Linux
# Behaviour   Linux has no call for a long title: the library moves the environment elsewhere in memory and uses the
#             place behind argv for the title. os.environ and children are as before, but /proc/PID/environ shows the
#             old place, which is zeros by then. psutil returns an empty dict without an error, and cmdline() has the
#             title and then an empty string for each byte of padding.
# Output      before: environ has COOKIE. after: psutil environ {}, a child still has COOKIE, cmdline begins with the
#             title and has more than 20 empty strings.
# Date        2026-11-28
# Why         programs that find or end processes by a variable (a CI's cookie, a supervisor's tag, a debugger that
#             asks for LD_PRELOAD) overlook exactly the servers that set a title: gunicorn and many workers do so as
#             soon as the library is installed, often as a dependency of something else.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check setproctitle==1.3.8 psutil==7.2.2
cat > "$lab/worker.py" <<'PROGRAM'
import subprocess
import sys

import setproctitle

print("up", flush=True)
sys.stdin.readline()
setproctitle.setproctitle("shop: worker 1")
print(subprocess.run(["printenv", "COOKIE"], capture_output=True, text=True).stdout.strip(), flush=True)
sys.stdin.readline()
PROGRAM
cat > "$lab/see.py" <<'PROGRAM'
import os
import subprocess
import sys

import psutil

environment = {**os.environ, "COOKIE": "4711"}
with subprocess.Popen(
    [sys.executable, sys.argv[1]], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
) as worker:
    seen = psutil.Process(worker.pid)
    worker.stdout.readline()
    before = seen.environ().get("COOKIE")
    worker.stdin.write("\n")
    child = worker.stdout.readline().strip()
    after, line = seen.environ(), seen.cmdline()
    worker.stdin.write("\n")
print(f"before: COOKIE={before}; after: environ {after}, a child has COOKIE={child}")
print(f"cmdline: {line[0]!r} and {line.count('')} empty strings")
if before != "4711" or child != "4711" or after != {} or line[0] != "shop: worker 1" or line.count("") <= 20:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
"$lab/v/bin/python" "$lab/see.py" "$lab/worker.py"
