"""Files that are whole or not there, JSON that anyone may have written, and one writer to a folder."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

LARGEST_JSON = 64 * 2**20  # bytes; a settings file has a few hundred, a large tokenizer's or index's a few million


def read_json(path: str | Path):
    """What a JSON file holds, a byte order mark or not.

    Raises OSError when it cannot be read; ValueError, naming the file, when it is no JSON, nested too deeply to be
    read or too large for a file of settings.
    """
    path = Path(path)
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{path}: {size:,} bytes, expected settings of at most {LARGEST_JSON:,}")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error


def write_json(path: Path, content: dict | list) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def whole_files(folder: str | Path) -> Iterator[Path]:
    """An empty folder to write files into; when the block ends without an error they appear in `folder`, each whole.

    They are written into a folder in it, brought to the disk and renamed one by one, so whatever happens, a name holds
    all of the old file or all of the new one. After an error before the renaming nothing has changed. `folder` is made
    where it is not.
    Raises OSError when the disk is full or the folder cannot be written, safetensors' own words included.
    """
    folder = Path(folder)
    part, made = folder / ".part", not folder.exists()
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        files = sorted(part.iterdir())
        for file in files:
            file.chmod(part.stat().st_mode & 0o666)  # safetensors makes files that only their owner may read
            _to_disk(file)
        for file in files:
            os.replace(file, folder / file.name)
        _to_disk(folder)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{folder}: cannot be written ({reason}); what was there before is as it was") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it holds what was written
                folder.rmdir()


def _to_disk(path: Path) -> None:
    """Return when the disk has it: a rename alone survives a kill, not a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Make the folder and keep others who ask for it out; the lock ends with the process, however that ends.

    Raises ValueError when another process has it. Does nothing where there is no flock (Windows).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"{folder}: another process is writing a run here; choose another --output") from None
    try:
        yield
    finally:
        os.close(handle)
