"""The store of sealed artifacts: a folder each, named by kind and identity, read only once its manifest is there.

    <runs_dir>/store/FORMAT                                the number of this layout
    <runs_dir>/store/<kind>-<identity>/...                 sealed: files and manifest.json
    <runs_dir>/store/.work/<kind>-<identity>/output/...    being made; never read
    <runs_dir>/store/.locks/<kind>-<identity>.lock         held by whoever is making it
    <runs_dir>/store/.kept/...                             what outlives stages and changes no result: paid replies

A stage writes into `output`; sealing writes the manifest there and renames the folder to its place in one step, so at
every moment an artifact is either whole or absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment.identity import Parts, digest, file_sha256, tree_sha256
from data.schema import UserError

FORMAT = 1  # of the layout and of manifests; a store that does not say has the first
MANIFEST = "manifest.json"
LOG = "metrics.jsonl"  # a record of the making, times included: kept beside the content and not part of its hash
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")
FULL_CHECK_BYTES = 256 * 2**20  # artifacts up to this size are hashed whenever they are reused, larger ones sized
MAKE_ROOM = "make room, then run the same command again: it goes on from here"
ELSEWHERE = "give access to it, or choose another folder with runs_dir=PATH"
REFUSALS = {errno.ENOSPC: MAKE_ROOM, errno.EDQUOT: MAKE_ROOM, errno.EFBIG: MAKE_ROOM, errno.EROFS: ELSEWHERE,
            errno.EACCES: ELSEWHERE, errno.EPERM: ELSEWHERE}  # what a disk says no with, and the way out


class StoreError(RuntimeError):
    """A stage left something that cannot be sealed."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A sealed artifact and what its manifest says."""

    path: Path
    manifest: dict[str, Any]

    @property
    def identity(self) -> str:
        return str(self.manifest["identity"])

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(self.manifest["metrics"])

    @property
    def output_sha256(self) -> str:
        return str(self.manifest["output_sha256"])

    def problems(self, *, hashes: bool) -> list[str]:
        """What is wrong with the files: missing, added, or not what was sealed."""
        listed = {**self.manifest["files"], **self.manifest["records"]}
        present = {path.relative_to(self.path).as_posix() for path in self.path.rglob("*")
                   if path.is_file() or path.is_symlink()}
        found = [f"{self.path / name} is missing" for name in sorted(listed.keys() - present)]
        found += [f"{self.path / name} was added" for name in sorted(present - listed.keys() - {MANIFEST})]
        for name in sorted(listed.keys() & present):
            path, expected = self.path / name, listed[name]
            if path.stat().st_size != expected["bytes"] or (hashes and file_sha256(path) != expected["sha256"]):
                found.append(f"{path} is not what was sealed")
        return found


class Lock:
    """An exclusive lock on one identity, shared with the child that makes it and released when both are gone."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("a+")

    def acquire(self) -> bool:
        """Whether the lock is now ours; does not wait."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def release(self) -> None:
        self._file.close()


class Store:
    """All sealed artifacts of a runs folder. Raises UserError for one that another version of finalign laid out."""

    def __init__(self, runs_dir: Path) -> None:
        self.root = runs_dir.resolve() / "store"
        with refusals(self.root):
            found = self._format()
        if found != str(FORMAT):
            raise UserError(f"{self.root} was made by another version of finalign (its FORMAT is {found!r}, this "
                            f"version's is {FORMAT}); use another folder with runs_dir=PATH, or that version")

    def _format(self) -> str:
        """What the store says of itself; this version's where there is no store yet."""
        try:
            return (self.root / "FORMAT").read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return "1" if self.root.is_dir() and any(self.root.iterdir()) else str(FORMAT)

    def begin(self) -> None:
        """Makes the store's folder where there is none, and writes its format down."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not (self.root / "FORMAT").exists():
            write_text(self.root / "FORMAT", f"{FORMAT}\n")

    def path(self, kind: str, identity: str) -> Path:
        return self.root / f"{kind}-{identity[:16]}"

    def work(self, kind: str, identity: str) -> Path:
        """Where the artifact is made; `scratch` in it survives a restart."""
        return self.root / ".work" / f"{kind}-{identity[:16]}"

    @property
    def kept(self) -> Path:
        """What stages may leave for later ones of any run, and no result depends on."""
        return self.root / ".kept"

    def lock(self, kind: str, identity: str) -> Lock:
        return Lock(self.lock_path(f"{kind}-{identity[:16]}"))

    def lock_path(self, folder: str) -> Path:
        """Of the artifact with this folder's name."""
        return self.root / ".locks" / f"{folder}.lock"

    def get(self, kind: str, identity: str) -> Artifact | None:
        """The sealed artifact, or None. One whose files changed since is refused with a UserError naming the file."""
        artifact = read_artifact(self.path(kind, identity))
        if artifact is None or artifact.identity != identity:
            return None
        total = sum(entry["bytes"] for entry in artifact.manifest["files"].values())
        problems = artifact.problems(hashes=total <= FULL_CHECK_BYTES)
        if problems:
            raise UserError(f"a sealed artifact was changed: {problems[0]}. Delete the folder {artifact.path} to have "
                            f"it made again")
        return artifact

    def artifacts(self) -> Iterator[Artifact]:
        """Every sealed artifact, oldest first."""
        found = [read_artifact(path.parent) for path in self.root.glob(f"*/{MANIFEST}")]
        yield from sorted((artifact for artifact in found if artifact), key=lambda a: float(a.manifest["created"]))

    def busy(self) -> bool:
        """Whether a run is making an artifact."""
        for path in (self.root / ".locks").glob("*.lock"):
            lock = Lock(path)
            free = lock.acquire()
            lock.release()
            if not free:
                return True
        return False

    def tidy(self, kind: str, identity: str) -> None:
        """Deletes what a kill between sealing and clearing up has left of a sealed artifact's work."""
        work = self.work(kind, identity)
        if work.exists():
            lock = self.lock(kind, identity)
            if lock.acquire():
                shutil.rmtree(work, ignore_errors=True)
            lock.release()

    def unfinished(self) -> list[Path]:
        """Folders of artifacts that were begun and not sealed; the same command goes on from what is in them."""
        return sorted(path for path in (self.root / ".work").glob("*") if path.is_dir())

    def remove(self, folder: Path) -> None:
        """Deletes an artifact or an unfinished one: gone in one step, whatever interrupts."""
        trash = self.root / ".work" / f".removed-{folder.name}"
        shutil.rmtree(trash, ignore_errors=True)
        trash.parent.mkdir(exist_ok=True)
        folder.rename(trash)
        shutil.rmtree(trash)
        self.lock_path(folder.name).unlink(missing_ok=True)

    def last(self, stage: str, kind: str) -> Artifact | None:
        """The artifact last sealed for a stage of this name and kind."""
        named = [a for a in self.artifacts() if a.manifest["stage"] == stage and a.manifest["kind"] == kind]
        return named[-1] if named else None

    def last_of_run(self, link: Path) -> Artifact | None:
        """The artifact a run's `stages/<name>` points to."""
        return read_artifact(link.resolve()) if link.is_symlink() else None

    def seal(self, *, kind: str, identity: str, stage: str, parts: Parts, seed: int, seconds: float,
             metrics: dict[str, Any], notes: list[str], log: list[dict[str, Any]],
             adopted: str | None = None, peak_mib: float | None = None) -> Artifact:
        """Makes what lies in the work folder's `output` the artifact of `identity`; the lock must be held."""
        work, final = self.work(kind, identity), self.path(kind, identity)
        output = work / "output"
        paths = [path for path in sorted(output.rglob("*")) if path.is_file()]
        if not paths:
            raise StoreError(f"stage {stage} wrote nothing into {output}")
        pickles = [path.name for path in paths if path.suffix in PICKLES]
        if pickles:
            raise StoreError(f"stage {stage} left files that may hold pickles: {', '.join(pickles)}")
        if (output / MANIFEST).exists() or (output / LOG).exists():
            raise StoreError(f"stage {stage} wrote {MANIFEST} or {LOG}, which are the store's own")
        files = {path.relative_to(output).as_posix(): describe(path) for path in paths}
        (output / LOG).write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
        manifest = {
            "identity": identity, "kind": kind, "stage": stage, "created": time.time(), "seconds": round(seconds, 3),
            "peak_mib": peak_mib, "seed": seed, "adopted": adopted, "parts": parts, "metrics": metrics, "notes": notes,
            "files": files, "records": {LOG: describe(output / LOG)},
            "output_sha256": tree_sha256({name: entry["sha256"] for name, entry in files.items()}),
        }
        write_json(output / MANIFEST, manifest | {"manifest_sha256": digest(manifest)}, durable=True)
        if final.exists():  # forced, or a remnant that cannot be read
            trash = work / "replaced"
            shutil.rmtree(trash, ignore_errors=True)
            final.rename(trash)
        output.rename(final)
        sync(self.root)
        shutil.rmtree(work)
        artifact = read_artifact(final)
        assert artifact is not None
        return artifact


def describe(path: Path) -> dict[str, Any]:
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}


def read_artifact(folder: Path) -> Artifact | None:
    """The artifact in `folder`, or None where there is no whole, readable manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    if not isinstance(manifest, dict) or manifest.pop("manifest_sha256", None) != digest(manifest):
        return None
    return Artifact(folder, manifest)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n", durable=durable)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Writes a file that is at every moment either the old one or the new one; `durable` = even after a power cut."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Inside: what the disk refuses below `folder`, being full or read-only, is a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise UserError(f"{error.filename or folder}: {error.strerror}; {REFUSALS[error.errno]}") from error


def sync(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(importlib.import_module("alignment.storekeeper").main())
