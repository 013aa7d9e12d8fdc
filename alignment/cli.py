"""The console script `finalign`: the same commands as `python -m alignment.run` and its neighbours."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

from alignment import chat, compare, export, repro, run, storekeeper
from data.annotate import cli as annotate

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "run": (run.main, "run a recipe's chain"),
    "annotate": (functools.partial(annotate.main, program="finalign annotate"), "the annotator's desk"),
    "repro": (repro.main, "check what a run left"),
    "chat": (chat.main, "talk to a model, or put models side by side"),
    "compare": (compare.main, "the evaluations of any runs in one table"),
    "export": (export.main, "a plain Hugging Face folder of a model"),
    "store": (storekeeper.main, "what the store holds, what may go, and why a stage runs again"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatches to a command; 2 for one that does not exist."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: finalign COMMAND [ARGUMENTS]\n")
        for name, (_, meaning) in COMMANDS.items():
            print(f"  {name:9}{meaning}; finalign {name} --help")
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"error: finalign {arguments[0]}: there is no such command; there is {', '.join(COMMANDS)}",
              file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]][0](arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
