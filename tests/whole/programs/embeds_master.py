"""A program that contains a master, and has a child of its own; it stops at the end of its stdin."""

import subprocess
import sys

import trio

import rrmaster


async def main():
    own = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL)
    settings = rrmaster.Settings("leaves_children:asgi", bind="127.0.0.1:0", workers=1, preload=sys.argv[1])
    async with rrmaster.open_master(settings) as master:
        print(f"{master.addresses[0].rpartition(':')[2]} {own.pid}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


trio.run(main)
