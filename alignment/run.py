"""`python -m alignment.run recipe=NAME`: runs a recipe's chain from the base model to the report.

Run it with --help for every key. Exit codes: 0 done, 1 a gate closed or a stage failed, 2 the input is wrong,
130 interrupted (the same command goes on).
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig

from alignment import config as configs
from alignment import display, slurm, usage
from alignment.config import RunConfig
from alignment.controller import DONE, INTERRUPTED, USER_ERROR, Controller
from alignment.pinning import PACKAGE_ROOT
from alignment.plan import BASE
from alignment.prepare import Prepared, check_models, check_ready, explain, prepare
from alignment.store import refusals
from data.schema import UserError


def check_not_shadowed() -> None:
    """Names another installed package that took one of our names, if there is one."""
    for name in ("reward", "data"):
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).parent if spec and spec.origin else None
        if found != PACKAGE_ROOT / name:
            raise UserError(f"the package {name!r} that Python finds is not finalign's but {found}; uninstall the "
                            f"package it belongs to, or put {PACKAGE_ROOT} first in PYTHONPATH")


def execute(config: RunConfig) -> int:
    """Runs one resolved config; the exit code."""
    prepared = prepare(config)
    check_models(prepared)
    if config.root.dry_run:
        print(explain(prepared))
        return DONE
    if config.launch.cluster == "slurm":
        check_ready(prepared)
        print(slurm.hand_over(config))
        return DONE
    controller = Controller(prepared, display.make(quiet=config.root.quiet))
    code = controller.run()
    for name, results in controller.evaluations().items():
        shown = display.table(results, [BASE, *config.stages], f"{name}: held-out metrics with 95% intervals")
        if shown is not None:
            display.show(shown)
    try:
        report = write_report(config.run_dir)
        if report is not None:
            controller.record.write(files=[report.name])
            print(f"report: {report}")
    except OSError:  # a full disk, perhaps the very one that a stage failed on: that was said
        if code == DONE:
            raise
    if code == DONE and not config.root.quiet:
        say_how_to_use(prepared)
    return code


def say_how_to_use(prepared: Prepared) -> None:
    """How to use the last model of the chain, where it makes one."""
    made = [node.name for node in prepared.nodes if node.stage.kind.makes == "model"]
    if made:
        print(*display.how_to_use(prepared.config.run_dir / "stages" / made[-1]), sep="\n")


def attempt(config: RunConfig) -> int:
    """`execute`, in which a full or read-only disk is the user's error."""
    with refusals(Path(config.root.runs_dir)):
        return execute(config)


def write_report(run_dir: Path) -> Path | None:
    """The report, by alignment/report.py, which is loaded only now: it draws, and drawing is slow to load."""
    if importlib.util.find_spec("alignment.report") is None:
        return None
    path: Path = importlib.import_module("alignment.report").write_report(run_dir)
    return path


def sweep(overrides: Sequence[str], config_dirs: Sequence[str]) -> int:
    """Hydra's multirun: one job for each combination of values given with commas, by Hydra's launcher; then a table."""
    codes: list[int] = []
    overrides = configs.respelled(overrides)
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise UserError(f"cannot read {error.override!r}: write KEY=VALUE") from None
    axes = [[f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] if o.is_sweep_override()
            else [str(o.input_line)] for o in parsed]
    jobs = list(itertools.product(*axes))
    runs = [configs.load(job, config_dirs=config_dirs) for job in jobs]  # mistakes are found before the first starts
    folders = [run.run_dir for run in runs]
    if len(set(folders)) < len(folders):
        raise UserError(f"the sweep's runs would share the folder {folders[0]}; tell them apart by name, for example "
                        f"name='lr${{ppo.learning_rate}}'")

    def job(composed: DictConfig) -> None:
        if INTERRUPTED in codes:  # Ctrl-C ends the sweep, not only the run it came in
            return
        chosen = HydraConfig.get()
        said = list(chosen.overrides.task)
        codes.append(guarded(lambda: attempt(configs.resolve(composed, choices=dict(chosen.runtime.choices),
                                                             overrides=said, config_dirs=config_dirs))))

    configs.register()
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled",
             f"hydra.sweep.dir={runs[0].root.runs_dir}/.sweeps", "hydra.sweep.subdir=."]
    sys.argv[1:] = ["--multirun", *overrides, *configs.search_path_override(config_dirs), *quiet]
    hydra.main(version_base="1.3", config_path=str(configs.RECIPES), config_name=configs.PRIMARY)(job)()
    code = max(codes, default=DONE)
    if code == DONE and len(folders) > 1 and not any(run.root.quiet or run.root.dry_run for run in runs):
        importlib.import_module("alignment.together").show(folders)  # with numpy, for no other run
    return code


def guarded(action: Callable[[], int]) -> int:
    """Runs `action`; the user's errors become one message and exit code 2."""
    try:
        return action()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """(overrides, --config-dir folders, whether it is a sweep)."""
    overrides, folders, multirun = [], [], False
    rest = iter(argv)
    for part in rest:
        if part in ("-m", "--multirun"):
            multirun = True
        elif part == "--config-dir":
            folder = next(rest, None)
            if folder is None:
                raise UserError("--config-dir: say which folder")
            folders.append(folder)
        elif part.startswith("--config-dir="):
            folders.append(part.partition("=")[2])
        elif part.startswith("-"):
            raise UserError(f"{part}: there is no such option; there is --help, --multirun and --config-dir DIR")
        else:
            overrides.append(part)
    return overrides, folders, multirun


def command(argv: Sequence[str]) -> int:
    check_not_shadowed()
    asked = [part for part in argv if part in ("-h", "--help")]
    if asked:
        rest = [part for part in argv if part not in asked]
        kinds = [part for part in rest if "=" not in part and not part.startswith("-")]
        folders = split_arguments([part for part in rest if part not in kinds or "--config-dir" in rest])[1]
        print(usage.kind_help(kinds[0]) if kinds and not folders else usage.text(folders))
        return DONE
    overrides, config_dirs, multirun = split_arguments(argv)
    if multirun:
        return sweep(overrides, config_dirs)
    return attempt(configs.load(overrides, config_dirs=config_dirs))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return guarded(lambda: command(arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
