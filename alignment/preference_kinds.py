"""The keys of the stages from a policy to a preference dataset: samples, the judge's verdicts, the pairs made of both.

Pure declarations, as in alignment/kinds.py, which knows them as its own.
"""

from __future__ import annotations

import dataclasses

from alignment.keys import StageConfig, key

PAIR_SORTS = ("outcome", "process", "comparisons", "naive")
JUDGE_TASKS = ("outcome", "outcome_token", "outcome_rule", "process", "rubric", "pairwise", "principles")


@dataclasses.dataclass(kw_only=True)
class Remote(StageConfig):
    """Keys of every stage that can ask a model behind an OpenAI-compatible URL."""

    model: str | None = key(None, "the model's name at `url`, which is then asked in place of an input; of a local "
                                  "judge, a name for the record")
    url: str | None = key(None, "the address up to the version, https://host/v1", identity=False)
    key_variable: str | None = key(None, "the environment variable that holds the API key, which is written nowhere",
                                   identity=False)
    concurrency: int = key(8, "requests under way at a time", low=1, identity=False)
    requests_per_minute: float | None = key(None, "no more than that; null = no limit", low=0.001, identity=False)
    timeout: float = key(60.0, "seconds that one try may take", low=0.001, identity=False)
    tries: int = key(6, "of one request, each after a longer wait; Retry-After is honoured", low=1, identity=False)
    prompt_price: float = key(0.0, "of a million tokens read, in any currency", low=0, identity=False)
    completion_price: float = key(0.0, "of a million tokens written", low=0, identity=False)
    cache: str | None = key(None, "folder of the replies so far, so that none is asked for twice; default: one in the "
                                  "store", identity=False)
    replay: str | None = key(None, "the replies.jsonl of an earlier run: nothing is asked, all must be in it",
                             identity=False)


@dataclasses.dataclass(kw_only=True)
class Sample(Remote):
    """Completions of a policy by the rollout engine, or of a model behind a URL."""

    num_questions: int = key(800, "questions to sample for", low=1)
    num_samples: int = key(8, "completions per question", low=1)
    temperature: float = key(1.0, "0 = greedy", low=0)
    top_p: float = key(1.0, "nucleus", low=0, high=1)
    max_new_tokens: int = key(96, "completion length limit", low=1)
    split: str = key("train", "which questions", choices=("train", "dev", "test"))
    purpose: str = key("preferences", "name of the draw of training questions: the same name draws the same ones")

    def conflict(self) -> str:
        if self.model is None and "policy" not in self.inputs:
            return "inputs: whose completions? Name the input `policy`, or `model` and `url` of a model elsewhere"
        if self.model is not None and self.url is None and self.replay is None:
            return f"model={self.model}: needs `url`, such as https://host/v1, or a file to `replay`"
        return ""


@dataclasses.dataclass(kw_only=True)
class Judge(Remote):
    """Verdicts on completions: by the exact rule, or by a language model that is given the reference."""

    judge: str = key("rule", "rule = the exact rule; critic = the embedded critic, or the one of input `model`; "
                             "endpoint = a model behind an OpenAI-compatible URL; local = the model of input `model`, "
                             "by the rollout engine; auto = the critic on the embedded model's answers to "
                             "generated finance questions, which it knows, else the rule",
                     choices=("rule", "critic", "endpoint", "local", "auto"))
    tasks: list[str] = key(["outcome", "process"], "what a model is asked: outcome, outcome_token or outcome_rule; "
                                                   "process; rubric; pairwise or principles; see reward/prompted.py")
    comparisons: int = key(4, "pairs of completions compared per question, drawn, by pairwise or principles", low=1)
    prompts: str | None = key(None, "a folder of prompt files that replace shipped ones of the same name")
    criteria: str | None = key(None, "a JSON file of principles, for rubric and principles; default: the shipped "
                                     "finance constitution")
    max_unreadable: float = key(0.05, "share of a model's replies that may be no verdict; they are counted and left "
                                      "out, and beyond it the run stops", low=0, high=1, identity=False)
    max_tokens: int = key(512, "length limit of a reply", low=1)
    temperature: float = key(0.0, "of the judge; 0 = greedy", low=0)
    structured: str = key("json_schema", "how the model is held to JSON: by its schema, to any object (endpoint), or "
                                         "not at all", choices=("json_schema", "json_object", "none"))
    max_length: int = key(4096, "local: tokens of prompt and reply together; what is longer cannot be judged", low=16)

    def settle(self, *, source: str, model: str) -> None:
        """What `auto` means for answers of this base model to questions of this source."""
        if self.judge == "auto":
            self.judge = "critic" if (source, model) == ("finance", "embedded") else "rule"

    def conflict(self) -> str:
        if self.judge in ("rule", "critic"):
            return ""
        unknown = [task for task in self.tasks if task not in JUDGE_TASKS]
        outcomes = [task for task in self.tasks if task.startswith("outcome")]
        comparing = [task for task in self.tasks if task in ("pairwise", "principles")]
        if unknown or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            return f"tasks={self.tasks}: choose some, each once, of {', '.join(JUDGE_TASKS)}"
        if len(outcomes) > 1 or len(comparing) > 1:
            return f"tasks={self.tasks}: one outcome, and one of pairwise and principles; leave the others out"
        if not outcomes and {"process", "rubric"} & set(self.tasks):
            return f"tasks={self.tasks}: process and rubric go on from a verdict; add outcome, outcome_rule or " \
                   "outcome_token"
        if outcomes == ["outcome_rule"] == self.tasks:
            return "tasks=['outcome_rule']: asks the model nothing; add process, or set judge=rule"
        if self.model is None:
            return f"judge={self.judge}: say which model it is with `model`; it is part of every verdict"
        if self.judge == "endpoint" and self.url is None and self.replay is None:
            return "judge=endpoint: needs `url`, such as https://host/v1, or a file to `replay`"
        if self.judge == "local" and "model" not in self.inputs:
            return "judge=local: needs the input `model`, the judge's own; add inputs: {model: STAGE}"
        return ""


@dataclasses.dataclass(kw_only=True)
class Pairs(StageConfig):
    """One preference dataset from verdicts and human annotations, with provenance and splits."""

    build: list[str] = key(["outcome"], "what to make of what the judge said, several put together: outcome = right "
                                        "over wrong answers (FinDAP's FAP); process = corrected over first wrong steps "
                                        "(SCP); comparisons; naive = the gold solution over any sample")
    pairing: str = key("cycle", "outcome pairs: cycle = each wrong answer once, right ones in turn; once = right ones "
                                "once too; all = drawn from all combinations", choices=("cycle", "once", "all"))
    max_steps_per_question: int = key(4, "cap of process pairs made from one question", low=1)
    answer_steps: bool = key(False, "whether the line that states the answer is a step that process pairs are made of")
    max_characters: int | None = key(None, "of prompt, begun answer and the longer side; longer pairs are dropped and "
                                           "counted", low=1)
    human: str | None = key("embedded", "file of human pairs, or the annotator's desk's database (path or URL), whose "
                                         "judgments are exported to a file first; `embedded` = the shipped *simulated* "
                                         "ones; null = none")
    human_weight: float = key(1.0, "weight of a human pair in the losses", low=0)
    ai_weight: float = key(1.0, "weight of an AI or rule pair in the losses", low=0)
    max_pairs_per_question: int = key(4, "cap of pairs made from one question", low=1)
    dev_fraction: float = key(0.1, "share of questions held out of the training pairs", low=0, high=0.9)
    gold_fallback: str = key("never", "use the gold solution as chosen: never; missing = where no sample was correct; "
                                      "always", choices=("never", "missing", "always"))

    def conflict(self) -> str:
        if not self.build or not set(self.build) <= set(PAIR_SORTS) or len(set(self.build)) < len(self.build):
            return f"build={self.build}: choose some, each once, of {', '.join(PAIR_SORTS)}"
        return ""
