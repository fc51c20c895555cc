"""One snapshot of a running master: how it is taken, and how it reads as a table and as JSON."""
