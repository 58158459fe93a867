"""Atomic writes, JSON objects of limited size, and one writer per folder."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

# Bytes. Settings have a few hundred, a large tokenizer or weight index a few million.
LARGEST_JSON = 64 * 2**20


JSON_TYPES = {
    dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a whole number", float: "a number",
    type(None): "null",
}  # fmt: skip


class CheckpointError(ValueError):
    """A model's files (config, weights, tokenizer or training checkpoint) cannot be used; the message says why."""


def json_type(value: object) -> str:
    """What a value is, in JSON's words where it has one: "a list", "text"."""
    return JSON_TYPES.get(type(value), f"a Python {type(value).__name__}")


def is_number(value: object) -> bool:
    """Whether a JSON value is a number within the range of a float: not a bool, NaN or infinity.

    math.isfinite would raise OverflowError for a whole number of 400 digits.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def read_text(name: str) -> str:
    """The text of this file, or of standard input for "-", without a byte order mark.

    Raises ValueError when it is not UTF-8.
    """
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 text (byte {error.start}), convert it first") from error


def parse_object(raw: bytes | str, where: str, error: type[ValueError] = ValueError) -> dict:
    """Parse JSON that must be an object. Bytes may begin with a byte order mark.

    Args: where: what the message of an error begins with, such as the file's name. error: the class to raise.
    Raises `error` when `raw` is not JSON, is nested too deeply for Python's parser, or is not an object.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as reason:
        raise error(f"{where}: not readable as JSON ({reason})") from reason
    if not isinstance(content, dict):
        raise error(f"{where}: found {json_type(content)}, expected an object")
    return content


def read_object(path: str | Path, error: type[ValueError] = ValueError, largest: int = LARGEST_JSON) -> dict:
    """Read a JSON file that must hold an object.

    Raises `error`, naming the file, when it cannot be read, has more than `largest` bytes, or `parse_object` fails.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > largest:
            raise error(f"{path}: {size:,} bytes, expected JSON of at most {largest:,}")
        raw = path.read_bytes()
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror})") from reason
    return parse_object(raw, str(path), error)


def write_json(path: Path, content: dict | list) -> None:
    """Write JSON for people to read: two blanks a level, letters of every language as they are."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # A path that is not UTF-8 holds half surrogate pairs; their backslash form is their JSON form too.
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextlib.contextmanager
def atomic_write(folder: str | Path, name: str = ".part") -> Iterator[Path]:
    """Yield an empty temporary folder; when the block ends without an error, move its files into `folder`.

    Every file is flushed to the disk (fsync) and then renamed, so that whatever happens, each name in `folder` holds
    either all of the old content or all of the new. After an error nothing in `folder` has changed. The folder is
    created if needed.

    Args: name: of the temporary folder in `folder`, emptied first, as a killed process may have left one; another name
        lets a second process write into the same folder at the same time.
    Raises OSError when the disk is full or the folder cannot be written; errors of safetensors become OSErrors too.
    """
    folder = Path(folder)
    part, created = folder / name, not folder.exists()
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        files = sorted(part.iterdir())
        for file in files:
            file.chmod(part.stat().st_mode & 0o666)  # safetensors creates files that only their owner may read
            _flush(file)
        for file in files:
            os.replace(file, folder / file.name)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{folder}: cannot be written ({reason}); the files written before are unchanged") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):  # fails, as it should, when the folder now holds the new files
                folder.rmdir()


def _flush(path: Path) -> None:
    """Wait until the disk has it: a rename alone survives a killed process, but not a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Create the folder and lock it against other processes. The system releases the lock when the process ends.

    Raises ValueError when another process holds the lock. Does nothing on systems without flock (Windows).
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
