"""`python -m alignment.export MODEL OUT`: a plain Hugging Face folder of a model, for use outside finalign.

Copies what belongs to the format and leaves behind what the store and the trainers put beside it. alignment/weights.py,
which loads tensors, is loaded only where weights change.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignment import display
from alignment.contracts import check_model
from alignment.origin import find
from alignment.store import MANIFEST, write_json
from data.schema import UserError

EPILOG = """\
MODEL is a stage's artifact, such as runs/ppo_fin/seed1/stages/ppo, any Hugging Face folder, or the folder of a PEFT
adapter, which is merged into its base model in fp32. OUT must not exist yet, or be empty.

  python -m alignment.export runs/ppo_fin/seed1/stages/ppo my_model
  python -m alignment.export runs/ppo_fin/seed1/stages/ppo my_model --dtype bfloat16"""

DTYPES = ("bfloat16", "float16", "float32")
INDEX, WHOLE, ADAPTER = "model.safetensors.index.json", "model.safetensors", "adapter_config.json"
FORMAT = ("*.json", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*", "NOTICE*")  # beside the weights
FOREIGN = (MANIFEST, ADAPTER, "trainer_state.json")  # not the format's, although their names look like it


def export(source: Path, out: Path, dtype: str | None) -> None:
    """Writes the folder `out`: whole, or not at all. Raises UserError."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} exists already; name a folder that does not, or is empty")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} lies in {source}, which is left as it is; name a folder elsewhere")
    if not source.is_dir():
        raise UserError(f"{source}: there is no such folder")
    with whole_folder(out) as scratch:
        if (source / ADAPTER).is_file():
            export_merged(source, scratch, dtype or "float32")
        else:
            export_model(source, scratch, dtype)


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and vanishes when it does not."""
    out = out.resolve()
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    scratch.mkdir(parents=True)
    try:
        yield scratch
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def export_model(source: Path, out: Path, dtype: str | None) -> None:
    """Copies a model's folder; its weights cast to `dtype` where one is given."""
    check_model(source, where="export")
    for head, what in (("reward.json", "reward model"), ("process.json", "process reward model")):
        if (source / head).is_file():
            raise UserError(f"{source} is a {what}: the head that scores ({head}) is no part of the Hugging Face "
                            "format, so that a plain folder would lose it; copy the folder as it is")
    weights = weight_files(source)
    copy(source, out)
    if dtype is None:
        for path in weights:
            shutil.copyfile(path, out / path.name)
        return
    config = read_json(source / "config.json")
    if "quantization_config" in config:
        raise UserError(f"{source / 'config.json'}: the weights are quantized (quantization_config); leave --dtype out")
    size = importlib.import_module("alignment.weights").cast(weights, out, dtype)
    if (out / INDEX).is_file():
        index = read_json(out / INDEX)
        write_json(out / INDEX, index | {"metadata": {**index.get("metadata", {}), "total_size": size}})
    write_json(out / "config.json", {name: value for name, value in config.items() if name != "torch_dtype"}
               | {"dtype": dtype})
    if (card := out / "README.md").is_file():
        text = card.read_text(encoding="utf-8")
        card.write_text(re.sub(rf"weights in ({'|'.join(DTYPES)})\.", f"weights in {dtype}.", text), encoding="utf-8")


def export_merged(adapter: Path, out: Path, dtype: str) -> None:
    """The base model that an adapter names, with the adapter merged."""
    where = adapter / ADAPTER
    base = read_json(where).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{where}: base_model_name_or_path is {base!r}; write the base model's folder there. A stage's "
                        "own folder, around its adapter/, is merged already: export that")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise UserError(f"{adapter}: no adapter_model.safetensors; pickle files can run code when they are read and "
                        "are refused")
    try:
        folder = find(base, None).path
    except UserError as error:
        raise UserError(f"{where}: base_model_name_or_path: {error}") from None
    importlib.import_module("alignment.weights").merge(adapter, folder, out, dtype=dtype)
    if (adapter / "README.md").is_file():
        shutil.copyfile(adapter / "README.md", out / "README.md")


def copy(source: Path, out: Path) -> None:
    """Copies what the format puts beside the weights."""
    for path in sorted({path for pattern in FORMAT for path in source.glob(pattern)}):
        if path.is_file() and path.name not in FOREIGN and not path.name.startswith("."):
            shutil.copyfile(path, out / path.name)


def weight_files(source: Path) -> list[Path]:
    """The files transformers would read: the one, or the shards of the index. Raises UserError where one is missing."""
    if (source / WHOLE).is_file():
        return [source / WHOLE]
    if not (source / INDEX).is_file():
        raise UserError(f"{source}: neither {WHOLE} nor {INDEX}")
    names = sorted(set(read_json(source / INDEX).get("weight_map", {}).values()))
    lacking = [name for name in names if Path(name).name != name or not (source / name).is_file()]
    if lacking or not names:
        raise UserError(f"{source / INDEX}: names {lacking[0] if lacking else 'no file'}, which is not in the folder")
    return [source / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold an object, {{...}}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the input is wrong, 130 interrupted."""
    parser = argparse.ArgumentParser("python -m alignment.export", epilog=EPILOG, formatter_class=(
        argparse.RawDescriptionHelpFormatter), description=(__doc__ or "").partition(": ")[2].split("\n")[0])
    parser.add_argument("model", metavar="MODEL", type=Path, help="the folder to export")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default: as they are, float32 when merged")
    try:
        asked = parser.parse_args(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    out = asked.out.expanduser()
    try:
        export(asked.model.expanduser(), out, asked.dtype)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    print("\n".join([f"exported: {out}", *display.how_to_use(out)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
