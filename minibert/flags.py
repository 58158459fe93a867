"""What the scripts' command lines share: flags made from a dataclass, and how a user's mistake is told."""

import argparse
import dataclasses
import sys
import traceback
import typing
from collections.abc import Callable
from pathlib import Path


def option(default, help: str, **more):
    """A dataclass field: its default, the text that --help shows, and `choices` if there are few."""
    return dataclasses.field(default=default, metadata={"help": help, **more})


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

    A ValueError or OSError is the user's to mend: one line and status 2, after its traceback with --debug.
    """
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
