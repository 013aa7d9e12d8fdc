"""`python -m alignment.compare RUN RUN...`: the evaluations of any runs in one table, and what differs between them.

Parses the command line and nothing else; alignment/comparison.py, which computes, comes after.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from data.schema import UserError

EPILOG = """\
A run is its folder, such as runs/ppo_fin/seed1, or its run.json. Numbers compare where the policies sat the same exam:
the same held-out questions, texts and drills. On the questions that two runs share, policies of the same name get
paired differences with 95% intervals, each later run minus the first.

  python -m alignment.compare runs/ppo_fin/seed1 runs/dpo_fin/seed1
  python -m alignment.compare runs/*/seed1 --json table.json"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the input is wrong."""
    parser = argparse.ArgumentParser("python -m alignment.compare", epilog=EPILOG, formatter_class=(
        argparse.RawDescriptionHelpFormatter), description=(__doc__ or "").partition(": ")[2].split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="a run's folder, or its run.json")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all of it there as well, for machines")
    try:
        asked = parser.parse_args(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    try:
        importlib.import_module("alignment.comparison").run(asked.runs, asked.json)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
