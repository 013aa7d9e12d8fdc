"""A desk on a database of its own with tasks imported from a file, and visitors who work on it over HTTP."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from data.annotate.app import Options, create_app
from data.annotate.desk import Desk
from data.annotate.importing import Rules, bring
from data.annotate.pairing import Made, Plan
from data.annotate.records import Snapshot

HOST = "http://127.0.0.1:8642"
SECRET_MODELS = ("secret-model-one", "secret-model-two", "secret-model-three")


def lines(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file; a text among the rows is written as it is."""
    text = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def completions(count: int, *, models: tuple[str, ...] = SECRET_MODELS[:2], language: str = "en"
                ) -> list[dict[str, Any]]:
    """Rows with `count` prompts answered by each model."""
    return [{"prompt": f"Question {number}?", "completion": f"Work {number}.{place}\nAnswer: {place}", "model": model,
             "score": number + place / 10, "language": language, "reference": "the hidden reference"}
            for number in range(count) for place, model in enumerate(models)]


def opened(folder: Path, rows: Iterable[Any] | None = None, *, plan: Plan | None = None, **rules: Any) -> Desk:
    """A desk with the rows' tasks (10 pairs where none are given)."""
    desk = Desk.open(str(folder / "annotations.db"))
    imported(desk, folder, completions(10) if rows is None else rows, plan=plan, **rules)
    return desk


def imported(desk: Desk, folder: Path, rows: Iterable[Any], *, plan: Plan | None = None, **rules: Any) -> Made:
    return bring(desk, [str(lines(folder / "rows.jsonl", rows))], plan or Plan(), Rules(**rules))[1]


def look(database: Path) -> Snapshot:
    """Everything that the database holds."""
    desk = Desk.open(str(database), create=False)
    try:
        return desk.snapshot()
    finally:
        desk.close()


class Visitor:
    """One person's browser: signed in, its token sent along."""

    def __init__(self, desk: Desk, name: str | None = None, *, options: Options | None = None) -> None:
        self.client = TestClient(create_app(desk, options=options), base_url=HOST)
        self.csrf = self.client.get("/api/session").json()["csrf"]
        if name is not None:
            self.csrf = self.post("session", annotator=name)["csrf"]

    def send(self, call: str, **body: Any) -> Any:
        """The whole response to a POST."""
        return self.client.post(f"/api/{call}", content=json.dumps(body), headers={
            "X-Desk-Token": self.csrf, "Origin": HOST, "Content-Type": "application/json"})

    def post(self, call: str, **body: Any) -> Any:
        response = self.send(call, **body)
        assert response.status_code == 200, response.text
        return response.json()

    def get(self, call: str) -> Any:
        response = self.client.get(f"/api/{call}")
        assert response.status_code == 200, response.text
        return response.json()

    def decide(self, assignment: dict[str, Any] | None = None, /, **decision: Any) -> Any:
        """Submits a decision on the current assignment, or on another."""
        shown = assignment or self.post("next")["current"]
        return self.post("submit", id=str(uuid.uuid4()), assignment=shown["id"], lead_time_ms=1500,
                         decision=decision or {"outcome": "prefer", "preferred": "a", "strength": 2})

    def work(self, **decision: Any) -> int:
        """Decides until nothing is left; how many."""
        count = 0
        while (current := self.post("next")["current"]) is not None:
            self.decide(current, **decision)
            count += 1
        return count
