"""A run as a Slurm job: the batch script, written into the run's folder, and its submission.

The job runs the same command on the first of its machines; stages that take several are started on all of them from
there (alignment/ranks.py). Shortly before its time is up the run is asked to stop, leaves a checkpoint, and the job
puts itself back into the queue; so does Slurm where a machine fails. Started again, it goes on exactly where it was.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from alignment.config import RunConfig
from alignment.store import write_text
from data.schema import UserError

SCRIPT, LOG = "job.sh", "job.log"
WARNING_SECONDS = 300  # before the time is up
HERE = "launch.cluster=none"  # what the job adds to the command: that it is to run now

BODY = """\
cd {folder}
stop() {{ asked=yes; kill -TERM "$run"; }}  # Slurm's warning: leave a checkpoint
trap stop USR1
{command} &
run=$!
wait "$run"; code=$?
while kill -0 "$run" 2> /dev/null; do wait "$run"; code=$?; done  # the warning ends a wait
[ "$code" = 130 ] && [ "$asked" ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
"""


def script(config: RunConfig, *, folder: Path, python: str = sys.executable) -> str:
    """The batch script of a run that is started in `folder`."""
    launch, run_dir = config.launch, folder / config.run_dir
    options = {"job-name": f"finalign-{config.recipe}-{config.name}", "nodes": launch.nodes, "ntasks-per-node": 1,
               "gpus-per-node": launch.processes, "cpus-per-task": launch.cpus, "time": launch.time,
               "partition": launch.partition, "account": launch.account, "output": run_dir / LOG,
               "open-mode": "append", "signal": f"B:USR1@{WARNING_SECONDS}"}
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None),
             "#SBATCH --requeue", *(f"#SBATCH {option}" for option in launch.options)]
    command = [python, "-m", "alignment.run", *config.argv, HERE]
    return "\n".join(lines) + "\n" + BODY.format(folder=shlex.quote(str(folder)), command=shlex.join(command))


def hand_over(config: RunConfig) -> str:
    """Writes the script and submits it where that is asked for; what to tell the user."""
    path = config.run_dir / SCRIPT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, script(config, folder=Path.cwd()))
    if not config.launch.submit:
        return f"wrote {path}; submit it with: sbatch {shlex.quote(str(path))}"
    if shutil.which("sbatch") is None:
        raise UserError(f"launch.submit=true: there is no sbatch on this machine; submit {path} where there is one")
    answer = subprocess.run(["sbatch", str(path)], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UserError(f"launch.submit=true: sbatch refused {path}: {answer.stderr.strip() or answer.stdout.strip()}")
    return f"{answer.stdout.strip()}; it writes to {config.run_dir / LOG}"
