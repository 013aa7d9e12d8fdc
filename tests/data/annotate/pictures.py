"""Pictures of every page of the desk, for README and docs, out of a real browser that works it with the keyboard.

    python -m tests.data.annotate.pictures docs

Not a test. Look at each picture before it is committed.
"""

from __future__ import annotations

import base64
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from data.annotate.desk import Desk
from data.annotate.guard import Signer
from tests.data.annotate.browser import Browser, Server, import_rows, pairs, rows

WIDTH, HEIGHT = 1280, 800
EVIDENCE = """**Consolidated income statement** (EUR million)

| | 2025 | 2024 | 2023 |
|---|--:|--:|--:|
| Revenue | 1,452.4 | 1,146.2 | 1,032.9 |
| Cost of sales | 903.1 | 748.6 | 690.2 |
| **Gross profit** | **549.3** | **397.6** | **342.7** |
| Operating profit | 171.4 | 118.9 | 96.0 |

Revenue grew in all segments; the figures of 2023 are restated."""
MARGIN = r"""The gross margin is gross profit as a share of revenue:

$$\text{margin} = \frac{\text{gross profit}}{\text{revenue}}$$

- 2024: 397.6 / 1,146.2 = **34.7%**
- 2025: 549.3 / 1,452.4 = **37.8%**

It rose by \(37.8 - 34.7 = 3.1\) percentage points.

Answer: 3.1 percentage points"""
GROWTH = """Gross profit grew from 397.6 million to 549.3 million.

Change: 549.3 - 397.6 = 151.7 million
Growth: 151.7 / 397.6 = 38.2%

So the gross margin rose by 38.2%.

Answer: 38.2%"""
EXPLAINED = (
    "A price-earnings ratio of 12 means that a share costs twelve times what the company earned for it in a year. At "
    "the same profit it would take twelve years of earnings to make up the price.",
    "The market pays 12 dollars for each dollar of yearly profit. Whether that is cheap depends on how fast profits "
    "grow and how safe they are.",
    "PE is price divided by earnings, so here P/E = 12, which is a number that investors like to look at when they "
    "look at numbers.",
    "It means the share price will be 12 next year.")
RATED = ("Operating margin: 171.4 / 1,452.4 = 11.8%\nIt rose from 10.4%: revenue grew faster than cost.\nAnswer: 11.8%",
         "Operating margin: 171.4 / 549.3 = 31.2%\nAnswer: 31.2%")
CHINESE = ("股息 = 每股 0.36 元，股价 12 元\n股息率 = 12 / 0.36 = 33.3 倍\n答案: 33.3 倍",
           "每股股息 0.36 元，乘以股价 12 元\n股息率: 0.36 × 12 = 4.32%\n答案: 4.32%")
BETTER = "股息率是每股股息占股价的比例。\n股息率: 0.36 / 12 = 3%\n答案: 3%"
STEPS = "EPS: 260 / 50 = 5.2 dollars\nYield: 5.2 / 78 = 6.7%\nPE: 78 / 6.7 = 11.6 times\nAnswer: 11.6 times"


def fill(database: Path) -> None:
    """A batch for every kind of task, in the order in which they are pictured."""
    batches = (
        ("Annual reports", "pairwise", rows("By how many percentage points did the gross margin change from 2024 to "
                                            "2025?", MARGIN, GROWTH, evidence=EVIDENCE)),
        ("中文样本", "pairwise", rows("华岭食品每股派息 0.36 元，股价 12 元，求股息率。", *CHINESE, language="zh")),
        ("Explanations", "ranking", rows("Explain to a new investor what a price-earnings ratio of 12 means, in two "
                                         "sentences.", *EXPLAINED)),
        ("Margins", "rating", rows("What is the operating margin of 2025?", *RATED, evidence=EVIDENCE)),
        ("Solutions", "stepwise", rows("A share of Harbor Foods costs 78 dollars. Net profit is 260 million and there "
                                       "are 50 million shares. What is the PE ratio?", STEPS)))
    for name, kind, given in batches:
        import_rows(database, given, "--batch", name, "--kind", kind)


def fill_judged(database: Path) -> str:
    """Pairs that two people have judged, mostly alike; the key by which an adjudicator comes in."""
    import_rows(database, pairs(30), "--batch", "Additions", "--overlap", "2")
    desk, draw = Desk.open(str(database)), random.Random(7)
    for name in ("ann", "bea"):
        person = desk.sign_in(name)
        while lent := desk.next(person, count=1):
            right = next(slot["slot"] for slot in desk.shown(name, lent[0].id)["slots"] if "think" not in slot["text"])
            slot = right if draw.random() < 0.85 else "ab".replace(right, "")
            desk.submit(person, id=str(uuid.uuid4()), assignment=lent[0].id, lead_time_ms=draw.randrange(4_000, 30_000),
                        decision={"outcome": "prefer", "preferred": slot, "strength": draw.choice((1, 2, 2, 3))})
    key = Signer(desk.secret()).sign("invite", desk.sign_in("umpire", role="adjudicator").name)
    desk.close()
    return key


def take(browser: Browser, path: Path) -> None:
    """The page as it is, once nothing on it moves."""
    time.sleep(0.4)
    path.write_bytes(base64.b64decode(browser.cdp("Page.captureScreenshot", format="png")["data"]))


def take_all(browser: Browser, folder: Path) -> None:
    """Works every task once, and stops for a picture where a page shows most."""
    browser.cdp("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
    take(browser, folder / "desk-sign-in.png")
    browser.sign_in("anna")
    browser.task()
    better = browser.letter("3.1 percentage points")
    browser.press(better, "3")
    take(browser, folder / "desk-pairwise.png")
    browser.press("g")
    browser.sees("Judge the answer", "#dialog-guideline")
    take(browser, folder / "desk-guideline.png")
    browser.press("Escape", "?")
    browser.sees("B is better", "#dialog-help")
    take(browser, folder / "desk-keys.png")
    browser.press("Escape", "m", *(["Tab"] if better == "a" else []), *["Right"] * 7)
    browser.press("Right", shift=True)
    browser.press("2", *["Right"] * 4)
    browser.press("Right", "Right", shift=True)
    browser.until(lambda: not browser.js("return document.getElementById('said').classList.contains('on')"))
    take(browser, folder / "desk-marks.png")
    browser.press("Escape")
    browser.send("Enter")

    browser.press("y")
    browser.sees("哪个回答更好", "#kind")
    browser.press("x", "w")
    browser.write(BETTER)
    browser.sees("草稿已保存", "#saved")
    take(browser, folder / "desk-rewrite.png")
    browser.press("Escape", "y")
    browser.sees("Which answer is better?", "#kind")
    browser.send("Enter")

    for text, place in zip(EXPLAINED[:3], "113", strict=True):
        browser.press(browser.letter(text[:30]), place)
    browser.press(browser.letter(EXPLAINED[3]))
    take(browser, folder / "desk-ranking.png")
    browser.press("4")
    browser.send("Enter")

    browser.press(browser.letter("31.2%"), "1", "3", browser.letter("11.8%"), "5")
    take(browser, folder / "desk-ratings.png")
    browser.press("4")
    browser.send("Enter")

    browser.press("1", "2", "e")
    browser.js("document.activeElement.select()")
    browser.write("PE: 78 / 5.2 = 15 times")
    browser.sees("Draft saved", "#saved")
    take(browser, folder / "desk-steps.png")
    browser.press("Escape")
    browser.send("Enter")

    browser.press("q")
    browser.sees("Your last judgments", "main")
    take(browser, folder / "desk-progress.png")


def take_agreement(browser: Browser, folder: Path, key: str) -> None:
    """What an adjudicator sees of everybody's judgments."""
    browser.cdp("Emulation.setDeviceMetricsOverride", width=WIDTH, height=1100, deviceScaleFactor=1, mobile=False)
    browser.driver.get(f"{browser.url}enter?key={key}")
    browser.task()
    browser.press("q")
    browser.sees("Cohen", "#agreement")
    browser.js("document.getElementById('agreement').previousElementSibling.scrollIntoView()")
    take(browser, folder / "desk-agreement.png")


def main(argv: Sequence[str]) -> int:
    """Takes them all into a folder."""
    if len(argv) != 1:
        print("usage: python -m tests.data.annotate.pictures FOLDER", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / "desk.db"
        fill(database)
        with Server(database) as server, Browser(server.url, Path(scratch) / "profile") as browser:
            take_all(browser, Path(argv[0]))
        judged = Path(scratch) / "judged.db"
        key = fill_judged(judged)
        with Server(judged) as server, Browser(server.url, Path(scratch) / "another profile") as browser:
            take_agreement(browser, Path(argv[0]), key)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
