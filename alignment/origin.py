"""The base model a recipe starts from: embedded, a local folder, or the hub; found and given an identity."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from alignment.identity import folder_files, tree_sha256
from alignment.pinning import PACKAGE_ROOT
from data.schema import UserError

EMBEDDED_CRITIC = PACKAGE_ROOT / "data" / "embedded" / "critic_tiny"
EMBEDDED = PACKAGE_ROOT / "data" / "embedded" / "base_tiny"


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """Where the model lies on this machine, and what it is: a hash of its files, or its hub id and commit."""

    name: str
    path: Path
    identity: str


def find(path: str, revision: str | None) -> BaseModel:
    """The base model of `model.path`. A hub id is downloaded, or taken from the local cache when offline."""
    folder = EMBEDDED if path == "embedded" else Path(path).expanduser()
    if (folder / "config.json").is_file():
        return BaseModel(path, folder.resolve(), tree_sha256(folder_files(folder)))
    if path == "embedded":
        raise UserError(f"model.path=embedded: the embedded base model is not in {folder}; make it with "
                        f"recipe=base_tiny and copy its folder there, or give a model: model.path=FOLDER or HUB_ID")
    if folder.exists() or path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise UserError(f"model.path={path}: not a Hugging Face model folder (no config.json), and not a hub id "
                        f"(OWNER/NAME)")
    return _from_hub(path, revision)


def _from_hub(repo: str, revision: str | None) -> BaseModel:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"model.path={repo}: not in the local cache, and the hub did not give it "
                        f"({str(error).splitlines()[0]}); download it first, or give a local folder") from None
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path={repo}: {folder} has no config.json")
    return BaseModel(repo, folder, f"hub:{repo}@{folder.name}")  # the cache names a snapshot by its commit
