"""The shipped simulated pairs, made at the desk: its API serves the tasks, the simulated annotators judge what they are
shown, and the export of it all is the file.

    python -m tests.data.annotate.simulated OUT.jsonl

What an annotator decides, errors and all, comes from data/finance/annotators.py and its seed. The order of the two
answers is drawn from the same seed, so that the file stays the same; rows keep the ids they have always had.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
from pathlib import Path

from data.annotate.database import Database
from data.annotate.desk import Desk
from data.annotate.export import pairs
from data.annotate.ledger import append, verify
from data.annotate.policy import Policy
from data.annotate.records import Batch, Candidate, Guideline, Prompt, Task
from data.annotate.turns import slots_of
from data.finance.annotators import ANNOTATORS, COUNT, SEED, simulated_pairs
from data.rows import write_rows
from data.schema import PreferencePair, content_id
from tests.data.annotate.desk_opened import Visitor

GUIDELINE = Guideline(version="simulated", text="The right answer is better.")
POLICY = Policy(format="finalign", resolution="each", sources=("simulated",), shown_order="keep")


def desk_of(wanted: list[PreferencePair], folder: Path) -> Desk:
    """A desk with a task for each pair, in the batch of its annotator, that shows the answers as the pair says."""
    batches = {annotator.name: Batch(id=f"batch-{annotator.name}", name=annotator.name, guideline=GUIDELINE.version)
               for annotator in ANNOTATORS}
    prompts, candidates, tasks, first = [], [], [], dict[str, str]()
    for pair in wanted:
        prompt = Prompt(id=content_id("prompt", pair.prompt, ""), messages=pair.prompt, language=pair.language,  # type: ignore[arg-type]
                        question_id=pair.question_id, operand_key=pair.operand_key, question_kind=pair.question_kind)
        sides = [Candidate(id=content_id("candidate", prompt.id, text), prompt_id=prompt.id, text=text,
                           generator="simulated", generator_type="human", error_kind=kind)
                 for text, kind in ((pair.chosen, None), (pair.rejected, pair.error_kind))]
        task = Task(id=content_id("task", prompt.id), kind="pairwise", prompt_id=prompt.id, batch_id=batches[
            pair.annotator].id, guideline=GUIDELINE.version, candidate_ids=tuple(sorted(side.id for side in sides)))
        first[task.id] = sides[0 if pair.shown_order == "chosen_first" else 1].id
        prompts.append(prompt)
        candidates += sides
        tasks.append(task)
    desk = Desk(Database.open(str(folder / "simulated.db")), seed_of=lambda task: next(
        seed for seed in itertools.count() if slots_of(task, seed)[0] == first[task.id]))
    with desk.database.writing() as connection:
        append(connection, "import", "import", "simulated", [
            GUIDELINE, *batches.values(), *prompts, *candidates, *tasks])
    return desk


def work(desk: Desk, wanted: list[PreferencePair]) -> int:
    """Each annotator judges what the API serves, until nothing is left; how many judgments."""
    preferred = {pair.prompt[-1]["content"]: pair.chosen for pair in wanted}
    count = 0
    for annotator in ANNOTATORS:
        desk.sign_in(annotator.name, origin="simulated")
        visitor = Visitor(desk, annotator.name)
        batch = f"batch-{annotator.name}"
        current = visitor.post("next", batch=batch)["current"]
        while current is not None:
            chosen = preferred[current["prompt"][-1]["content"]]
            slot = next(slot["slot"] for slot in current["slots"] if slot["text"] == chosen)
            answer = visitor.post("submit", id=uuid_of(current["id"]), assignment=current["id"], batch=batch,
                                  decision={"outcome": "prefer", "preferred": slot, "strength": 3})
            current = answer["next"]["current"]
            count += 1
    return count


def uuid_of(assignment: str) -> str:
    """The id of an assignment's judgment: the same each time, so that posting again changes nothing."""
    return assignment[:-1] + ("0" if assignment[-1] != "0" else "1")


def remade(folder: Path, *, count: int = COUNT) -> list[PreferencePair]:
    """The rows as exported, under the ids that they have always had."""
    wanted = simulated_pairs(count, seed=SEED)
    desk = desk_of(wanted, folder)
    assert work(desk, wanted) == count
    with desk.database.reading() as connection:
        assert verify(connection).problems == ()
    rows, left_out = pairs(desk.snapshot(), POLICY)
    assert not left_out, left_out
    return [dataclasses.replace(row, prompt_hash=None, id=content_id("simulated", row.question_id, row.annotator))
            for row in rows]


def main(argv: list[str]) -> int:
    """Exit codes: 0 written, 2 no single path given."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m tests.data.annotate.simulated OUT.jsonl", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        write_rows(argv[0], remade(Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
