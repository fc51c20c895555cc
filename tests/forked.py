"""What forked processes answer, for tests of what a fork shares."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_two_workers(answer: Callable[[], bytes]) -> tuple[bytes, bytes]:
    """What each of two processes answers that are forked from this one, one after the other.

    The runner has threads, so Python may warn of the fork; such a child does nothing but answer.
    """
    told = []
    for _ in range(2):
        ours, its = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            os.write(its, answer())
            os._exit(0)
        os.close(its)
        with open(ours, "rb") as answered:
            told.append(answered.read())
        os.waitpid(child, 0)
    assert all(told)
    return told[0], told[1]
