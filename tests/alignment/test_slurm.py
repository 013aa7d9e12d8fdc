"""A run as a Slurm job: the script says what was asked, goes back into the queue when its time is up, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from alignment import run, slurm
from alignment.config import load

STUB = """#!/bin/bash
echo "$@" >> {folder}/started
trap 'sleep 0.2; exit 130' TERM
while [ ! -e {folder}/end ]; do sleep 0.05; done
exit $(cat {folder}/end)
"""  # in the place of Python: runs until the file `end` says with which code to end; asked to stop it exits with 130


def command(folder: Path, name: str, text: str) -> Path:
    """A program of this name."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_script_says_what_was_asked(tmp_path: Path) -> None:
    config = load(["recipe=sft_fin", "launch=slurm", "launch.processes=8", "launch.nodes=2", "launch.time=02:00:00",
                   "launch.partition=gpu", "launch.cpus=64", 'launch.options=["--constraint=h100", "--exclusive"]',
                   "name=it", "sft.require=[\"dev_accuracy >= 0.2\"]"])
    text = slurm.script(config, folder=Path("/work dir"), python="/bin/py")
    for line in ("--job-name=finalign-sft_fin-it", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8",
                 "--cpus-per-task=64", "--time=02:00:00", "--partition=gpu", "--requeue", "--open-mode=append",
                 "--output=/work dir/runs/sft_fin/it/job.log", "--constraint=h100", "--exclusive"):
        assert f"#SBATCH {line}\n" in text
    assert "account" not in text and text.startswith("#!/bin/bash\n#SBATCH")
    assert "cd '/work dir'\n" in text
    assert ("/bin/py -m alignment.run recipe=sft_fin launch=slurm launch.processes=8" in text
            and "'sft.require=[\"dev_accuracy >= 0.2\"]' launch.cluster=none &" in text)
    assert load([*config.argv, slurm.HERE]).launch.cluster == "none"


def test_a_script_is_written_and_nothing_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["recipe=sft_fin", f"runs_dir={tmp_path}", "launch=slurm"]
    assert run.main(asked) == 2
    assert "launch.processes must be given" in capsys.readouterr().err
    assert run.main([*asked, "launch.processes=4"]) == 0
    path = tmp_path / "sft_fin" / "seed1" / "job.sh"
    assert f"wrote {path}; submit it with: sbatch {path}" in capsys.readouterr().out
    assert [each.name for each in path.parent.iterdir()] == ["job.sh"]
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_it_is_handed_to_sbatch_where_that_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["recipe=sft_fin", f"runs_dir={tmp_path / 'runs'}", "launch=slurm", "launch.processes=4",
             "launch.submit=true"]
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert run.main(asked) == 2
    assert "there is no sbatch on this machine" in capsys.readouterr().err
    command(tmp_path, "sbatch", "#!/bin/bash\necho Submitted batch job 7 $(basename $1)\n")
    assert run.main(asked) == 0
    assert "Submitted batch job 7 job.sh; it writes to" in capsys.readouterr().out
    command(tmp_path, "sbatch", "#!/bin/bash\necho invalid partition >&2; exit 1\n")
    assert run.main(asked) == 2
    assert "sbatch refused" in (said := capsys.readouterr().err) and "invalid partition" in said


@pytest.mark.parametrize(("warned", "code", "queued"), [(True, None, True), (False, 130, False), (False, 0, False),
                                                        (False, 1, False)])
def test_out_of_time_it_goes_back_into_the_queue(warned: bool, code: int | None, queued: bool, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """And in no other case: not when it is done, has failed, or was interrupted by hand."""
    python = command(tmp_path, "python", STUB.format(folder=tmp_path))
    command(tmp_path, "scontrol", f"#!/bin/bash\necho \"$@\" >> {tmp_path}/queued\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    config = load(["recipe=sft_fin", "launch=slurm", "launch.processes=1"])
    script = tmp_path / "job.sh"
    script.write_text(slurm.script(config, folder=tmp_path, python=str(python)))
    job = subprocess.Popen(["bash", str(script)])
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    if warned:
        job.send_signal(signal.SIGUSR1)
    else:
        (tmp_path / "end").write_text(str(code))
    assert job.wait(60) == (130 if warned else code)
    assert (tmp_path / "queued").exists() == queued
    if queued:
        assert (tmp_path / "queued").read_text() == "requeue 42\n"
    assert (tmp_path / "started").read_text().count("launch.cluster=none") == 1
