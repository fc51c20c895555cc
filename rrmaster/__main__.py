"""`python -m rrmaster`."""

import sys

from .cli.main import main

sys.exit(main())
