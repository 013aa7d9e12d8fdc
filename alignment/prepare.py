"""From a checked config to what a run needs to know before it starts: order, seeds, identities, and why each stage
would run.

Reads source files, data files and the store; starts nothing.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from alignment import contracts, desk_snapshots, identity, layout, pinning, plan, unfinished
from alignment.config import RunConfig
from alignment.costs import Costs
from alignment.engine_choice import check_stages, rollout_engine
from alignment.forecast import forecasts
from alignment.identity import CODE_KEY, Parts
from alignment.kinds import Pretrain, Rewarded, Sft
from alignment.layout import ALONE, Layout
from alignment.model_size import read_size
from alignment.origin import EMBEDDED, BaseModel, find
from alignment.own_rewards import OwnReward
from alignment.plan import BASE, PlannedStage
from alignment.preference_kinds import Pairs, Remote
from alignment.seeds import derive
from alignment.store import Store
from data.files import is_local, read_conversations, read_documents
from data.preferences import read_pairs
from data.schema import Split, UserError
from data.sources import open_source
from reward.endpoint import check_url, read_key

Code = tuple[dict[str, str], frozenset[str]]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclasses.dataclass(frozen=True)
class Node:
    """A stage with everything that makes its artifact that and no other."""

    stage: PlannedStage
    seed: int
    parts: Parts
    identity: str
    accepted: list[str] = dataclasses.field(default_factory=list)  # changes of code since it was made, let pass
    goes_on: Path | None = None  # the folder of work that other code began, to be taken over

    @property
    def name(self) -> str:
        return self.stage.name


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run, ready to start."""

    config: RunConfig
    store: Store
    nodes: list[Node]
    base_model: BaseModel | None
    data_files: dict[str, str]  # name -> sha256
    rollout: dict[str, Any]  # the engine resolved
    layout: Layout
    forced: set[str]
    allowed: set[str]  # empty = every node may run
    code_of: Callable[[str], Code]  # kind -> its code as it is now

    def layout_of(self, stage: PlannedStage) -> Layout:
        return self.layout.of(stage.kind, stage.config, served=self.rollout["engine"] == "server")

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)


def prepare(config: RunConfig, *, code_of: Callable[[str], Code] = identity.code_parts) -> Prepared:
    """Orders the stages and gives each its seed and identity. Raises UserError for all that can be known wrong now."""
    stages = plan.order(config.stages)
    forced = plan.named_stages(stages, config.root.force, key="force")
    allowed = plan.allowed(stages, only=config.root.only, start=config.root.from_stage)
    accepting = plan.named_stages(stages, config.root.accept_code_change, key="accept_code_change")
    stages = plan.chosen(stages, until=config.root.until, only=config.root.only)
    if allowed and (beyond := sorted(forced - allowed)):
        raise UserError(f"force={beyond[0]}: only= and from= leave it alone; name it in them too, or leave force out")
    if both := sorted(forced & accepting):
        raise UserError(f"force={both[0]} and accept_code_change={both[0]}: one makes it again, the other does not")
    stages = desk_snapshots.sealed(stages, Path(config.root.runs_dir) / "annotations")
    config = dataclasses.replace(config, stages=config.stages | {stage.name: stage.config for stage in stages})
    check_addresses(stages)
    store = Store(Path(config.root.runs_dir))
    base_model = None
    if any(BASE in stage.inputs.values() for stage in stages):
        base_model = find(config.model.path, config.model.revision)
    laid_out = layout.make(config.launch.processes, config.launch.nodes, config.launch.strategy)
    layout.check_stages(laid_out, ((stage.name, stage.config) for stage in stages if not stage.adopted))
    rollout = dataclasses.asdict(config.rollout)
    if any(stage.kind.uses_rollout for stage in stages):
        rollout["engine"] = rollout_engine(config.rollout)
        check_stages(rollout["engine"], ((stage.name, stage.config) for stage in stages if not stage.adopted))
    reads = any(stage.kind.reads_data and not stage.adopted for stage in stages)
    data_files = source_files(config) if reads else {}
    identities = {BASE: base_model.identity} if base_model else {}
    nodes = []
    exactness = pinning.exactness(config.root.threads, portable=config.root.portable)
    for stage in stages:
        seed = derive(config.root.seed, stage.name)
        parts = identity.parts_of(
            stage, inputs={role: identities[source] for role, source in stage.inputs.items()}, seed=seed,
            data=config.data.source_config(), data_files=data_files, rollout=rollout,
            exactness=exactness | laid_out.exactness(stage.kind), code=stage_code(stage, code_of))
        node = Node(stage, seed, parts, identity.digest(parts))
        if stage.name in accepting:
            node = accept_code_change(node, store)
        identities[stage.name] = node.identity
        nodes.append(node)
    return Prepared(config, store, nodes, base_model, data_files, rollout, laid_out, forced, allowed, code_of)


def check_addresses(stages: Sequence[PlannedStage]) -> None:
    """Raises UserError for an address that no model can be asked at, or whose key is not there: before anything, the
    address included, is written down."""
    for stage in stages:
        config, before = stage.config, ""
        if isinstance(config, Rewarded) and "judge" in config.reward_weights:
            url, variable, before = config.judge_url, config.judge_key_variable, "judge_"
        elif isinstance(config, Remote) and config.replay is None:
            url, variable = config.url, config.key_variable
        else:
            continue
        if url is not None and not stage.adopted:
            try:
                check_url(url, secret=read_key(variable) is not None)
            except UserError as error:
                raise UserError(f"{stage.name}.{before}{error}") from error


def stage_code(stage: PlannedStage, code_of: Callable[[str], Code]) -> Code:
    """The code a stage runs, as it is now: its kind's, and that of the user's own rewards."""
    if stage.adopted:
        return {}, frozenset()
    modules, third_party = code_of(stage.config.kind)
    for name, target in getattr(stage.config, CODE_KEY, {}).items():
        modules = modules | OwnReward.read(f"{stage.name}.{CODE_KEY}.{name}", target).code()
    return modules, third_party


def accept_code_change(node: Node, store: Store) -> Node:
    """The node as the artifact that other code made of the same config, inputs and data; where there is none, the node
    with the work that other code began."""
    kind = node.stage.config.kind
    if store.get(kind, node.identity) is not None:
        return node
    made = [artifact for artifact in store.artifacts()
            if (artifact.manifest["stage"], artifact.manifest["kind"]) == (node.name, kind)]
    for artifact in reversed(made):
        parts = artifact.manifest["parts"]
        if parts | {"code": None} == node.parts | {"code": None}:
            return dataclasses.replace(node, identity=artifact.identity, parts=parts,
                                       accepted=identity.differences(parts, node.parts))
    if unfinished.is_begun(store.work(kind, node.identity)):
        return node
    if begun := unfinished.by_other_code(store, kind, node.parts):
        return dataclasses.replace(node, goes_on=begun)
    why = "it was never run"
    if made:
        changes = identity.differences(made[-1].manifest["parts"], node.parts)
        why = "; ".join([change for change in changes if not change.startswith("module ")][:3])
    raise UserError(f"accept_code_change={node.name}: nothing that this stage sealed, or began, differs in code alone "
                    f"({why})")


def check_code(prepared: Prepared, node: Node) -> None:
    """The code a stage is about to load is the code its identity was made from; a long run meets edits."""
    if node.accepted:
        raise UserError("its artifact, accepted although the code has changed, is gone; leave accept_code_change out")
    if not node.stage.adopted:
        now = stage_code(node.stage, prepared.code_of)[0]
        changed = identity.differences({"code": node.parts["code"]}, {"code": now})
        if changed:
            raise UserError(f"its code was changed while the chain ran ({'; '.join(changed[:3])}). Run the same "
                            f"command again: what that code made runs again, the rest is reused")


def source_files(config: RunConfig) -> dict[str, str]:
    """name -> sha256 of the files the data source reads."""
    return {path.name: identity.file_sha256(path) for path in open_source(config.data.source_config()).files()}


def check_ready(prepared: Prepared, *, dry: bool = False) -> list[str]:
    """Looks at what the user brings, before anything is started: the base model, what is adopted, and the local data
    of every stage that has to run; a line for each file of data. A dry run takes a base model whose weights have still
    to be fetched. Raises UserError for what is wrong with any."""
    if prepared.base_model:
        contracts.check_model(prepared.base_model.path, where=f"model.path={prepared.base_model.name}", weights=not dry)
    for node in prepared.nodes:
        if node.stage.adopted:
            contracts.check_artifact(node.stage, Path(str(node.stage.config.adopt)).expanduser(), {})
    return check_data(prepared)


def check_models(prepared: Prepared) -> None:
    """Asks a process that has the libraries whether the user's models load, before anything is started: the base model
    and what is adopted, where a stage that has to run reads them. Raises UserError for one that does not."""
    running, brought = missing(prepared), {}
    base = prepared.base_model
    if base and base.path != EMBEDDED.resolve() and any(BASE in node.stage.inputs.values() for node in running):
        brought[f"model.path={base.name}"] = base.path
    for node in running:
        if node.stage.adopted and node.stage.kind.makes == "model":
            brought[f"{node.name}.adopt={node.stage.config.adopt}"] = Path(str(node.stage.config.adopt)).expanduser()
    for where, folder in brought.items():
        contracts.check_model(folder, where=where, weights=not prepared.config.root.dry_run)
        read_size(folder)
        asked = subprocess.run(
            [sys.executable, "-m", "alignment.model_check", str(folder)], capture_output=True, text=True,
            env=pinning.environment(threads=1, offline=True, portable=False))
        if asked.returncode:
            raise UserError(f"{where}: {(asked.stderr.strip().splitlines() or ['it cannot be loaded'])[-1]}")


def missing(prepared: Prepared) -> list[Node]:
    """The stages whose artifact is not there, or is not to be used."""
    return [node for node in prepared.nodes if node.name in prepared.forced
            or prepared.store.get(node.stage.config.kind, node.identity) is None]


def check_data(prepared: Prepared) -> list[str]:
    running = [node for node in missing(prepared) if not node.stage.adopted]
    data, found = prepared.config.data, []
    if data.path and is_local(data.path) and any(node.stage.kind.reads_data for node in running):
        source = open_source(data.source_config())
        found.append(f"data.path={data.path}: {source.report}")
        held = {split: len(source.questions(split, count=1, seed=0)) for split in SPLITS}
        if any(held.values()) and not all(held.values()):
            raise UserError(f"data.path={data.path}: no question is left for {min(held, key=lambda split: held[split])}"
                            f" ({source.report}); give more rows, or a folder with a file for each of "
                            f"{', '.join(SPLITS)}")
    for node in running:
        config = node.stage.config
        if isinstance(config, Sft) and config.dataset and is_local(config.dataset):
            found.append(f"{node.name}.dataset={config.dataset}: {read_conversations(config.dataset)[1]}")
        elif isinstance(config, Pretrain) and config.dataset and is_local(config.dataset):
            found.append(f"{node.name}.dataset={config.dataset}: kept {len(read_documents(config.dataset))} rows")
        elif isinstance(config, Pairs) and config.human not in (None, "embedded"):
            found.append(f"{node.name}.human={config.human}: kept {len(read_pairs(str(config.human)))} rows")
    return found


def needs_network(prepared: Prepared) -> bool:
    """Whether a stage may have to ask the network, for data or in a reward of the user's own; a base model is fetched
    before any stage starts."""
    config = prepared.config
    places = [config.data.path] if config.data.source != "finance" else []
    places += [getattr(node.stage.config, "dataset", None) for node in prepared.nodes]
    return any(place is not None and not Path(place).expanduser().exists() for place in places) or any(
        getattr(node.stage.config, CODE_KEY, {}) for node in prepared.nodes)


def last_seconds(prepared: Prepared) -> dict[str, float]:
    """stage -> seconds it last took in this store, where it was ever run there."""
    last = {(a.manifest["stage"], a.manifest["kind"]): float(a.manifest["seconds"]) for a in prepared.store.artifacts()
            if not a.manifest["adopted"]}
    kinds = {node.name: node.stage.config.kind for node in prepared.nodes}
    return {name: last[name, kind] for name, kind in kinds.items() if (name, kind) in last}


def expected_seconds(prepared: Prepared, typical: dict[str, float]) -> dict[str, float]:
    """stage -> seconds: what the stage last took in this store, else what its kind typically takes."""
    last = last_seconds(prepared)
    return {node.name: last.get(node.name, typical.get(node.stage.config.kind, 30.0)) for node in prepared.nodes}


def costs(prepared: Prepared) -> Costs:
    """What the stages that would run do and take. Raises UserError where a model's weights or tokenizer are broken."""
    wanted = {node.name for node in missing(prepared)} & (prepared.allowed or {node.name for node in prepared.nodes})
    found = forecasts([node.stage for node in prepared.nodes], source=prepared.config.data.source_config(),
                      base=prepared.base_model.path if prepared.base_model else None, rollout=prepared.rollout,
                      layout=prepared.layout)
    return Costs([found[node.name] for node in prepared.nodes if node.name in wanted],
                 folder=Path(prepared.config.root.runs_dir), workers=workers(prepared))


def workers(prepared: Prepared) -> int:
    """Stages to run side by side."""
    root = prepared.config.root
    return pinning.workers(root.workers, threads=root.threads * prepared.layout.processes)


def check_machine(prepared: Prepared) -> None:
    """This machine can lay the stages' processes out as asked."""
    if problem := layout.obstacle(prepared.layout):
        raise UserError(problem)


def check_disk(prepared: Prepared) -> None:
    """Before anything is started: what the stages will write has room."""
    need = costs(prepared)
    if not need.fits:
        raise UserError(f"runs_dir={prepared.config.root.runs_dir}: {need.disk()}; make room (`python -m "
                        "alignment.store gc` says what no run uses), or choose another disk with runs_dir=PATH")


def reasons(prepared: Prepared, node: Node) -> list[str]:
    """Why a stage has to run: what differs from the artifact last sealed under its name, or that there is none."""
    if node.name in prepared.forced:
        return ["forced"]
    kind = node.stage.config.kind
    link = prepared.config.run_dir / "stages" / node.name
    last = prepared.store.last_of_run(link) or prepared.store.last(node.name, kind)
    if last is None or last.manifest["kind"] != kind:
        return ["never run"]
    return identity.differences(last.manifest["parts"], node.parts) or ["its artifact is gone"]


def explain(prepared: Prepared) -> str:
    """What a run would do, a line a stage and a line a reason, and what that would cost."""
    lines = [f"{prepared.config.recipe}, {prepared.config.run_dir}:"]
    for node in prepared.nodes:
        sealed = prepared.store.get(node.stage.config.kind, node.identity)
        if sealed is not None and node.name not in prepared.forced:
            lines.append(f"{node.name}: reused ({sealed.path.name})")
            lines += [f"    accepted: {change}" for change in node.accepted]
            continue
        if prepared.allowed and node.name not in prepared.allowed:
            lines.append(f"{node.name}: must run first, but {limit(prepared)}")
            continue
        lines.append(f"{node.name}: {'adopts ' + str(node.stage.config.adopt) if node.stage.adopted else 'runs'}")
        lines += [f"    {reason}" for reason in reasons(prepared, node)]
        lines += [f"    goes on from what other code began ({node.goes_on.name})"] if node.goes_on else []
    lines += [*launch_lines(prepared), *check_ready(prepared, dry=True)]
    need = costs(prepared)
    lines += ["", *need.table(last_seconds(prepared))] if need.stages else []
    return "\n".join([lines[0], *(f"  {line}".rstrip() for line in lines[1:])])


def launch_lines(prepared: Prepared) -> list[str]:
    """How the stages are laid out, where that is not one process, and what stands in the way here."""
    if prepared.layout == ALONE:
        return []
    problem = layout.obstacle(prepared.layout)
    return [f"launch: {prepared.layout}", *([f"    not on this machine: {problem}"] if problem else [])]


def limit(prepared: Prepared) -> str:
    """What the user said of which stages may run."""
    root = prepared.config.root
    return f"only={root.only}" if root.only else f"from={root.from_stage}"


def check_allowed(prepared: Prepared) -> None:
    """With `only=` or `from=`, everything else that is needed must be sealed."""
    for node in prepared.nodes:
        if prepared.allowed and node.name not in prepared.allowed and (
                prepared.store.get(node.stage.config.kind, node.identity) is None):
            key_name = limit(prepared).partition("=")[0]
            raise UserError(f"{limit(prepared)}: stage {node.name} has to run first "
                            f"({'; '.join(reasons(prepared, node)[:3])}). Leave `{key_name}` out, or use until=")
