"""How far float32, bfloat16 and float16 are from float64, in logits and in answers.

    python bench/precision.py                       on data/dev.json.gz with the shipped adapter
    python bench/precision.py --dev dev-v2.0.json.gz --model runs/NAME

Differences are between the logits of the first --windows windows, over [CLS] and the context. EM and F1 are at the
model's own threshold, so that no precision is judged at a threshold tuned to it.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
import squad  # noqa: E402
from minibert import qa  # noqa: E402
from minirun import prepare_frozen  # noqa: E402

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIZES = {"max_length": 384, "window_overlap": 128, "max_question_tokens": 64}


def build(name: str, dtype: torch.dtype, device: torch.device):
    """The model, its adapter merged, and the context in which it is called."""
    model, tokenizer, settings = qa.load_model(name)
    half = dtype in (torch.bfloat16, torch.float16)
    prepare_frozen(model, dtype) if half else model.to(dtype)
    return model.to(device), tokenizer, settings, torch.autocast(device.type, dtype=dtype, enabled=half)


def logits(model, data: squad.Dataset, count: int, device: torch.device) -> torch.Tensor:
    """Both logits of the first `count` windows at [CLS] and the context, in float64, one after another."""
    parts = []
    with torch.inference_mode():
        numbers = np.arange(min(count, len(data.windows)))
        for rows in np.array_split(numbers, max(1, len(numbers) // 8)):
            batch = squad.collate(data.windows, rows).to(device)
            both = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
            parts += [part[batch.span_mask].double().cpu() for part in both]
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", default=str(ROOT / "data" / "dev.json.gz"), help="SQuAD file (data/dev.json.gz)")
    parser.add_argument("--model", default=str(qa.load.SHIPPED), help="a trained model (the shipped adapter)")
    parser.add_argument("--windows", type=int, default=500, help="whose logits are compared (500)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=DTYPES, nargs="*", default=list(DTYPES), help="precisions to score on dev")
    options = parser.parse_args()
    device, truth = torch.device(options.device), None
    print("| | largest difference | mean difference | EM | F1 | seconds |\n| --- | --- | --- | --- | --- | --- |")
    for name, dtype in DTYPES.items():
        model, tokenizer, settings, autocast = build(options.model, dtype, device)
        sizes = tuple(settings.get(key, size) for key, size in SIZES.items())
        data = squad.load_dataset(options.dev, tokenizer, sizes)
        began, most = time.perf_counter(), settings.get("max_answer_tokens", 30)
        with autocast:
            values = logits(model, data, options.windows, device)
            truth = values if truth is None else truth
            gap = (values - truth).abs()
            scores = "not scored | "
            if name in options.only:
                bar = lambda batches, name=name: tqdm(batches, desc=name, leave=False)  # noqa: E731
                predictions = squad.predict(model, data.examples, data.windows, device, most, progress=bar)
                answers = squad.apply_threshold(predictions, settings.get("null_threshold", 0.0))
                metrics = squad.official_metrics(data.examples, answers)
                scores = f"{metrics['exact']:.2f} | {metrics['f1']:.2f}"
        seconds = time.perf_counter() - began
        print(f"| {name} | {gap.max():.1e} | {gap.mean():.1e} | {scores} | {seconds:.0f} |", flush=True)
    print(f"logits are of size {truth.abs().mean():.1f} on average, up to {truth.abs().max():.1f}")


if __name__ == "__main__":
    main()
