"""A handler that answers lines, and gives its connection back after each."""

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
