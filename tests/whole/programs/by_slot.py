"""Policies of a user's own."""


def highest(candidates, peer):
    return max(candidates, key=lambda candidate: candidate.slot)


def broken(candidates, peer):
    return 1 / 0
