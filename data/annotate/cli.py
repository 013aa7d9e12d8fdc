"""`python -m data.annotate serve|import|export|agreement|verify|invite`: the annotator's desk from the command line.

Only the command that is asked for is loaded, so that the first page is there soon. Nothing here imports torch.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from data.schema import UserError

COMMANDS = {  # name -> its module, what it does
    "serve": ("serving", "open the desk in a browser, on 127.0.0.1"),
    "import": ("importing", "bring in answers to be judged"),
    "export": ("reporting", "write preference pairs under a stated policy"),
    "agreement": ("reporting", "agreement of people and with AI judges, and each annotator's numbers"),
    "verify": ("keeping", "check that nothing was changed behind the desk's back"),
    "invite": ("keeping", "a personal link for somebody on another machine, or for an adjudicator"),
}


def main(argv: Sequence[str] | None = None, *, program: str = "python -m data.annotate") -> int:
    """Exit codes: 0 done, 1 the check found something, 2 the input is wrong, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(program), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"error: {program} {arguments[0]}: there is no such command; there is {', '.join(COMMANDS)}",
              file=sys.stderr)
        return 2
    module_name, meaning = COMMANDS[arguments[0]]
    add_arguments, run = importlib.import_module(f"data.annotate.{module_name}").COMMANDS[arguments[0]]
    parser = argparse.ArgumentParser(prog=f"{program} {arguments[0]}", allow_abbrev=False,
                                     description=f"{meaning[0].upper()}{meaning[1:]}.")
    add_arguments(parser)
    try:
        return int(run(parser.parse_args(arguments[1:])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def usage(program: str) -> str:
    """The commands, a line each."""
    lines = [f"usage: {program} COMMAND [ARGUMENTS]", "",
             "The annotator's desk: compare answers with the keyboard, export pairs that train.", ""]
    lines += [f"  {name:11}{meaning}" for name, (_, meaning) in COMMANDS.items()]
    return "\n".join([*lines, "", f"{program} COMMAND --help says more."])
