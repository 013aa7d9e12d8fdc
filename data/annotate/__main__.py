"""`python -m data.annotate COMMAND`: see data/annotate/cli.py."""

import sys

from data.annotate.cli import main

if __name__ == "__main__":
    sys.exit(main())
