#!/bin/bash
# A program that inherits an ignored SIGCHLD takes every failed command for a success, or a lost one, by the library.
#
# Expected    subprocess.run(["sh", "-c", "exit 7"], check=True) raises CalledProcessError. A parent's signal settings
#             are none of its business: the module restores the signals that Python itself has changed.
# Versions    CPython 3.11 to 3.13, trio 0.35.0, uvloop 0.23.0, psutil 7.2.2; Linux
# Behaviour   SIG_IGN survives exec, also from a parent that ignores SIGCHLD to have no zombies (shells, Perl, C and Go
#             daemons do). The kernel then keeps no exit status. subprocess says 0, and so check=True accepts all;
#             trio says 0; os.system() says -1; asyncio says 255, for successes, too; multiprocessing and psutil say
#             None: not known. uvloop alone is right, because libuv sets a handler of its own, which stays when the loop has
#             ended: subprocess is right from then on, and so the program passes its tests on uvloop.
# Output      subprocess 0, check=True passes, trio 0, os.system -1, asyncio 255, multiprocessing None, psutil None,
#             uvloop 7, subprocess after uvloop 7
# Date        2026-11-29
# Why         a deployment that runs `subprocess.run([...migrate...], check=True)` goes on after the migration that
#             failed. One line at the start of the program cures it: signal.signal(SIGCHLD, SIG_DFL).
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check trio==0.35.0 uvloop==0.23.0 psutil==7.2.2
cat > "$lab/see.py" <<'PROGRAM'
import asyncio
import multiprocessing
import os
import subprocess
import sys

import psutil
import trio
import uvloop

FAILS = ["sh", "-c", "sleep 0.2; exit 7"]


async def on_asyncio():
    process = await asyncio.create_subprocess_exec(*FAILS)
    return await asyncio.wait_for(process.wait(), 5)


async def on_trio():
    with trio.fail_after(5):
        return (await trio.run_process(FAILS, check=False)).returncode


def by_multiprocessing():
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
    process.start()
    process.join(5)
    return process.exitcode


def by_subprocess():
    return subprocess.run(FAILS).returncode


def checked():
    try:
        subprocess.run(FAILS, check=True)
    except subprocess.CalledProcessError:
        return "raises"
    return "passes"


WAYS = {
    "subprocess": by_subprocess,
    "check=True": checked,
    "trio": lambda: trio.run(on_trio),
    "os.system": lambda: os.system("sleep 0.2; exit 7"),
    "asyncio": lambda: asyncio.run(on_asyncio()),
    "multiprocessing": by_multiprocessing,
    "psutil": lambda: psutil.Popen(FAILS).wait(5),
    "uvloop": lambda: uvloop.run(on_asyncio()),
    "subprocess after uvloop": lambda: (uvloop.run(on_asyncio()), by_subprocess())[1],
}
print(WAYS[sys.argv[1]]())
PROGRAM
cat > "$lab/daemon.py" <<'PROGRAM'
"""A parent that wants no zombies. What it starts inherits the setting."""

import signal
import subprocess
import sys

KNOWN = {
    "subprocess": "0",
    "check=True": "passes",
    "trio": "0",
    "os.system": "-1",
    "asyncio": "255",
    "multiprocessing": "None",
    "psutil": "None",
    "uvloop": "7",
    "subprocess after uvloop": "7",
}
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
seen = {}
for way in KNOWN:
    said = subprocess.run([sys.executable, sys.argv[1], way], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seen[way] = said.stdout.strip()
    print(way, seen[way])
if seen != KNOWN:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
"$lab/v/bin/python" "$lab/daemon.py" "$lab/see.py"
