"""The critic: obeyed as a judge, trained as a stage, and the embedded one as it is shipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors import safe_open

from alignment.critic_judge import CriticJudge
from alignment.judges import EMBEDDED_CRITIC
from alignment.metrics import documented
from alignment.models import load_policy, load_tokenizer
from alignment.origin import EMBEDDED
from alignment.rollout import Generation, Sampling
from alignment.stages import critic, judge, pairs
from data.chat import completion_ids, render_prompt
from data.finance.generator import solution_text
from data.rows import read_rows
from data.schema import Completion, PreferencePair, Question, UserError, Verdict
from reward.judge import judged_by_rule
from reward.walk import MAX_TOKENS, asked, walk
from tests.alignment.judged import sampled
from tests.alignment.stage_made import make_stage, notes, result, said
from tests.reward.planted import Planted, finance

SETTINGS = {"max_steps": 4, "batch_size": 2, "num_examples": 40, "num_held_out": 12, "eval_every": 2,
            "save_dtype": "float16", "warmup_steps": 1}
MEGABYTE = 1_000_000


class Scripted:
    """An engine that says what it was told to say of a solution, and `otherwise` of any other."""

    name = "scripted"

    def __init__(self, walks: dict[str, str], otherwise: str = "?") -> None:
        self.tokenizer = load_tokenizer(EMBEDDED)
        self.walks = {tuple(render_prompt(self.tokenizer, [{"role": "user", "content": text}])): reply
                      for text, reply in walks.items()}
        self.otherwise, self.prompts = otherwise, 0

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        assert sampling.temperature == 0
        self.prompts += len(prompts)
        replies = [completion_ids(self.tokenizer, self.walks.get(tuple(prompt), self.otherwise)) for prompt in prompts]
        return [Generation(ids, [0.0] * len(ids), "stop") for ids in replies]

    def push(self, model: object) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


def scripted(planted: Sequence[Planted]) -> CriticJudge:
    """A critic that walks as the rule's verdicts say."""
    texts = [(each.question, text) for each in planted for text in (each.text, solution_text(each.question))]
    walks = {str(asked(question, text)): str(walk(question, text, judged_by_rule(question, of(question, text))))
             for question, text in texts}
    engine = Scripted(walks)
    return CriticJudge(engine, engine.tokenizer, max_length=MAX_TOKENS, model="m")


def of(question: Question, text: str, *, finish_reason: str = "stop", sample: int = 0) -> Completion:
    return Completion(question_id=question.id, sample=sample, text=text,
                      finish_reason=finish_reason)  # type: ignore[arg-type]


def test_a_scripted_critic_is_obeyed() -> None:
    planted = list(finance(40))
    questions = [each.question for each in planted]
    verdicts = scripted(planted)(questions, [of(each.question, each.text) for each in planted])
    for each, verdict in zip(planted, verdicts, strict=True):
        rule = judged_by_rule(each.question, of(each.question, each.text))
        assert verdict is not None and (verdict.judge, verdict.model) == ("critic", "m")
        assert (verdict.correct, verdict.first_error) == (False, each.first_error)
        assert (verdict.prefix, verdict.step, verdict.correction) == (rule.prefix, rule.step, rule.correction)
        assert verdict.raw and verdict.prompt_hash
    gold = scripted(planted)(questions, [of(question, solution_text(question)) for question in questions])
    assert all(verdict is not None and verdict.correct for verdict in gold)


def test_what_is_cut_off_is_wrong_without_asking_and_what_is_too_long_has_no_verdict() -> None:
    planted = list(finance(2))
    found = scripted(planted)
    cut, long = found([planted[0].question, planted[1].question], [
        of(planted[0].question, planted[0].text, finish_reason="length"),
        of(planted[1].question, "\n".join(["1 + 1 = 2"] * 200))])
    assert cut is not None and not cut.correct and cut.error_kind == "truncated" and cut.step is None
    assert long is None and found.unreadable == {"walk": 1} and found.asked == 1
    assert found.engine.prompts == 0  # type: ignore[attr-defined]


def test_what_several_samples_say_alike_is_asked_once() -> None:
    planted = list(finance(2))
    judge = scripted(planted)
    given = [(planted[place].question, of(planted[place].question, planted[place].text, sample=sample))
             for sample, place in enumerate((0, 1, 0, 0))]
    found = judge(*map(list, zip(*given, strict=True)))
    assert judge.engine.prompts == 2 and judge.asked == 4  # type: ignore[attr-defined]
    assert [(row.question_id, row.sample, row.step) for row in found if row is not None] == [
        (question.id, completion.sample, judged_by_rule(question, completion).step) for question, completion in given]


def test_a_model_that_has_never_learnt_to_walk_stops_the_run(tmp_path: Path) -> None:
    sampled(tmp_path / "given", questions=2)
    stage = make_stage(tmp_path, "judge", inputs={"completions": tmp_path / "given", "model": EMBEDDED}, judge="critic")
    with pytest.raises(UserError, match=r"4 replies of base_tiny are no verdict \(walk: the walk does not begin"):
        judge.run(stage)


def test_a_missing_critic_is_said_with_the_way_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled(tmp_path / "given", questions=2)
    monkeypatch.setattr("alignment.judges.EMBEDDED_CRITIC", tmp_path / "none")
    stage = make_stage(tmp_path, "judge", inputs={"completions": tmp_path / "given"}, judge="critic")
    with pytest.raises(UserError, match="make it with recipe=critic_tiny and copy its folder there, or name one by"):
        judge.run(stage)


def test_it_learns_and_is_measured(tmp_path: Path) -> None:
    sampled(tmp_path / "given", questions=4)
    stage = make_stage(tmp_path, "critic", inputs={"model": EMBEDDED, "completions": tmp_path / "given"}, **SETTINGS)
    critic.run(stage)
    found = result(stage)
    assert found["planted.located.diff"]["value"] > 0.7 and found["policy.agreed.diff"]["n"] == 4
    assert {f"{data}.{name}.{who}" for data in ("planted", "policy") for name in ("agreed", "false_alarms")
            for who in ("critic", "diff")} <= found.keys()
    steps = [row for row in said(stage, "metrics") if "located" in row["metrics"]]
    assert [row["step"] for row in steps] == [2, 4]
    for name in (*found, *steps[0]["metrics"]):
        assert documented(name, "critic")
    assert "40 walks in" in notes(stage)
    assert weights(stage.output) == weights(EMBEDDED)


def test_a_source_without_programs_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "1 + 1?", "completion": "#### 2"}) + "\n")
    stage = make_stage(tmp_path, "critic", inputs={"model": EMBEDDED}, **SETTINGS, data={
        "source": "file", "path": str(file), "languages": ["en", "zh"], "kinds": None, "seed": 0})
    with pytest.raises(UserError, match="nothing to learn from"):
        critic.run(stage)


# The embedded one ------------------------------------------------------------------------------------------------


def weights(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Of each tensor its type and shape."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = file.keys()
        return {name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in names}


def test_the_embedded_critic_is_small_and_of_the_shape_that_its_recipe_makes() -> None:
    """The recipe trains the embedded base model, in its tokens, and saves float16."""
    assert sum(path.stat().st_size for path in EMBEDDED_CRITIC.iterdir()) <= 4 * MEGABYTE
    assert weights(EMBEDDED_CRITIC) == weights(EMBEDDED)
    assert {dtype for dtype, _ in weights(EMBEDDED_CRITIC).values()} == {"F16"}
    assert (EMBEDDED_CRITIC / "tokenizer.json").read_bytes() == (EMBEDDED / "tokenizer.json").read_bytes()
    configs = [json.loads((folder / "config.json").read_text()) for folder in (EMBEDDED_CRITIC, EMBEDDED)]
    assert configs[0] == configs[1]


def test_the_embedded_critic_judges_unless_another_is_named(tmp_path: Path) -> None:
    given = tmp_path / "given"
    sampled(given)
    stage = make_stage(tmp_path / "critic", "judge", inputs={"completions": given}, judge="critic", max_unreadable=0.2)
    judge.run(stage)
    verdicts = read_rows(stage.output / "verdicts.jsonl", Verdict)
    assert {(verdict.judge, verdict.model) for verdict in verdicts} == {("critic", "critic_tiny")}
    assert any(verdict.correct for verdict in verdicts) and any(not verdict.correct for verdict in verdicts)
    made = make_stage(tmp_path / "pairs", "pairs", inputs={"completions": given, "verdicts": stage.output}, human=None,
                      build=["outcome", "process"])
    pairs.run(made)
    rows = read_rows(made.output / "train.jsonl", PreferencePair)
    assert {row.annotator for row in rows} == {"critic_tiny"} and {row.origin for row in rows} == {"ai"}
    assert {row.kind for row in rows} == {"outcome", "process"}


PUBLISHED = Path(__file__).parents[2] / "docs" / "critic.json"
ROWS = {"agreed": "answer judged as by the rule", "located": "first wrong step located",
        "corrected": "and corrected to the letter", "false_alarms": "false alarms"}


def test_the_document_says_what_was_measured() -> None:
    published, said = json.loads(PUBLISHED.read_text()), PUBLISHED.with_name("judges.md").read_text(encoding="utf-8")
    found = published["held_out"]
    for metric, words in ROWS.items():
        cells = [found[f"{data}.{metric}.{who}"] for data in ("planted", "policy") for who in ("critic", "diff")]
        assert f"| {words} | " + " | ".join(
            f"{cell['value']:.0%} ({cell['low']:.0%} to {cell['high']:.0%})" for cell in cells) + " |" in said
    for point in published["curve"]:
        assert f"| {point['step']} | " + " | ".join(f"{point[metric]:.0%}" for metric in ROWS) + " |" in said


@pytest.mark.slow
def test_the_embedded_critic_is_as_good_as_was_published(tmp_path: Path) -> None:
    """On other held-out solutions than those that were published, within both intervals."""
    stage = make_stage(tmp_path, "critic", inputs={"model": EMBEDDED_CRITIC}, seed=77, num_held_out=200)
    again = critic.measured(stage, load_policy(EMBEDDED_CRITIC), load_tokenizer(EMBEDDED_CRITIC))
    published = json.loads(PUBLISHED.read_text())["held_out"]
    for metric in ROWS:
        one, other = published[f"planted.{metric}.critic"], again[f"planted.{metric}.critic"]
        assert one["low"] <= other["high"] and other["low"] <= one["high"], metric
