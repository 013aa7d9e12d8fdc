"""Every metric a stage reports is documented."""

import ast
from pathlib import Path

import pytest

import alignment
from alignment.metrics import METRICS, documented

PACKAGE = Path(alignment.__file__).parent


def spelled(node: ast.expr) -> str | None:
    """A literal key, with `x` for what an f-string fills in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return None


def reported(path: Path) -> list[str]:
    """The names given to `*.log(step, name=...)` and `*.result(name=...)`, literal dictionaries unpacked included."""
    names = []
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
                and call.func.attr in ("log", "result") and isinstance(call.func.value, ast.Name)
                and call.func.value.id == "stage"):
            continue
        for keyword in call.keywords:
            if keyword.arg is not None:
                names.append(keyword.arg)
            elif isinstance(keyword.value, ast.Dict):
                names += [name for key in keyword.value.keys if key is not None and (name := spelled(key))]
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_reported_name_is_documented(path):
    kind = path.stem if path.parent.name == "stages" else ""
    missing = []
    for name in reported(path):
        try:
            documented(name, kind)
        except KeyError:
            missing.append(name)
    assert not missing


def test_the_search_finds_names(tmp_path):
    file = tmp_path / "made_up.py"
    file.write_text("stage.log(3, loss=1.0, **{f'{policy}.greedy': 2.0})\n"
                    "stage.result(accuracy=1)\nmath.log(x, base=2)")
    assert reported(file) == ["loss", "x.greedy", "accuracy"]


def test_a_kind_narrows_a_name():
    assert documented("truncated", "judge") is METRICS["judge/truncated"]
    assert documented("truncated", "sample") is METRICS["truncated"]
    assert documented("ppo - sft.greedy", "evaluate").unit == "share"
    assert documented("error.slipped_digit", "judge").unit == "count"


def test_a_kinds_own_pattern_comes_before_a_general_one():
    assert documented("reward_model.accuracy", "evaluate") is METRICS["evaluate/*.accuracy"]
    assert documented("reward_rule", "ppo") is METRICS["reward_*"]


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="vibes"):
        documented("vibes", "judge")
    with pytest.raises(KeyError, match=r"sft\.greedy"):
        documented("sft.greedy", "judge")


def test_meanings_are_sentences_of_their_own():
    assert all(len(metric.meaning) > 10 for metric in METRICS.values())
