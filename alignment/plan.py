"""From a recipe's stages to an order they can run in: edges checked, then sorted.

Knows nothing of stores, processes or files.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping

from alignment import gates
from alignment.kinds import BUILT_IN_REWARDS, KINDS, Evaluate, Kind, Rewarded, StageConfig
from alignment.metrics import METRICS, is_documented
from data.schema import UserError

BASE = "base"  # the recipe's base model, where a stage names its input


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """One stage of the chain: `inputs` maps a role to the stage (or `base`) that fills it."""

    name: str
    kind: Kind
    config: StageConfig
    inputs: dict[str, str]

    @property
    def adopted(self) -> bool:
        return self.config.adopt is not None


def nearest(name: str, options: Iterable[str]) -> str:
    """`; did you mean X?`, or the options when nothing is near, or nothing where there are none."""
    options = list(options)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there is {', '.join(options)}" if options else ""


def _check_roles(name: str, kind: Kind, inputs: Mapping[str, str], makes: Mapping[str, str]) -> None:
    for role, source in inputs.items():
        where = f"{name}.inputs.{role}"
        wanted = kind.wants(role)
        if not wanted:
            raise UserError(f"{where}: a stage of this kind takes no input called {role!r}"
                            f"{nearest(role, [r for r in kind.takes if '*' not in r])}")
        if source not in makes:
            raise UserError(f"{where}: no stage is called {source!r}{nearest(source, [*makes])}")
        if makes[source] != wanted:
            fitting = [other for other, made in makes.items() if made == wanted and other != name]
            raise UserError(f"{where}: {source!r} makes {makes[source]}, but this role takes {wanted}"
                            f"{'; that is made by ' + ', '.join(fitting) if fitting else ''}")
    for role, wanted in kind.takes.items():
        if "*" not in role and not wanted.endswith("?") and role not in inputs:
            fitting = [other for other, made in makes.items() if made == wanted and other != name]
            raise UserError(f"{name}.inputs: role {role!r} ({wanted}) is not given. Write {name}.inputs.{role}=STAGE"
                            f"{' with one of ' + ', '.join(fitting) if fitting else ''}")
    if "*" in kind.takes and not inputs:
        raise UserError(f"{name}.inputs: give at least one input, a role of your naming -> a stage that makes a "
                        f"{kind.takes['*']}")


def _check_meaning(name: str, config: StageConfig) -> None:
    """The few inputs that depend on a config key."""
    initial = getattr(config, "initial", None)
    if initial == "input" and "model" not in config.inputs:
        raise UserError(f"{name}.inputs: role 'model' is not given; write {name}.inputs.model=base, or "
                        f"{name}.initial=random to train a new model")
    if initial == "random" and "model" in config.inputs:
        raise UserError(f"{name}.initial=random starts from no model, but {name}.inputs.model is given")
    if getattr(config, "from_verdicts", False):
        lacking = [role for role in ("completions", "verdicts") if role not in config.inputs]
        if lacking:
            raise UserError(f"{name}.from_verdicts=true needs the inputs {' and '.join(lacking)}")
    if isinstance(config, Evaluate):
        _check_evaluation(name, config)
    if isinstance(config, Rewarded):
        _check_reward_names(name, config)
    weights = getattr(config, "reward_weights", {})
    if weights.get("process_reward") and "process_reward" not in config.inputs:
        raise UserError(f"{name}.reward_weights.process_reward: {name}.inputs.process_reward is not given; name the "
                        "stage that makes the model")
    if (weights.get("reward_model") or getattr(config, "critic_from", "") == "reward_model") and (
            "reward_model" not in config.inputs):
        raise UserError(f"{name} uses the reward model (reward_weights.reward_model or critic_from), but "
                        f"{name}.inputs.reward_model is not given")


def _check_metric(metric: str, name: str, kind: str) -> None:
    """A gate is on a metric that the kind reports, or on an end of its interval."""
    metric = metric.removeprefix(f"{name}.")
    start, _, end = metric.rpartition(".")
    if not any(is_documented(each, kind) for each in ([metric, start] if end in gates.ENDS else [metric])):
        known = sorted(each.removeprefix(f"{kind}/") for each in METRICS
                       if "/" not in each or each.startswith(f"{kind}/"))
        raise UserError(f"{name}.require: {metric!r} is no metric of a {kind} stage{nearest(metric, known)}")


def _check_reward_names(name: str, config: Rewarded) -> None:
    """Every weight is of a reward that there is, and every reward of the user's own has one."""
    known = [*BUILT_IN_REWARDS, *config.rewards]
    for reward in config.reward_weights:
        if reward not in known:
            raise UserError(f"{name}.reward_weights.{reward}: no reward is called that, nor named in {name}.rewards"
                            f"{nearest(reward, known)}")
    if "judge" in config.reward_weights and not (config.judge_model and config.judge_url):
        raise UserError(f"{name}.reward_weights.judge: which judge? Set {name}.judge_model, its name, and "
                        f"{name}.judge_url, such as https://host/v1")
    for reward in config.rewards:
        if reward not in config.reward_weights:
            raise UserError(f"{name}.rewards.{reward} has no weight; write {name}.reward_weights.{reward}=1.0, or 0 to "
                            "have it logged only")


def _check_evaluation(name: str, config: Evaluate) -> None:
    """What an evaluation compares and samples are its policies: found out now, not when everything is trained."""
    wants = KINDS["evaluate"].wants
    policies = [role for role in config.inputs if wants(role) == "model"]
    for text in config.compare:
        sides = [side.strip() for side in text.split(" - ")]
        if len(sides) != 2:
            raise UserError(f"{name}.compare: {text!r} must be 'POLICY - POLICY'")
        for side in sides:
            if side not in policies:
                raise UserError(f"{name}.compare: in {text!r}, {side!r} is no policy of this stage"
                                f"{nearest(side, policies)}")
    if len(policies) < len(config.inputs) and config.reward_policy not in policies:
        raise UserError(f"{name}.reward_policy={config.reward_policy}: not a policy of this stage"
                        f"{nearest(config.reward_policy, policies)}")


def order(stages: Mapping[str, StageConfig]) -> list[PlannedStage]:
    """The stages, inputs before what hangs on them, otherwise in the recipe's order.

    Raises UserError for an unknown stage or role, an artifact of the wrong type, a missing role, a cycle, or a
    condition that cannot be read.
    """
    if not stages:
        raise UserError("the recipe has no stages")
    makes = {BASE: "model"} | {name: KINDS[config.kind].makes for name, config in stages.items()}
    planned = {}
    for name, config in stages.items():
        kind = KINDS[config.kind]
        if config.adopt is None:
            _check_roles(name, kind, config.inputs, makes)
            _check_meaning(name, config)
        for condition in config.require:
            _check_metric(gates.parse(condition, where=f"{name}.require").metric, name, config.kind)
        planned[name] = PlannedStage(name, kind, config, {} if config.adopt is not None else dict(config.inputs))
    ordered: list[PlannedStage] = []
    placed = {BASE}
    while len(ordered) < len(planned):
        ready = next((stage for stage in planned.values()
                      if stage.name not in placed and placed.issuperset(stage.inputs.values())), None)
        if ready is None:
            circle = [name for name in planned if name not in placed]
            raise UserError(f"the stages {', '.join(circle)} feed each other in a circle; look at their inputs")
        placed.add(ready.name)
        ordered.append(ready)
    return ordered


def ancestors(stages: list[PlannedStage], names: Iterable[str]) -> set[str]:
    """`names` and every stage they hang on."""
    found = set(names)
    for stage in reversed(stages):
        if stage.name in found:
            found.update(source for source in stage.inputs.values() if source != BASE)
    return found


def dependents(stages: list[PlannedStage], names: Iterable[str]) -> set[str]:
    """Every stage that hangs on one of `names`, those left out."""
    found = set(names)
    for stage in stages:
        if found.intersection(stage.inputs.values()):
            found.add(stage.name)
    return found - set(names)


def chosen(stages: list[PlannedStage], *, until: str | None, only: str | None) -> list[PlannedStage]:
    """The part of the chain `until=` and `only=` ask for; `only` keeps what it reads, which must be sealed."""
    wanted = only or until
    if wanted is None:
        return stages
    names = named_stages(stages, wanted, key="only" if only else "until")
    kept = ancestors(stages, names)
    return [stage for stage in stages if stage.name in kept]


def allowed(stages: list[PlannedStage], *, only: str | None, start: str | None) -> set[str]:
    """The stages that `only=` or `from=` lets run; the others must be sealed. Empty = every one."""
    if only and start:
        raise UserError(f"only={only} and from={start}: give one of them")
    if start:
        names = named_stages(stages, start, key="from")
        return names | dependents(stages, names)
    return named_stages(stages, only, key="only")


def named_stages(stages: list[PlannedStage], text: str | None, *, key: str) -> set[str]:
    """The stages a comma-separated list names."""
    names = {part.strip() for part in (text or "").split(",") if part.strip()}
    known = [stage.name for stage in stages]
    for name in sorted(names - set(known)):
        raise UserError(f"{key}={text}: no stage is called {name!r}{nearest(name, known)}")
    return names
