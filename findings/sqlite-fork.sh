#!/bin/bash
# Forked processes that open SQLite databases of their own draw the same random rows, if those are in memory.
#
# Expected    SQLite says that no connection may be carried across a fork. So each process opens its own after it, and
#             has random numbers of its own.
# Versions    sqlite3 of CPython 3.11.7 with SQLite 3.40.1, apsw 3.54.1.0 with SQLite 3.54.1; Linux
# Behaviour   the generator behind random(), randomblob() and ORDER BY random() belongs to the library and not to a
#             connection. Whatever drew from it before the fork, a connection that was closed long ago too, has seeded
#             it for all processes. It is seeded again in a new process by the first *file* that is opened there:
#             databases in memory continue the parent's sequence, each process the same one. Two copies of the
#             library in one process (sqlite3, apsw) have two generators: a file opened by one does not help the other.
# Output      see KNOWN below: how many different samples four forked processes have drawn
# Date        2026-11-29
# Why         gunicorn --preload and multiprocessing's fork: samples, shuffles and keys that are "random" in a cache or
#             a test database in memory are the same in each process. Nothing fails, and with a file on disk, as in
#             production or on the other machine, it is right. A file that is opened first (":memory:" later) cures it.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check apsw==3.54.1.0
cd "$lab"
cat > see.py <<'PROGRAM'
import os
import sqlite3

import apsw

SAMPLE = "select group_concat(n) from (select value as n from json_each(?) order by random() limit 5)"
CUPS = "[" + ",".join(map(str, range(1000))) + "]"
OPENS = {"sqlite3": sqlite3.connect, "apsw": apsw.Connection}


def sampled(connection):
    return connection.execute(SAMPLE, (CUPS,)).fetchone()[0]


def by_four_processes(draw):
    """How many different samples four forked processes draw."""
    samples = set()
    for _ in range(4):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(theirs, draw().encode())
            os._exit(0)
        os.close(theirs)
        with open(ours) as told:
            samples.add(told.read())
        os.waitpid(child, 0)
    return len(samples)


def touch(opened):
    """Read a database in a file that does not exist yet."""
    connection = opened(f"shop-{os.getpid()}.db")
    connection.execute("select count(*) from sqlite_master").fetchone()


def after(reseeds, opened):
    def draw():
        touch(reseeds)
        return sampled(opened(":memory:"))

    return draw


KNOWN = {
    "sqlite3: nothing was drawn before the fork": 4,
    "sqlite3: a closed connection had drawn": 1,
    "sqlite3: the same, and a file is opened first": 4,
    "apsw: a closed connection had drawn": 1,
    "apsw: the same, and a file is opened first": 4,
    "apsw: the same, and sqlite3 opens a file first": 1,
}
found = {}
for name, opened in OPENS.items():
    if name == "sqlite3":
        found["sqlite3: nothing was drawn before the fork"] = by_four_processes(lambda: sampled(sqlite3.connect(":memory:")))
    before = opened(":memory:")
    sampled(before)
    before.close()
    found[f"{name}: a closed connection had drawn"] = by_four_processes(lambda opened=opened: sampled(opened(":memory:")))
    found[f"{name}: the same, and a file is opened first"] = by_four_processes(after(opened, opened))
found["apsw: the same, and sqlite3 opens a file first"] = by_four_processes(after(sqlite3.connect, apsw.Connection))
for case, samples in found.items():
    print(f"{case}: {samples} different samples of 4")
raise SystemExit(0 if found == KNOWN else "changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
