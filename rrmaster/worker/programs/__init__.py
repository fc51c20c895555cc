"""Programs that open their own listeners: in a worker the master opens them, and without a master they do.

From below: `port` (one address), `ports` (all of them), `program` (the process's program and its host), the hosts and
functions for each loop (`ports_on_trio`, `ports_on_asyncio`, `ports_on_threads`), `hosts` (which of them), `run`.
"""
