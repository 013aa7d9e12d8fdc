"""The commands of whoever keeps a desk: `verify` its ledger, and `invite` people to it."""

from __future__ import annotations

import argparse
import sys

from data.annotate.database import DEFAULT, Database
from data.annotate.desk import Desk
from data.annotate.guard import Signer
from data.annotate.ledger import verify


def _db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--db", default=DEFAULT, metavar="URL",
                        help="the database: a file's path or postgresql://USER@HOST/NAME (default: %(default)s)")


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `verify`."""
    _db(parser)
    parser.add_argument("--head", metavar="HASH", help="a hash that this command printed earlier: it must still be "
                                                       "part of the chain, so that nothing was cut off since")


def verify_command(arguments: argparse.Namespace) -> int:
    """0 where every event and row is what was written, 1 where one is not."""
    database = Database.open(arguments.db, create=False)
    with database.reading() as connection:
        found = verify(connection, head=arguments.head)
    database.close()
    for problem in found.problems:
        print(problem, file=sys.stderr)
    print(f"{found.events} events, {len(found.problems) or 'no'} problem{'' if len(found.problems) == 1 else 's'}; "
          f"head {found.head}")
    return 1 if found.problems else 0


def invite_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `invite`."""
    parser.add_argument("name", help="the person's pseudonym")
    _db(parser)
    parser.add_argument("--role", default="annotator", choices=("annotator", "adjudicator"),
                        help="an adjudicator settles what annotators do not agree on (default: %(default)s)")
    parser.add_argument("--url", default="http://127.0.0.1:8642", help="where the server is reached (default: "
                                                                       "%(default)s)")


def invite_command(arguments: argparse.Namespace) -> int:
    """Makes the person, when new, and prints the link that signs them in."""
    desk = Desk.open(arguments.db, create=False)
    person = desk.sign_in(arguments.name, role=arguments.role)
    key = Signer(desk.secret()).sign("invite", person.name)
    desk.close()
    print(f"{arguments.url.rstrip('/')}/enter?key={key}")
    return 0


COMMANDS = {"verify": (verify_arguments, verify_command), "invite": (invite_arguments, invite_command)}
