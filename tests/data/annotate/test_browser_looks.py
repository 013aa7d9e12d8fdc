"""A real browser looks at the desk: hostile and long answers, marked passages, one's own keys, access, and speed."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

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

pytestmark = pytest.mark.slow


@pytest.fixture
def database(tmp_path: Path) -> Path:
    chromium()
    return tmp_path / "desk.db"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """The browser's own folder, new and empty."""
    return tmp_path / "profile"


# ---------------------------------------------------------------------------------------------------- hostile and long


HOSTILE = """<script>window.hit = 1</script><img src=x onerror="window.hit = 2"> [go](javascript:window.hit=3)
![pic](http://127.0.0.1:9/x.png) <a href="data:text/html,<script>opener.hit=4</script>">x</a>
$\\text{<img src=x onerror=window.hit=5>}$ price 5\u202e00 \u0007 \u2066hidden\u2069 <style>*{display:none}</style>"""


def test_hostile_answers_are_inert(database: Path, profile: Path) -> None:
    import_rows(database, rows("Is <b>this</b> <script>window.hit = 6</script> safe?", HOSTILE, "x" * 300_000,
                               evidence=HOSTILE))
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna")
        browser.task()
        for view in ("", "r", "v"):
            browser.press(*view)
            browser.sees("U+202E", ".answers")
            assert browser.js("return window.hit ?? null") is None
            assert browser.js("return document.querySelectorAll('main script, main img, main a[href], main style,"
                              " main iframe, main [onerror], main [style]').length") == 0
        assert "U+0007" in browser.text(".answers") and "U+2066" in browser.text(".evidence")
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth")
        loaded = browser.js("return performance.getEntriesByType('resource').map((e) => e.name)")
        assert [name for name in loaded if not name.startswith(server.url)] == []


def test_five_megabytes_come_in_parts_and_the_page_stays_quick(database: Path, profile: Path) -> None:
    long = "".join(f"Line {n}: revenue {n} million, cost {n % 97} million.\n\n" for n in range(110_000))
    assert len(long) > 5_000_000
    import_rows(database, rows("Long?", long, long.replace("Line 40:", "Lime 40:")))
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna")
        browser.driver.refresh()
        browser.task()
        assert browser.js("return document.querySelectorAll('main *').length") < 4000
        folded = "return document.querySelectorAll('details.part[open] .rendered').length"
        assert browser.js(folded) == 0
        browser.press("o")
        browser.until(lambda: browser.js(folded) == 2, "a part of each")
        browser.press("Space")
        tops = "return [...document.querySelectorAll('.source')].map((e) => Math.round(e.scrollTop))"
        browser.until(lambda: min(browser.js(tops)) > 50, "both to scroll")
        browser.until(lambda: max(browser.js(tops)) - min(browser.js(tops)) < 30, "both to scroll alike")
        browser.press("v")
        differs = "return [...document.querySelectorAll('.differences mark')].map((e) => e.innerText).sort()"
        browser.until(lambda: browser.js(differs) == ["Lime", "Line"], "the differences")
        browser.sees("characters are compared", "#said")
        browser.send("t", "Enter")


def test_nine_answers_can_be_read_and_ranked_by_their_keys(database: Path, profile: Path) -> None:
    answers = [f"Answer number {n}. " + "It goes on for some lines. " * 20 for n in range(1, 10)]
    import_rows(database, rows("Rank nine?", *answers), "--kind", "ranking", "--size", "9")
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.cdp("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
        browser.sign_in("anna")
        browser.task()
        lines = browser.js("return [...document.querySelectorAll('.answer > .source')].map((e) => e.clientHeight)")
        assert len(lines) == 9 and min(lines) > 100  # several lines of each
        for place in range(1, 10):
            slot = browser.js("return document.activeElement.dataset.slot ?? 'a'")
            inside = ("const of = (name) => document.querySelector(name).getBoundingClientRect();"
                      "const [box, all] = [of(`.answer[data-slot=${arguments[0]}]`), of('.answers')];"
                      "return box.top >= all.top - 20 && box.bottom <= all.bottom + 20")
            assert browser.js(inside, slot), slot
            browser.press(str(place))
        browser.send("Enter")
        assert [len(group) for group in standing(database)["Rank nine?"].ranking] == [1] * 9


# ------------------------------------------------------------------------------------------------------ marks and looks


def test_passages_are_marked_by_keyboard_at_their_code_points(database: Path, profile: Path) -> None:
    text = "\U0001f469\u200d\U0001f4bb 毛利 is \u202e**5%** of it"
    import_rows(database, rows("Mark?", text, "another"))
    with Server(database) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna")
        browser.task()
        letter = browser.letter("of it")
        browser.press("m", *(["Tab"] if letter == "b" else []))
        for _ in range(12):
            browser.press("Right")
            if browser.js("return getSelection().toString()") == "5":
                break
        browser.press("Right", shift=True)
        browser.press("2", "Escape")
        assert "wrong formula" in browser.text(f'.answer[data-slot="{letter}"] .marks')
        browser.press("m", *(["Tab"] if letter == "b" else []), "Enter", "Backspace", "Escape")
        browser.send("t", "Enter")
        [decision] = standing(database).values()
        [span] = decision.spans
        assert text_of(database, span.candidate_id) == text and span.tag == "wrong_formula"
        assert text[span.start:span.end] in ("5%", "5**", "5%**")


def test_keys_language_and_colours_are_the_annotators_own(database: Path, profile: Path, tmp_path: Path) -> None:
    import_rows(database, pairs(3))
    with Server(database) as server:
        with Browser(server.url, profile) as browser:
            browser.sign_in("anna")
            browser.task()
            browser.press("?")
            browser.sees("B is better", "#dialog-help")
            browser.press("Escape", ",")
            browser.tab_to('[data-rebind="tie"]')
            browser.press("Enter", "a")
            browser.sees("A is taken by", "#keys-said")
            browser.press("Enter", "z")
            browser.sees("Key set", "#keys-said")
            browser.press("Escape", "t")
            assert browser.pressed == []
            browser.press("z")
            assert browser.pressed == ["tie"] and browser.text('.first [data-action="tie"] kbd') == "Z"
            browser.press("h", "h", "y")
            browser.sees("哪个回答更好", "#kind")
            root = "return [document.documentElement.lang, document.documentElement.dataset.theme]"
            assert browser.js(root) == ["zh-CN", "dark"]
            browser.press("g")
            browser.sees("准则", "#dialog-guideline")
            browser.press("Escape")
        with Browser(server.url, tmp_path / "another machine") as again:
            again.sign_in("anna")
            again.sees("哪个回答更好", "#kind")
            again.press("z")
            assert again.pressed == ["tie"]
            again.press("q")
            again.sees("进度", "main")
    versions = {each.guideline for each in look(database).tasks}
    assert len(versions) == 1 and "" not in versions


def test_the_page_is_reached_by_tab_told_to_screen_readers_and_zooms(database: Path, profile: Path) -> None:
    import_rows(database, rows("Which margin?", RIGHT, WRONG, evidence=EVIDENCE))
    with Server(database) as server, Browser(server.url, profile, size="1280,900") as browser:
        browser.sign_in("anna")
        browser.task()
        reached: list[str] = []
        for _ in range(60):
            browser.press("Tab")
            name = browser.js("const e = document.activeElement;"
                              " return e.dataset?.action ?? e.dataset?.slot ?? e.className")
            outline = browser.js("return getComputedStyle(document.activeElement).outlineWidth")
            assert name in ("", None) or outline in ("3px", "2px"), (name, outline)
            reached.append(str(name))
        wanted = ["a", "b", "prefer_a", "tie", "both_bad", "prefer_b", "reason", "skip", "undo", "submit"]
        places = [reached.index(name) for name in wanted]
        assert places == sorted(places)
        tree = browser.cdp("Accessibility.getFullAXTree")["nodes"]
        controls = [node for node in tree if not node.get("ignored") and node["role"]["value"] in (
            "button", "textbox", "link", "checkbox", "combobox", "progressbar", "article")]
        assert len(controls) > 20 and [node for node in controls if not node.get("name", {}).get("value")] == []
        browser.tab_to('.first [data-action="tie"]')
        browser.press("Enter")
        assert browser.pressed == ["tie"] and browser.text("#told") == "tie"

        browser.cdp("Emulation.setDeviceMetricsOverride", width=640, height=450, deviceScaleFactor=2, mobile=False)
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth")
        lost = browser.js("""
            const out = (box) => box.right > innerWidth + 1 || box.left < -1;
            return [...document.querySelectorAll("main button, header button")]
              .filter((e) => e.offsetParent && out(e.getBoundingClientRect())).map((e) => e.innerText);""")
        assert lost == []


# ---------------------------------------------------------------------------------------------------------------- speed


@pytest.fixture
def worn(database: Path) -> Iterator[Server]:
    import_rows(database, pairs(30))
    with Server(database) as server:
        yield server


def test_the_next_task_is_there_at_once(worn: Server, profile: Path, database: Path) -> None:
    with Browser(worn.url, profile) as browser:
        browser.sign_in("anna")
        browser.task()
        browser.js("""window.times = [];
            const main = document.getElementById("main");
            document.addEventListener("keydown", (event) => {
              if (event.code.endsWith("Enter")) window.begun = performance.now();
            }, true);
            new MutationObserver(() => requestAnimationFrame(() => window.times.push(performance.now() - window.begun)))
              .observe(main, { childList: true });""")
        for n in range(20):
            browser.send("ab"[n % 2], "2", "Enter")
        times = browser.js("return window.times")
        assert len(times) == 20
        print(f"key to next task: median {statistics.median(times):.0f} ms, worst {max(times):.0f} ms")
        assert statistics.median(times) < 1000
        slots = collections.Counter(each.decision.strength for each in look(database).judgments)
        assert slots == {2: 20}
