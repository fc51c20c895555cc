"""A policy whose import, before anything is served, asks the master to end."""

import os
import signal

os.kill(os.getpid(), signal.SIGTERM)


def policy(candidates, peer):
    return candidates[0]
