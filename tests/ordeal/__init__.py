"""A fleet in trouble, with a ledger: every request of every client ends under exactly one name.

::

    python -m tests.ordeal chaos --seeds 1-20              # 20 s of trouble each: kills, stops, reloads, hung handlers
    python -m tests.ordeal soak --minutes 60               # the same troubles, one in 20 s; memory and descriptors, too

Both run by hand, outside the CI: they take minutes or hours, and on a busy machine their times say little.  A seed
decides the runtime, the number of workers, the options, the troubles and their moments; a run with the same seed has
the same troubles, though not the same luck.

On a machine on which the master itself waits for a processor most of the time (it says so), hung and slow requests are
the machine's.  An hour's soak on 2026-11-29, two busy processors: 93,642 answered, 244 cut and 244 known to the master
as lost, none hung; the master's own memory 24.0 MB in the second quarter and 24.3 in the last.

What must hold, and is checked at the end of each run (`judge`):

- no request hangs, is answered wrongly or is refused;
- no more are cut than the master says were in the hands of workers that died;
- the master lives, serves with all workers soon after the last trouble, and stops when it is told to;
- it kills no worker but those that hang; it leaves no process, and no more descriptors than it had;
- its log has no traceback of its own.
"""
