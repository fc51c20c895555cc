"""One snapshot of a running master: how it is taken, and its forms as tables and as JSON."""
