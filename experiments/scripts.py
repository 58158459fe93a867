"""Runs of train.py and train_gpt.py: each in a process of its own, resumed where it was stopped, timed, read back."""

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

import minibert
import minigpt
from experiments.common import ROOT
from minibert.weights import checkpoint_shapes as bert_shapes
from minigpt.weights import checkpoint_shapes as gpt_shapes
from minihub import atomic_write, find_model, read_object, write_json
from minirun.hardware import peak_bytes
from squad.dataset import load_examples


def trained(folder: Path, flags: Sequence[str], script: str = "train.py") -> dict:
    """Train with the script in a process of its own, or resume that, or read what an earlier call measured.

    Returns seconds and peak_memory (bytes), over all parts of an interrupted run but those that were killed, and
    `metrics` on the held-out part. Raises ValueError when the script fails.
    """
    path = folder / "cost.json"
    cost = read_object(path) if path.exists() else {"seconds": 0.0, "peak_memory": 0, "done": False}
    if not cost["done"]:
        begun = (folder / "config.json").exists()
        arguments = ["--resume", str(folder)] if begun else [*flags, "--output", str(folder)]
        end = timed([script, *arguments], output_of(folder))
        seconds, memory = cost["seconds"] + end.seconds, max(cost["peak_memory"], end.peak_memory)
        cost = {"seconds": seconds, "peak_memory": memory, "done": end.status == 0}
        if folder.exists() and end.status != 2:  # with 2, another process may be writing there
            with atomic_write(folder) as part:
                write_json(part / path.name, cost)
        check(end, folder, script)
    return {**cost, "metrics": read_object(folder / "metrics.json")}


def scored(folder: Path, dev: str, script: str = "train.py") -> dict:
    """The figures of a trained run on the dev file, at the run's own threshold; scored once, later only read."""
    path = folder / "evaluation" / "metrics.json"
    if not path.exists():
        check(timed([script, "--evaluate", str(folder), "--dev", dev], output_of(folder)), folder, script)
    return read_object(path)


def sizes(run: str | Path) -> tuple[int, int]:
    """How many questions of the two parts this run used: fewer than asked for where its flags or the file say so."""
    options = read_object(Path(run) / "config.json")
    limits = {"train": options["max_train_examples"], "dev": options["max_dev_examples"]}
    fit, held = (load_examples(options[part], limit, options["answerable_only"])[0] for part, limit in limits.items())
    return len(fit), len(held)


def parameters(folder: Path) -> dict[str, float]:
    """Trained parameters of a run and their share of all, counted in the files: what trains is what is saved."""
    options = read_object(folder / "config.json")
    file = "adapter/adapter_model.safetensors" if options["lora_rank"] else "model/model.safetensors"
    with safe_open(folder / file, framework="pt") as file:
        sizes = {key: math.prod(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    base = find_model(options["model"], options["revision"] or None) / "config.json"
    is_gpt = read_object(base).get("model_type") == "gpt2"
    shapes = (
        gpt_shapes(minigpt.GPT2Config.from_json(base)) if is_gpt else bert_shapes(minibert.BertConfig.from_json(base))
    )
    added = sum(size for key, size in sizes.items() if ".lora_" in key)
    total = sum(map(math.prod, shapes.values())) + added
    return {"parameters": sum(sizes.values()), "share": sum(sizes.values()) / total}


class End(NamedTuple):
    """How a script ended: its exit status, time, peak memory in bytes, and whether Ctrl-C came meanwhile."""

    status: int
    seconds: float
    peak_memory: int
    interrupted: bool


def timed(command: list[str], output: Path) -> End:
    """Run a Python script of this repository to its end; its output goes to a file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with output.open("ab") as file:
        arguments = [sys.executable, str(ROOT / command[0]), *command[1:]]
        process = os.posix_spawn(
            sys.executable, arguments, os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, file.fileno(), 2)],
        )  # fmt: skip
    interrupted = False
    try:
        _, status, usage = os.wait4(process, 0)
    except KeyboardInterrupt:  # the script has received it too and is writing its checkpoint
        interrupted = True
        _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - began
    return End(os.waitstatus_to_exitcode(status), seconds, peak_bytes(usage), interrupted)


def output_of(folder: Path) -> Path:
    """The file with the output of train.py about the run in `folder`."""
    return folder.with_name(f"{folder.name}.txt")


def check(end: End, folder: Path, script: str = "train.py") -> None:
    """Raise KeyboardInterrupt when the script was interrupted, ValueError when it failed."""
    if end.interrupted or end.status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if end.status:
        raise ValueError(last_output(end.status, folder, script))


def last_output(status: int, folder: Path, script: str = "train.py") -> str:
    """The last line that a failed script printed about the run in `folder`."""
    output = output_of(folder)
    last = output.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().splitlines()[-1:]
    return f"{script} ended with status {status}: {''.join(last)[-500:]}; all of its output is in {output}"
