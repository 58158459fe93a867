"""A model as model.onnx, for programs without PyTorch: written, then compared with the model itself."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from minibert.model import BertForQuestionAnswering
from minirun import missing_packages

NEEDED = ("onnx", "onnxscript", "onnxruntime")
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
OUTPUTS = ("start_logits", "end_logits")
TOLERANCE = 1e-4  # logits are up to 20, and float32 sums in another order differ by 1e-5 there


def check_onnx() -> None:
    """Raise ValueError when a package that writing or checking needs is missing."""
    if missing := missing_packages(*NEEDED):
        raise ValueError(f"--onnx needs {', '.join(missing)}: pip install -e '.[onnx]'")


def write_onnx(model: BertForQuestionAnswering, path: Path) -> float:
    """Write the graph with its weights in one file: three (B, T) int64 tensors -> two (B, T) float32 tensors.

    B and T are free, T up to the longest sequence of the model; inputs and outputs are called INPUTS and OUTPUTS.
    Returns the largest difference between ONNX Runtime's logits and the model's, over batches of several shapes.
    Raises ValueError when it exceeds TOLERANCE; the file stays where it is then.

    Args: model: in eval mode, in float32 on the CPU, adapters merged.
    """
    longest = model.config.longest_sequence
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=longest)}
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            model, example_inputs(model, 2, min(8, longest)), input_names=INPUTS, output_names=OUTPUTS,
            dynamic_shapes=(sizes, sizes, sizes), dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        program.save(path)
    shapes = [(1, 1), (3, min(7, longest)), (2, longest)]
    difference = max(largest_difference(model, path, example_inputs(model, *shape)) for shape in shapes)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{path}: its logits differ by {difference:.1e} from the model's, expected at most {TOLERANCE}"
        )
    return difference


def example_inputs(model: BertForQuestionAnswering, B: int, T: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """B rows of T random tokens, question and context, with padding in all but the first; the same each time."""
    draw = torch.Generator().manual_seed(T)
    mask = (torch.arange(T) < torch.tensor([max(1, T - 2 * row) for row in range(B)])[:, None]).long()
    ids = torch.randint(5, model.config.vocab_size, (B, T), generator=draw)
    ids = torch.where(mask == 1, ids, model.config.pad_token_id)
    kinds = (torch.arange(T) >= T // 3).long().clamp(max=model.config.type_vocab_size - 1).expand(B, T).contiguous()
    return ids, kinds, mask


def largest_difference(model: BertForQuestionAnswering, path: Path, inputs: tuple[torch.Tensor, ...]) -> float:
    """Between the file's logits and the model's, at real tokens."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(OUTPUTS, {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)})
    with torch.no_grad():
        expected = model(*inputs)
    real = inputs[2].bool().numpy()
    return max(float(np.abs(a - b.numpy())[real].max()) for a, b in zip(found, expected, strict=True))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's notes on packages it did not find and on its own deprecated calls."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
