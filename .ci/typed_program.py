"""A program that uses the public names, for `mypy --strict` against the installed wheel.

It is checked, never run: the nox session `build` installs the wheel in an environment of its own and checks this file
outside the repository, where mypy sees what a user's mypy sees.  Without ``rrmaster/py.typed`` in the wheel, or with a
public name that is not re-exported explicitly, it fails.
"""

from __future__ import annotations

import asyncio
import socket
from typing import assert_type

import trio

import rrmaster.asyncio
from rrmaster import (
    BindError,
    Master,
    MasterGone,
    Settings,
    SettingsError,
    Worker,
    WorkerExited,
    WorkerListening,
    WorkerMessage,
    current_worker,
    is_worker,
    open_master,
    run,
    serve,
)


async def handler(stream: trio.SocketStream) -> None:
    me = current_worker()
    print(rrmaster.client_address(stream))
    async for data in stream:
        await stream.send_all(b"%d: " % me.slot + data)
        if me.draining.is_set():
            return


@rrmaster.on_fork
def connect() -> None:
    me = current_worker() if is_worker() else None
    if me is not None:
        me.set_ready(False)
        me.retire("the database has moved")


async def talk() -> None:
    me = rrmaster.current_worker()
    try:
        await me.send({"hello": me.id})
    except MasterGone:
        print("the master has gone")


async def program() -> None:
    tcp = await rrmaster.open_tcp_listeners(8000, host="127.0.0.1")
    unix = await rrmaster.open_unix_listener("/run/shop.sock")
    print(tcp, unix)


async def on_asyncio() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))

    server = await rrmaster.asyncio.start_server(answer, "127.0.0.1", 8000)
    async with server:
        await server.serve_forever()


def on_threads() -> None:
    assert_type(rrmaster.listening_socket(("127.0.0.1", 8000)), socket.socket)


async def follow(master: Master) -> None:
    async with master.events() as events:
        async for event in events:
            match event:
                case WorkerListening(slot=slot):
                    assert_type(slot, int)
                case WorkerMessage():
                    print(event.id)
                case WorkerExited():
                    return
                case _:
                    print(event)


async def fleet() -> None:
    settings = Settings("shop:handler", bind=("127.0.0.1:8000",), workers=2, probation=0.1, policy="round-robin")
    async with open_master(settings) as master:
        assert_type(master, Master)
        await master.scale(3)
        result = await master.reload()
        assert_type(result, rrmaster.ReloadResult)
        worker: Worker = await master.fork()
        await worker.send({"any": "value"})
        await follow(master)
    async with trio.open_nursery() as nursery:
        served: Master = await nursery.start(serve, settings)
        print(served.addresses, rrmaster.__version__)


def main() -> int:
    try:
        return run("shop:handler", bind="127.0.0.1:8000", workers=4)
    except (BindError, SettingsError) as error:
        print(error)
        return 1
