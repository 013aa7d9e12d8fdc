"""Who may import whom, and the other rules that keep the house in order; read from the syntax tree, not by grep."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST_PARTY = ("alignment", "reward", "data")
RANK = {"data": 0, "reward": 1, "alignment": 2}
SOURCES = sorted(path for package in FIRST_PARTY for path in (ROOT / package).rglob("*.py"))
VAGUE = {"utils", "common", "helpers", "misc", "base"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    """Every (statement, dotted module) the tree imports, at any depth."""
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            found.append((node, node.module or ""))
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for node, module in imports(parse(path)):
        top = module.split(".")[0]
        if top in RANK:
            assert RANK[top] <= RANK[package], f"{name(path)}:{node.lineno}: {package} imports {module}"
        if name(path).startswith("alignment/stages/"):
            assert not module.startswith("alignment.stages"), f"{name(path)}:{node.lineno}: a stage imports a stage"


def module_level(tree: ast.Module) -> set[ast.stmt]:
    """Statements that run on import, those under a module-level if or try included."""
    found: set[ast.stmt] = set()
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        found.add(node)
        if isinstance(node, ast.If | ast.Try):
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_first_party_import_hides_in_a_function(path: Path) -> None:
    tree = parse(path)
    top = module_level(tree)
    hidden = [f"line {node.lineno}: {module}" for node, module in imports(tree)
              if module.split(".")[0] in FIRST_PARTY and node not in top]
    assert hidden == []


HTTP = ("reward/endpoint.py", "alignment/rollout/")
PLACES = {  # third-party package -> the only places that may import it
    "vllm": ("alignment/rollout/",),
    "hydra": ("alignment/run.py", "alignment/config.py"),
    "omegaconf": ("alignment/run.py", "alignment/config.py"),
    "trl": ("alignment/trainers.py", "alignment/preference_trainers.py", "alignment/group_trainer.py",
            "alignment/stages/", "alignment/packing.py"),
    **dict.fromkeys(("sqlalchemy", "starlette", "uvicorn", "markdown_it", "mdit_py_plugins",
                     "latex2mathml"), ("data/annotate/",)),
    **dict.fromkeys(("httpx", "requests", "aiohttp", "urllib3", "openai"), HTTP),
}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_libraries_stay_in_their_place(path: Path) -> None:
    for node, module in imports(parse(path)):
        places = PLACES.get(module.split(".")[0])
        assert places is None or name(path).startswith(places), f"{name(path)}:{node.lineno} imports {module}"


def test_losses_import_nothing_of_ours() -> None:
    assert [module for _, module in imports(parse(ROOT / "alignment/losses.py"))
            if module.split(".")[0] in FIRST_PARTY] == []


def test_alarms_know_metrics_alone() -> None:
    """So that any trainer's lines can be told to them."""
    assert {module for _, module in imports(parse(ROOT / "alignment/alarms.py")) if module.split(".")[0] in FIRST_PARTY
            } == {"alignment.keys", "alignment.stats"}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_modules_have_names_that_say_something_and_docstrings(path: Path) -> None:
    assert path.stem not in VAGUE
    if path.stat().st_size:
        assert ast.get_docstring(parse(path)), f"{name(path)} has no docstring"


def forbidden_calls(tree: ast.AST) -> list[str]:
    """Calls that would run or unpickle untrusted bytes."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            weights_only = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            if call in {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load"}:
                found.append(f"line {node.lineno}: {call}")
            if call == "torch.load" and not weights_only:
                found.append(f"line {node.lineno}: torch.load without weights_only=True")
            found += [f"line {node.lineno}: {k.arg}" for k in node.keywords
                      if k.arg in {"trust_remote_code", "shell"} and ast.unparse(k.value) == "True"]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_untrusted_is_executed(path: Path) -> None:
    assert forbidden_calls(parse(path)) == []


def test_the_check_for_execution_can_fail() -> None:
    assert len(forbidden_calls(ast.parse("eval(x); torch.load(p); f(shell=True); pickle.load(f)"))) == 4


OWN_CODE = "alignment/own_rewards.py"  # the one place that runs code by a name from outside: the user's own rewards
SERVER = "alignment/rollout/serve.py"  # runs vLLM's server, whose name is fixed
LOADERS = {"exec_module", "spec_from_file_location", "SourceFileLoader", "run_path", "run_module", "__import__"}


def loads_by_name(tree: ast.AST) -> list[str]:
    """Calls that run a module named when they run, but for first-party ones."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func).rpartition(".")[2]
            named = ast.unparse(node.args[0]).lstrip("f").strip("'\"") if node.args else ""
            if call in LOADERS or (call == "import_module" and named.split(".")[0] not in FIRST_PARTY):
                found.append(f"line {node.lineno}: {call}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_code_of_the_users_own_is_run_in_one_place(path: Path) -> None:
    assert bool(loads_by_name(parse(path))) == (name(path) in (OWN_CODE, SERVER))


@pytest.mark.parametrize("module", ["alignment.run", "alignment.repro", "alignment.cli", "alignment.kinds",
                                    "alignment.keys", "alignment.alarms", "alignment.plan", "alignment.store",
                                    "alignment.own_rewards",
                                    "data.schema", "data.rows", "data.annotate.cli", "data.annotate.serving",
                                    "data.annotate.importing", "data.annotate.reporting", "data.annotate.keeping",
                                    "data.annotate.sealing"])
def test_the_controller_never_imports_torch(module: str) -> None:
    """Nor anything else that is slow: --help, config errors and a run in which all is sealed stay quick."""
    code = f"import sys, json, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
                         env={**os.environ, "PYTHONWARNINGS": "ignore"}).stdout
    heavy = {"torch", "transformers", "trl", "vllm", "datasets", "matplotlib", "pandas"} & set(json.loads(out))
    assert heavy == set()
