#!/bin/bash
# What a program sets after its first process does not reach the later ones, since Python 3.14 by default.
#
# Expected    a process that multiprocessing or ProcessPoolExecutor starts has its parent's environment, umask, limits,
#             niceness and processors, as with fork and spawn, and as every child of a Unix process.
# Versions    CPython 3.11 to 3.15 with the start method "forkserver", on Linux the default since 3.14; numpy 2.4.6 with
#             threadpoolctl 3.6.0
# Behaviour   the children are forked by a server, which is started with the first of them, and stays. They have what the
#             program had at that time; only the working directory and sys.argv are sent along. So a library that once
#             starts one process, at its import for example, fixes all that for the life of the program. The threads of
#             numpy's BLAS are one more of it: OMP_NUM_THREADS=1 before a pool is what its documentation advises.
# Output      see KNOWN below: what a second process has, after the program has changed everything
# Date        2026-11-29
# Why         an `os.umask(0o077)`, a limit of memory, or a thread for each process holds with 3.13 and with a pool made
#             early enough, and else not, without a word. A context of one's own (`get_context("spawn")`) has no server.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check numpy==2.4.6 threadpoolctl==3.6.0
cd "$lab"
cat > see.py <<'PROGRAM'
import multiprocessing
import os
import resource
import sys

HAD = {
    "umask": "0o22", "files": 900, "niceness": 0, "SHOP": "before", "directory": "/usr",
    "BLAS threads": min(2, os.cpu_count()),
}
HAS = {"umask": "0o77", "files": 300, "niceness": 3, "SHOP": "after", "directory": "/usr", "BLAS threads": 1}
KNOWN = {"fork": {**HAS, "BLAS threads": "not asked"}, "spawn": HAS, "forkserver": HAD}


def tell(queue, with_blas):
    umask = os.umask(0)
    os.umask(umask)
    threads = "not asked"
    if with_blas:
        import numpy  # noqa: F401
        import threadpoolctl

        (threads,) = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    queue.put({
        "umask": oct(umask),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "niceness": os.nice(0),
        "SHOP": os.environ["SHOP"],
        "directory": os.getcwd(),
        "BLAS threads": threads,
    })


def started(method):
    """What a process has that is started now."""
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=tell, args=(queue, method != "fork"))
    process.start()
    told = queue.get()
    process.join()
    return told


def main(method):
    os.environ.update(SHOP="before", OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2")
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, 900))
    started(method)
    os.environ.update(SHOP="after", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 900))
    os.nice(3)
    os.chdir("/usr")
    told = started(method)
    print(f"{method}: {told}")
    return told == KNOWN[method]


if __name__ == "__main__":
    raise SystemExit(0 if main(sys.argv[1]) else "changed: the head of this file says what was seen in 2026")
PROGRAM
for method in fork spawn forkserver; do
    v/bin/python "$lab/see.py" $method
done
