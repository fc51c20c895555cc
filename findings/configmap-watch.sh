#!/bin/bash
# watchfiles sees the first change of a mounted ConfigMap's file and none after it.
#
# Expected    watching /etc/shop/app.toml reports each new version. The path is the same all the time.
# Versions    watchfiles 1.3.0 (rust notify, inotify)
# Behaviour   Kubernetes swaps a directory: app.toml is a symlink to ..data/app.toml, and ..data a symlink that is
#             renamed over. inotify watches the file behind both links. Its removal after the first swap is an event
#             ("deleted", though the path exists and reads well); with it the watch is gone, and later versions are
#             silent. A watch of the directory sees each swap, but under the names ..data and ..2026_x/app.toml:
#             app.toml itself is never among them, so that a filter by that path is silent from the first on.
# Output      the file: changes after swap 1: 1 batch, swap 2: 0, swap 3: 0
#             the directory: 1 batch or more for each swap, and none of the events names app.toml itself
# Date        2026-11-28
# Why         a reload on change works in the one test that is made, and once in production.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check watchfiles==1.3.0
cat > "$lab/see.py" <<'PROGRAM'
import asyncio
import os
import shutil
import sys
from pathlib import Path

from watchfiles import awatch

LAB = Path(sys.argv[1])


def publish(mount, version):
    """What the kubelet does: write a new directory, rename the link over, remove the old one."""
    new = mount / f"..2026_{version}"
    new.mkdir()
    (new / "app.toml").write_text(f"version = {version}\n")
    link = mount / "..data"
    old = link.resolve() if link.is_symlink() else None
    (mount / "..data_tmp").symlink_to(new.name)
    os.rename(mount / "..data_tmp", link)
    if old is None:
        (mount / "app.toml").symlink_to("..data/app.toml")
    else:
        shutil.rmtree(old)


async def batches(mount, watched):
    """The batches of changes after each of three swaps."""
    mount.mkdir()
    publish(mount, 0)
    stop, seen, counts = asyncio.Event(), [], []

    async def watch():
        async for changes in awatch(watched, stop_event=stop, step=50, debounce=200):
            seen.append({path for _, path in changes})

    task = asyncio.create_task(watch())
    await asyncio.sleep(1)
    for version in (1, 2, 3):
        before = len(seen)
        publish(mount, version)
        await asyncio.sleep(1.5)
        counts.append(len(seen) - before)
        assert watched.is_dir() or watched.read_text() == f"version = {version}\n"
    stop.set()
    await task
    return counts, set().union(*seen)


counts, _ = asyncio.run(batches(LAB / "one", LAB / "one" / "app.toml"))
print("the file: batches after swaps 1, 2, 3:", counts)
by_directory, names = asyncio.run(batches(LAB / "two", LAB / "two"))
named = str(LAB / "two" / "app.toml") in names
print("the directory: batches after swaps 1, 2, 3:", by_directory, "- one names app.toml" if named else "- none names app.toml")
if counts[0] < 1 or counts[1:] != [0, 0] or not all(by_directory) or named:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
"$lab/v/bin/python" "$lab/see.py" "$lab"
