"""``python -m rftt`` is ``rftt demo``."""

import sys

from rftt.cli import main

sys.exit(main())
