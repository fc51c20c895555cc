"""As on_trio.py, on asyncio; `--uvloop` before the addresses runs it there."""

import asyncio
import os
import sys

import rrmaster.asyncio


def answering(place):
    async def handler(reader, writer):
        while data := await reader.read(1000):
            writer.write(b"%d %d %s\n" % (place, os.getpid(), data))
            await writer.drain()
        writer.close()

    return handler


async def main(addresses):
    servers = []
    for place, address in enumerate(addresses):
        if "/" in address:
            server = await rrmaster.asyncio.start_unix_server(answering(place), address)
        else:
            host, _, port = address.rpartition(":")
            server = await rrmaster.asyncio.start_server(answering(place), host, int(port))
        print("open", place, server.sockets[0].getsockname(), flush=True)
        servers.append(server)
    await asyncio.gather(*(server.serve_forever() for server in servers))
    print("said goodbye", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--uvloop":
        import uvloop

        uvloop.run(main(sys.argv[2:]))
    else:
        asyncio.run(main(sys.argv[1:]))
