"""Command lines: flags made from a dataclass, progress bars, and a user's mistake as one line."""

import argparse
import dataclasses
import importlib.util
import operator
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from minihub import is_number
from minirun.hardware import explain_compiler_errors, explain_out_of_memory

RANGE = {
    "least": (operator.ge, "at least"), "most": (operator.le, "at most"), "above": (operator.gt, "a number above"),
    "below": (operator.lt, "below"),
}  # fmt: skip
LONGEST_MESSAGE = 1500  # characters; a library's error may hold a whole file


def option(default, help: str, **limits):
    """A dataclass field that `add_flags` turns into a flag.

    Args:
        default, help: its default value, and the text that --help shows.
        limits: `choices`, the allowed values; `least`, `most` (inclusive), `above`, `below` (exclusive), the range of a
            number; `pattern`, a regular expression for a text, with `expected`, how an error describes it;
            `fixed=True` for an option that a resumed run must not change; `of`, the name of another option, for one
            whose value in an earlier run says nothing once that other one has changed.
    """
    return dataclasses.field(default=default, metadata={"help": help, **limits})


def flag_name(field: str) -> str:
    return "--" + field.replace("_", "-")


def check_values(options) -> None:
    """Raise ValueError when a field of this dataclass, made with `option`, has a value outside its limits."""
    for field in dataclasses.fields(options):
        value, limits, flag = getattr(options, field.name), field.metadata, flag_name(field.name)
        if "choices" in limits and value not in limits["choices"]:
            raise ValueError(f"{flag} is {value[:60]!r}, expected one of {', '.join(limits['choices'])}")
        if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
            raise ValueError(f"{flag} is {value[:60]!r}, expected {limits['expected']}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_range(flag, value, limits)


def _check_range(flag: str, value: float, limits: typing.Mapping) -> None:
    given = [(holds, words, limits[name]) for name, (holds, words) in RANGE.items() if name in limits]
    if not is_number(value) or not all(holds(value, limit) for holds, _, limit in given):
        expected = " and ".join(f"{words} {limit}" for _, words, limit in given)
        raise ValueError(f"{flag} is {value}, expected {expected or 'a finite number'}")


def add_flags(parser: argparse.ArgumentParser, options: type) -> None:
    """Add one flag per field of the dataclass `options`; fields are bool, int, float or str and made with `option`.

    A bool becomes --flag and --no-flag: argparse's `type=bool` would take the word "False" for true. Inherited fields
    come last.
    """
    types = typing.get_type_hints(options)
    own = options.__annotations__
    for field in sorted(dataclasses.fields(options), key=lambda field: field.name not in own):
        kind = types[field.name]
        settings = {"default": field.default, "help": field.metadata["help"]}
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"type": kind, "metavar": {int: "N", float: "X", str: "NAME"}[kind]}
            settings["help"] += f" ({field.default})" if field.default != "" else ""
        if "choices" in field.metadata:
            settings |= {"choices": field.metadata["choices"], "metavar": None}
        parser.add_argument(flag_name(field.name), **settings)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ValueError instead of exiting, takes no abbreviations, and knows --debug."""

    def __init__(self, **settings):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(f"{message} (--help lists the options)")


def progress_bar(description: str, unit: str = "batch", shown: bool = True) -> Callable[[Iterable], Iterable]:
    """A function that wraps an iterable in a progress bar; the bar appears after two seconds."""
    return lambda items: tqdm(items, desc=description, unit=unit, delay=2, leave=False, disable=not shown)


def run_command(main: Callable[[], int], name: str | None = None) -> typing.NoReturn:
    """Run a script's main() and exit with the status that it returns.

    ValueError, OSError and MemoryError are mistakes that the user can correct: they print one line to stderr, after
    the traceback if --debug was given, and exit with status 2.

    Args: name: how the line begins; the script's file name by default.
    """
    try:
        smaller = "lower --batch-size or --max-length where the command has them"
        with explain_out_of_memory("this machine", smaller), explain_compiler_errors():
            status = main()
        sys.exit(status)
    except (ValueError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        name, rank = name or Path(sys.argv[0]).name, os.environ.get("RANK")  # set by torchrun
        prefix = name if rank is None else f"{name} (process {rank})"
        message = "".join(c if c.isprintable() else " " for c in _words(error))
        message = " ".join(message.split())
        shortened = message[:LONGEST_MESSAGE] + " ..." * (len(message) > LONGEST_MESSAGE)
        print(f"{prefix}: {shortened}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _words(error: Exception) -> str:
    """The error's message; the system's, "[Errno 2] No such file or directory: 'x'", the way round of all others."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def missing_packages(*names: str) -> list[str]:
    """Those of these packages that are not installed; nothing is imported."""
    specs = {name: importlib.util.find_spec(name) for name in names}
    # without an origin it is only a folder of that name
    return [name for name, spec in specs.items() if spec is None or spec.origin is None]
