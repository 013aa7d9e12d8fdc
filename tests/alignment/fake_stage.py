"""Stands in for `alignment.stage` in tests of the controller: writes the artifact a kind makes, without torch.

FAKE_BEHAVIOUR (JSON: stage -> behaviour) makes a stage sleep, fail, raise the user's error or be killed; each start is
noted in FAKE_STARTS.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from alignment.stage import receive_job

VOCABULARY = {"a": 0, "b": 1, "</s>": 2}


def write_model(folder: Path, vocabulary: dict[str, int] = VOCABULARY, weights: str = "w") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": []}
    header = json.dumps({"__metadata__": {"made by": weights}}).encode()
    (folder / "config.json").write_text(json.dumps({"vocab_size": 3}))
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "</s>"}))


def write_artifact(kind: str, output: Path, weights: str) -> None:
    row = json.dumps({"operand_key": "train-1", "prompt": "1 + 1?"}) + "\n"
    match kind:
        case "pretrain" | "sft" | "critic" | "ppo" | "grpo" | "rloo" | "dpo" | "reward_model" | "process_reward":
            write_model(output, weights=weights)
            if kind in ("reward_model", "process_reward"):
                head = kind.partition("_")[0]
                (output / f"{head}.json").write_text("{}")
                (output / f"{head}.safetensors").write_text("r")
        case "sample":
            (output / "questions.jsonl").write_text(os.environ.get("FAKE_ROW", row))
            (output / "completions.jsonl").write_text(row)
        case "judge":
            (output / "verdicts.jsonl").write_text(row)
        case "pairs":
            for name in ("train.jsonl", "dev.jsonl"):
                (output / name).write_text(row)
        case "evaluate":
            (output / "evaluation.json").write_text("{}")


def main() -> int:
    job = json.loads(receive_job().read_text())
    events, behaviour = Path(job["events"]), json.loads(os.environ.get("FAKE_BEHAVIOUR", "{}")).get(job["name"], "")

    def tell(**event: object) -> None:
        with events.open("a") as file:
            file.write(json.dumps({"time": 1.0, **event}) + "\n")

    with Path(os.environ["FAKE_STARTS"]).open("a") as file:
        file.write(job["name"] + "\n")
    print("the log of", job["name"])
    tell(event="progress", done=1, total=2, unit="step")
    tell(event="metrics", step=1, metrics={"loss": 1.5})
    tell(event="note", text="a note")
    if (Path(job["scratch"]) / "begun").exists():
        tell(event="note", text="went on")
    write_artifact(job["kind"], Path(job["output"]), weights=f"{job['name']} {job['seed']}")
    match behaviour:
        case "sleep":
            (Path(job["scratch"]) / "begun").write_text(str(os.getpid()))
            time.sleep(60)
        case "warn":
            tell(event="warning", text="alarm kl, iteration 3: too far")
        case "fail":
            tell(event="error", user=False, text="RuntimeError: it broke")
            return 1
        case "begin and fail":
            (Path(job["scratch"]) / "begun").write_text(str(os.getpid()))
            tell(event="error", user=True, text="a reward raised")
            return 2
        case "user error":
            tell(event="error", user=True, text="the file has no rows")
            return 2
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "nothing":
            for path in Path(job["output"]).iterdir():
                path.unlink()
        case "other tokenizer":
            write_model(Path(job["output"]), {"x": 0, "b": 1, "</s>": 2})
    interval = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 100}
    tell(event="result", metrics={"dev_accuracy": 0.65, "drills": 0.5, "accuracy": interval})
    tell(event="peak", mib=123.4)
    return 0


if __name__ == "__main__":
    sys.exit(main())
