"""Handlers that answer lines, and give their connection back after each."""

import asyncio

import trio

import rrmaster


async def lines(stream):
    me, line = rrmaster.current_worker(), b""
    while not line.endswith(b"\n"):
        more = await stream.receive_some()
        if not more:
            return
        line += more
    host, _ = rrmaster.client_address(stream)
    await stream.send_all(line.strip().upper() + f" of {host}\n".encode())
    while not await me.park(stream):
        await trio.sleep(0.01)


async def streams(reader, writer):
    me = rrmaster.current_worker()
    while line := await reader.readline():
        host, _ = rrmaster.client_address(writer)
        writer.write(line.strip().upper() + f" of {host}\n".encode())
        while not await me.park(writer):
            if reader._buffer or reader.at_eof():
                break  # the next line is here already
            await asyncio.sleep(0.01)
        else:
            return
