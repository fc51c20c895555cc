"""`python -m rrmaster`."""

import sys

if not sys.flags.safe_path:
    # Python puts the working directory first on the path.  A module there (attrs.py) must not run in the master, which
    # may still be root: the same as with the script `rrmaster`.  The application is looked for there, in the workers.
    sys.path.pop(0)

from .cli.main import main

sys.exit(main())
