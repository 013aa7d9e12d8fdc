"""Rewards of the user's own: Python functions that a recipe names, found, looked at without being run, then loaded.

    rewards: {shorter: my_rewards.py:shorter}    # or package.module:shorter

The function takes what every `Reward` takes, (questions, completions), and returns a number for each completion, or
`Scores`. It is code that the user wrote and named, in a recipe or on the command line, and it runs with all the user
may do; no name ever comes from data, from a model's folder or from a run's record. The controller parses its file and
no more; the stage alone runs it. Imports no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from alignment.identity import FIRST_PARTY, file_sha256, import_closure, imported_names, module_path
from alignment.kinds import BUILT_IN_REWARDS
from alignment.plan import nearest
from data.schema import Completion, Question, UserError
from reward import RewardError, Scores
from reward.checks import checked, shown, told

FORM = "write FILE.py:FUNCTION or MODULE:FUNCTION, as in my_rewards.py:shorter"


@dataclasses.dataclass(frozen=True)
class OwnReward:
    """One entry of a stage's `rewards`: `OwnReward("ppo.rewards.shorter", "my_rewards.py", "shorter")`."""

    key: str
    place: str  # a file, or a module's dotted name
    function: str

    @classmethod
    def read(cls, key: str, target: str) -> OwnReward:
        """Raises UserError for a target of another form."""
        place, _, function = target.rpartition(":")
        if not function.isidentifier() or not (place.endswith(".py") or is_dotted(place)):
            raise UserError(f"{key}={target}: {FORM}")
        return cls(key, place, function)

    def __str__(self) -> str:
        return f"{self.key}={self.place}:{self.function}"

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")

    def source(self) -> Path:
        """The file it is in. Raises UserError where there is none."""
        path = Path(self.place).expanduser() if self.is_file else find_module(self.place)
        if path is None:
            raise UserError(f"{self}: no module {self.place!r} with a file is installed, or lies in {Path.cwd()}; "
                              f"install its package, or {FORM}")
        if not path.is_file():
            raise UserError(f"{self}: there is no file {path}{'' if path.is_absolute() else f' in {Path.cwd()}'}")
        return path.resolve()

    def check(self) -> None:
        """Looks for the function without running anything. Raises UserError where it is not there."""
        path = self.source()
        names = defined(self._parsed(path)) if path.suffix == ".py" else None
        if names is not None and self.function not in names:
            raise UserError(f"{self}: {path} defines no {self.function!r} at its top level"
                              f"{nearest(self.function, sorted(names))}")

    def _parsed(self, path: Path) -> ast.Module:
        try:
            return ast.parse(path.read_bytes(), filename=str(path))
        except SyntaxError as error:
            raise UserError(f"{self}: {path}:{error.lineno}: {error.msg}; correct the file") from None
        except ValueError as error:  # null bytes
            raise UserError(f"{self}: {path} is not Python: {error}") from None

    def code(self) -> dict[str, str]:
        """What its stage's identity holds of it: name -> hash of the bytes of its file and of all that this imports
        from beside it, found by parsing; and of finalign's own modules that it imports."""
        source = self.source()
        above = 0 if self.is_file else self.place.count(".") + (source.name == "__init__.py")
        root, head = source.parents[above], self.place.partition(".")[0]
        found: dict[Path, str] = {}
        ours: dict[str, str] = {}
        waiting = [(source, "" if self.is_file else package_of(self.place, source))]
        if not self.is_file:
            waiting += modules_of(self.place, root)  # the packages around it
        while waiting:
            path, package = waiting.pop()
            if path in found:
                continue
            found[path] = file_sha256(path)[:16]
            for name in imported_names(self._parsed(path), package=package) if path.suffix == ".py" else ():
                if name.split(".")[0] in FIRST_PARTY:
                    ours |= {module: read.sha256[:16] for module, read in import_closure(name).items()}
                elif "site-packages" not in root.parts or name.split(".")[0] == head:  # not all that is installed
                    waiting += modules_of(name, root)
        name = self.key.partition(".")[2]
        return ours | {f"{name}:{path.relative_to(root).as_posix()}": sha for path, sha in found.items()}

    # In the stage ----------------------------------------------------------------------------------------------------

    def load(self) -> LoadedReward:
        """The function, with its module run. Raises UserError for what that raises, and for what cannot be called."""
        try:
            module = self._module()
        except (Exception, SystemExit) as error:
            raise UserError(f"{self} cannot be imported: {self._raised(error)}; correct it") from error
        function = getattr(module, self.function, None)
        if not callable(function):
            raise UserError(f"{self}: {self.function} is {shown(function)} there, which cannot be called; name a "
                              "function of (questions, completions)")
        return LoadedReward(self, function)

    def _module(self) -> ModuleType:
        """What lies beside the file, or in the working directory, can be imported, but shadows nothing installed."""
        beside = str(self.source().parent if self.is_file else Path.cwd())
        if beside not in sys.path:
            sys.path.append(beside)
        if not self.is_file:
            importlib.invalidate_caches()
            return importlib.import_module(self.place)
        path = str(self.source())
        name = f"own_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path, loader=FreshLoader(name, path))
            assert spec is not None and spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(sys.modules[name])
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]

    def _raised(self, error: BaseException) -> str:
        """Type, text and place of what its code raised: the innermost line of its own file."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == str(self.source())]
        place = f" ({(own or frames)[-1].filename}:{(own or frames)[-1].lineno})" if frames else ""
        return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def find_rewards(stage: str, rewards: Mapping[str, str], config_dirs: Sequence[str]) -> dict[str, str]:
    """A stage's `rewards`, each looked for and at: a file in the working directory, as every path in a config, or else
    in the folders of the user's recipes, by whose path it then goes. Raises UserError."""
    found = {}
    for name, target in rewards.items():
        key = f"{stage}.rewards.{name}"
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in BUILT_IN_REWARDS:
            raise UserError(f"{key}: not a name for a reward of your own; use letters, digits and underscores, and "
                            f"none of {', '.join(BUILT_IN_REWARDS)}")
        own = OwnReward.read(key, target)
        places = [place for place in (own.place, *(str(Path(folder) / own.place) for folder in config_dirs))
                  if own.is_file and Path(place).expanduser().is_file()]
        own = dataclasses.replace(own, place=[*places, own.place][0])
        own.check()
        found[name] = f"{own.place}:{own.function}"
    return found


class LoadedReward:
    """A function of the user's own as a `Reward`, held to what a reward returns.

    It must be pure: what a resumed run asks again it must answer as before.
    """

    def __init__(self, named: OwnReward, function: Callable[..., Any]) -> None:
        self.named, self._function = named, function

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        try:
            returned = self._function(list(questions), list(completions))
        except (Exception, SystemExit) as error:
            at = in_hand(error)
            where = f", with {told(at)} in hand" if at else f", scoring {len(completions)} completions"
            raise RewardError(f"{self.named} raised {self.named._raised(error)}{where}; correct it") from error
        return checked(str(self.named), returned, completions)


class FreshLoader(SourceFileLoader):
    """Compiles the file as it is: cached bytecode goes by the second of writing, and could be that of another edit."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def in_hand(error: BaseException) -> Completion | None:
    """The completion that the code which raised had last taken up, as far as its variables show one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((value for frame in reversed(frames) for value in frame.f_locals.values()
                 if isinstance(value, Completion)), None)


def is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def prefixes(name: str) -> list[str]:
    """a.b.c -> a, a.b, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def modules_of(name: str, root: Path) -> list[tuple[Path, str]]:
    """The files that importing a dotted name runs, as far as they lie below `root`, each with its package."""
    return [(path, package_of(module, path)) for module in prefixes(name)
            if (path := module_path(module, root)) is not None]


def package_of(module: str, path: Path) -> str:
    """The package that a module's relative imports start from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def find_module(name: str) -> Path | None:
    """The file of a module, whose packages are not imported to find it: of the installed one, else of one in the
    working directory."""
    importlib.invalidate_caches()
    here = str(Path.cwd())
    elsewhere = [place for place in sys.path if place not in ("", here)]
    head, *rest = prefixes(name)
    specs = (finder.find_spec(head, elsewhere) for finder in sys.meta_path)
    spec = next((found for found in specs if found is not None), None) or PathFinder.find_spec(head, [here])
    for full in rest:
        folders = spec.submodule_search_locations if spec is not None else None
        spec = PathFinder.find_spec(full, folders) if folders is not None else None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def defined(tree: ast.Module) -> set[str] | None:
    """The names that a module binds at its top level, within if and try as well; None where that cannot be known."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        else:
            waiting += ast.iter_child_nodes(node)
    return None if {"*", "__getattr__"} & found else found
