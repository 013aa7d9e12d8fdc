"""What enters a stage's identity and what does not."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from alignment import identity
from alignment.kinds import KINDS, Pairs, Ppo, Sft
from alignment.plan import PlannedStage

EXACT = {"threads": 1, "isa": "avx2"}


def parts(config: Any, **changes: Any) -> identity.Parts:
    given: dict[str, Any] = {"inputs": {"policy": "p"}, "seed": 1, "data": {"source": "finance", "path": None},
                             "data_files": {}, "rollout": {"engine": "transformers", "dtype": "float32",
                                                           "max_num_seqs": 8},
                             "exactness": EXACT, "code": ({"alignment.stages.x": "1" * 16}, frozenset({"torch"}))}
    return identity.parts_of(PlannedStage("x", KINDS[config.kind], config, dict(config.inputs)), **(given | changes))


def same(config: Any, other: Any = None, **changes: Any) -> bool:
    return identity.digest(parts(config)) == identity.digest(parts(other or config, **changes))


PPO = Ppo(kind="ppo", inputs={"policy": "sft"})


@pytest.mark.parametrize("changes", [
    {"inputs": {"policy": "q"}}, {"inputs": {"model": "p"}}, {"seed": 2}, {"exactness": EXACT | {"threads": 2}},
    {"data": {"source": "finance", "path": None, "seed": 3}}, {"data_files": {"rows.json": "a"}},
    {"rollout": {"engine": "vllm", "dtype": "float32"}}, {"rollout": {"engine": "transformers", "dtype": "bfloat16"}},
    {"code": ({"alignment.stages.x": "2" * 16}, frozenset({"torch"}))},
    {"code": ({"alignment.stages.x": "1" * 16}, frozenset())},
])
def test_what_changes_it(changes: dict[str, Any]) -> None:
    assert not same(PPO, **changes)


def test_what_does_not() -> None:
    assert same(PPO, dataclasses.replace(PPO, require=["x > 1"], eval_every=3, dev_examples=5))
    assert not same(PPO, dataclasses.replace(PPO, gamma=0.9))
    assert same(PPO, rollout={"engine": "transformers", "dtype": "float32", "max_num_seqs": 4})
    renamed = dataclasses.replace(PPO, inputs={"policy": "another_name"})
    assert same(PPO, renamed)  # what fills a role counts, not what it is called
    pairs = Pairs(kind="pairs")
    assert same(pairs, data={"source": "gsm8k"}, rollout={"engine": "vllm", "dtype": "float32"})  # it reads neither


def test_a_files_bytes_count_and_its_folder_does_not(tmp_path: Path) -> None:
    configs = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text("{}\n")
        configs.append(Sft(kind="sft", dataset=str(tmp_path / folder / "rows.jsonl")))
    assert same(*configs)
    before = identity.digest(parts(configs[0]))
    (tmp_path / "a/rows.jsonl").write_text("{ }\n")
    assert identity.digest(parts(configs[0])) != before
    data = {"source": "tatqa", "path": "/x/y.json"}
    assert identity.digest(parts(PPO, data=data, data_files={"y.json": "1"})) == identity.digest(
        parts(PPO, data=data | {"path": "/z/y.json"}, data_files={"y.json": "1"}))


# Code, on a small tree of packages


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    sources = {
        "alignment/__init__.py": "", "alignment/stages/__init__.py": "",
        "alignment/stages/demo.py": '"""Doc."""\nimport numpy\nfrom alignment import losses\n'
                                    "from reward.rule import f\n",
        "alignment/losses.py": 'def g(x):\n    """Doc."""\n    return x + 1  # why\n',
        "alignment/kinds.py": "A = 1\n", "alignment/unrelated.py": "B = 1\n",
        "reward/__init__.py": "", "reward/rule.py": "from typing import TYPE_CHECKING\nfrom alignment.kinds import A\n"
                                                    "if TYPE_CHECKING:\n    from alignment.unrelated import B\n"
                                                    "FILE = 'rows.jsonl'\ndef f(): ...\n",
        "reward/rows.jsonl": "{}\n", "reward/other.jsonl": "{}\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def code(tree: Path) -> dict[str, str]:
    identity._parse_module.cache_clear()
    return identity.code_parts("demo", tree)[0]


def test_the_closure_is_what_the_stage_loads(tree: Path) -> None:
    assert set(code(tree)) == {"alignment", "alignment.stages", "alignment.stages.demo", "alignment.losses", "reward",
                               "reward.rule", "reward/rows.jsonl"}
    assert "numpy" in identity.code_parts("demo", tree)[1]


def test_comments_docstrings_and_layout_are_no_change(tree: Path) -> None:
    before = code(tree)
    (tree / "alignment/losses.py").write_text('def g(x):\n    """Other words."""\n\n    # because\n'
                                              "    return (x +\n 1)\n")
    (tree / "alignment/kinds.py").write_text("A = 2\n")
    (tree / "alignment/unrelated.py").write_text("B = 2\n")
    (tree / "reward/other.jsonl").write_text("[]\n")
    assert code(tree) == before


@pytest.mark.parametrize(("name", "text", "part"), [
    ("alignment/losses.py", "def g(x):\n    return x - 1\n", "alignment.losses"),
    ("alignment/losses.py", "def g(x, y=1):\n    return x + 1\n", "alignment.losses"),
    ("reward/rows.jsonl", "{ }\n", "reward/rows.jsonl"),
])
def test_a_change_of_meaning_is_named(tree: Path, name: str, text: str, part: str) -> None:
    before = code(tree)
    (tree / name).write_text(text)
    after = code(tree)
    assert {key for key in after if before.get(key) != after[key]} == {part}
    assert identity.differences({"code": before}, {"code": after})[0].startswith(f"module {part}: ")


def test_relative_imports(tree: Path) -> None:
    text = "from .. import losses\nfrom . import demo\nfrom ..unrelated import B\n"
    (tree / "alignment/stages/demo.py").write_text(text)
    assert {"alignment.losses", "alignment.unrelated"} <= set(code(tree))


def test_what_is_loaded_by_name_counts_too(tree: Path) -> None:
    text = "import importlib\ndef f():\n    return importlib.import_module('alignment.unrelated').B\n"
    (tree / "reward/rule.py").write_text(text)
    assert "alignment.unrelated" in code(tree)
    assert {"alignment.critic_judge", "alignment.local_judge"} <= set(identity.code_parts("judge")[0])


def test_every_stage_that_is_there_can_be_read() -> None:
    for kind in KINDS:
        modules, third_party = identity.code_parts(kind)
        if f"alignment.stages.{kind}" in modules:
            assert "alignment.stage" in modules and "data.schema" in modules
            assert not {"hydra", "omegaconf", "rich"} & third_party


def test_differences_name_old_and_new() -> None:
    old = {"config": {"gamma": 1.0, "loss": ["a"]}, "packages": {"torch": "2.12"}, "files": {"x": "a" * 64}}
    new = {"config": {"gamma": 0.9, "loss": ["a"]}, "packages": {"torch": "2.13"}, "files": {"x": "b" * 64}}
    assert identity.differences(old, new) == ["config gamma: 1.0 -> 0.9", "file x: aaaaaaaa -> bbbbbbbb",
                                              "package torch: 2.12 -> 2.13"]
    assert identity.differences(old, old) == []
