"""`python -m data.annotate serve`: the desk's server, on this machine alone unless told otherwise.

Beyond loopback nobody can sign in by a name alone: people come with the personal link that `invite` prints. The server
speaks plain HTTP; put a reverse proxy with TLS in front where a network is not trusted.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket

import uvicorn

from data.annotate import pages
from data.annotate.app import Options, create_app
from data.annotate.database import DEFAULT
from data.annotate.desk import Desk
from data.annotate.guard import LOOPBACK, host_of
from data.schema import UserError

PORT, MAX_PORT = 8642, 65_535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    parser.add_argument("--db", default=DEFAULT, metavar="URL", help="the database, made where there is none: a file's "
                        "path or postgresql://USER@HOST/NAME (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s). Beyond "
                        "this machine people sign in with the links that `invite` prints")
    parser.add_argument("--port", type=int, default=PORT, help="0 = a free one (default: %(default)s)")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name or address that "
                        "browsers reach the server by, beside 127.0.0.1 and localhost; may be given several times")
    parser.add_argument("--show-agreement", action="store_true", help="show the agreement page to everybody; "
                                                                      "adjudicators see it always")


def options_of(host: str, allowed: list[str], *, show_agreement: bool = False) -> Options:
    """Which hosts are answered for, and how people sign in. Raises UserError where nobody could come in."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    is_local = host == "localhost" or (address is not None and address.is_loopback)
    names = [host_of(name) for name in allowed]
    if not all(names):
        raise UserError(f"--allow-host {allowed[names.index('')]}: give a name such as desk.example.org")
    if address is not None and address.is_unspecified and not names:
        raise UserError(f"--host {host} listens everywhere; say with --allow-host NAME by which name or address "
                        "browsers reach it")
    own = [] if address is not None and address.is_unspecified else [host]
    return Options(hosts=(*LOOPBACK, *own, *names), personal_links=not is_local or bool(names),
                   show_agreement=show_agreement)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises UserError where it cannot be had."""
    if not 0 <= port <= MAX_PORT:
        raise UserError(f"--port {port}: must be from 0 to {MAX_PORT}; 0 takes a free one")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({error}); another desk may be open "
                        "there: --port 0 takes a free one") from error
    return listener


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is interrupted. Raises UserError for what keeps it from starting."""
    options = options_of(arguments.host, arguments.allow_host, show_agreement=arguments.show_agreement)
    desk = Desk.open(arguments.db)
    listener = listen(arguments.host, arguments.port)
    app = create_app(desk, pages=pages.routes(), options=options)
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(f"The desk is open at http://{host}:{listener.getsockname()[1]}/ (database {desk.database.name}; "
          "Ctrl-C closes it)", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none", http="h11",
                            server_header=False, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listener])
    desk.close()
    return 0


COMMANDS = {"serve": (add_arguments, run)}
