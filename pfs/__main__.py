"""`python -m pfs` is the `pfs` command."""

import sys

from pfs.cli import main

sys.exit(main())
