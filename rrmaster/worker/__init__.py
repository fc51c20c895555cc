"""The other process: it takes connections from the master, serves them, and reports.

It imports `protocol` and nothing else of the package, and an async library only in the module that serves on it: a
worker loads no master, and one that serves on asyncio loads no trio.  What an application sees is in `api`.
"""
