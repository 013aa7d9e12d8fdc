"""A judge's model on this machine: an `Ask` by the rollout engine, greedy unless its config says otherwise.

vLLM holds the reply to its JSON schema while it is written (guided decoding). The transformers engine cannot: it is
refused where a schema is asked for, and may write freely with `structured: none`, what is no verdict being counted.
Which of Yes and No comes next needs no schema and works with both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from alignment.device import placed
from alignment.models import load_policy, load_tokenizer
from alignment.preference_kinds import Judge
from alignment.rollout import Generation, Sampling, make_engine
from alignment.stage import Stage
from data.chat import completion_ids, render_prompt
from data.schema import UserError
from reward.judge import Reply, Request


class LocalModel:
    """Reads the model of input `model` when it is made. Raises UserError for an engine that cannot do what is asked."""

    def __init__(self, stage: Stage) -> None:
        config: Judge = stage.config
        self.config, self.stage = config, stage
        guided = config.structured != "none" and set(config.tasks) != {"outcome_token"}
        if config.structured == "json_object" or (guided and stage.rollout.engine != "vllm"):
            raise UserError(f"{stage.name}.structured={config.structured}: a local judge is held to a JSON schema by "
                            "vLLM alone; set rollout=vllm and structured=json_schema, or structured=none, which lets "
                            "the model write freely and counts what is no verdict")
        self.guided = guided
        self.tokenizer = load_tokenizer(stage.inputs["model"])
        model = placed(load_policy(stage.inputs["model"]))
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.max_length = min(config.max_length, positions or config.max_length)
        self.engine = make_engine(stage.inputs["model"], stage.rollout, max_length=self.max_length, model=model,
                                  guided=guided, serving=stage.serving)

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Requests of one form share a batch; one that leaves no room for a reply gets an empty one."""
        prompts = [render_prompt(self.tokenizer, request.messages) for request in requests]
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            room = 1 if request.options else self.config.max_tokens
            if len(prompts[place]) + room > self.max_length:
                yield place, Reply(prompt_tokens=len(prompts[place]))
            else:
                groups.setdefault(str((request.schema, request.options)), []).append(place)
        for places in groups.values():
            request = requests[places[0]]
            generations = self.engine.generate(
                [prompts[place] for place in places], self._sampling(request),
                [self.stage.derive("judge", requests[place].key()) for place in places])
            for place, generation in zip(places, generations, strict=True):
                yield place, self._reply(request, generation, prompt_tokens=len(prompts[place]))

    def close(self) -> None:
        self.engine.close()

    def _sampling(self, request: Request) -> Sampling:
        if request.options:
            return Sampling(max_new_tokens=1, temperature=0.0, allowed=tuple(self._first_tokens(request.options)))
        return Sampling(max_new_tokens=self.config.max_tokens, temperature=self.config.temperature,
                        schema=request.schema if self.guided else None)

    def _first_tokens(self, options: Sequence[str]) -> list[int]:
        """The token each option begins with. Raises UserError where two begin alike."""
        ids = [completion_ids(self.tokenizer, option, finished=False)[0] for option in options]
        if len(set(ids)) < len(ids):
            raise UserError(f"{self.stage.name}.tasks: {' and '.join(options)} begin with the same token of this "
                            "model; ask for `outcome` in place of `outcome_token`")
        return ids

    def _reply(self, request: Request, generation: Generation, *, prompt_tokens: int) -> Reply:
        """Text without its end token; or, of the options, each one's share (the engine gives that of the likelier)."""
        count = len(generation.token_ids)
        if not request.options:
            ids = generation.token_ids[:-1] if generation.finish_reason == "stop" else generation.token_ids
            return Reply(str(self.tokenizer.decode(ids)), {}, prompt_tokens, count)
        likelier = self._first_tokens(request.options).index(generation.token_ids[0])
        share = min(1.0, math.exp(generation.logprobs[0]))
        return Reply("", {option: share if place == likelier else 1.0 - share
                          for place, option in enumerate(request.options)}, prompt_tokens, count)
