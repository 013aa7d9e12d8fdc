"""`python -m reward.score MODEL SAMPLE OUT`: a reward model's score of every completion of a `sample` artifact.

With these the annotator's desk can ask people about the pairs a reward model is least sure of:

    python -m reward.score runs/ppo_fin/seed1/stages/reward_model runs/ppo_fin/seed1/stages/sample scores.jsonl
    python -m data.annotate import runs/ppo_fin/seed1/stages/sample --scores scores.jsonl --pairing uncertain

reward/model.py, which loads torch, is loaded after the command line has been read.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from data.rows import read_rows, replacing, to_line
from data.schema import Completion, Question, UserError


def score(model: Path, sample: Path, out: Path, *, device: str = "cpu") -> int:
    """Writes rows of `question_id`, `sample` and `score`, whole or not at all; how many. Raises UserError."""
    for path in (sample / "questions.jsonl", sample / "completions.jsonl"):
        if not path.is_file():
            raise UserError(f"{path}: is not there; give the folder of a `sample` artifact, such as "
                            "runs/NAME/seed1/stages/sample")
    questions = {question.id: question for question in read_rows(sample / "questions.jsonl", Question)}
    completions = read_rows(sample / "completions.jsonl", Completion)
    strangers = [row for row in completions if row.question_id not in questions]
    if strangers:
        raise UserError(f"{sample / 'completions.jsonl'}: field 'question_id' is {strangers[0].question_id!r}, which "
                        "questions.jsonl does not have; both files must come from one `sample` stage")
    if not completions:
        raise UserError(f"{sample / 'completions.jsonl'}: is empty; there is no completion to score")
    reward = importlib.import_module("reward.model").ModelReward.load(model, device=device)
    scores = reward([questions[row.question_id] for row in completions], completions).total
    with replacing(out) as temporary, temporary.open("wb") as file:
        for row, value in zip(completions, scores, strict=True):
            file.write(to_line({"question_id": row.question_id, "sample": row.sample, "score": value}))
    return len(completions)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the input is wrong, 130 interrupted."""
    parser = argparse.ArgumentParser("python -m reward.score", description=(__doc__ or "").partition(": ")[2].split(
        "\n")[0])
    parser.add_argument("model", metavar="MODEL", type=Path, help="the folder of a `reward_model` artifact")
    parser.add_argument("sample", metavar="SAMPLE", type=Path, help="the folder of a `sample` artifact")
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write, for the desk's `import --scores`")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    asked = parser.parse_args(argv)
    try:
        count = score(asked.model.expanduser(), asked.sample.expanduser(), asked.out.expanduser(), device=asked.device)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{asked.out}: {count} scores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
