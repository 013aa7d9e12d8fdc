"""Rewards of the user's own: found, looked at without being run, hashed, loaded, and held to what a reward returns."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.config import load
from alignment.own_rewards import OwnReward, find_rewards
from alignment.prepare import explain, needs_network
from data.schema import Completion, Question, UserError
from reward import RewardError, Scores, Span
from reward.mixture import WeightedReward
from tests.alignment.chains import Chain

QUESTION = Question(id="q7", source="file", kind="any", language="en", prompt="?", steps=(), answer="", operand_key="k")
ROWS = [Completion(question_id="q7", sample=sample, text=text, finish_reason="stop")
        for sample, text in enumerate(["6 元", "", "no idea"])]
SHORTER = "def shorter(questions, completions):\n    return [-len(completion.text) for completion in completions]\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, and an import path that forgets it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def own(target: str) -> OwnReward:
    return OwnReward.read("ppo.rewards.short", target)


def said(call: object) -> str:
    """The message of the UserError that it raises, which is one line."""
    with pytest.raises(UserError) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Found -----------------------------------------------------------------------------------------------------------


def test_a_function_in_a_file_scores(place: Path) -> None:
    write(place / "my_rewards.py", SHORTER)
    own("my_rewards.py:shorter").check()
    scores = own("my_rewards.py:shorter").load()([QUESTION] * 3, ROWS)
    assert scores == Scores([-3.0, 0.0, -7.0])
    assert not list(place.rglob("*.pyc"))


def test_a_function_in_a_module_scores_and_its_packages_are_found_without_being_run(place: Path) -> None:
    write(place / "mine_a/__init__.py", "raise RuntimeError('imported')\n")
    write(place / "mine_a/inner/__init__.py", "")
    write(place / "mine_a/inner/scores.py", SHORTER)
    own("mine_a.inner.scores:shorter").check()
    assert set(own("mine_a.inner.scores:shorter").code()) == {
        f"rewards.short:mine_a/{name}" for name in ("__init__.py", "inner/__init__.py", "inner/scores.py")}
    write(place / "mine_a/__init__.py", "")
    assert own("mine_a.inner.scores:shorter").load()([QUESTION] * 3, ROWS).total == [-3.0, 0.0, -7.0]


def test_a_process_reward_of_ones_own_keeps_its_spans(place: Path) -> None:
    write(place / "steps.py", "from reward import Scores, Span\n\ndef f(questions, completions):\n"
                              "    return Scores([0.0] * len(completions), spans=[\n"
                              "        [Span(0, 1, 1.0)] if row.text else [] for row in completions])\n")
    scores = WeightedReward({"steps": own("steps.py:f").load()}, {"steps": 0.5})([QUESTION] * 3, ROWS)
    assert scores.spans == [[Span(0, 1, 0.5)], [], [Span(0, 1, 0.5)]] and scores.parts == {"steps": [1.0, 0.0, 1.0]}


def test_a_relative_path_is_the_working_directorys_or_else_the_recipes(place: Path) -> None:
    write(place / "recipes/recipe/mine.yaml", "# @package _global_\ndefaults: [ppo_fin, _self_]\nppo:\n"
                                              "  rewards: {short: my_rewards.py:shorter}\n"
                                              "  reward_weights: {short: 0.5}\n")
    with pytest.raises(UserError, match=rf"ppo\.rewards\.short=my_rewards\.py:shorter: there is no file my_rewards\.py "
                                        rf"in {place}"):
        load(["recipe=mine"], config_dirs=["recipes"])
    write(place / "recipes/my_rewards.py", SHORTER)
    ppo = load(["recipe=mine"], config_dirs=["recipes"]).stages["ppo"]
    assert ppo.rewards == {"short": "recipes/my_rewards.py:shorter"}  # type: ignore[attr-defined]
    assert ppo.reward_weights == {"rule": 1.0, "reward_model": 0.1, "short": 0.5}  # type: ignore[attr-defined]
    write(place / "my_rewards.py", SHORTER)
    ppo = load(["recipe=mine"], config_dirs=["recipes"]).stages["ppo"]
    assert ppo.rewards == {"short": "my_rewards.py:shorter"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", [
    ["ppo.rewards.short=my_rewards.py:shorter", "ppo.reward_weights.short=0.5"],
    ["ppo.rewards={short: my_rewards.py:shorter}", "ppo.reward_weights={short: 0.5}"],
    ["+ppo.rewards.short=my_rewards.py:shorter", "++ppo.reward_weights.short=0.5"],
])
def test_the_command_line_names_one_too(place: Path, how: list[str]) -> None:
    write(place / "my_rewards.py", SHORTER)
    ppo = load(["recipe=ppo_fin", *how]).stages["ppo"]
    assert ppo.rewards == {"short": "my_rewards.py:shorter"}  # type: ignore[attr-defined]
    assert ppo.reward_weights["short"] == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(("target", "message"), [
    ("my_rewards.py", "write FILE.py:FUNCTION or MODULE:FUNCTION, as in my_rewards.py:shorter"),
    ("my_rewards.py:", "write FILE.py"), (":shorter", "write FILE.py"), ("", "write FILE.py"),
    ("my_rewards.py:a.b", "write FILE.py"), ("my rewards:f", "write FILE.py"), ("my_rewards.py:f()", "write FILE.py"),
    ("none.py:f", "there is no file none.py in "), ("/none/r.py:f", "there is no file /none/r.py"),
    (".py:f", "there is no file"), ("~/none.py:f", "there is no file"),
    ("my_rewards.py:shortr", "my_rewards.py defines no 'shortr' at its top level; did you mean shorter?"),
    ("my_rewards.py:inner", "defines no 'inner' at its top level"),
    ("no_such.module:f", "no module 'no_such.module' with a file is installed, or lies in"),
    ("torch.no_such:f", "no module 'torch.no_such'"), ("sys:f", "no module 'sys' with a file"),
    ("__main__:f", "no module '__main__'"), ("empty.py:f", "defines no 'f' at its top level"),
    ("broken.py:f", "broken.py:2: "), ("binary.py:f", "binary.py"), ("folder.py:f", "there is no file folder.py"),
])
def test_what_cannot_be_found_is_said_before_anything_runs(place: Path, target: str, message: str) -> None:
    write(place / "my_rewards.py", SHORTER + "def outer():\n    def inner(): ...\nassert False, 'this ran'\n")
    write(place / "empty.py", "")
    write(place / "broken.py", "def f(questions, completions):\nreturn 1\n")
    (place / "binary.py").write_bytes(b"\x00\xff\xfe")
    (place / "folder.py").mkdir()
    found = said(lambda: find_rewards("ppo", {"short": target}, []))
    assert found.startswith(f"ppo.rewards.short={target}") and message in found


def test_what_may_define_the_name_is_left_to_the_stage(place: Path) -> None:
    for text in ("from os.path import *\n", "def __getattr__(name): ...\n", "if True:\n    f = len\n",
                 "try:\n    import json as f\nexcept ImportError:\n    f = None\n", "with open('x') as f: ...\n",
                 "class f: ...\n", "g, (f, h) = 1, (2, 3)\n", "f: int = 3\n"):
        write(place / "r.py", text)
        own("r.py:f").check()


def test_no_name_hides_a_built_in_one_or_leaves_the_log(place: Path) -> None:
    write(place / "my_rewards.py", SHORTER)
    for name in ("rule", "reward_model", "rule_steps", "a-b", "a b", "1", "*", "净"):
        assert "not a name for a reward of your own" in said(
            lambda name=name: find_rewards("ppo", {name: "my_rewards.py:shorter"}, []))


# Hashed ------------------------------------------------------------------------------------------------------------


def test_the_bytes_of_the_file_and_of_what_it_imports_from_beside_it_count(place: Path) -> None:
    write(place / "a/my_rewards.py", "import json\nimport words\nfrom pack.inner import f\nfrom reward import Span\n")
    write(place / "a/words.py", "import more\n")
    for name in ("more.py", "pack/__init__.py", "pack/inner.py", "pack/other.py", "unrelated.py"):
        write(place / "a" / name, "")
    before = own("a/my_rewards.py:f").code()
    assert {name for name in before if ":" in name} == {f"rewards.short:{name}" for name in (
        "my_rewards.py", "words.py", "more.py", "pack/__init__.py", "pack/inner.py")}
    assert {"reward", "data.schema"} <= set(before)  # finalign's own, by what they mean
    for name, changes in {"unrelated.py": False, "pack/other.py": False, "more.py": True,
                          "my_rewards.py": True}.items():
        path = place / "a" / name
        path.write_text(path.read_text() + "# a comment\n")
        assert (own("a/my_rewards.py:f").code() != before) == changes, name
        before = own("a/my_rewards.py:f").code()
    (place / "a").rename(place / "b")
    assert own("b/my_rewards.py:f").code() == before  # its bytes count, not its folder


def test_an_installed_module_brings_its_own_package_alone() -> None:
    assert all(name.startswith("rewards.short:yaml/") for name in own("yaml.loader:Loader").code())


def test_why_names_the_file_that_changed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(place, monkeypatch)
    path = write(place / "my_rewards.py", SHORTER)
    asked = ("until=ppo", "ppo.rewards.short=my_rewards.py:shorter", "ppo.reward_weights.short=0.5")
    assert chain.run(*asked).code == 0 and chain.run(*asked).started == []
    path.write_text(SHORTER.replace("-len", "-2 * len"))
    lines = explain(chain.prepare(*asked)).splitlines()
    assert lines[lines.index("  ppo: runs") + 1].startswith("      module rewards.short:my_rewards.py: ")
    path.write_text(SHORTER)
    (place / "elsewhere").mkdir()
    path.rename(place / "elsewhere/my_rewards.py")
    moved = (*asked[:1], "ppo.rewards.short=elsewhere/my_rewards.py:shorter", asked[2])
    assert chain.run(*moved).started == []
    (place / "elsewhere/my_rewards.py").write_text(SHORTER + "# a comment\n")
    outcome = chain.run(*moved, "accept_code_change=ppo")
    assert outcome.started == [] and outcome.manifest["stages"]["ppo"]["accepted_code_change"]
    with pytest.raises(UserError, match="there is no file"):
        chain.run(*asked)
    adopted = chain.run(*asked, f"ppo.adopt={chain.base}")  # a stage that does not run asks for no reward
    assert adopted.code == 0 and adopted.started == []


def test_a_file_that_changes_while_the_chain_runs_is_met(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(place, monkeypatch)
    path = write(place / "my_rewards.py", SHORTER)
    asked = ("until=ppo", "ppo.rewards.short=my_rewards.py:shorter", "ppo.reward_weights.short=0.5")
    stage_code = chain.prepare(*asked).node("ppo").parts["code"]
    assert "rewards.short:my_rewards.py" in stage_code
    assert needs_network(chain.prepare(*asked)) and not needs_network(chain.prepare("until=ppo"))
    monkeypatch.setattr("alignment.controller.check_disk", lambda prepared: path.write_text(SHORTER + "\n"))
    outcome = chain.run(*asked)
    assert outcome.code == 2 and "its code was changed while the chain ran (module rewards.short" in outcome.said


# Loaded and called ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "message"), [
    ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package' ({file}:1); correct it"),
    ("\n1 / 0\n", "ZeroDivisionError: division by zero ({file}:2)"),
    ("import sys\nsys.exit(0)\n", "SystemExit: 0 ({file}:2)"),
    ("import json\n\njson.loads('{')\n", "({file}:3)"),  # its own line, not the library's
    ("from os.path import *\n", "f is None there, which cannot be called; name a function of (questions, completions)"),
    ("f = 3\n", "f is 3 there, which cannot be called"),
])
def test_what_cannot_be_loaded(place: Path, text: str, message: str) -> None:
    path = write(place / "r.py", text)
    found = said(own("r.py:f").load)
    assert found.startswith("ppo.rewards.short=r.py:f") and message.format(file=path) in found


@pytest.mark.parametrize(("body", "message"), [
    ("return [1 / len(row.text) for row in completions]",
     "raised ZeroDivisionError: division by zero ({file}:2), with question q7, sample 1 ('') in hand; correct it"),
    ("return questions[99]", "raised IndexError: list index out of range ({file}:2), scoring 3 completions"),
    ("import sys; sys.exit()", "raised SystemExit"),
    ("raise ValueError('two\\nlines')", "raised ValueError: two lines ({file}:2)"),
    ("import json; json.loads('{')", "({file}:2)"),
    ("return [1.0]", "returned 1 scores for 3 completions; return one for each, in their order"),
    ("return ['1'] * 3", "the score of question q7, sample 0 ('6 元') is '1'; return a finite number"),
    ("return [0, float('nan'), 0]", "the score of question q7, sample 1 ('') is nan; return a finite number"),
    ("return None", "returned None; return a list"),
    ("yield 1", "returned <generator"),
    ("completions.pop(); return [1.0] * 2", "returned 2 scores for 3 completions"),
])
def test_what_is_no_score_names_the_reward_the_question_and_the_way_out(place: Path, body: str, message: str) -> None:
    path = write(place / "r.py", f"def f(questions, completions):\n    {body}\n")
    reward, rows = own("r.py:f").load(), list(ROWS)
    with pytest.raises(RewardError) as caught:
        reward([QUESTION] * 3, rows)
    assert str(caught.value).startswith("ppo.rewards.short=r.py:f") and message.format(file=path) in str(caught.value)
    assert "\n" not in str(caught.value) and rows == ROWS


def test_what_runs_is_the_file_and_no_bytecode_of_an_edit_in_the_same_second(place: Path) -> None:
    path = write(place / "r.py", "def f(questions, completions):\n    return [1.0] * 3\n")
    py_compile.compile(str(path))
    before = path.stat()
    path.write_text(path.read_text().replace("1.0", "2.0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    spec = importlib.util.spec_from_file_location("plain", path)
    assert spec is not None and spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    assert plain.f([], []) == [1.0] * 3  # what Python itself would run
    assert own("r.py:f").load()([QUESTION] * 3, ROWS).total == [2.0] * 3


def test_two_rewards_of_one_file_share_its_module_and_siblings_can_be_imported(place: Path) -> None:
    write(place / "a/r.py", "import sibling_of_r\nSEEN = []\n\n"
                            "def f(questions, completions):\n    SEEN.append(1)\n"
                            "    return [sibling_of_r.VALUE] * 3\n\n"
                            "def g(questions, completions):\n    return [len(SEEN)] * 3\n")
    write(place / "a/sibling_of_r.py", "VALUE = 0.5\n")
    f, g = own("a/r.py:f").load(), own("a/r.py:g").load()
    assert f([QUESTION] * 3, ROWS).total == [0.5] * 3 and g([QUESTION] * 3, ROWS).total == [1.0] * 3


def test_finding_one_imports_no_torch(place: Path) -> None:
    write(place / "my_rewards.py", "import torch\n" + SHORTER)
    code = ("import sys; from alignment.run import main; "
            "assert main(['recipe=ppo_fin', 'dry_run=true', 'until=pretrain', 'ppo.reward_weights.short=1', "
            "'ppo.rewards.short=my_rewards.py:shorter']) == 0; assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True,
                   env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin"})


