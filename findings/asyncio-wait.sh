#!/bin/bash
# asyncio's Process.wait() waits for the grandchildren, too, as soon as one output is a pipe.
#
# Expected    `await process.wait()` returns when the process has exited. That is what it does without pipes.
# Versions    CPython 3.11 to 3.13 (asyncio), uvloop 0.23.0, trio 0.35.0
# Behaviour   with stdout=PIPE, asyncio's wait() returns when the process has exited *and* each of its pipes has ended.
#             A daemon that the process left behind holds the pipe, so that a shell which has exited is "running"
#             until the daemon ends. `returncode` is right all the while, and a wait() that begins after the exit
#             returns at once: a test with a fast child sees nothing. uvloop and trio return at the exit.
# Output      (a shell exits after 0.2 s and leaves `sleep 3` behind)
#             asyncio without a pipe 0 s, asyncio with a pipe 3 s, uvloop with a pipe 0 s, trio with a pipe 0 s
# Date        2026-11-28
# Why         a supervisor that reads its children's output with asyncio does not see a dead child while a grandchild
#             lives, and restarts nothing; the same program passes its tests on uvloop.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check trio==0.35.0 uvloop==0.23.0
cat > "$lab/see.py" <<'PROGRAM'
import asyncio
import subprocess
import sys
import time

import trio
import uvloop

SHELL = ("sh", "-c", "sleep 3 & sleep 0.2")


async def on_asyncio(**pipes):
    begin = time.monotonic()
    process = await asyncio.create_subprocess_exec(*SHELL, **pipes)
    await process.wait()
    return round(time.monotonic() - begin)


async def on_trio():
    begin = time.monotonic()
    process = await trio.lowlevel.open_process(SHELL, stdout=subprocess.PIPE)
    await process.wait()
    return round(time.monotonic() - begin)


async def the_exit_is_known():
    process = await asyncio.create_subprocess_exec(*SHELL, stdout=subprocess.PIPE)
    await asyncio.sleep(1)
    known = process.returncode
    await process.stdout.read()
    return known


seen = {
    "asyncio without a pipe": asyncio.run(on_asyncio()),
    "asyncio with a pipe": asyncio.run(on_asyncio(stdout=subprocess.PIPE)),
    "uvloop with a pipe": uvloop.run(on_asyncio(stdout=subprocess.PIPE)),
    "trio with a pipe": trio.run(on_trio),
}
print(", ".join(f"{name} {seconds} s" for name, seconds in seen.items()))
code = asyncio.run(the_exit_is_known())
print(f"asyncio's returncode after 1 s: {code}")
if list(seen.values()) != [0, 3, 0, 0] or code != 0:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
"$lab/v/bin/python" "$lab/see.py"
