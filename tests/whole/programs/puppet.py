"""A program on trio that obeys its clients, one order a line.  Its argument is the first address.

A listener that an order opens answers with its name, the slot of the worker, and what the client sent.
"""

import errno
import os
import sys
import time
from collections import defaultdict
from functools import partial

import trio

import rrmaster

scopes = {}
closed = defaultdict(trio.Event)


async def serve(listeners, name, task_status=trio.TASK_STATUS_IGNORED):
    async def answer(stream):
        async for data in stream:
            await stream.send_all(b"%s %d %s" % (name.encode(), rrmaster.current_worker().slot, data))

    closed.pop(name, None)
    with trio.CancelScope() as scopes[name]:
        try:
            await trio.serve_listeners(answer, listeners, task_status=task_status)
        finally:
            with trio.CancelScope(shield=True):
                for listener in listeners:
                    await listener.aclose()
                closed[name].set()


async def open_one(nursery, name, address):
    host, _, port = address.rpartition(":")
    if "/" in address:
        listeners = [await rrmaster.open_unix_listener(address, mode=0o600)]
    else:
        listeners = await rrmaster.open_tcp_listeners(int(port), host=host, backlog=50)
    await nursery.start(serve, listeners, name)
    address = listeners[0].socket.getsockname()
    return address if isinstance(address, str) else address[1]


async def hold(nursery, address):
    """Open an address, and do not accept."""
    host, _, port = address.rpartition(":")
    (scopes["held"],) = await rrmaster.open_tcp_listeners(int(port), host=host)
    return "held"


async def repeat(nursery, *words):
    """Send a message of the embedding program back to it."""
    message = await anext(rrmaster.current_worker().messages())
    await rrmaster.current_worker().send([message, *words])
    return "said"


async def do(nursery, deed, *words):
    if deed in ("open", "hold", "repeat"):
        return await {"open": open_one, "hold": hold, "repeat": repeat}[deed](nursery, *words)
    if deed == "close":
        scopes[words[0]].cancel()
        return await closed[words[0]].wait()
    if deed == "argv":
        return sys.argv
    if deed == "draining":
        return rrmaster.current_worker().draining.is_set()
    if deed == "leave":
        return await rrmaster.current_worker().disconnect()
    if deed == "exit":
        os._exit(int(words[0]))
    if deed == "block":
        time.sleep(float(words[0]))
    raise LookupError(deed)


async def obey(nursery, stream):
    async for line in stream:
        try:
            answer = await do(nursery, *line.decode().split())
        except OSError as error:
            answer = errno.errorcode[error.errno]
        await stream.send_all(f"{rrmaster.current_worker().slot} {answer}\n".encode())


async def main():
    try:
        async with trio.open_nursery() as nursery:
            listeners = await rrmaster.open_tcp_listeners(0, host="127.0.0.1")
            await trio.serve_listeners(partial(obey, nursery), listeners)
    finally:
        print("the main task has ended in", os.getcwd(), flush=True)


trio.run(main)
