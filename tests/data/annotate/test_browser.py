"""A real browser works the desk with the keyboard alone: every kind of task, undo, Chinese, lost servers, kills."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from data.annotate.cli import main
from tests.data.annotate.browser import (
    EVIDENCE,
    RIGHT,
    WRONG,
    Browser,
    Server,
    chromium,
    import_rows,
    pairs,
    rows,
    standing,
    text_of,
)
from tests.data.annotate.desk_opened import look
from tests.data.annotate.trained import small_base, train_on

STEPS = "EPS: 260 / 50 = 5.2 dollars\nPE: 78 / 5.2 = 16 times\nAnswer: 16 times"
pytestmark = pytest.mark.slow


@pytest.fixture
def database(tmp_path: Path) -> Path:
    chromium()
    return tmp_path / "desk.db"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """The browser's own folder, new and empty."""
    return tmp_path / "profile"


# --------------------------------------------------------------------------------------------------- every kind of task


def test_every_kind_of_task_by_keyboard_then_undo_after_a_restart_then_an_export_that_trains(
        database: Path, profile: Path, tmp_path: Path) -> None:
    import_rows(database, rows("Which margin?", RIGHT, WRONG, evidence=EVIDENCE), "--batch", "one")
    import_rows(database, rows("毛利率是多少？", "答案: 50%", "答案: 40%", language="zh"), "--batch", "two")
    import_rows(database, rows("Same?", "Answer: 7", "Answer: seven"), "--batch", "three")
    import_rows(database, rows("Rank them", "good", "fair", "poor", "bad"), "--kind", "ranking", "--batch", "four")
    import_rows(database, rows("Rate them", "first", "second"), "--kind", "rating", "--batch", "five")
    import_rows(database, rows("PE ratio?", STEPS), "--kind", "stepwise", "--batch", "six")
    import_rows(database, rows("Skip me", "x", "y"), "--batch", "seven")
    import_rows(database, rows("Flag me", "x", "y"), "--batch", "eight")
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna")
        for _ in range(8):
            browser.task()
            question = browser.text(".question")
            assert "secret-model" not in browser.driver.page_source
            judge(browser, question)
        browser.sees("All done")
        check_decisions(database)

        server.end()
        server.start()
        last = standing(database).keys()
        browser.press("u")
        browser.task()
        assert len(standing(database)) == len(last) - 1
        browser.press("u")
        browser.until(lambda: len(standing(database)) == len(last) - 2, "a second undo")
        browser.driver.refresh()
        browser.until(lambda: browser.assignment, "the task after a reload")
        for _ in range(2):
            judge(browser, browser.text(".question"))
        browser.sees("All done")
        check_decisions(database)
        assert len([each for each in look(database).judgments if each.status == "void"]) == 2
        exported = check_export(database)
    made, scored = train_on(exported, small_base(tmp_path / "base", [RIGHT, WRONG, STEPS]), tmp_path / "trained")
    assert made["origin.human"] == 1 + 2 + 5 + 1 + 1  # a preference, a rewrite, a ranking, ratings, a corrected step
    assert made["process"] == 1 and scored["train_rows"] == made["train"]


def judge(browser: Browser, question: str) -> None:
    """One task by its keys, whatever was kept of it from before."""
    if "Which margin" in question:
        assert "1,452.4" in browser.text(".evidence table")
        browser.press(browser.letter("3.1 points"), "3", "n")
        if not browser.js("return document.getElementById('rationale').value"):
            browser.write("The other one is growth")
        browser.press("Escape", "l", "1", "Enter")
        browser.send("Enter")
    elif "毛利率" in question:
        browser.press("x")
        if not browser.js("return document.getElementById('rewrite').value"):
            browser.sees("Press W", "#offer")
            browser.press("w")
            browser.compose("毛利率是四成")
            browser.write("（40%）")
            browser.press("Escape")
        browser.send("Enter")
    elif "Same?" in question:
        browser.send("t", "Enter")
    elif "Rank them" in question:
        for text, place in (("good", "1"), ("fair", "2"), ("poor", "2"), ("bad", "4")):
            letter = browser.letter(text)
            pressed = browser.js("return document.querySelector(arguments[0]).getAttribute('aria-pressed')",
                                 f'.answer[data-slot="{letter}"] [data-action="rank_{place}"]')
            browser.press(letter, *([] if pressed == "true" else [place]))
        browser.send("Enter")
    elif "Rate them" in question:
        browser.press(browser.letter("first"))
        browser.press("5", "4") if browser.letter("first") == "a" else browser.press("5", "4", "a")
        browser.press(browser.letter("second"))
        browser.press("2", "1")
        browser.send("Enter")
    elif "PE ratio" in question:
        walk(browser)
    else:
        browser.press("s" if "Skip" in question else "p")
        browser.press("4")
        browser.write("no question at all")
        browser.send("Enter")


def walk(browser: Browser) -> None:
    """j and k move, 1 rates right, e marks the first error, and the editor opens for the correction."""
    browser.press("k", "k", "1")
    browser.press("k", "j")
    browser.press("e")
    assert "correction" in browser.focus()
    browser.js("document.activeElement.select()")
    browser.write("PE: 78 / 5.2 = 15 times")
    browser.press("Enter")
    assert browser.assignment, "Enter in the correction must not send"
    assert "not judged" in browser.text('.step[data-step="2"]')
    browser.send("Enter")


def check_decisions(database: Path) -> None:
    found = standing(database)
    assert len(found) == 8
    pair = found["Which margin?"]
    assert (pair.outcome, pair.strength, pair.rationale) == ("prefer", 3, "The other one is growth")
    assert text_of(database, pair.preferred) == RIGHT and pair.tags in (("wrong_fact",), ())
    both = found["毛利率是多少？"]
    assert (both.outcome, both.rewrite) == ("both_bad", "毛利率是四成（40%）")
    assert found["Same?"].outcome == "tie"
    order = [sorted(text_of(database, name) for name in group) for group in found["Rank them"].ranking]
    assert order == [["good"], ["fair", "poor"], ["bad"]]
    rated = {text_of(database, name): given for name, given in found["Rate them"].ratings.items()}
    assert rated == {"first": {"correctness": 5, "clarity": 4}, "second": {"correctness": 2, "clarity": 1}}
    steps = found["PE ratio?"]
    assert [label.rating for label in steps.steps] == [1, -1, None]
    assert [(each.step, each.text) for each in steps.corrections] == [(1, "PE: 78 / 5.2 = 15 times")]
    assert {found[name].outcome: found[name].reason for name in ("Skip me", "Flag me")} == {
        "skip": "no question at all", "flag": "no question at all"}


def check_export(database: Path) -> Path:
    """The file, which holds what was judged."""
    out = database.with_name("pairs.jsonl")
    assert main(["export", str(out), "--db", str(database)]) == 0
    exported = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    chosen = {row["chosen"] if isinstance(row["chosen"], str) else row["chosen"][-1]["content"] for row in exported}
    assert {RIGHT, "毛利率是四成（40%）", "good"} <= chosen
    return out


# ---------------------------------------------------------------------------------------------------- the input method


def test_while_an_input_method_composes_nothing_fires(database: Path, profile: Path) -> None:
    import_rows(database, pairs(3))
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna")
        task = browser.task()
        browser.press("a", "2", "n")
        browser.cdp("Input.imeSetComposition", text="liyou", selectionStart=5, selectionEnd=5)
        for code in ("Enter", "Escape", "KeyT", "KeyS", "KeyU"):
            browser.cdp("Input.dispatchKeyEvent", type="rawKeyDown", key="Process", code=code,
                        windowsVirtualKeyCode=229)
            browser.keydown(code, isComposing=True)
        assert browser.focus().startswith("TEXTAREA#rationale")
        browser.cdp("Input.insertText", text="理由")
        browser.keydown("Enter", keyCode=229)
        assert (browser.assignment, browser.js("return document.getElementById('rationale').value")) == (task, "理由")
        browser.press("Enter")  # a plain Enter in the field is a new line
        assert browser.js("return document.getElementById('rationale').value") == "理由\n"
        browser.press("Escape")

        # what comes just after the composition has ended belongs to the input method still
        browser.js("document.dispatchEvent(new CompositionEvent('compositionstart', {bubbles: true}))")
        browser.keydown("KeyT")
        browser.js("""
            document.dispatchEvent(new CompositionEvent("compositionend", {bubbles: true}));
            const enter = new KeyboardEvent("keydown", {code: "Enter", key: "Enter", bubbles: true});
            document.activeElement.dispatchEvent(enter);""")
        assert browser.assignment == task and browser.pressed == ["prefer_a", "better"]

        # outside text fields keys work with the input method on: it sends 229 for them, and the place of the key
        time.sleep(0.2)
        browser.keydown("KeyT", keyCode=229)
        assert browser.pressed == ["tie"]
        browser.keydown("Enter", keyCode=229)
        browser.task(after=task)
        assert [(each.outcome, each.rationale) for each in standing(database).values()] == [("tie", "理由\n")]


def test_no_key_acts_while_one_types_and_none_that_is_the_browsers(database: Path, profile: Path) -> None:
    import_rows(database, pairs(2))
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna")
        task = browser.task()
        browser.press("n")
        browser.write("about satx123u")
        browser.press("Escape")
        assert (browser.assignment, browser.pressed) == (task, [])
        browser.keydown("KeyA", ctrlKey=True)
        browser.keydown("KeyA", metaKey=True)
        browser.keydown("KeyA", altKey=True)
        assert browser.pressed == []
        browser.press("Enter")
        browser.sees("Choose first", "#said")
        browser.press("a", "Enter")
        browser.sees("How much better?", "#said")
        browser.keydown("Digit2", repeat=True)
        assert (browser.assignment, browser.pressed) == (task, ["prefer_a"])


# ------------------------------------------------------------------------------------------------------ nothing is lost


def test_a_killed_browser_loses_no_judgment_and_its_draft_comes_back(database: Path, profile: Path,
                                                                     tmp_path: Path) -> None:
    import_rows(database, pairs(4))
    with Server(database) as server:
        browser = Browser(server.url, profile)
        browser.sign_in("anna")
        browser.task()
        browser.send("a", "1", "Enter")
        second = browser.task()
        browser.press("b", "3", "n")
        browser.write("half a thought, 想到一半")
        browser.sees("Draft saved", "#saved")
        browser.kill()
        assert len(standing(database)) == 1
        for place in (profile, tmp_path / "another machine"):
            with Browser(server.url, place) as again:
                again.sign_in_again("anna")  # the cookie of a moment ago may not have reached the disk
                again.until(lambda b=again: b.assignment == second, "the task")
                assert again.pressed == ["prefer_b", "much"]
                assert again.js("return document.getElementById('rationale').value") == "half a thought, 想到一半"


def test_a_lost_server_is_told_and_the_judgment_arrives_once(database: Path, profile: Path) -> None:
    import_rows(database, pairs(3))
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna")
        task = browser.task()
        browser.press("a", "2")
        server.end(signal.SIGKILL)
        browser.press("n")
        browser.write("written without a server")
        browser.sees("The server does not answer", "#lost")
        browser.press("Escape", "Enter")
        time.sleep(2)
        assert "kept in this browser" in browser.text("#lost")
        assert browser.js("return document.querySelector('.task').dataset.assignment") == task
        server.start()
        browser.task(after=task)
        browser.until(lambda: not browser.text("#lost"), "the banner to go")
        [only] = look(database).judgments
        assert (only.decision.rationale, only.decision.strength) == ("written without a server", 2)


def test_a_judgment_whose_answer_was_lost_is_sent_again_after_a_reload(database: Path, profile: Path) -> None:
    import_rows(database, pairs(3))
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna")
        task = browser.task()
        browser.js("""const real = window.fetch;
            window.fetch = async (path, options) => {
              const answer = await real(path, options);
              if (path === "/api/submit") throw new TypeError("the answer got lost");
              return answer;
            };""")
        browser.press("t", "Enter")
        browser.sees("The server does not answer", "#lost")
        browser.driver.refresh()
        browser.task(after=task)
        assert [each.decision.outcome for each in look(database).judgments] == ["tie"]
