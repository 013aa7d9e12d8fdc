"""`python -m alignment.repro verify RUN_JSON`: whether what a run left is what it wrote, by hashes alone.

Exit codes: 0 sound, 1 tampered, 2 unusable (the manifest cannot be read, or a file it names is gone). Nothing is run
and nothing is loaded, so it takes as long as reading the files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.identity import digest, file_sha256
from alignment.record import FORMAT
from alignment.store import read_artifact
from data.schema import UserError

SOUND, TAMPERED, UNUSABLE = 0, 1, 2
USAGE = """\
usage: python -m alignment.repro verify RUN_JSON

  0 sound: every file is the one the run wrote
  1 tampered
  2 unusable: a file is missing or cannot be read"""


@dataclasses.dataclass
class Finding:
    """What is wrong with a run, one sentence each."""

    tampered: list[str] = dataclasses.field(default_factory=list)
    unusable: list[str] = dataclasses.field(default_factory=list)
    files: int = 0

    @property
    def code(self) -> int:
        return UNUSABLE if self.unusable else TAMPERED if self.tampered else SOUND


def read_manifest(path: Path) -> dict[str, Any]:
    """run.json as it is; UserError where it is not one."""
    path = path / "run.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    needed = {"format", "recipe", "status", "stages", "files", "digest"}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise UserError(f"{path} is not a run's manifest; it lacks {', '.join(sorted(needed - set(content)))}")
    if content["format"] != FORMAT:
        raise UserError(f"{path} has format {content['format']}; this version reads {FORMAT}")
    return content


def verify(path: Path) -> Finding:
    """Compares a run's folder and its sealed artifacts with the hashes in run.json."""
    content = read_manifest(path)
    run_dir = path if path.is_dir() else path.parent
    finding = Finding()
    expected = content.pop("digest")
    if digest(content) != expected:
        finding.tampered.append(f"{run_dir / 'run.json'} was edited after the run: its digest does not match")
    for name, entry in content["files"].items():
        _check_file(run_dir / name, entry, finding)
    for name, stage in content["stages"].items():
        if "output_sha256" in stage:
            _check_stage(name, stage, run_dir, finding)
    return finding


def _check_file(path: Path, entry: dict[str, Any], finding: Finding) -> None:
    if not path.is_file():
        finding.unusable.append(f"{path} is missing")
        return
    finding.files += 1
    if path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
        finding.tampered.append(f"{path} is not the file of the run")


def _check_stage(name: str, stage: dict[str, Any], run_dir: Path, finding: Finding) -> None:
    """An artifact: present, readable, its files as sealed, and its manifest the one the run saw."""
    folder = Path(os.path.normpath(run_dir / stage["artifact"]))
    if not folder.is_dir():
        finding.unusable.append(f"stage {name}: its artifact {folder} is missing")
        return
    link = run_dir / "stages" / name
    if not link.exists() or link.resolve() != folder.resolve():
        finding.tampered.append(f"{link} does not lead to the stage's artifact {folder}")
    artifact = read_artifact(folder)
    for file, entry in stage["files"].items():
        _check_file(folder / file, entry, finding)
    if artifact is None:
        finding.tampered.append(f"stage {name}: {folder / 'manifest.json'} is missing or was edited")
        return
    finding.tampered += [problem for problem in artifact.problems(hashes=False) if problem.endswith("was added")]
    for fact, sealed in (("identity", artifact.identity), ("output_sha256", artifact.output_sha256),
                         ("metrics", artifact.metrics)):
        if stage[fact] != sealed:
            finding.tampered.append(f"stage {name}: {fact} in run.json is not what {folder / 'manifest.json'} says")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 2 or arguments[0] != "verify":
        asked = bool(arguments) and arguments[0] in ("-h", "--help")
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return SOUND if asked else UNUSABLE
    try:
        finding = verify(Path(arguments[1]))
    except UserError as error:
        print(f"unusable: {error}", file=sys.stderr)
        return UNUSABLE
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:  # JSON of another shape, no permission
        print(f"unusable: {arguments[1]} is not a manifest that a run wrote, or its files cannot be read "
              f"({type(error).__name__}: {error})", file=sys.stderr)
        return UNUSABLE
    for problem in finding.unusable:
        print(f"unusable: {problem}", file=sys.stderr)
    for problem in finding.tampered:
        print(f"tampered: {problem}", file=sys.stderr)
    if finding.code == SOUND:
        print(f"sound: {finding.files} files are what the run wrote")
    return finding.code


if __name__ == "__main__":
    sys.exit(main())
