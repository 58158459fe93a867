"""Command-line flags made from the fields of a dataclass, so that each knob is written down once."""

import argparse
import dataclasses
import typing


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
