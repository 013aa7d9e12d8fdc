"""Several processes for one stage, started together and ended together, by torch's elastic launcher.

The controller starts `python -m alignment.ranks PROCESSES NODES HOST:PORT MODULE KIND` where it would start `MODULE`,
alignment.stage: it takes the job as a stage does, starts as many of `python -m MODULE --rank KIND JOB`, and ends when
they have. They find each other on the loopback device, at a port that is free; on several machines, on each of which
this runs once, at HOST:PORT. On a machine with GPUs each process sees one of them, its own; without, they are forked
from this one, which loads the stage's libraries while it waits for the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from alignment import nursery, stage
from alignment.child import GRACE_SECONDS, ended_by

PATIENCE = int(GRACE_SECONDS) - 5  # seconds for the processes to end when asked, so that this one outlives them
LOOPBACK, DEVICE = "127.0.0.1", "lo0" if sys.platform == "darwin" else "lo"  # the device's address and name


def main(argv: list[str]) -> int:
    """Exit codes: those of the stage, of the process that failed first."""
    processes, nodes = map(int, argv[:2])
    meeting, module, kind = argv[2:]
    forked = module == stage.__name__ and nursery.serves()
    if forked:
        with contextlib.suppress(ImportError):  # raised again in the stage, where it can be reported
            stage.load(kind)
    job = stage.receive_job()
    if nodes == 1:
        os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
    config = LaunchConfig(
        min_nodes=nodes, max_nodes=nodes, nproc_per_node=processes, run_id=f"finalign-{meeting}", rdzv_backend="c10d",
        rdzv_endpoint=meeting, local_addr=LOOPBACK if nodes == 1 else None, max_restarts=0, virtual_local_rank=True,
        shutdown_timeout=PATIENCE, start_method="fork")
    try:
        if forked:
            elastic_launch(config, run_rank)(kind, str(job), os.dup(0))
        else:
            elastic_launch(config, sys.executable)("-m", module, "--rank", kind, str(job))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            tell(job, f"process {rank} of {processes * nodes} {ended_by(failure.exitcode)}")
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def run_rank(kind: str, job: str, stdin: int) -> None:
    """A forked process: as `python -m alignment.stage --rank KIND JOB` would be."""
    for number, own in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        signal.signal(number, own)
    os.dup2(stdin, 0)  # which multiprocessing has closed
    sys.argv = [stage.__name__, "--rank", kind, job]
    try:
        code = stage.main(sys.argv[1:])
    except Exception as error:
        if stage.LOST in str(error):
            time.sleep(PATIENCE)  # another has ended before, and is to be found to be the first; then all are ended
        raise
    if code:
        sys.exit(code)


def tell(job: Path, text: str) -> None:
    """An event of a process that had no time to write its last."""
    events = Path(json.loads(job.read_text(encoding="utf-8"))["events"])
    with events.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(time.time(), 3), "event": "error", "user": False, "text": text}) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
