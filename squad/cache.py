"""Results cached on disk, so that a second start on the same data does not compute them again.

The name of a cache file is a hash of everything its content depends on. The file is numpy's .npz without pickled
objects, so nothing in it can run, and its checksums (CRC-32) show when it is damaged.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np
import torch
from tokenizers import Tokenizer

from squad.examples import Example
from squad.windowing import make_windows
from squad.windows import Ragged, Windows

VERSION = 3  # of what make_windows does: raise it when the same input gives other windows
Stored = TypeVar("Stored")
UNREADABLE = (OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, BadZipFile, zlib.error)


def cached_windows(
    source: str | Path,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    sizes: tuple[int, int, int],
    progress: Callable[[Iterable], Iterable] = iter,
    folder: str | Path | None = None,
) -> Windows:
    """`make_windows`, or its earlier result for the same file, examples, tokenizer and settings.

    Args:
        source: the file that `examples` were read from; it determines the answers of each id.
        tokenizer, progress: as for `make_windows`.
        sizes: max_length, overlap and max_question_tokens, as for `make_windows`.
        folder: of the cache; by default in torch's hub folder.
    """
    # which of the file's questions are used, in which order, and what was made of them
    texts = (part for example in examples for part in (example.id, example.question, example.context))
    parts = Path(source).read_bytes(), tokenizer.to_str(), json.dumps([VERSION, *sizes]), *texts
    return cached(Windows, lambda: make_windows(examples, tokenizer, *sizes, progress), parts, folder)


def cached(
    kind: type[Stored], make: Callable[[], Stored], parts: Iterable[bytes | str], folder: str | Path | None = None
) -> Stored:
    """The result of `make`, or its earlier result for the same `parts`.

    Args:
        kind: of the result: a dataclass of numpy arrays, Ragged rows of them, and whole numbers.
        parts: everything that the result depends on, but for the code.
        folder: of the cache; by default in torch's hub folder.
    When a cache file is damaged, or cannot be read or written, the result is made again and nothing else happens.
    """
    name = f"squad_{kind.__name__.lower()}"
    path = Path(folder or Path(torch.hub.get_dir()) / name) / f"{_hash(*parts)}.npz"
    try:
        return _read(kind, path)
    except UNREADABLE:
        result = make()
    _write(path, result)
    return result


def fingerprint(examples: Sequence[Example], windows: Windows) -> str:
    """A sha256 of the questions' ids and of their windows: equal for equal data, whatever the file is called."""
    parts = [example.id for example in examples]
    for name, array in sorted(_to_arrays(windows).items()):
        parts += [f"{name} {array.dtype} {array.shape}", array.tobytes()]
    return _hash(*parts)


def _write(path: Path, result: Stored) -> None:
    """Does nothing when the disk is full or the folder cannot be written."""
    part = path.with_suffix(f".{os.getpid()}.part")  # renamed when complete, so that no reader sees half of it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, **_to_arrays(result))
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()


def _read(kind: type[Stored], path: Path) -> Stored:
    """Raises one of UNREADABLE when the file is not exactly what was written."""
    with path.open("rb") as file:  # given a name, numpy leaves the file open when it is damaged
        stored = np.load(file, allow_pickle=False)
        arrays = {name: stored[name] for name in stored.files}
    fields = {}
    for field in dataclasses.fields(kind):
        if field.type is Ragged:
            fields[field.name] = Ragged(arrays[f"{field.name}.values"], arrays[f"{field.name}.row_splits"])
        else:
            fields[field.name] = int(arrays[field.name]) if field.type is int else arrays[field.name]
    return kind(**fields)


def _to_arrays(result: Stored) -> dict[str, np.ndarray]:
    """The fields by name, numbers as arrays without axes."""
    arrays = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if field.type is Ragged:
            arrays |= {f"{field.name}.values": value.values, f"{field.name}.row_splits": value.row_splits}
        else:
            arrays[field.name] = np.asarray(value)
    return arrays


def _hash(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
