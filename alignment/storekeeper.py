"""`python -m alignment.store ls|du|gc|why`: what the store holds, what it weighs, what may go, why a stage runs again.

Reads manifests and links; loads no model.
"""

from __future__ import annotations

import datetime
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from alignment import config as configs
from alignment.plan import nearest
from alignment.prepare import explain, prepare
from alignment.run import split_arguments
from alignment.store import Artifact, Store
from data.schema import UserError

USAGE = """\
usage: python -m alignment.store ls | du | gc [--yes] | why STAGE recipe=NAME [KEY=VALUE ...]

  ls     every sealed artifact, oldest first: its stage, age, size, and the runs that use it
  du     bytes by kind of stage, and how many of them no run uses
  gc     what no run uses and what was begun and never sealed; with --yes, deletes it
  why    why this stage of a run would run again: which key, file, module or package changed, old -> new

ls, du and gc take runs_dir=PATH (default runs); why takes whatever alignment.run takes."""


def users(runs_dir: Path) -> dict[Path, list[str]]:
    """artifact folder -> the runs whose `stages/` link to it."""
    found: dict[Path, list[str]] = defaultdict(list)
    for link in sorted(runs_dir.glob("*/*/stages/*")):
        if link.is_symlink():
            found[link.resolve()].append(f"{link.parts[-4]}/{link.parts[-3]}")
    return found


def size(folder: Path) -> int:
    """Bytes of the files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rows(lines: Sequence[Sequence[str]]) -> str:
    """Columns, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)


def ls(store: Store, used: dict[Path, list[str]]) -> str:
    lines = [("artifact", "stage", "made", "size", "used by")]
    for artifact in store.artifacts():
        made = datetime.datetime.fromtimestamp(float(artifact.manifest["created"])).strftime("%Y-%m-%d %H:%M")
        lines.append((artifact.path.name, str(artifact.manifest["stage"]), made, decimal(size(artifact.path)),
                      ", ".join(used.get(artifact.path, ["no run"]))))
    return rows(lines) if len(lines) > 1 else f"{store.root} holds no artifact"


def du(store: Store, used: dict[Path, list[str]]) -> str:
    kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])  # artifacts, bytes, bytes no run uses
    for artifact in store.artifacts():
        weight = size(artifact.path)
        for name in (str(artifact.manifest["kind"]), "together"):
            kinds[name][0] += 1
            kinds[name][1] += weight
            kinds[name][2] += 0 if artifact.path in used else weight
    unfinished = sum(map(size, store.unfinished()))
    replies = list((store.kept / "replies").rglob("*.json"))
    paid = [("paid replies", str(len(replies)), decimal(size(store.kept)), "")] if replies else []
    ordered = sorted(kinds.items(), key=lambda entry: (entry[0] == "together", -entry[1][1]))
    return rows([("kind", "artifacts", "size", "of it unused"),
                 *((name, str(count), decimal(weight), decimal(unused)) for name, (count, weight, unused) in ordered),
                 ("unfinished", str(len(store.unfinished())), decimal(unfinished), decimal(unfinished)), *paid])


def gc(store: Store, used: dict[Path, list[str]], *, delete: bool) -> str:
    """Raises UserError where a run is under way: what it will use may have no link yet."""
    if store.busy():
        raise UserError(f"{store.root}: a run is making an artifact; wait for it to end, then collect")
    unused: list[Artifact] = [artifact for artifact in store.artifacts() if artifact.path not in used]
    folders = [*(artifact.path for artifact in unused), *store.unfinished()]
    if not folders:
        return "nothing to delete: every artifact is used by a run"
    lines = [(folder.relative_to(store.root).as_posix(), decimal(size(folder))) for folder in folders]
    total = decimal(sum(map(size, folders)))
    if delete:
        for folder in folders:
            store.remove(folder)
    return rows(lines) + f"\n{'deleted' if delete else 'gc --yes deletes these'}: {len(folders)} folders, {total}"


def why(stage: str, arguments: Sequence[str]) -> str:
    overrides, config_dirs, _ = split_arguments(arguments)
    prepared = prepare(configs.load(overrides, config_dirs=config_dirs))
    names = [node.name for node in prepared.nodes]
    if stage not in names:
        raise UserError(f"why {stage}: the recipe has no such stage{nearest(stage, names)}")
    said = explain(prepared).splitlines()
    start = next(number for number, line in enumerate(said) if line.startswith(f"  {stage}: "))
    end = next((number for number, line in enumerate(said) if number > start and not line.startswith("      ")),
               len(said))
    return "\n".join(line.removeprefix("  ") for line in said[start:end])


def command(arguments: Sequence[str]) -> str:
    """What to print. Raises UserError."""
    verb, *rest = arguments
    if verb == "why":
        if not rest or "=" in rest[0]:
            raise UserError("why: say which stage, as in: why ppo recipe=ppo_fin")
        return why(rest[0], rest[1:])
    if verb not in ("ls", "du", "gc"):
        raise UserError(f"store {verb}: there is no such command{nearest(verb, ('ls', 'du', 'gc', 'why'))}")
    delete = verb == "gc" and "--yes" in rest
    places = [part for part in rest if not (verb == "gc" and part == "--yes")]
    unknown = [part for part in places if not part.startswith("runs_dir=")]
    if unknown:
        raise UserError(f"store {verb} {unknown[0]}: takes runs_dir=PATH{' and --yes' if verb == 'gc' else ''} alone")
    runs_dir = Path(places[-1].partition("=")[2] if places else "runs").expanduser()
    store = Store(runs_dir)
    if not store.root.is_dir():
        raise UserError(f"{store.root}: there is no store; say where with runs_dir=PATH")
    used = users(runs_dir.resolve())
    return gc(store, used, delete=delete) if verb == "gc" else (ls if verb == "ls" else du)(store, used)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the input is wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    try:
        print(command(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
