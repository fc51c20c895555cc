"""The recent log: it is bounded, and a follower learns what it has missed."""

from __future__ import annotations

from pathlib import Path

from rrmaster.control.recent_log import MAX_ENTRIES, LogBuffer
from tests.control.serving import serving


def test_a_buffer_is_bounded() -> None:
    buffer = LogBuffer()
    for number in range(3 * MAX_ENTRIES):
        buffer.add({"text": number})
    missed, last, kept = buffer.after(0)
    assert (missed, last, len(kept)) == (2 * MAX_ENTRIES, 3 * MAX_ENTRIES, MAX_ENTRIES)
    assert buffer.after(last) == (0, last, [])
    assert buffer.after(last - 2)[2] == [{"text": last - 2}, {"text": last - 1}]


async def test_a_follower_that_is_outrun_is_told_how_much_it_missed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.follow(do="logs")
        for number in range(MAX_ENTRIES + 5):  # before the server has its next turn
            served.prints(0, str(number))
        assert await client.line() == {"missed": 5}
        line = await client.line()
        assert line is not None
        assert line["entry"]["text"] == "5"
