"""Two processes over gloo: the same gradients, figures and files as one, whatever happens on the way."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from helpers import checkpoint_of, flags, gradients_of_step, make_run, options_of, read, read_log, sigterm_at
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import minirun
import squad
import train

RECIPE = ("--epochs", "3", "--learning-rate", "0.001")
SCRIPT = Path(__file__).parent / "parallel_script.py"


def torchrun(*arguments, what="plain", at=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(SCRIPT), what, str(at), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """A finished run of one process. Its rate is low: AdamW makes a step of any gradient, rounding errors included."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    assert train.main(flags(tiny, folder, *RECIPE)) == 0
    return folder


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def assert_same_run(folder, other):
    """The two sum their gradients in another order, so adapters agree to rounding, and figures then exactly."""
    ours, theirs = adapter(folder), adapter(other)
    assert ours.keys() == theirs.keys()
    # softmax does not see the head's bias: its gradient is rounding error, of which AdamW makes steps like any other
    for key in ours.keys() - {"base_model.model.qa_outputs.bias"}:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)
    assert read(folder / "predictions.json") == read(other / "predictions.json")
    a, b = (read(path / "metrics.json") for path in (folder, other))
    assert {k: v for k, v in a.items() if k.startswith(("exact", "f1", "HasAns", "NoAns", "total"))} == {
        k: v for k, v in b.items() if k.startswith(("exact", "f1", "HasAns", "NoAns", "total"))
    }


# ------------------------------------------------------------------------------------ shares of the work


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 7))
def test_shares_hold_everything_once_and_are_even(lengths, count):
    lengths = np.array(lengths, np.int64)
    shares = squad.shard_by_tokens(lengths, count)
    assert len(shares) == count
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    tokens = [int(lengths[share].sum()) for share in shares]
    assert max(tokens) - min(tokens) <= lengths.max(initial=0)


def test_shares_of_like_lengths():
    assert [s.tolist() for s in squad.shard_by_tokens(np.array([9, 8, 8, 9]), 2)] == [[0, 1], [2, 3]]


def test_the_random_numbers_of_a_step_are_drawn_by_its_process(tiny, tmp_path, monkeypatch):
    asked, step_seed = [], minirun.step_seed

    @contextlib.contextmanager
    def sixth(device):
        yield minirun.Processes(rank=5), device

    def stops_in_the_third(*_):
        if len(asked) == 3:
            raise KeyboardInterrupt
        return torch.ones(()), torch.ones(())

    monkeypatch.setattr(minirun, "join_processes", sixth)
    monkeypatch.setattr(minirun, "step_seed", lambda *args: asked.append(args) or step_seed(*args))
    monkeypatch.setattr(train, "training_step", stops_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        train.main(flags(tiny, tmp_path / "run", "--seed", "4"))
    assert asked == [(4, step, 5) for step in range(3)]


# ------------------------------------------------------------------------------------ one step

# windows in the step, --batch-size, --gradient-accumulation-steps: shares of 4 + 3; two passes; a process without any
STEPS = [(7, 8, 1), (7, 3, 3), (1, 4, 1)]


def gradients_in_a_process(rank, port, tiny, folder):
    """One of two processes: the gradients of each of STEPS, saved."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with minirun.join_processes(torch.device("cpu")) as (processes, _):
        for number, (size, *sizes) in enumerate(STEPS):
            sent = []
            seen, (loss, norm) = one_step(tiny, folder, size, *sizes, processes, sent)
            results = {
                "loss": processes.sum(torch.tensor(loss)),
                "norm": torch.tensor(norm),
                "sent": torch.tensor(sent),
            }
            save_file(seen | results, folder / f"{number}-{rank}.safetensors")


def one_step(tiny, folder, size, batch_size, accumulate, processes, sent=None):
    """The gradients and the result of a step; `sent` gets the number of values of each message to the others."""
    sizes = ("--batch-size", str(batch_size), "--gradient-accumulation-steps", str(accumulate))
    run = make_run(options_of(flags(tiny, folder, *sizes)), processes=processes)
    model = processes.wrap(run.model)

    def counted(group, bucket):
        sent.append(bucket.buffer().numel())
        return allreduce_hook(group, bucket)

    if sent is not None:
        model.register_comm_hook(None, counted)
    return gradients_of_step(run, np.arange(size), model)


def test_gradients_equal_those_of_one_process(tiny, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gradients_in_a_process, (port, tiny, tmp_path), nprocs=2)
    for number, (size, *sizes) in enumerate(STEPS):
        expected, (loss, norm) = one_step(tiny, tmp_path, size, *sizes, minirun.Processes())
        for rank in range(2):
            got = load_file(tmp_path / f"{number}-{rank}.safetensors")
            # one message a step, however many passes, with the gradients of what trains and nothing else
            assert got.pop("sent").tolist() == [sum(gradient.numel() for gradient in expected.values())]
            assert float(got.pop("loss")) == pytest.approx(loss, rel=1e-5)
            assert float(got.pop("norm")) == pytest.approx(norm, rel=1e-4)
            assert got.keys() == expected.keys()
            for name, gradient in got.items():
                torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------ whole runs


def test_two_processes_end_where_one_does(alone, tiny, tmp_path):
    arguments = flags(tiny, tmp_path / "two", *RECIPE)
    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes") == 1  # one of them talks
    assert done.stdout.count("cross-fitted threshold") == 1
    assert done.stdout.count("gloo's threads left: 0") == 2  # a thread that outlives its group can abort the process
    assert_same_run(tmp_path / "two", alone)
    lines = [read_log(folder) for folder in (tmp_path / "two", alone)]
    steps = [[(x["step"], x["epoch"]) for x in log] for log in lines]
    assert steps[0] == steps[1]
    losses = [[x["loss"] for x in log if "loss" in x] for log in lines]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_from_one_process_to_two_and_back(alone, tiny, tmp_path):
    cut = tmp_path / "cut"
    with sigterm_at(4):
        assert train.main(flags(tiny, cut, *RECIPE)) == 143
    # the signal reaches one process; both stop after the same step, 3 further on
    done = torchrun("--resume", str(cut), what="signal", at=3)
    assert done.returncode != 0
    assert f"continue with: python train.py --resume {cut}" in done.stderr
    assert checkpoint_of(cut)["step"] == 7
    assert train.main(["--resume", str(cut)]) == 0
    assert_same_run(cut, alone)


def test_a_process_that_fails_ends_the_job_and_says_why(tiny, tmp_path):
    done = torchrun(*flags(tiny, tmp_path / "run", "--epochs", "1000"), what="fail", at=3)
    assert done.returncode != 0
    assert "(process 1): the disk of this machine is gone" in done.stderr


ENDS_WHILE_GLOO_WAITS_FOR_PYTHON = """
import gc, importlib, sys, time
import torch
import torch.distributed as dist
import minirun
importlib.import_module("torch.distributed.nn.functional")  # as join_processes does
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = minirun.Processes(0, size=2).wrap(torch.nn.Linear(3, 2))
dist.destroy_process_group()
sys.setswitchinterval(100)  # seconds for which this thread keeps Python's lock from the others
model.process_group.allreduce([torch.zeros(7)])
end = time.monotonic() + 0.5
while time.monotonic() < end:  # keep the lock until gloo's thread has sent the tensor and wants to free it
    pass
del model
gc.collect()
"""


def test_a_wrapped_model_is_freed_while_gloo_waits_for_pythons_lock():
    subprocess.run([sys.executable, "-c", ENDS_WHILE_GLOO_WAITS_FOR_PYTHON], check=True, timeout=60)


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ValueError, match="process 1 of this machine has no GPU: start at most 1 processes here"),
        minirun.join_processes(torch.device("cuda")),
    ):
        pass


def test_a_launcher_that_does_not_number_the_processes_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="LOCAL_RANK is not: start the processes with torchrun"):
        minirun.join_processes(torch.device("cuda")).__enter__()
