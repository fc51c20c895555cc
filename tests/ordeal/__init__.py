"""A fleet in trouble, with a ledger: every request of every client ends under exactly one name.

::

    python -m tests.ordeal chaos --seeds 1-20              # 20 s of trouble each: kills, stops, reloads, hung handlers
    python -m tests.ordeal soak --minutes 60               # the same troubles, one in 20 s; memory and descriptors, too

Both run by hand, outside the CI: they take minutes or hours, and on a busy machine their times say little.  A seed
decides the runtime, the number of workers, the options, the troubles and their moments; a run with the same seed has
the same troubles, though not the same luck.

What must hold, and is checked at the end of each run (`judge`):

- no request hangs, is answered wrongly or is refused;
- no more are cut than the master says were in the hands of workers that died;
- the master lives, serves with all workers soon after the last trouble, and stops when it is told to;
- it kills no worker but those that hang; it leaves no process, and no more descriptors than it had;
- its log has no traceback of its own.
"""
