"""The text of `--help`: every key with its default and meaning, taken from where the keys are declared."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.config import GROUPS, RECIPES, Data, LaunchConfig, Model, RolloutConfig, Root
from alignment.kinds import KINDS, StageConfig, TrainingConfig
from alignment.plan import nearest
from data.schema import UserError

HEAD = """\
Takes a base language model to an aligned one, stage by stage, and says what each stage brought.

  python -m alignment.run recipe=NAME [KEY=VALUE ...] [-m] [--config-dir DIR]

  python -m alignment.run recipe=ppo_fin                          the whole chain
  python -m alignment.run recipe=ppo_fin scale=tiny               the same in under a minute
  python -m alignment.run recipe=ppo_fin ppo.learning_rate=1e-4   PPO and what hangs on it again, the rest reused
  python -m alignment.run recipe=ppo_fin dry_run=true             what would run, and why
  python -m alignment.run recipe=evaluate model.path=FOLDER       the evaluation alone, of any model
  python -m alignment.run -m recipe=ppo_fin seed=1,2,3            a sweep
  python -m alignment.run --help KIND                             the keys of one kind of stage

Exit codes: 0 done, 1 a gate closed or a stage failed, 2 the input is wrong, 130 interrupted (run again to go on).
"""


def first_comment(path: Path) -> str:
    """The sentence a recipe file begins with."""
    said = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            said.append(line.lstrip("# "))
    return " ".join(said)


def options(group: str, folders: Sequence[Path]) -> dict[str, str]:
    """name -> what it is, of every file of a group."""
    return {path.relative_to(folder / group).with_suffix("").as_posix(): first_comment(path)
            for folder in folders for path in sorted((folder / group).rglob("*.yaml"))}


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    plain = {None: "null", True: "true", False: "false"}
    return plain[value] if value is None or isinstance(value, bool) else str(value).replace("'", "")


def _line(name: str, meaning: str, indent: int = 2, width: int = 38) -> str:
    head = f"{' ' * indent}{name}".ljust(width)
    gap = " " if len(head) > width - 1 and not head.endswith(" ") else ""
    return textwrap.fill(head + gap + meaning, 120, subsequent_indent=" " * width, break_on_hyphens=False,
                         break_long_words=False, drop_whitespace=True)


def keys(cls: type, *, without: type | None = None) -> list[str]:
    """A line for each key of a config dataclass."""
    known = {field.name for field in dataclasses.fields(without)} if without else set()  # type: ignore[arg-type]
    lines = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in known and field.name != "kind":
            choices = " | ".join(map(str, field.metadata.get("choices", ())))
            meaning = field.metadata["help"] + (f" ({choices})" if choices else "")
            name = field.metadata["spelled"] or field.name
            lines.append(_line(f"{name}={_default(field)}", meaning))
    return lines


def kind_help(name: str) -> str:
    """The keys of one kind of stage."""
    if name not in KINDS:
        raise UserError(f"--help {name}: there is no such kind of stage{nearest(name, KINDS)}")
    kind = KINDS[name]
    takes = ", ".join(f"{role}: {wanted}" for role, wanted in kind.takes.items())
    return "\n".join([f"{name}: {(kind.config.__doc__ or '').strip()}", f"takes {takes}; makes {kind.makes}", "",
                      *keys(kind.config)])


def text(config_dirs: Sequence[str] = ()) -> str:
    """The whole help."""
    folders = [RECIPES, *map(Path, config_dirs)]
    lines = [HEAD, "Recipes:"]
    lines += [_line(name, meaning, width=16) for name, meaning in options("recipe", folders).items()]
    for group in GROUPS[1:]:
        lines += ["", f"{group}=NAME:"]
        lines += [_line(name, meaning, width=16) for name, meaning in options(group, folders).items()]
    lines += ["", "Keys of a run:", *keys(Root)]
    for name, cls in (("model", Model), ("data", Data), ("rollout", RolloutConfig),
                      ("launch", LaunchConfig)):
        lines += ["", f"Keys of {name}, as {name}.KEY=VALUE:", *keys(cls)]
    lines += ["", "Keys of every stage, as STAGE.KEY=VALUE:", *keys(StageConfig)]
    trained = ", ".join(name for name, kind in KINDS.items() if issubclass(kind.config, TrainingConfig))
    lines += ["", f"Keys of every stage that trains ({trained}); defaults differ by kind:",
              *keys(TrainingConfig, without=StageConfig)]
    for name, kind in KINDS.items():
        shared = TrainingConfig if issubclass(kind.config, TrainingConfig) else StageConfig
        own = keys(kind.config, without=shared)
        about = " ".join((kind.config.__doc__ or "").split())
        lines += ["", textwrap.fill(f"Keys of {name}. {about}", 120), *own]
    return "\n".join(lines)
