"""`python -m m3dt`."""

import sys

from m3dt.cli import main

sys.exit(main())
