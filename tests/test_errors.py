"""docs/errors.md, row by row: what is wrong is said in one line, at once, and nothing is left behind."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from helpers import ROOT, flags
from mistakes import ASK, CASES

import train
from minibert.qa.__main__ import main as ask
from minirun.flags import check_values, run_command
from minirun.hardware import peak_bytes
from train import Options

TABLE = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
ROWS = {wrong: said for wrong, said in TABLE if said not in ("said", "---")}


@pytest.fixture
def here(tiny, run, tmp_path, monkeypatch):
    """A working directory with a model, data, a run and its adapter, all of them good."""
    shutil.copytree(tiny, tmp_path / "model")
    shutil.copy(tiny / "squad.json", tmp_path / "data.json")
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    (tmp_path / "text.txt").write_text("vin is a mistborn")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_row_has_a_case_and_every_case_a_row():
    assert ROWS.keys() == CASES.keys()


@pytest.mark.parametrize("wrong", CASES)
def test_row(wrong, here, monkeypatch):
    make, what = CASES[wrong] if isinstance(CASES[wrong], tuple) else (CASES[wrong], [])
    make(here, monkeypatch)
    before = set(here.rglob("*"))
    with pytest.raises((ValueError, OSError)) as error:
        if what == ASK:
            ask(["--model", "adapter", "--context", "text.txt", "--question", "who is vin"])
        elif {"--resume", "--evaluate"} & set(what):
            train.main(what)
        else:
            data = ("--train", "data.json", "--dev", "data.json")
            train.main([*flags(Path("model"), "out"), *data, *what])
    said = " ".join(str(error.value).split())
    pattern = ".*".join(re.escape(part) for part in ROWS[wrong].split("..."))
    assert re.fullmatch(pattern, said), said
    assert set(here.rglob("*")) == before


# --------------------------------------------------------------------------------------------- the rest


def test_a_byte_order_mark_is_allowed(here):
    for name in ("data.json", "model/config.json"):
        (here / name).write_bytes(b"\xef\xbb\xbf" + (here / name).read_bytes())
    data = ("--train", "data.json", "--dev", "data.json")
    assert train.main([*flags(Path("model"), "out"), *data, "--epochs", "1"]) == 0


def beyond(limits, kind):
    """Values just outside the limits of an option, and values at them."""
    step = 1 if kind is int else 1e-9
    outside, at = [], []
    for name, sign, itself in (("least", -1, True), ("most", 1, True), ("above", 0, False), ("below", 0, False)):
        if name in limits:
            outside.append(limits[name] + sign * step)
            at += [limits[name]] if itself else []
    return outside, at


@pytest.mark.parametrize(
    "field", [f for f in dataclasses.fields(Options) if f.type in (int, float)], ids=lambda f: f.name
)
def test_every_number_has_limits_that_are_kept(field):
    outside, at = beyond(field.metadata, field.type)
    assert outside, "an option without limits"
    flag = "--" + field.name.replace("_", "-")
    for value in (*outside, *([float("nan"), float("inf")] if field.type is float else [])):
        with pytest.raises(ValueError, match=f"^{flag} is .*, expected (at least|at most|a number above|below) "):
            Options(**{field.name: value})
    for value in at:
        check_values(Options(**{field.name: value}))


SIZES = ("--max-length", "64", "--max-question-tokens", "9", "--window-overlap", "9")
COMMANDS = {
    "train.py": (str(ROOT / "train.py"), "--model", "model", "--dev", "nowhere.json", *SIZES),
    "minibert": ("-m", "minibert.qa", "--model", "adapter", "--context", "nowhere.txt", "--question", "?"),
    "squad.audit": ("-m", "squad.audit", "nowhere.json"),
    "squad.report": ("-m", "squad.report", "nowhere"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_debug_shows_the_traceback_and_nothing_else_does(name, here):
    command = [sys.executable, *COMMANDS[name]]
    places = {**os.environ, "PYTHONPATH": str(ROOT)}
    plain = subprocess.run(command, capture_output=True, text=True, env=places)
    shown = subprocess.run([*command, "--debug"], capture_output=True, text=True, env=places)
    assert (plain.returncode, shown.returncode) == (2, 2)
    [line] = plain.stderr.splitlines()
    assert line.startswith(f"{name}: ")
    assert "nowhere" in line
    assert "Traceback (most recent call last)" in shown.stderr
    assert shown.stderr.splitlines()[-1] == line


def test_a_message_from_anywhere_is_one_short_line_without_control_characters():
    code = "import minirun\ndef main(): raise ValueError('a\\x1b[2J\\nb' + 'c' * 10**6)\nminirun.run_command(main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("-c: a [2J bccc")
    assert len(line) < 1600


def said_of(error, capsys):
    """The one line that a command prints when its main() raises this."""

    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main, "minibert")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("[enforce] can't allocate memory: 9 bytes")],
)
def test_a_lack_of_memory_anywhere_is_one_line(error, capsys):
    line = said_of(error, capsys)
    assert line.startswith("minibert: out of memory on this machine: lower --batch-size or --max-length")


def test_another_error_of_pytorch_is_not_taken_for_a_lack_of_memory():
    def main():
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match=r"^another$"):
        run_command(main, "minibert")


def test_a_compiler_that_is_missing_is_one_line(capsys):
    from torch._inductor.exc import InvalidCxxCompiler

    line = said_of(InvalidCxxCompiler(), capsys)
    assert line.startswith("minibert: torch.compile failed: No working C++ compiler found in")
    assert line.endswith("; leave out --compile, or install what it needs: a C++ compiler, and Triton for a GPU")


def test_peak_memory_is_in_bytes_everywhere(monkeypatch):
    """A process that holds 100 MB has a peak of at least that, and of less than 100 times as much."""
    code = "import resource, sys; from minirun.hardware import peak_bytes; kept = b'x' * 10**8; "
    code += "print(peak_bytes(resource.getrusage(resource.RUSAGE_SELF)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 10**8 < int(done.stdout) < 10**10
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_bytes(types.SimpleNamespace(ru_maxrss=123)) == 123
