"""What the scripts' command lines share: flags made from a dataclass, its JSON, and how a user's mistake is told."""

import argparse
import dataclasses
import math
import os
import sys
import traceback
import typing
from collections.abc import Callable
from pathlib import Path

from minibert.files import read_json


def option(default, help: str, **more):
    """A dataclass field: its default, the text that --help shows, `choices` if there are few, or the range of a number.

    A range is any of `least`, `most` (themselves allowed), `above` and `below` (themselves not).
    """
    return dataclasses.field(default=default, metadata={"help": help, **more})


def check_values(options) -> None:
    """Raises ValueError when a field of this dataclass, made with `option`, is no choice or outside its range."""
    for field in dataclasses.fields(options):
        value, limits = getattr(options, field.name), field.metadata
        flag = "--" + field.name.replace("_", "-")
        if "choices" in limits and value not in limits["choices"]:
            raise ValueError(f"{flag} is {value[:60]!r}, expected one of {', '.join(limits['choices'])}")
        if not isinstance(value, int | float):
            continue
        holds = math.isfinite(value) and limits.get("least", -math.inf) <= value <= limits.get("most", math.inf)
        if not (holds and limits.get("above", -math.inf) < value < limits.get("below", math.inf)):
            names = {"least": "at least", "most": "at most", "above": "a number above", "below": "below"}
            expected = " and ".join(f"{text} {limits[name]}" for name, text in names.items() if name in limits)
            raise ValueError(f"{flag} is {value}, expected {expected or 'a finite number'}")


def saved_options(path: Path, options: type) -> dict:
    """What `write_json` kept of a dataclass `options`, each value of its field's type.

    Raises ValueError when the file is none, or has other fields or values.
    """
    try:
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"a JSON {type(values).__name__}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a run's options ({error}), expected the --output of a run") from error
    types = typing.get_type_hints(options)
    if unknown := values.keys() - {field.name for field in dataclasses.fields(options)}:
        raise ValueError(f"{path}: {', '.join(sorted(unknown))[:200]} are no options of this version")
    for name, value in values.items():
        if type(value) is not types[name] and not (types[name] is float and type(value) is int):
            raise ValueError(f"{path}: {name} is {str(value)[:60]!r}, expected {types[name].__name__}")
    return values


def add_flags(parser: argparse.ArgumentParser, options: type) -> None:
    """Give `parser` one flag for each field of the dataclass `options`, made with `option`; bool, int, float or str.

    A bool becomes --flag and --no-flag: `type=bool` would take the word "False" for true.
    """
    types = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind = types[field.name]
        settings = {"default": field.default, "help": field.metadata["help"]}
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"type": kind, "metavar": {int: "N", float: "X", str: "NAME"}[kind]}
            settings["help"] += f" ({field.default})" if field.default != "" else ""
        if "choices" in field.metadata:
            settings |= {"choices": field.metadata["choices"], "metavar": None}
        parser.add_argument("--" + field.name.replace("_", "-"), **settings)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are ValueErrors, so that they end like any other mistake; no abbreviations."""

    def __init__(self, **settings):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(f"{message} (--help lists the options)")


def run_command(main: Callable[[], int]) -> typing.NoReturn:
    """Run a script's main() and exit with what it returns.

    A ValueError or OSError is the user's to mend, and so is too little memory: one line and status 2, after its
    traceback with --debug.
    """
    try:
        sys.exit(main())
    except (ValueError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        name, rank = Path(sys.argv[0]).name, os.environ.get("RANK")  # torchrun's number of this process
        who = name if rank is None else f"{name} (process {rank})"
        said = "".join(c if c.isprintable() else " " for c in str(error) or type(error).__name__)
        said = " ".join(said.split())
        print(f"{who}: {said if len(said) <= 1500 else said[:1500] + ' ...'}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
