"""The choice of device and precision."""

from types import SimpleNamespace

import pytest
import torch

import minirun
from minirun import hardware


def test_a_precision_of_another_name_is_an_error():
    with pytest.raises(ValueError, match="precision is 'float32', expected auto, fp32, bf16, fp16"):
        minirun.choose_precision("float32", torch.device("cpu"))


def test_a_device_that_is_not_here_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert minirun.choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'cuda' is not available, this machine has cpu"):
        minirun.choose_device("cuda")
    assert minirun.choose_device(torch.device("cpu")) == torch.device("cpu")


def test_the_number_of_a_gpu_must_exist(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert minirun.choose_device("auto") == torch.device("cuda")
    assert minirun.choose_device("cuda:1") == minirun.choose_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="device 'cuda:2' is not available, this machine has cuda:0, cuda:1, cuda, "):
        minirun.choose_device("cuda:2")


def test_flags_are_read_from_cpuinfo(monkeypatch):
    """Of an x86 processor they stand in lines called flags, of an ARM one in Features."""
    text = "processor\t: 7\nflags\t\t: fpu avx2 avx512_bf16\nbugs\t\t: spectre_v1\n\nFeatures\t: fp asimd bf16\n"
    monkeypatch.setattr(hardware, "Path", lambda _: SimpleNamespace(read_text=lambda: text))
    flags = hardware._cpu_flags()
    assert flags >= {"fpu", "avx2", "avx512_bf16", "fp", "asimd", "bf16"}
    assert not flags & {"7", "spectre_v1"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512f", "avx512_bf16"}, torch.bfloat16),
        ({"amx_bf16"}, torch.bfloat16),
        ({"asimd", "bf16"}, torch.bfloat16),
        ({"avx2", "avx512f"}, torch.float32),
        (set(), torch.float32),
    ],
)
def test_auto_on_a_cpu_is_bf16_only_where_native(monkeypatch, flags, expected):
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
    assert minirun.choose_precision("auto", torch.device("cpu")) == expected
    assert minirun.choose_precision("fp16", torch.device("cpu")) == torch.float16


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16)]
)
def test_auto_on_cuda_is_fp16_before_ampere(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert minirun.choose_precision("auto", torch.device("cuda")) == expected
    assert minirun.choose_precision("fp32", torch.device("cuda")) == torch.float32


def test_only_frozen_weights_are_stored_in_fewer_bits(model):
    model.bert.requires_grad_(False)
    minirun.prepare_frozen(model, torch.bfloat16)
    assert {p.dtype for p in model.bert.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.qa_outputs.parameters()} == {torch.float32}
