"""The self-check holds here, and notices when something is wrong."""

import re

import pytest
import selfcheck
import torch

import lora
import squad


def test_all_proofs_hold(capsys, has_minilm):
    assert selfcheck.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * 8
    assert lines[-1].startswith("8 of 8 hold;")


BREAKAGES = {
    "encoder_like_transformers": ("torch.nn.functional.gelu", torch.relu),
    "adapter_like_peft": ("lora.adapter._alpha", lambda *_: 1.0),
    "merged_is_unmerged": ("lora.linear.LoRALinear.delta", lambda self: 2 * self.scale * (self.lora_B @ self.lora_A)),
    "adapter_starts_as_base": ("torch.nn.init.zeros_", lambda t: t.data.fill_(1e-3)),
    "metrics_like_the_official_script": ("squad.scoring.ENGLISH_ARTICLES", re.compile("nothing")),
    "aligner_loses_little": (
        "squad.audit.alignment.token_to_char_span",
        lambda offsets, first, last: (int(offsets[first, 0]), 9999),
    ),
    "resumed_is_uninterrupted": ("minirun.step_seed", lambda *_: torch.seed()),
}


@pytest.mark.parametrize("proof", BREAKAGES)
def test_what_is_broken_fails(proof, monkeypatch, has_minilm):
    where, instead = BREAKAGES[proof]
    monkeypatch.setattr(where, instead)
    holds, _ = getattr(selfcheck, proof)()
    assert not holds


def test_a_wrong_gradient_fails(monkeypatch):
    backward = lora.linear._LoRALinear.backward
    monkeypatch.setattr(lora.linear._LoRALinear, "backward", staticmethod(lambda ctx, dh: backward(ctx, 1.001 * dh)))
    holds, _ = selfcheck.gradient_like_finite_differences()
    assert not holds


def test_an_error_is_a_failure_and_said(monkeypatch, capsys):
    def missing(*_):
        raise squad.DataError("data/dev.json.gz: no such file")

    monkeypatch.setattr(selfcheck, "PROOFS", {"metrics": missing})
    assert selfcheck.main() == 1
    assert capsys.readouterr().out.startswith("  FAILED  metrics")


def test_a_proof_that_is_left_out_does_not_count_as_one_that_holds(monkeypatch, capsys):
    monkeypatch.setattr(selfcheck, "PROOFS", {"alignment": lambda: (None, "needs MiniLM")})
    assert selfcheck.main() == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 of 1 hold, 1 left out;")
