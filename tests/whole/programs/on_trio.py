"""A server on trio, as one writes it: HOST:PORT or a path, any number of them; each answers with its place and pid."""

import os
import sys

import trio

import rrmaster


def answering(place):
    async def handler(stream):
        async for data in stream:
            await stream.send_all(b"%d %d %s\n" % (place, os.getpid(), data))

    return handler


async def main():
    async with trio.open_nursery() as nursery:
        for place, address in enumerate(sys.argv[1:]):
            if "/" in address:
                listeners = [await rrmaster.open_unix_listener(address)]
            else:
                host, _, port = address.rpartition(":")
                listeners = await rrmaster.open_tcp_listeners(int(port), host=host)
            print("open", place, listeners[0].socket.getsockname(), flush=True)
            nursery.start_soon(trio.serve_listeners, answering(place), listeners)


if __name__ == "__main__":
    trio.run(main)
