"""The processes below a worker or a master: what a forked child lets go, and which processes descend from it."""
