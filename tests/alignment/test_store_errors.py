"""A full disk, a read-only folder, a store of another version: one line that says what to do, nothing half sealed."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignment import controller as controllers
from alignment import run, storekeeper
from alignment.controller import Controller
from alignment.store import FORMAT, Store, refusals, write_text
from data.schema import UserError
from tests.alignment.chains import COMMAND, Chain


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.setattr(run, "Controller", functools.partial(Controller, command=COMMAND))
    monkeypatch.setattr(run, "check_models", lambda prepared: None)  # the base model is a fake, as the stages are
    monkeypatch.setenv("FAKE_BEHAVIOUR", "{}")
    return Chain(tmp_path, monkeypatch)


def finalign(chain: Chain, *overrides: str) -> int:
    """The command, with fake stages."""
    return run.main(["recipe=sft_fin", "until=sft", f"runs_dir={chain.root / 'runs'}", f"model.path={chain.base}",
                     "rollout=transformers", "quiet=true", *overrides])


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was said."""
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1, shown
    return shown.err


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, path: str) -> None:
    """Every opening for writing of a path that matches fails as on a disk that refuses it."""
    opened = Path.open

    def refusing(self: Path, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if set(mode) & set("wax+") and re.fullmatch(path, str(self)):
            raise OSError(number, os.strerror(number))
        return opened(self, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refusing)


WRITTEN = {  # by the controller -> the path
    "the run's config": r".*/seed1/\.config\.yaml\.\d+", "the run's record": r".*/seed1/\.run\.json\.\d+",
    "the run's metrics": r".*/seed1/metrics\.jsonl", "a log": r".*/logs/sft\.log", "a lock": r".*/sft-\w+\.lock",
    "a job": r".*/job\.json", "the metrics of an artifact": r".*/sft-\w+/output/metrics\.jsonl",
    "a manifest": r".*/sft-\w+/output/\.manifest\.json\.\d+", "the store's format": r".*/store/\.FORMAT\.\d+",
    "the report": r".*/\.?report\.html.*"}


FULL, READ_ONLY = (errno.ENOSPC, "make room"), (errno.EROFS, "choose another folder")


@pytest.mark.parametrize(("what", "number", "way_out"), [*((what, *FULL) for what in WRITTEN), ("a lock", *READ_ONLY)])
def test_what_the_disk_refuses_the_controller_is_one_line_and_the_next_run_goes_on(
        chain: Chain, what: str, number: int, way_out: str, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as full:
        refuse(full, number, WRITTEN[what])
        assert finalign(chain) == 2
    said = one_error(capsys)
    assert os.strerror(number) in said and way_out in said and str(chain.root / "runs") in said
    store = Store(chain.root / "runs")
    assert all(artifact.problems(hashes=True) == [] for artifact in store.artifacts())
    assert list(store.root.glob(".work/*/output/manifest.json")) == []
    assert finalign(chain) == 0
    assert [artifact.manifest["stage"] for artifact in store.artifacts()] == ["pretrain", "sft"]
    assert list((store.root / ".work").iterdir()) == []
    assert list((chain.root / "runs").rglob(f"*.{os.getpid()}")) == []


def test_a_disk_that_is_full_at_the_end_of_a_failed_run_does_not_hide_the_failure(
        chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FAKE_BEHAVIOUR", '{"sft": "fail"}')
    ended = Controller._fail

    def fail(self: Controller, *arguments: Any, **keywords: Any) -> None:
        ended(self, *arguments, **keywords)
        refuse(monkeypatch, errno.ENOSPC, r".*/seed1/\.metrics\.jsonl\.\d+")

    monkeypatch.setattr(Controller, "_fail", fail)
    assert finalign(chain) == 1
    assert "stage sft failed: RuntimeError: it broke" in capsys.readouterr().err


def test_a_stage_that_fails_on_a_full_disk_says_so(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is full" not in chain.run(recipe="sft_fin", sft="fail").said
    monkeypatch.setattr(controllers, "FULL_BYTES", 2**80)
    failed = chain.run(recipe="sft_fin", sft="fail")
    assert failed.code == 1 and "is full: make room, then run the same command again" in failed.said


def test_a_run_that_the_disk_ended_is_not_recorded_as_done(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        refuse(full, errno.ENOSPC, WRITTEN["a manifest"])
        assert finalign(chain) == 2
    assert '"status": "failed"' in (chain.root / "runs/sft_fin/seed1/run.json").read_text()


@pytest.mark.parametrize("taken", ["runs", "runs/store", "runs/sft_fin", "runs/sft_fin/seed1"])
def test_a_file_in_place_of_a_folder_is_one_line(chain: Chain, taken: str, capsys: pytest.CaptureFixture[str]) -> None:
    (chain.root / taken).parent.mkdir(parents=True, exist_ok=True)
    (chain.root / taken).write_text("")
    assert finalign(chain) == 2
    assert "cannot be written" in one_error(capsys)


def test_an_error_that_is_not_the_disks_is_no_users_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), refusals(tmp_path):
        (tmp_path / "none").read_text()
    with pytest.raises(UserError, match=f"{tmp_path}: No space left on device; make room"), refusals(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_does_not_fit_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'a'}'"):
        write_text(tmp_path / "a", "new", durable=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


# Another version's store


@pytest.mark.parametrize("found", [str(FORMAT - 1), str(FORMAT + 1), "", "new"])
def test_a_store_of_another_version_is_refused(chain: Chain, found: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert finalign(chain) == 0
    capsys.readouterr()
    (chain.root / "runs/store/FORMAT").write_text(found + "\n")
    assert finalign(chain) == 2
    assert f"made by another version of finalign (its FORMAT is {found!r}" in one_error(capsys)
    assert storekeeper.main(["ls", f"runs_dir={chain.root / 'runs'}"]) == 2
    assert "use another folder with runs_dir=PATH, or that version" in one_error(capsys)


def test_a_store_says_its_format_from_its_first_run_on_and_an_old_one_from_the_next(chain: Chain) -> None:
    place = chain.root / "runs/store/FORMAT"
    assert finalign(chain, "dry_run=true") == 0 and not place.exists()
    assert chain.run("until=sft").started == ["pretrain", "sft"] and place.read_text() == f"{FORMAT}\n"
    place.unlink()
    assert chain.run("until=sft").started == [] and place.read_text() == f"{FORMAT}\n"


# Real disks, where one may be mounted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "size=3m", "-t", "tmpfs", "small")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def mount(place: Path, options: str, *what: str) -> None:
    """Mounts, or mounts anew; skips the test where that is not allowed."""
    if shutil.which("mount") is None or subprocess.run(["mount", "-o", options, *what, str(place)], check=False,
                                                       capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")


FILLING = """
import sys, time
from tests.alignment import fake_stage
write = fake_stage.write_artifact
def fill(kind, output, weights):
    if kind == "sft":
        time.sleep(1)
        with (output / "model.safetensors").open("wb") as file:
            while True:
                file.write(bytes(65536))
    write(kind, output, weights)
fake_stage.write_artifact = fill
sys.exit(fake_stage.main())
"""


def test_a_stage_that_fills_the_disk_fails_in_one_line_and_goes_on_when_there_is_room(
        chain: Chain, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as filling:
        filling.setattr(run, "Controller", functools.partial(Controller, command=(sys.executable, "-c", FILLING)))
        assert finalign(chain, f"runs_dir={disk}") == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and f"The disk of {disk}/store is full: make room" in said
    assert [artifact.manifest["stage"] for artifact in Store(disk).artifacts()] == ["pretrain"]
    mount(disk, "remount,size=9m")
    assert finalign(chain, f"runs_dir={disk}") == 0


def test_a_disk_that_is_read_only_is_one_line(chain: Chain, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mount(disk, "remount,ro")
    assert finalign(chain, f"runs_dir={disk}/runs") == 2
    assert "cannot be written (Read-only file system)" in one_error(capsys)
    mount(disk, "remount,rw")
    assert finalign(chain, f"runs_dir={disk}/runs") == 0
    capsys.readouterr()
    mount(disk, "remount,ro")
    assert finalign(chain, f"runs_dir={disk}/runs") == 2
    assert "Read-only file system" in one_error(capsys)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_real_stage_goes_on_from_its_checkpoint_when_there_is_room(
        disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first checkpoint fits, the second does not."""
    command = ["recipe=sft_fin", "scale=tiny", "threads=1", "until=pretrain", "pretrain.save_every=4",
               f"runs_dir={disk}"]
    monkeypatch.setattr(controllers, "check_disk", lambda prepared: None)  # it would not even begin
    mount(disk, "remount,size=20m")
    assert run.main(command) in (1, 2)  # whichever comes to write first, the stage or its controller
    said = capsys.readouterr().err
    assert "make room, then run the same command again" in said and "Traceback" not in said
    [marker] = disk.glob("store/.work/pretrain-*/scratch/checkpoints/*/COMPLETE")
    assert marker.parent.name == "checkpoint-4"
    mount(disk, "remount,size=300m")
    assert run.main(command) == 0
    assert list((disk / "store/.work").iterdir()) == []
