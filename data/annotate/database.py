"""The database under the desk: SQLite in WAL mode by default, PostgreSQL by URL; its transactions and its migrations.

    database = Database.open("annotations.db")
    with database.writing() as connection: ...      # one writer at a time, on disk when the block ends
    with database.reading() as connection: ...      # one consistent view

A write takes its lock before it reads (BEGIN IMMEDIATE, or an advisory lock), so that nothing it has read is out of
date when it writes: two people cannot get one last place, and no writer fails for having started as a reader. Knows no
record and no rule of the desk.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from data.annotate.migrations import steps
from data.schema import UserError

DEFAULT = "annotations.db"
BUSY_MS = 20_000  # how long a writer waits for another process
OURS = {"migrations", "judgments", "events"}  # the tables that every desk has had since its first layout
ADVISORY_LOCK = 5_347_871  # PostgreSQL: the number that every writer of a desk locks
_LOCKED = re.compile(r"database is locked|database table is locked|could not obtain lock|deadlock", re.IGNORECASE)


class Busy(RuntimeError):
    """Others kept the database for longer than a writer waits; try again."""


def database_url(place: str) -> URL:
    """A URL, or the path of a SQLite file. Raises UserError for what is neither."""
    if "://" not in place:
        return URL.create("sqlite", database=str(Path(place).expanduser()))
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise UserError(f"--db {place}: is no database URL; give the path of a SQLite file, sqlite:///PATH or "
                        "postgresql://USER@HOST/NAME") from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UserError(f"--db {place}: the desk keeps its records in SQLite or PostgreSQL, not in "
                        f"{url.get_backend_name()}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise UserError(f"--db {place}: names no file; give the path of one")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def is_database(place: str) -> bool:
    """Whether a place names a desk's database rather than a file of rows: a URL, or a file that SQLite wrote."""
    if "://" in place:
        return place.startswith(("sqlite:", "postgresql"))
    try:
        with Path(place).expanduser().open("rb") as file:
            return file.read(16) == b"SQLite format 3\x00"
    except OSError:
        return False


def now() -> str:
    """UTC, to the millisecond; texts of this form sort as the times do."""
    return stamp(datetime.datetime.now(datetime.UTC))


def stamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Database:
    """An open database of this version's layout."""

    def __init__(self, url: URL, engine: Engine) -> None:
        self.url, self.engine = url, engine
        self.name = url.database if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
        self._turn = threading.Lock()  # threads of one process queue fairly here, not by polling the file

    @classmethod
    def open(cls, place: str, *, create: bool = True) -> Database:
        """Opens, makes or migrates it. Raises UserError, which names the place; another program's database is looked at
        and left as it is."""
        url = database_url(place)
        if url.get_backend_name() == "sqlite":
            path = Path(str(url.database))
            if not path.exists() and not create:
                raise UserError(f"--db {place}: there is no such database; `python -m data.annotate import FILE` "
                                "makes it, or --db says where it is")
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise UserError(f"--db {place}: must be a file in a folder that is there")
        try:
            check_ours(place, tables_of(url), create=create)
            database = cls(url, _engine(url))
            database._migrate(place)
        except ModuleNotFoundError as error:
            raise UserError(f"--db {place}: needs the package {error.name!r}; pip install "
                            "'finalign[postgresql]'") from error
        except Busy as error:
            raise UserError(f"--db {place}: is kept locked by another program; end it, or wait") from error
        except DatabaseError as error:
            raise UserError(f"--db {place}: cannot be used as the desk's database ({str(error.orig).strip()}); give "
                            "the path of a new file, or check the URL") from error
        return database

    def close(self) -> None:
        self.engine.dispose()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One writer at a time; committed, and on disk, when the block ends well. Raises Busy."""
        with self._turn, self._translated(), self.engine.connect() as plain:
            connection = plain.execution_options(desk_writes=True)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
                yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of everything; writers go on meanwhile. Raises Busy."""
        with self._translated(), self.engine.connect() as plain:
            is_server = plain.dialect.name == "postgresql"
            connection = plain.execution_options(isolation_level="REPEATABLE READ") if is_server else plain
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            if _LOCKED.search(str(error.orig)):
                raise Busy(f"{self.name}: is kept locked by another program") from error
            raise

    def _migrate(self, place: str) -> None:
        wanted = steps(self.engine.dialect.name)
        with self.reading() as connection:
            if sqlalchemy.inspect(connection).has_table("migrations") and connection.exec_driver_sql(
                    "SELECT COUNT(*) FROM migrations").scalar_one() == len(wanted):
                return
        with self.writing() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS migrations "
                                       "(number INTEGER PRIMARY KEY, applied_at VARCHAR(32) NOT NULL)")
            done = connection.exec_driver_sql("SELECT COUNT(*) FROM migrations").scalar_one()
            if done > len(wanted):
                raise UserError(f"--db {place}: was written by a newer version (layout {done}; this one reads "
                                f"{len(wanted)}); update finalign")
            for number, statements in enumerate(wanted[done:], start=done + 1):
                for statement in statements:
                    connection.exec_driver_sql(statement)
                connection.execute(sqlalchemy.text("INSERT INTO migrations VALUES (:number, :at)"),
                                   {"number": number, "at": now()})


def tables_of(url: URL) -> set[str]:
    """The names of a database's tables, none where there is no file yet; nothing is written."""
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database))
        if not path.exists():
            return set()
        url = url.set(database=f"file:{urllib.parse.quote(str(path.absolute()))}",
                      query={"mode": "ro", "uri": "true", "timeout": str(BUSY_MS / 1000)})
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return set(sqlalchemy.inspect(connection).get_table_names())


def check_ours(place: str, tables: set[str], *, create: bool) -> None:
    """Raises UserError for a database that is no desk's, and for an empty one where none is to be made."""
    if tables >= OURS or (create and not tables):
        return
    if tables:
        raise UserError(f"--db {place}: is another program's database (it has the tables "
                        f"{', '.join(sorted(tables)[:5])}), and stays as it is; give the desk one of its own")
    raise UserError(f"--db {place}: is an empty database, not a desk's; `python -m data.annotate import FILE` makes "
                    "one, or --db says where it is")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return sqlalchemy.create_engine(url, pool_size=16, max_overflow=16, pool_pre_ping=True)
    engine = sqlalchemy.create_engine(url, pool_size=16, max_overflow=32, connect_args={
        "timeout": BUSY_MS / 1000, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("desk_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
