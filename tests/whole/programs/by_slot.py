"""Policies of a user's own."""

import sys


def highest(candidates, peer):
    return max(candidates, key=lambda candidate: candidate.slot)


def broken(candidates, peer):
    return 1 / 0


def by_peer(candidates, peer):
    """Say which peer it was asked for: the last number of its address chooses."""
    print(f"asked for {peer[0]}:{peer[1]}", file=sys.stderr, flush=True)
    return candidates[int(peer[0].rpartition(".")[2]) % len(candidates)]
