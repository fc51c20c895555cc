#!/bin/bash
# Starting a program costs 0.2 ms, or stops the process for 60: by uvloop, or by one argument of Popen.
#
# Expected    a subprocess costs the same whatever the parent holds: since 3.10 CPython starts it by vfork. uvloop is
#             the fast loop; user= and group= replace a preexec_fn because they are the cheap and safe way.
# Versions    CPython 3.11 to 3.13 on Linux, uvloop 0.23.0 (libuv 1.x)
# Behaviour   vfork is left as soon as user=, group= or extra_groups= is given (even one's own), as with preexec_fn,
#             and fork copies the page tables of the heap: 35 to 80 ms for each GiB, in the call, with the GIL held.
#             start_new_session=, process_group=, cwd=, umask= and env= cost nothing. uvloop always forks, whatever the
#             arguments: the loop stands still for each `create_subprocess_exec`, where asyncio's does not.
# Output      (1 GiB on the heap, ms until the call returns, the best of 9, on a busy machine)
#             Popen 0.3, umask= 0.2, cwd= 0.2, start_new_session= 0.2; user= 60, group= 57, preexec_fn= 55;
#             asyncio 0.5, uvloop 62
# Date        2026-11-29
# Why         a worker with a model of 10 GiB stops for half a second, all connections and threads with it, to
#             run a thumbnailer; a test with an empty heap shows 1 ms for each.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check uvloop==0.23.0
cat > "$lab/see.py" <<'PROGRAM'
import asyncio
import mmap
import os
import subprocess
import sys
import time

import uvloop

SIZE, TRIES = 1 << 30, 9
heap = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
heap.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(0, SIZE, mmap.PAGESIZE):
    heap[page] = 1


def by_popen(**arguments):
    taken = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        process = subprocess.Popen(["true"], **arguments)
        taken.append(time.perf_counter() - begin)
        process.wait()
    return min(taken) * 1000


async def by_loop():
    taken = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        process = await asyncio.create_subprocess_exec("true")
        taken.append(time.perf_counter() - begin)
        await process.wait()
    return min(taken) * 1000


cheap = {
    "Popen": by_popen(),
    "umask=": by_popen(umask=0o22),
    "cwd=": by_popen(cwd="/"),
    "start_new_session=": by_popen(start_new_session=True),
    "asyncio": asyncio.run(by_loop()),
}
dear = {
    "user=": by_popen(user=os.getuid()),
    "group=": by_popen(group=os.getgid()),
    "preexec_fn=": by_popen(preexec_fn=lambda: None),
    "uvloop": uvloop.run(by_loop()),
}
for name, milliseconds in (cheap | dear).items():
    print(f"{name} {milliseconds:.1f} ms")
if min(dear.values()) < 5 * max(cheap.values()):
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
"$lab/v/bin/python" "$lab/see.py"
