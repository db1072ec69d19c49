"""``python -m ratpg.cli``: the command of this very Python."""

import sys

from ratpg.cli import main

sys.exit(main())
