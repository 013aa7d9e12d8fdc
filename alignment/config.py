"""A run's configuration: the keys of a run beside its stages, and how a command line becomes a checked `RunConfig`.

Hydra composes recipes/config.yaml with the groups `recipe`, `model`, `data`, `rollout`, `launch` and `scale`; each
stage is typed by its kind's dataclass. Everything the user can get wrong ends in a `UserError` that says what would be
right. This is the one module, with run.py, that knows Hydra.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignment.engine_choice import RolloutConfig
from alignment.keys import StageConfig, key
from alignment.kinds import KINDS, Rewarded
from alignment.layout import AUTO, CLUSTERS, STRATEGIES
from alignment.own_rewards import find_rewards
from alignment.plan import BASE, nearest
from alignment.preference_kinds import Judge
from data.schema import UserError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
GROUPS = ("recipe", "model", "data", "rollout", "launch", "scale")
PRIMARY = "config"


@dataclasses.dataclass(kw_only=True)
class Root:
    """Keys of a run as a whole."""

    seed: int = key(1, "root seed; every stage's own seed is derived from it and the stage's name", low=0)
    name: str | None = key(None, "name of the run's folder; default: seed<seed>, and scale and data where not default")
    runs_dir: str = key("runs", "where runs and the store of sealed artifacts go")
    threads: int = key(2, "threads of each stage's numerical libraries; part of what makes a result exact. A second "
                          "one is worth 1.6 times the speed; where others use the cores too, 1 wastes less", low=1)
    portable: bool = key(False, "hold MKL to AVX2 as well: the same last bits on processors with and without AVX-512, "
                                "at up to half the speed on the former")
    workers: int | None = key(None, "stages that may run side by side where neither needs the other; null = 2 where "
                                    "cores allow, 1 with a GPU", low=1)
    gates: str = key("stop", "what a closed gate does", choices=("stop", "warn"))
    until: str | None = key(None, "run up to this stage and no further; several as 'until=\"sft,pairs\"'")
    from_stage: str | None = key(None, "run this stage, or several, as above, and what hangs on it; all before must be "
                                       "sealed already", spelled="from")
    only: str | None = key(None, "run only this stage, or several, as above; what it reads must be sealed already")
    force: str | None = key(None, "run this stage, or several, as above, again although it is sealed")
    accept_code_change: str | None = key(None, "reuse the artifact of this stage, or of several, as above, although "
                                               "its code has changed, or go on with what it had begun; the run's "
                                               "record says so")
    dry_run: bool = key(False, "say what would run and why, and run nothing")
    quiet: bool = key(False, "no progress on the screen, only the table and what went wrong")


@dataclasses.dataclass(kw_only=True)
class Model:
    """Group `model`: the base model."""

    path: str = key("embedded", "embedded, a local Hugging Face folder, or a hub id such as Qwen/Qwen3-0.6B-Base")
    revision: str | None = key(None, "a hub id's branch, tag or commit")


@dataclasses.dataclass(kw_only=True)
class Data:
    """Group `data`: where questions and documents come from."""

    source: str = key("finance", "which source", choices=("finance", "tatqa", "gsm8k", "file"))
    path: str | None = key(None, "the source's file, folder or hub id; null where the source is generated")
    languages: list[str] = key(["en", "zh"], "languages of generated questions")
    kinds: list[str] | None = key(None, "kinds of question to keep; null = all")
    seed: int = key(0, "draws the dev and test questions, so that they are the same in every run", low=0)
    stages: dict[str, Any] = key({}, "kind of stage -> key -> value: what this source needs, laid over the recipe, "
                                     "under what scale and the command line say")

    def source_config(self) -> dict[str, Any]:
        """What data.sources.open_source takes."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "stages"}


@dataclasses.dataclass(kw_only=True)
class LaunchConfig:
    """Group `launch`: how many processes work on a stage, and how they share it (alignment/layout.py)."""

    processes: int | str = key(1, "processes of a stage on each machine, one a GPU; auto = one for every GPU there is",
                               low=1)
    nodes: int = key(1, "machines; each runs as many processes", low=1)
    strategy: str = key("ddp", "what the processes of a stage that trains keep: ddp = all of the model each; fsdp = a "
                               "share of it each (FSDP2); zero2, zero3 = DeepSpeed's shares of gradients and "
                               "optimizer, and of the weights too", choices=STRATEGIES)
    cluster: str = key("none", "none = run here and now; slurm = write a batch script that does", choices=CLUSTERS)
    submit: bool = key(False, "hand the batch script to sbatch")
    time: str = key("24:00:00", "what a job may take before it is put back into the queue, from where it goes on")
    cpus: int | None = key(None, "cores of each machine that a job asks for", low=1)
    partition: str | None = key(None, "where a job waits")
    account: str | None = key(None, "whom a job is charged to")
    options: list[str] = key([], "further #SBATCH options, such as \"--constraint=h100\"")


@dataclasses.dataclass(kw_only=True)
class Scale:
    """Group `scale`: how big the chain is."""

    stages: dict[str, Any] = key({}, "kind of stage -> key -> value, laid over the recipe, under what the command line "
                                     "says")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What to run, resolved and checked."""

    recipe: str
    scale: str
    root: Root
    model: Model
    data: Data
    rollout: RolloutConfig
    launch: LaunchConfig
    stages: dict[str, StageConfig]  # in the recipe's order
    argv: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        parts = [f"seed{self.root.seed}"]
        parts += [self.scale] if self.scale != "full" else []
        parts += [self.data.source] if self.data.source != "finance" else []
        return self.root.name or "-".join(parts)

    @property
    def run_dir(self) -> Path:
        return Path(self.root.runs_dir) / self.recipe.replace("/", "_") / self.name

    def to_yaml(self) -> str:
        """The resolved config, complete, stages in their order."""
        groups = {name: dataclasses.asdict(getattr(self, name)) for name in ("model", "data", "rollout", "launch")}
        stages = {name: dataclasses.asdict(config) for name, config in self.stages.items()}
        head = {"recipe": self.recipe, "scale": self.scale} | dataclasses.asdict(self.root)
        return OmegaConf.to_yaml(OmegaConf.create(head | groups | stages))


@functools.cache
def register() -> None:
    """Makes the kinds and the root's keys known to Hydra."""
    known = ConfigStore.instance()
    for name, kind in KINDS.items():
        known.store(group="kind", name=name, node=kind.config(kind=name))
    known.store(name="root", node=dataclasses.asdict(Root()))


def search_path_override(config_dirs: Sequence[str]) -> list[str]:
    """Hydra's override for user recipe folders; each must exist and hold a folder named after a group."""
    for folder in map(Path, config_dirs):
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
        if not any((folder / group).is_dir() for group in GROUPS):
            raise UserError(f"--config-dir {folder}: holds none of the folders {', '.join(GROUPS)}; "
                            f"a recipe goes to {folder / 'recipe' / 'NAME.yaml'}")
    if not config_dirs:
        return []
    return [f"hydra.searchpath=[{','.join('file://' + str(Path(d).resolve()) for d in config_dirs)}]"]


def _check_mapping(path: Path) -> None:
    """A user's recipe or group file, where there is one, must say keys and values: Hydra takes a list for nothing."""
    if path.is_file() and not isinstance(parse_yaml(path), dict | None):
        raise UserError(f"{path}: must hold keys and values, `stage: {{key: value}}`, at its top")


def parse_yaml(path: Path) -> Any:
    """The file's content. Raises UserError where it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: a recipe or group file is not readable YAML: {_first_line(error)}") from None


def respelled(overrides: Sequence[str]) -> list[str]:
    """Overrides with keys as fields are named, as `from`, a Python keyword, cannot be one; and with names that are the
    user's to choose, those of rewards, marked as ones that may be new."""
    named = [re.sub(r"^(\+*)from=", r"\1from_stage=", override) for override in overrides]
    return [re.sub(r"^(\w+\.(?:rewards|reward_weights)[.=])", r"++\1", override) for override in named]


def load(overrides: Sequence[str], *, config_dirs: Sequence[str] = ()) -> RunConfig:
    """The run a command line asks for. Raises UserError."""
    register()
    overrides = respelled(overrides)
    extra = search_path_override(config_dirs)
    for folder in config_dirs:
        for override in overrides:
            _check_mapping(Path(folder) / f"{override.replace('=', '/')}.yaml")
    with initialize_config_dir(str(RECIPES), version_base="1.3"):
        try:
            composed = compose(PRIMARY, overrides=[*overrides, *extra], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error, overrides, extra)) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"a recipe or group file is not readable YAML: {_first_line(error)}") from None
        except RecursionError:
            raise UserError("a recipe's defaults list leads back to itself; take the circle out") from None
        choices = dict(composed.hydra.runtime.choices)
    return resolve(composed, choices=choices, overrides=overrides, config_dirs=config_dirs)


def resolve(composed: DictConfig, *, choices: dict[str, str], overrides: Sequence[str],
            config_dirs: Sequence[str]) -> RunConfig:
    """The checked run of a composed config. `overrides` are the user's, which win over the scale's."""
    composed = composed.copy()
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra", None)
    groups = {"model": Model, "data": Data, "rollout": RolloutConfig, "launch": LaunchConfig, "scale": Scale}
    typed: dict[str, Any] = {name: _typed(cls, composed.pop(name, None) or {}, name) for name, cls in groups.items()}
    root_keys = [field.name for field in dataclasses.fields(Root)]
    root = _typed(Root, {name: composed.pop(name) for name in root_keys if name in composed}, "")
    names = [key_name for key_name in composed if isinstance(key_name, str)]
    for name in names:
        object_type = OmegaConf.get_type(composed, name)
        if not (isinstance(object_type, type) and issubclass(object_type, StageConfig)):
            raise UserError(f"{name}: there is no such key or stage"
                            f"{nearest(name, [k for k in (*root_keys, *GROUPS, *names) if k != name])}")
        if name == BASE or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise UserError(f"{name}: not a name for a stage; use letters, digits and underscores, and not '{BASE}'")
    for group in ("data", "scale"):
        _lay_over(composed, typed[group].stages, overrides, group=group)
    del typed["scale"]
    try:
        stages: dict[str, StageConfig] = {name: OmegaConf.to_object(composed[name]) for name in names}  # type: ignore
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from None
    for name, config in [("", root), *typed.items(), *stages.items()]:
        check_limits(config, name)
    if conflict := typed["rollout"].conflict():
        raise UserError(f"rollout.{conflict}")
    if isinstance(typed["launch"].processes, str) and typed["launch"].processes != AUTO:
        raise UserError(f"launch.processes={typed['launch'].processes}: must be a number or {AUTO}")
    if root.name is not None and not re.fullmatch(r"\w[\w.@+-]{0,99}", root.name):
        raise UserError(f"name={root.name}: start with a letter or digit, then letters, digits and . _ - + @, 100 at "
                        "most; it becomes a folder")
    for name, config in stages.items():
        _check_local_files(name, config)
        if isinstance(config, Judge):
            config.settle(source=typed["data"].source, model=typed["model"].path)
        if isinstance(config, Rewarded) and config.adopt is None:
            config.rewards = find_rewards(name, config.rewards, config_dirs)
        if conflict := config.conflict():
            raise UserError(f"{name}.{conflict}")
    return RunConfig(recipe=choices["recipe"], scale=choices.get("scale", "full"), root=root, stages=stages,
                     argv=(*overrides, *(part for folder in config_dirs for part in ("--config-dir", folder))), **typed)


def _lay_over(composed: DictConfig, kinds: dict[str, dict[str, Any]], overrides: Sequence[str], *, group: str) -> None:
    """Lays a group's keys over the stages of each kind, except those the command line sets."""
    said = {override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))}
    for kind, values in kinds.items():
        where = f"{group}.stages.{kind}"
        if kind not in KINDS:
            raise UserError(f"{where}: there is no such kind of stage{nearest(kind, KINDS)}")
        known = [field.name for field in dataclasses.fields(KINDS[kind].config)]
        for name, value in values.items():
            if name not in known:
                raise UserError(f"{where}.{name}: {kind} has no such key{nearest(name, known)}")
            for stage in map(str, composed):
                path = f"{stage}.{name}"
                if composed[stage].kind == kind and not any(s == path or s.startswith(path + ".") for s in said):
                    try:
                        composed[stage][name] = value
                    except OmegaConfBaseException as error:
                        raise UserError(f"{where}.{name}: {_first_line(error)}") from None


T = TypeVar("T")


def _typed(cls: type[T], values: Any, group: str) -> T:
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise UserError(f"{group}.{name}: there is no such key{nearest(str(name), known)}")
    for name, value in values.items() if isinstance(values, dict) else values.items_ex(resolve=False):
        if value == "???":
            raise UserError(f"{group}.{name} must be given: {group}.{name}=...")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        where = ".".join(filter(None, [group, getattr(error, "full_key", None)]))
        raise UserError(f"{where}: {_first_line(error)}") from None


def check_limits(config: Any, name: str) -> None:
    """Raises UserError where a value lies outside its key's limits or choices."""
    for field in dataclasses.fields(config):
        value, limits = getattr(config, field.name), field.metadata
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{'.'.join(filter(None, [name, field.name, part]))}={number}: must be a finite number")
        where = f"{name}.{field.name}" if name else field.name
        choices = limits.get("choices") or ()
        if choices and isinstance(value, dict):
            _check_choices(where, value, known=getattr(type(config)(), field.name), choices=choices)
        elif choices and value is not None and value not in choices:
            raise UserError(f"{where}={value}: not one of {', '.join(map(str, choices))}{_only_near(value, choices)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        low, high = limits.get("low"), limits.get("high")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            within = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
            raise UserError(f"{where}={value}: must be {within} ({limits['help']})")


def _check_choices(where: str, values: dict[str, Any], *, known: Iterable[str], choices: Iterable[Any]) -> None:
    """A mapping whose names are given, and whose values are one of `choices` each."""
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}.{name}: there is no such key{nearest(name, known)}")
        if value not in choices:
            raise UserError(f"{where}.{name}={value}: not one of {', '.join(map(str, choices))}"
                            f"{_only_near(value, choices)}")


def _only_near(value: Any, choices: Iterable[Any]) -> str:
    hint = nearest(str(value), map(str, choices))
    return hint if "did you mean" in hint else ""


def _check_local_files(stage: str, config: StageConfig) -> None:
    """A value that looks like a local path must exist now, not when its stage's turn has come."""
    for name in ("adopt", "dataset", "human", "prompts", "criteria", "replay"):
        value = getattr(config, name, None)
        looks_local = isinstance(value, str) and (value.startswith(("/", "./", "../", "~")) or bool(
            re.search(r"\.(jsonl?|parquet)$", value)) or name in ("adopt", "prompts", "criteria", "replay"))
        if looks_local and not Path(str(value)).expanduser().exists():
            raise UserError(f"{stage}.{name}={value}: there is no such file or folder")


# What Hydra's errors mean to a user ------------------------------------------------------------------------------


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _explain(error: Exception, overrides: Sequence[str], extra: Sequence[str]) -> str:
    """One sentence in place of Hydra's text, with the nearest right thing."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return (f"cannot read {error.override!r}: write KEY=VALUE, for example ppo.learning_rate=1e-4; put a value "
                f"with spaces, commas or brackets in quotes, as in 'name=\"a b\"' ({text.splitlines()[1]})")
    if several := re.search(r"Ambiguous value for argument '([^=']+)=([^']*)'", text):
        key_name, values = several.groups()
        return (f"{key_name}={values}: a list in one value needs quotes within quotes, '{key_name}=\"{values}\"'; to "
                "run once for each of them, add --multirun")
    missing = re.search(r"Could not find '(\w+)/([^']*)'", text)
    if isinstance(error, MissingConfigException) and missing:
        group, name = missing.groups()
        options = [line.strip() for line in text.splitlines() if line.startswith("\t")]
        options = options[:next((i for i, line in enumerate(options) if line.startswith("provider=")), len(options))]
        hint = f"; a path or hub id is given as model.path={name}" if group == "model" else ""
        listed = ", ".join(options)
        return f"{group}={name}: there is no such {group}{nearest(name, options)} ({group}s: {listed}){hint}"
    if "You must specify" in text:
        group = (re.search(r"specify '(\w+)'", text) or ["", "recipe"])[1]
        options = [line.strip() for line in text.splitlines()[2:]]
        return f"say which {group}: {group}=NAME, with one of {', '.join(options)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    full_key = getattr(cause, "full_key", None) or (re.search(r"full_key: (\S+)", text) or ["", ""])[1]
    recipe = re.search(r"In '([^']+)':", text)
    where = f"in {recipe[1]}: " if recipe else ""
    if full_key and ("not in" in text or "Could not override" in text):
        typed = re.search(r"object_type=(\w+)", text)
        return where + _unknown_key(full_key, overrides, extra, typed[1] if typed else None)
    if isinstance(error, ConfigCompositionException) and full_key:
        detail = _first_line(cause) if cause is not error else text.splitlines()[1]
        return f"{where}{full_key}: {detail}"
    return where + " ".join(line.strip() for line in text.splitlines()[:2])


def _unknown_key(full_key: str, overrides: Sequence[str], extra: Sequence[str], class_name: str | None) -> str:
    """Looks for the nearest key in the class that refused it, or in the config composed of the group choices alone."""
    head, _, rest = full_key.partition(".")
    classes = [kind.config for kind in KINDS.values() if kind.config.__name__ == class_name]
    if classes:
        names = [field.name for field in dataclasses.fields(classes[0])]
        return f"{full_key}: there is no such key{nearest(full_key.rpartition('.')[2], names)}"
    choices = [o for o in overrides if o.split("=")[0] in GROUPS]
    try:
        known = compose(PRIMARY, overrides=[*choices, *extra])
    except (HydraException, OmegaConfBaseException):
        return f"{full_key}: there is no such key"
    if head not in known:
        return f"{full_key}: there is no such key or stage{nearest(head, map(str, known))}"
    node: Any = known[head]
    parent, name = ".".join([head, *rest.split(".")[:-1]]), rest.split(".")[-1]
    for part in rest.split(".")[:-1]:
        node = node[part] if isinstance(node, DictConfig) and part in node else None
    if not isinstance(node, DictConfig):
        return f"{full_key}: {parent} has no keys of its own"
    return f"{full_key}: {parent} has no key {name!r}{nearest(name, map(str, node))}"
