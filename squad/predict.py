"""A model and windows -> predictions."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from squad.batches import collate, evaluation_batches
from squad.examples import Example
from squad.spans import N_BEST, Predictions, WindowPredictions, best_spans, decode
from squad.windows import Windows


def predict(
    model: Callable,
    examples: Sequence[Example],
    windows: Windows,
    device: torch.device | str = "cpu",
    max_answer_tokens: int = 30,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Predictions:
    """`predict_windows` on all windows, and `decode`."""
    everything = np.arange(len(windows))
    found = predict_windows(model, windows, everything, device, max_answer_tokens, progress)
    return decode(examples, windows, found)


@torch.inference_mode()
def predict_windows(
    model: Callable,
    windows: Windows,
    window_ids: np.ndarray,
    device: torch.device | str = "cpu",
    max_answer_tokens: int = 30,
    progress: Callable[[Iterable], Iterable] = iter,
    loss: Callable | None = None,
) -> WindowPredictions:
    """Run `model(input_ids, token_type_ids, attention_mask)` over these windows and find the best spans of each.

    The caller puts the model in eval mode and enables autocast if wanted.

    Args: progress: wraps the loop over batches (tqdm, say). loss: `span_loss`, for windows with labels.
    Returns one row per window, in the order of window_ids. Raises ValueError when scores are NaN or infinite.
    """
    W, n, device = len(window_ids), N_BEST, torch.device(device)
    found = WindowPredictions(
        scores=np.full((W, n), -np.inf, np.float32),
        start_index=np.zeros((W, n), np.int64),
        end_index=np.zeros((W, n), np.int64),
        null_score=np.zeros(W, np.float32),
        loss=np.zeros(W, np.float32),
    )
    for at in progress(evaluation_batches(windows.lengths[window_ids], tokens_per_batch(device))):
        batch = collate(windows, window_ids[at]).to(device)
        logits = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
        spans = best_spans(*logits, batch.span_mask, max_answer_tokens, n)
        scores, start_index, end_index, null_score = (tensor.cpu().numpy() for tensor in spans)
        k = scores.shape[1]  # less than n where a window has fewer spans
        found.scores[at, :k], found.start_index[at, :k], found.end_index[at, :k] = scores, start_index, end_index
        found.null_score[at] = null_score
        if loss:
            found.loss[at] = loss(*logits, *batch.labels, reduction="none").cpu().numpy()
    finite = np.isfinite(found.null_score) & (found.scores < np.inf).all(1)  # -inf: a window with fewer spans; not NaN
    if wrong := int((~finite).sum()):
        raise ValueError(
            f"the model's scores are not finite in {wrong} of {W} windows: its weights are broken, or the precision is "
            "too narrow for it (fp32 is the widest)"
        )
    return found


def tokens_per_batch(device: torch.device) -> int:
    """Tokens per forward pass: on a CPU what its caches hold (docs/log.md), else enough to keep the device busy."""
    return 1600 if device.type == "cpu" else 32_768
