"""Data files by name: `squad_v2`, the official files; `excerpt` and `sample`, those in data/ of this repository."""

import hashlib
from pathlib import Path

import torch

from squad.examples import DataError

URL = "https://rajpurkar.github.io/SQuAD-explorer/dataset/{split}-v2.0.json"
SHA256 = {
    "train": "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
    "dev": "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
}
DATA = Path(__file__).parent.parent / "data"  # in a clone of the repository; an installed package is without it
IN_DATA = {
    ("excerpt", "train"): "train.json.gz",
    ("excerpt", "dev"): "dev.json.gz",
    ("sample", "train"): "sample.json.gz",
}


def find_data(name: str, split: str) -> Path:
    """The `train` or `dev` file called `squad_v2`, `excerpt` or `sample` (train only); any other name is a path.

    Raises DataError when there is no such file here, or the official file cannot be downloaded.
    """
    if split not in SHA256:
        raise DataError(f"there is no {split!r} file, expected train or dev")
    if name == "squad_v2":
        return find_squad_v2(split)
    if name not in {known for known, _ in IN_DATA}:
        if not Path(name).exists():
            raise DataError(f"{name}: no such file")
        return Path(name)
    if (name, split) not in IN_DATA:
        raise DataError(f"{name}: there is no {split} file of that name; give excerpt, squad_v2 or a path")
    path = DATA / IN_DATA[name, split]
    if not path.is_file():
        raise DataError(f"{path}: no such file; the {name} comes with a clone of the repository, give another file")
    return path


def find_squad_v2(split: str) -> Path:
    """The official `train` or `dev` file, downloaded once into torch's hub folder and checked by its sha256.

    Raises DataError when it cannot be downloaded or is not the official file.
    """
    path = Path(torch.hub.get_dir()) / "squad_v2" / f"{split}-v2.0.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        url = URL.format(split=split)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=SHA256[split])
        except (OSError, RuntimeError) as error:
            raise DataError(f"{url}: cannot be downloaded ({error}); download it yourself and give its path") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256[split]:
        raise DataError(f"{path}: sha256 is {digest}, the official file's is {SHA256[split]}; delete it to try again")
    return path
