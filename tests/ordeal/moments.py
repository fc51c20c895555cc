"""Is a byte lost or doubled at the very moment of parking?  Thousands of requests, each sent in an odd way.

::

    python -m tests.ordeal.moments --requests 10000        # for each row of `ROWS`

Requests in halves, sent ahead, with bodies in pieces, with ``Expect: 100-continue`` and followed by a blank line come
with pauses about as long as it takes until a connection is parked; lines to a stream handler come cut in two.  Each
answer must repeat its request, and the connections that were opened at the beginning must be those at the end.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import trio

from tests.whole.harness import connect, running, status
from tests.whole.test_parking import Client, fuzz, pool_of

CLIENTS = 16
PAUSES = (0.0, 0.0003, 0.001, 0.002, 0.004)

ROWS = (
    ("uvloop, httptools", "parks:app", ("--runtime", "uvloop", "--park-after", "0")),
    ("uvloop, httptools, 1 ms", "parks:app", ("--runtime", "uvloop", "--park-after", "1ms")),
    ("uvloop, h11", "parks:with_h11", ("--runtime", "uvloop", "--park-after", "0")),
    ("asyncio, httptools", "parks:app", ("--runtime", "asyncio", "--park-after", "0")),
    ("asyncio, httptools, 1 ms", "parks:app", ("--runtime", "asyncio", "--park-after", "1ms")),
    ("asyncio, h11", "parks:with_h11", ("--runtime", "asyncio", "--park-after", "1ms")),
    ("WSGI", "parks:wsgi", ("--park-after", "0")),
    ("trio, anycorn", "parks:app", ("--runtime", "trio", "--park-after", "0")),
    ("trio, anycorn, 1 ms", "parks:app", ("--runtime", "trio", "--park-after", "1ms")),
    ("trio, lines", "parks_lines:lines", ("--park-after", "0")),
)


async def _lines(port: int, count: int, seed: int, ends: Counter[str]) -> None:
    luck, stream, heard = random.Random(seed), await connect(port), b""
    for number in range(count):
        line = b"%d-%d-" % (seed, number) + b"z" * luck.choice((0, 3, 4000)) + b"\n"
        cut = luck.randrange(len(line))
        with trio.fail_after(60):
            await stream.send_all(line[:cut])
            await trio.sleep(luck.choice(PAUSES) * luck.random())
            await stream.send_all(line[cut:])
            while not heard.endswith(b"\n"):
                more = bytes(await stream.receive_some())
                if not more:
                    ends["cut"] += 1
                    return
                heard += more
        ends["answered" if heard == line.strip().upper() + b" of 127.0.0.1\n" else "wrong"] += 1
        heard = b""
        await trio.sleep(luck.choice(PAUSES) * luck.random())
    stream.socket.close()


async def row(name: str, application: str, options: tuple[str, ...], requests: int) -> bool:
    """One row; whether it is as it must be."""
    with tempfile.TemporaryDirectory() as place:
        control = Path(place, "control")
        began, ends = time.monotonic(), Counter[str]()
        async with running(
            application, *options, "--keep-alive", "60s", "--control", str(control), workers=2
        ) as master:
            await master.said("rest in the idle pool")
            clients = [Client(master, seed) for seed in range(CLIENTS)]
            async with trio.open_nursery() as nursery:
                for client in clients:
                    if application == "parks_lines:lines":
                        nursery.start_soon(_lines, master.port, requests // CLIENTS, client.seed, ends)
                    else:
                        nursery.start_soon(fuzz, client, requests // CLIENTS)
            ends += sum((client.ends for client in clients), Counter())
            pool, accepted = await pool_of(control), (await status(control)).accepted
    well = set(ends) == {"answered"} and accepted == CLIENTS and not (pool.refused or pool.lost or pool.cut)
    print(
        f"{'well' if well else 'WRONG'}: {name}: {dict(ends)}, {accepted} connections, parked {pool.parked}, "
        f"refused {pool.refused}, lost {pool.lost}, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return well


def main() -> int:
    """The exit status is the number of rows that are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.ordeal.moments")
    parser.add_argument("--requests", type=int, default=10_000, help="in each row")
    parser.add_argument("--row", default="", help="only the rows whose names have this in them")
    asked = parser.parse_args()
    return sum(not trio.run(row, *each, asked.requests) for each in ROWS if asked.row in each[0])


if __name__ == "__main__":
    sys.exit(main())
