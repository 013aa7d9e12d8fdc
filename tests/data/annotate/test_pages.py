"""The HTML pages without a browser: blind, no inline script or style, one's own alone, in the reader's language."""

from __future__ import annotations

import itertools
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from data.annotate.agreement_page import BLOCK
from data.annotate.app import Options, create_app
from data.annotate.characters import parts
from data.annotate.desk import Desk
from data.annotate.guard import Signer
from data.annotate.pages import COMPARED, LONGEST, MOST_STEPS, long_markdown, routes
from data.annotate.pairing import Plan
from tests.data.annotate.desk_opened import HOST, SECRET_MODELS, Visitor, completions, imported, opened
from tests.data.annotate.test_render import Reader, read


class Guest(Visitor):
    """A visitor who sees the pages too."""

    def __init__(self, desk: Desk, name: str | None = None, *, language: str = "en", **options: Any) -> None:
        super().__init__(desk)
        self.client = TestClient(create_app(desk, pages=routes(), options=Options(**options)), base_url=HOST,
                                 headers={"Accept-Language": language})
        self.csrf = self.get("session")["csrf"]
        if name is not None:
            self.csrf = self.post("session", annotator=name)["csrf"]

    def page(self, path: str, *, status: int = 200) -> str:
        response = self.client.get(path, follow_redirects=False)
        assert response.status_code == status, response.text
        return response.text

    def current(self) -> dict[str, Any]:
        found: dict[str, Any] = self.post("next")["current"]
        return found


def check_strict(page: str) -> Reader:
    """Nothing that the content security policy would have to stop."""
    reader = read(page.replace("<!doctype html>", ""))
    for tag, attributes in reader.elements:
        assert tag != "style" and not [name for name in attributes if name == "style" or name.startswith("on")]
        if tag == "script":
            assert attributes.get("type") == "application/json" or attributes["src"].startswith("/static/")  # type: ignore[union-attr]
        for name in ("href", "src"):
            assert (attributes.get(name) or "/").startswith(("/", "#")), (tag, attributes)
    return reader


KINDS = ("pairwise", "ranking", "rating", "stepwise")


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_blind_and_strict(tmp_path: Path, kind: Any) -> None:
    desk = opened(tmp_path, completions(1, models=SECRET_MODELS), plan=Plan(kind=kind))
    anna = Guest(desk, "anna")
    shown = anna.current()
    page = anna.page(f"/task/{shown['id']}")
    reader = check_strict(page)
    found = desk.snapshot()
    secrets = [*SECRET_MODELS, "secret", "hidden reference", *(task.id for task in found.tasks),
               *(answer.id for answer in found.candidates), *(prompt.id for prompt in found.prompts)]
    assert [secret for secret in secrets if secret in page] == []
    assert "Question 0?" in reader.text and "Answer: " in reader.text
    assert {attributes.get("data-slot") for _, attributes in reader.elements} - {None} == {
        slot["slot"] for slot in shown["slots"]}


def test_whole_pages_are_strict_and_speak_the_readers_language(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    english, chinese = Guest(desk), Guest(desk, language="zh-CN,zh;q=0.9")
    assert 'lang="en"' in english.page("/") and "Who is judging?" in english.page("/")
    assert 'lang="zh-CN"' in chinese.page("/") and "请输入代号" in chinese.page("/")
    english.client.cookies.set("desk_language", "zh")
    assert 'lang="zh-CN"' in english.page("/")
    anna = Guest(desk, "anna")
    anna.post("preferences", preferences={"language": "zh", "theme": "dark", "keys": {"tie": "KeyZ", "submit": 7}})
    page = anna.page("/")
    assert 'lang="zh-CN" data-theme="dark"' in page and '"tie": "KeyZ"' in page and '"submit": "Enter"' in page
    for path in ("/", "/progress"):
        check_strict(anna.page(path))
    anna.post("preferences", preferences={"keys": ["x"], "theme": "<b>", "language": 7})
    assert 'data-theme="auto"' in anna.page("/")


def test_a_stranger_sees_the_sign_in_alone(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    shown = Guest(desk, "anna").current()
    stranger, ben = Guest(desk), Guest(desk, "ben")
    assert "Question 0?" not in stranger.page("/") and "Who is judging?" in stranger.page("/")
    assert stranger.client.get("/progress", follow_redirects=False).headers["location"] == "/"
    for path in (f"/task/{shown['id']}", f"/task/{shown['id']}/differences", "/guideline", "/progress/agreement"):
        assert "no_session" in stranger.page(path, status=401)
    for path in (shown["id"], f"{shown['id']}/part/a/1", f"{shown['id']}/differences", "none"):
        assert "not_found" in ben.page(f"/task/{path}", status=404)
    assert "personal link" in Guest(desk, personal_links=True).page("/")


def test_folded_parts_come_one_by_one(tmp_path: Path) -> None:
    long = "".join(f"Sentence {n} of the answer.\n\n" for n in range(2_000))
    desk = opened(tmp_path, [{"prompt": "q", "completion": text, "model": "m"} for text in (long, "short")])
    anna = Guest(desk, "anna")
    task = anna.current()["id"]
    page = anna.page(f"/task/{task}")
    slot = "a" if f"/task/{task}/part/a/1" in page else "b"
    cut = parts(long)
    assert len(cut) > 2 and page.count('<details class="part"') == len(cut) - 1 and cut[1].text[:30] not in page
    for number, part in enumerate(cut[1:], start=1):
        found = anna.page(f"/task/{task}/part/{slot}/{number}")
        check_strict(found)
        assert f'data-start="{part.start}"' in found and part.text.strip()[:20] in found
    for path in (f"{slot}/0", f"{slot}/{len(cut)}", f"{'ab'.replace(slot, '')}/1", "z/1"):
        anna.page(f"/task/{task}/part/{path}", status=404)


def test_differences_are_of_two_answers_and_escaped(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": text, "model": "m"} for text in ("is <b>5</b>", "is <b>6</b>")]
    anna = Guest(opened(tmp_path, rows), "anna")
    found = anna.client.get(f"/task/{anna.current()['id']}/differences").json()
    assert sorted(found["slots"].values()) == [f"is &lt;b&gt;<mark>{n}</mark>&lt;/b&gt;" for n in (5, 6)]
    assert found["cut"] is None and COMPARED > 10_000


def test_differences_need_two_answers(tmp_path: Path) -> None:
    anna = Guest(opened(tmp_path, completions(1), plan=Plan(kind="rating")), "anna")
    anna.page(f"/task/{anna.current()['id']}/differences", status=404)


def test_agreement_is_for_adjudicators_unless_the_server_shows_it(tmp_path: Path) -> None:
    desk = opened(tmp_path, completions(BLOCK), plan=Plan(overlap=2))
    anna, ben = Guest(desk, "anna"), Guest(desk, "ben")
    anna.work()
    ben.work()
    anna.page("/progress/agreement", status=404)
    assert "Others' judgments stay unseen" in read(anna.page("/progress")).text
    page = read(Guest(desk, "anna", show_agreement=True).page("/progress/agreement")).text
    assert "verdict" in page and "ben" in page and "Cohen" in page and f"sets of {BLOCK} tasks" in page
    desk.sign_in("umpire", role="adjudicator")
    umpire = Guest(desk)
    umpire.page(f"/enter?key={Signer(desk.secret()).sign('invite', 'umpire')}")
    umpire.csrf = umpire.get("session")["csrf"]
    page = umpire.page("/progress/agreement")
    assert "Cohen" in page and f"sets of {BLOCK} tasks" not in page
    shown = umpire.post("next")["current"]
    if shown is not None:
        assert "What others decided" in umpire.page(f"/task/{shown['id']}")


def test_agreement_speaks_chinese(tmp_path: Path) -> None:
    """All its words but names; the terminal's are English."""
    rows = [{"prompt": f"Q{n}?", "chosen": f"right {n}", "rejected": f"wrong {n}, by far", "gold": n < 5, "id": f"r{n}",
             "language": "zh" if n % 2 else "en"} for n in range(40)]
    desk = opened(tmp_path, rows, plan=Plan(overlap=3), judge="judge", gold_share=0.2, name="甲")
    rated = [{"prompt": "Q?", "completion": text, "model": text} for text in ("one", "two")]
    imported(desk, tmp_path, rated, plan=Plan(kind="rating", overlap=2), name="乙")
    for name in ("ann", "bea", "cyd"):
        visitor = Visitor(desk, name)
        while (current := visitor.post("next")["current"]) is not None:
            longest = max(current["slots"], key=lambda slot: slot["length"])["slot"]
            ratings = {slot["slot"]: dict.fromkeys(current["aspects"], 3) for slot in current["slots"]}
            visitor.decide(current, **({"outcome": "rated", "ratings": ratings} if current["kind"] == "rating" else
                                       {"outcome": "prefer", "preferred": longest, "strength": 2}))
    desk.sign_in("umpire", role="adjudicator")
    umpire = Guest(desk, language="zh")
    umpire.page(f"/enter?key={Signer(desk.secret()).sign('invite', 'umpire')}")
    text = read(umpire.page("/progress/agreement")).text
    assert set(re.findall("[A-Za-z]{2,}", text)) == {
        "AI", "Cohen", "Fleiss", "ann", "bea", "cyd", "en", "zh", "judge"}
    for words in ("打分：正确性", "偏向较长的回答（en）", "无（无差异）", "未看到建议", "与他人：ann", "ann 与 bea",
                  "金标准题", "过快"):
        assert words in text, words


def test_agreement_tells_annotators_nothing_of_one_task(tmp_path: Path) -> None:
    """The page stays as it is, whatever a verdict was and on whichever kind of task, until a whole set is judged."""
    rows = [{"prompt": f"Q{n}?", "chosen": f"right {n}", "rejected": f"wrong {n}", "gold": n < 20, "id": f"r{n}"}
            for n in range(80)]
    desk = opened(tmp_path, rows, plan=Plan(overlap=2), gold_share=0.3, repeat_share=0.1)
    anna, ben = Guest(desk, "anna", show_agreement=True), Guest(desk, "ben")
    for _ in range(30):
        ben.decide()
    pages = [(0, anna.page("/progress/agreement"))]
    for number in range(1, 2 * BLOCK + 3):
        anna.decide()
        if number % 7 == 0:
            anna.post("undo", id=str(uuid.uuid4()))
            pages.append((number, anna.page("/progress/agreement")))
            anna.decide(outcome="tie")
        pages.append((number, anna.page("/progress/agreement")))
    assert {row.task_id for row in desk.snapshot().judgments if row.annotator == "anna"} & {
        task.id for task in desk.snapshot().tasks if task.gold is not None}
    assert [number for (_, one), (number, other) in itertools.pairwise(pages) if one != other] == [BLOCK, 2 * BLOCK]


def test_progress_tells_ones_own_judgments(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    anna = Guest(desk, "anna")
    anna.decide()
    anna.decide(outcome="tie")
    anna.post("undo", id="00000000-0000-4000-8000-000000000001")
    text = read(anna.page("/progress")).text
    assert "A clearly better" in text and "taken back" in text and "Question 0?" in text


def test_a_guideline_is_markdown_with_its_version(tmp_path: Path) -> None:
    file = tmp_path / "guideline.md"
    file.write_text("# Rules\n\n| a | b |\n|---|---|\n| **x** | <script> |\n", encoding="utf-8")
    anna = Guest(opened(tmp_path, guideline=str(file)), "anna")
    version = anna.current()["guideline"]
    page = anna.page(f"/guideline?version={version}")
    assert version in page and "<strong>x</strong>" in page and "&lt;script&gt;" in page
    anna.page("/guideline?version=none", status=404)


def test_what_is_very_long_is_folded_as_written() -> None:
    page = str(long_markdown("**bold** " * LONGEST))
    assert page.count("<strong>") <= LONGEST // 9 + 1 and "<details>" in page and "**bold**" in page


def test_a_solution_of_too_many_steps_says_so(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "\n".join(f"line {n}" for n in range(MOST_STEPS + 5)), "model": "m"}]
    anna = Guest(opened(tmp_path, rows, plan=Plan(kind="stepwise")), "anna")
    page = anna.page(f"/task/{anna.current()['id']}")
    assert page.count('class="step"') == MOST_STEPS and f"{MOST_STEPS + 5} lines" in page


def test_a_suggestion_is_there_only_where_the_batch_shows_it(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "good answer", "rejected": "bad answer"}]
    for place, (shown, count) in enumerate({"hidden": 0, "shown": 1}.items()):
        folder = tmp_path / str(place)
        folder.mkdir()
        anna = Guest(opened(folder, rows, judge="secret-judge", suggestions=shown, gold_share=0.0), "anna")
        page = anna.page(f"/task/{anna.current()['id']}")
        assert page.count("A judge model suggests") == count and "secret-judge" not in page
