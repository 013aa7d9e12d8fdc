"""A desk's server and a real Chromium on it, driven by the keyboard alone.

    with Server(db) as server, Browser(server.url, profile) as browser:
        browser.sign_in("anna"); browser.press("a2"); browser.press("Enter")

Chromium and its driver are Debian's; nothing is downloaded. A pointer event that reaches the page fails the test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from data.annotate.cli import main
from data.annotate.records import Decision
from tests.data.annotate.desk_opened import look

ROOT = Path(__file__).parents[3]
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--hide-scrollbars", "--lang=en")
PATIENCE_S = 120.0  # on a machine that is busy with other things
WATCH = """
window.pointers = 0; window.failures = [];
for (const name of ["mousedown", "pointerdown", "touchstart"]) {
  addEventListener(name, () => { window.pointers += 1; }, true);
}
addEventListener("error", (event) => window.failures.push(String(event.message)));
addEventListener("unhandledrejection", (event) => window.failures.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => {
  window.failures.push(`CSP ${event.violatedDirective} ${event.blockedURI}`);
});
"""  # what went wrong in the page is told to the test
SPECIAL = {name: getattr(Keys, name.upper()) for name in ("Escape", "Tab", "Backspace", "Space")} | {
    "Enter": Keys.RETURN,  # Keys.ENTER is the one of the number pad
    "Down": Keys.ARROW_DOWN, "Up": Keys.ARROW_UP, "Left": Keys.ARROW_LEFT, "Right": Keys.ARROW_RIGHT}

EVIDENCE = "| | 2025 | 2024 |\n|---|--:|--:|\n| Revenue | 1,452.4 | 1,146.2 |\n| Gross profit | 549.3 | 397.6 |"
RIGHT = "Margin 2024: 397.6 / 1,146.2 = 34.7%\nMargin 2025: 549.3 / 1,452.4 = 37.8%\nAnswer: 3.1 points"
WRONG = "Growth: 549.3 / 397.6 - 1 = 38.2%\nAnswer: 38.2%"


def chromium() -> tuple[str, str]:
    """The browser and its driver; skips the test where they are missing, and fails it under CI."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] is None or found[1] is None:
        missing = "needs Debian's chromium and chromium-driver: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found[0], found[1]


class Server:
    """`python -m data.annotate serve` on one port, which stays the same when it is started again."""

    def __init__(self, database: Path) -> None:
        self.database, self.port = database, 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> float:
        """Seconds from the command to the first page."""
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "data.annotate", "serve", "--db", str(self.database), "--port", str(self.port)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("The desk is open at "), said + self.process.stdout.read()
        self.port = int(said.split("127.0.0.1:")[1].split("/")[0])
        with urllib.request.urlopen(self.url) as page:
            assert page.status == 200
        return time.perf_counter() - begun

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.end()


class Browser:
    """A headless Chromium with a profile folder of its own, on one desk."""

    def __init__(self, url: str, profile: Path, *, size: str = "1280,800", flags: tuple[str, ...] = ()) -> None:
        self.url = url
        binary, driver = chromium()
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size}", *flags):
            options.add_argument(flag)
        self.service = Service(driver)
        self.driver = webdriver.Chrome(options=options, service=self.service)
        self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        self.driver.get(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if kind is None:
                assert self.js("return window.pointers") == 0
                assert self.js("return window.failures") == []
        finally:
            self.driver.quit()

    def kill(self) -> None:
        """The browser's processes, all at once, as SIGKILL does it."""
        chromedriver = psutil.Process(self.service.process.pid)
        for process in chromedriver.children(recursive=True):
            process.kill()
        self.service.stop()

    # ------------------------------------------------------------------------------------------------------ keyboard

    def press(self, *keys: str, shift: bool = False) -> None:
        """Keys in turn: a name of SPECIAL, or each letter of a text."""
        for key in keys:
            for each in [SPECIAL[key]] if key in SPECIAL else key:
                chain = ActionChains(self.driver, duration=0)
                if shift:
                    chain = chain.key_down(Keys.SHIFT)
                chain.send_keys(each).key_up(Keys.SHIFT).perform()

    def write(self, text: str) -> None:
        """Type into the field that has the focus."""
        assert self.js("return document.activeElement.matches('textarea, input')"), self.focus()
        ActionChains(self.driver, duration=0).send_keys(text).perform()

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def compose(self, text: str) -> None:
        """Chinese by an input method: letters that are being composed, then the text."""
        self.cdp("Input.imeSetComposition", text="zhong", selectionStart=5, selectionEnd=5)
        self.cdp("Input.insertText", text=text)

    def keydown(self, code: str, **fields: Any) -> None:
        """A keydown that only a script can make, on what has the focus."""
        self.js("""
            const [code, fields] = arguments;
            const event = new KeyboardEvent("keydown", { code, key: "Process", bubbles: true, ...fields });
            if (fields.keyCode) Object.defineProperty(event, "keyCode", { value: fields.keyCode });
            document.activeElement.dispatchEvent(event);""", code, fields)

    def tab_to(self, selector: str) -> None:
        """Tab until an element has the focus."""
        for _ in range(120):
            if self.js("return document.activeElement.matches(arguments[0])", selector):
                return
            self.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    # ---------------------------------------------------------------------------------------------------------- looking

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """What a person reads of the first such element."""
        return str(self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def focus(self) -> str:
        return str(self.js("const e = document.activeElement; return e.tagName + '#' + e.id + '.' + e.className"))

    def until(self, wanted: Callable[[], Any], what: str = "") -> Any:
        """Waits for something to be true."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = wanted()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{what or 'it'} did not come; the page says {self.text('body')[:2000]!r}, "
                             f"{self.js('return window.failures')}")

    def sees(self, text: str, selector: str = "body") -> None:
        self.until(lambda: text in self.text(selector), repr(text))

    @property
    def assignment(self) -> str | None:
        found: str | None = self.js("return document.querySelector('.task:not([inert])')?.dataset.assignment ?? null")
        return found

    @property
    def pressed(self) -> list[str]:
        """The verdict's buttons that are down."""
        return list(self.js("return [...document.querySelectorAll('.first [aria-pressed=true]')]"
                            ".map((e) => e.dataset.action)"))

    def letter(self, text: str) -> str:
        """The letter under which an answer is shown."""
        found = self.js("return [...document.querySelectorAll('.answer')]"
                        ".find((e) => e.innerText.includes(arguments[0]))?.dataset.slot", text)
        assert found, f"no answer shows {text!r}"
        return str(found)

    def send(self, *keys: str) -> None:
        """Presses the keys and waits for the next task, or the end."""
        before = self.assignment
        self.press(*keys)
        self.until(lambda: self.assignment != before and self.js(
            "return Boolean(document.querySelector('.task:not([inert]), .nothing'))"), "the next task")

    def task(self, *, after: str | None = None) -> str:
        """The task on the screen, once it is another one than `after`."""
        return str(self.until(lambda: self.assignment not in (None, after) and self.assignment, "another task"))

    def sign_in_again(self, name: str) -> None:
        """Signs in where the browser has forgotten who is there."""
        self.until(lambda: self.js("return document.readyState") == "complete", "the page")
        if self.js("return document.getElementById('pseudonym') !== null"):
            self.sign_in(name)

    def sign_in(self, name: str) -> None:
        self.until(lambda: self.js("return document.activeElement.id") == "pseudonym", "the sign-in")
        self.write(name)
        self.press("Enter")
        self.until(lambda: self.js("return document.body.className") == "desk" and self.js(
            "return !document.getElementById('main').hasAttribute('aria-busy')"), "the desk")


# ---------------------------------------------------------------------------------------------- what is judged, and how


def rows(prompt: str, *answers: str, language: str = "en", **fields: Any) -> list[dict[str, Any]]:
    """Rows for the desk's import: answers of different models to one prompt."""
    return [{"prompt": prompt, "completion": answer, "model": f"secret-model-{place}", "language": language, **fields}
            for place, answer in enumerate(answers)]


def pairs(count: int) -> list[dict[str, Any]]:
    """Answers to so many questions, two each, told apart by their text."""
    return [row for n in range(count) for row in rows(f"Question {n}: what is {n} plus {n}?", f"It is {2 * n}.",
                                                      f"It is {2 * n + 1}, I think.")]


def import_rows(database: Path, rows: list[dict[str, Any]], *arguments: str) -> None:
    """Rows into the desk's database by its own command."""
    file = database.with_name(f"rows{len(list(database.parent.glob('rows*.jsonl')))}.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["import", str(file), "--db", str(database), *arguments]) == 0


def standing(database: Path) -> dict[str, Decision]:
    """What stands, by the prompt's first message."""
    found = look(database)
    tasks, prompts = found.by_id("tasks"), found.by_id("prompts")
    return {prompts[tasks[each.task_id].prompt_id].messages[0]["content"]: each.decision for each in found.standing()}


def text_of(database: Path, candidate: str | None) -> str:
    return str(look(database).by_id("candidates")[candidate].text)
