"""One of several processes of a stage in tests of alignment/ranks.py, in the place of alignment.stage: says who it is
and does what the job's config tells its number, without loading anything."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(kind: str, job_file: str) -> int:
    job, rank = json.loads(Path(job_file).read_text(encoding="utf-8")), os.environ["RANK"]
    scratch = Path(job["scratch"])

    def ended(number: int, frame: object) -> None:
        (scratch / f"{rank}.ended").write_text(signal.Signals(number).name)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, ended)
    (scratch / f"{rank}.pid").write_text(str(os.getpid()))
    print(f"process {rank} of {os.environ['WORLD_SIZE']} at {os.environ['MASTER_ADDR']}, {kind}", flush=True)
    while len([path for path in scratch.glob("*.pid") if path.read_text()]) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.02)  # nobody ends before all have begun
    match job["config"].get(rank, ""):
        case "user error":
            with Path(job["events"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"event": "error", "user": True, "text": "the file has no rows"}) + "\n")
            return 2
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "done":
            return 0
    time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[2], sys.argv[3]))
