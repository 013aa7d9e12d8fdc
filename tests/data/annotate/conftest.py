"""Every database that a test of the desk opens is closed when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from data.annotate.database import Database


@pytest.fixture(autouse=True)
def _closed_databases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found: list[Database] = []
    made = Database.__init__

    def noted(self: Database, *args: object, **kwargs: object) -> None:
        made(self, *args, **kwargs)  # type: ignore[arg-type]
        found.append(self)

    monkeypatch.setattr(Database, "__init__", noted)
    yield
    for database in found:
        database.close()
