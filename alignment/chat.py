"""`python -m alignment.chat MODEL`: talk to a model in the terminal, or put models side by side on a file of prompts.

Parses the command line and nothing else; alignment/conversation.py, which loads models, comes after.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from data.schema import UserError

EPILOG = """\
A model is a Hugging Face folder, such as runs/ppo_fin/seed1/stages/ppo, or `embedded`, or a hub id. In a conversation,
/new forgets what was said and /quit ends. A prompt file has one prompt a line, or is a JSONL, JSON or Parquet file with
`prompt` or `messages`.

  python -m alignment.chat runs/ppo_fin/seed1/stages/ppo
  python -m alignment.chat runs/ppo_fin/seed1/stages/sft runs/ppo_fin/seed1/stages/ppo --prompts questions.txt"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser("python -m alignment.chat", description=(__doc__ or "").partition(": ")[2].split(
        "\n")[0], epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("models", nargs="+", metavar="MODEL", help="one to talk to; several with --prompts")
    found.add_argument("--prompts", metavar="FILE", help="answer the prompts of a file, side by side")
    found.add_argument("--out", metavar="FILE", help="write the answers there as well, as JSONL")
    found.add_argument("--system", metavar="TEXT", help="a system message before all others")
    found.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 = greedy (default)")
    found.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="of an answer (default: 256)")
    found.add_argument("--seed", type=int, default=0, help="of sampling (default: 0)")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the input is wrong, 130 interrupted."""
    try:
        asked = parser().parse_args(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    try:
        if asked.temperature < 0 or asked.max_new_tokens < 1:
            raise UserError("--temperature must be at least 0 and --max-new-tokens at least 1")
        if asked.prompts is None and (len(asked.models) > 1 or asked.out):
            raise UserError("a conversation is with one model; several, and --out, need --prompts FILE")
        importlib.import_module("alignment.conversation").run(asked)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
