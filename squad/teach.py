"""Distillation: what trained models say about a window, to be learned beside its labels.

    soft loss = t^2 CE(p, q),  p = mean over the models of softmax(their scores / t),  q = softmax(scores / t)

(Hinton et al. 2015, arXiv 1503.02531, section 2). CE(p, q) = -sum p log q is the cross entropy. At the temperature
t = 2 a model's second choices count as well, and t^2 keeps the gradients as large as those of the labels. p is computed
once, before the first step.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from squad.batches import collate, evaluation_batches
from squad.predict import tokens_per_batch
from squad.windows import Windows

TEMPERATURE = 2.0


@dataclass(frozen=True)
class SoftTargets:
    """For each token of W windows how probable it is as the start, and as the end, of the answer."""

    probabilities: np.ndarray  # (2, tokens of all windows) float16
    begin: np.ndarray  # (W + 1,) where each window's tokens begin

    def of(self, window_ids: np.ndarray, T: int) -> Tensor:
        """Those of B windows padded to T tokens: (2, B, T) float32, 0 in the padding."""
        found = np.zeros((2, len(window_ids), T), np.float32)
        for row, w in enumerate(window_ids):
            own = self.probabilities[:, self.begin[w] : self.begin[w + 1]]
            found[:, row, : own.shape[1]] = own
        return torch.from_numpy(found)

    def beside(
        self, loss: Tensor, start_logits: Tensor, end_logits: Tensor, window_ids: np.ndarray, span_mask: Tensor
    ) -> Tensor:
        """The mean of `loss`, that of the labels of these windows, and of the soft loss; a scalar."""
        p = self.of(window_ids, span_mask.size(1))
        p = (p.pin_memory() if loss.is_cuda else p).to(loss.device, non_blocking=True)  # see Batch.to
        return (loss + soft_loss(start_logits, end_logits, p, span_mask)) / 2


@torch.inference_mode()
def soft_targets(
    models: Sequence[Callable],
    windows: Windows,
    device: torch.device | str = "cpu",
    progress: Callable[[Iterable], Iterable] = iter,
) -> SoftTargets:
    """p of this file's docstring, from `model(input_ids, token_type_ids, attention_mask)` of each model.

    The caller puts the models in eval mode and enables autocast if wanted. Args: progress: wraps the loop over batches.
    """
    device = torch.device(device)
    begin = np.concatenate([[0], np.cumsum(windows.lengths)])
    probabilities = np.zeros((2, begin[-1]), np.float16)
    for ids in progress(evaluation_batches(windows.lengths, tokens_per_batch(device))):
        batch = collate(windows, ids).to(device)
        p = torch.zeros(2, *batch.input_ids.shape, device=device)
        for model in models:
            logits = torch.stack(model(batch.input_ids, batch.token_type_ids, batch.attention_mask)).float()
            p += (logits / TEMPERATURE).masked_fill(~batch.span_mask, -torch.inf).softmax(-1) / len(models)
        p = p.cpu().numpy()
        for row, w in enumerate(ids):
            probabilities[:, begin[w] : begin[w + 1]] = p[:, row, : windows.lengths[w]]
    return SoftTargets(probabilities, begin)


def soft_loss(start_logits: Tensor, end_logits: Tensor, p: Tensor, span_mask: Tensor) -> Tensor:
    """t^2 CE(p, q), the mean of the start's and the end's over the windows; a scalar.

    Args: logits (B, T); p (2, B, T), 0 where span_mask is False; span_mask (B, T) bool.
    """
    logits = torch.stack((start_logits, end_logits)).float() / TEMPERATURE
    log_q = logits.masked_fill(~span_mask, -torch.inf).log_softmax(-1)
    log_q = log_q.masked_fill(~span_mask, 0.0)  # where p is 0 too, and 0 x -inf would be NaN
    return -(TEMPERATURE**2) * (p * log_q).sum(-1).mean()
