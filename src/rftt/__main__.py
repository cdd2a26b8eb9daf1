"""Run the command line: ``python -m rftt`` is ``rftt demo``."""

import sys

from rftt.cli import main

# Processes that the demo starts read this file too, under another name.
if __name__ == "__main__":
    sys.exit(main())
