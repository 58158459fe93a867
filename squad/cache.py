"""Windows kept on disk, so that a second start on the same data does not tokenise it again.

A cache file's name is a hash of all that its content depends on, and it holds a hash of that content: it is read
only where both are right. Safetensors: nothing in it can run.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from squad.examples import Example
from squad.windows import Ragged, Windows, make_windows

VERSION = 2  # of what make_windows does: raise it when the same input gives other windows


def cached_windows(
    source: str | Path,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    sizes: tuple[int, int, int],
    progress: Callable[[Iterable], Iterable] = iter,
    folder: str | Path | None = None,
) -> Windows:
    """`make_windows`, or what it gave the last time for the same file, examples, tokenizer and settings.

    Args:
        source: the file that `examples` were read from, which gives each id one question, context and answers.
        sizes: max_length, overlap and max_question_tokens, as for `make_windows`; tokenizer and progress too.
        folder: where to keep the windows; default: torch's hub folder.
    A file that is damaged, or cannot be read or written, costs the time to make the windows, and nothing else.
    """
    ids = (example.id for example in examples)  # which of the file's questions, and in which order
    key = _hash(Path(source).read_bytes(), tokenizer.to_str(), json.dumps([VERSION, *sizes]), *ids)
    path = Path(folder or Path(torch.hub.get_dir()) / "squad_windows") / f"{key}.safetensors"
    try:
        return _read(path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        windows = make_windows(examples, tokenizer, *sizes, progress)
    _write(path, windows)
    return windows


def _write(path: Path, windows: Windows) -> None:
    """Does nothing where the disk is full or the folder cannot be written."""
    arrays, numbers = _parts(windows)
    metadata = {"numbers": json.dumps(numbers), "sha256": _digest(arrays, numbers)}
    part = path.with_suffix(f".{os.getpid()}.part")  # renamed when whole: no reader ever sees half of it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, part, metadata)
        part.replace(path)
    except (OSError, SafetensorError):
        with contextlib.suppress(OSError):
            part.unlink()


def fingerprint(examples: Sequence[Example], windows: Windows) -> str:
    """A sha256 of the questions' ids and of their windows: the same for the same data under any name."""
    return _hash(*(example.id for example in examples), _digest(*_parts(windows)))


def _parts(windows: Windows) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The arrays of Windows by name, and its numbers."""
    arrays, numbers = {}, {}
    for field in dataclasses.fields(Windows):
        value = getattr(windows, field.name)
        if isinstance(value, Ragged):
            arrays |= {f"{field.name}.values": value.values, f"{field.name}.rows": value.rows}
        elif isinstance(value, np.ndarray):
            arrays[field.name] = value
        else:
            numbers[field.name] = int(value)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, numbers


def _read(path: Path) -> Windows:
    """Raises one of the errors that `cached_windows` expects when the file is not exactly what was written."""
    with safe_open(path, framework="numpy") as file:
        metadata, names = file.metadata() or {}, list(file.keys())
    arrays = {}
    for name in names:
        # opened anew each time: else the whole file stays mapped beside its copy, twice the memory
        with safe_open(path, framework="numpy") as file:
            arrays[name] = file.get_tensor(name)
    numbers = json.loads(metadata["numbers"])
    if metadata["sha256"] != _digest(arrays, numbers):
        raise ValueError(f"{path}: not what was written")
    fields = dict(numbers)
    for field in dataclasses.fields(Windows):
        if field.type is Ragged:
            fields[field.name] = Ragged(arrays[f"{field.name}.values"], arrays[f"{field.name}.rows"])
        elif field.name not in numbers:
            fields[field.name] = arrays[field.name]
    return Windows(**fields)


def _digest(arrays: dict[str, np.ndarray], numbers: dict[str, int]) -> str:
    parts = [json.dumps(numbers, sort_keys=True)]
    for name in sorted(arrays):
        parts += [f"{name} {arrays[name].dtype} {arrays[name].shape}", arrays[name].data]
    return _hash(*parts)


def _hash(*parts: bytes | memoryview | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else memoryview(part).cast("B")
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
