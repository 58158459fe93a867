"""The official SQuAD 2.0 files, by name."""

import hashlib
from pathlib import Path

import torch

from squad.examples import DataError

URL = "https://rajpurkar.github.io/SQuAD-explorer/dataset/{split}-v2.0.json"
SHA256 = {
    "train": "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
    "dev": "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
}


def find_squad_v2(split: str) -> Path:
    """The official `train` or `dev` file, downloaded once into torch's hub folder, its sha256 checked.

    Raises DataError when it cannot be downloaded, or is not the official file.
    """
    path = Path(torch.hub.get_dir()) / "squad_v2" / f"{split}-v2.0.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        url = URL.format(split=split)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=SHA256[split])
        except (OSError, RuntimeError) as error:
            raise DataError(f"{url}: cannot be downloaded ({error}); save it yourself and give its path") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256[split]:
        raise DataError(f"{path}: sha256 is {digest}, the official file's is {SHA256[split]}; delete it to try again")
    return path
