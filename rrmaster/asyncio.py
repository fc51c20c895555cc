"""For programs on asyncio: the same file runs alone and in a fleet.

::

    import asyncio
    import rrmaster.asyncio

    async def main():
        server = await rrmaster.asyncio.start_server(handler, "127.0.0.1", 8000)
        async with server:
            await server.serve_forever()

    asyncio.run(main())

Where no master runs (``python server.py``) these functions are asyncio's own.  In a worker (``rrmaster server.py``) the
master opens the address and hands its connections to the workers.
"""

from __future__ import annotations

from .worker.programs.ports_on_asyncio import create_server, start_server, start_unix_server
from .worker.programs.server_on_asyncio import Server

__all__ = ["Server", "create_server", "start_server", "start_unix_server"]
