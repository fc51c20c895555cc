"""Pages of memory that a worker writes and the master reads, also after the worker has died."""
