"""SQuAD 2.0: examples, offset alignment, windows, batches, span decoding, metrics and a reader.

Data flows one way: JSON -> examples -> windows -> batches -> (a model) -> spans -> predictions -> metrics.
`squad.report`, `squad.audit` and `squad.augment` are packages of their own, imported only when asked for.
"""

from squad.batches import (
    Batch,
    collate,
    forward_passes,
    padding_waste,
    shard_by_tokens,
    tokens_per_pass,
    training_batches,
)
from squad.cache import fingerprint
from squad.dataset import Dataset, load_dataset
from squad.download import find_data
from squad.evaluation import evaluate, headline, results_table, write_results
from squad.examples import Answer, DataError, Example, read_examples
from squad.loss import span_loss
from squad.metrics import official_metrics, question_scores, tune_threshold
from squad.predict import predict, predict_windows
from squad.reader import Reader, parse_question, read_settings
from squad.scoring import choose_scorings
from squad.spans import Predictions, WindowPredictions, apply_threshold, best_spans, decode
from squad.windowing import make_windows
from squad.windows import Windows

__all__ = [
    "Answer", "Batch", "DataError", "Dataset", "Example", "Predictions", "Reader", "WindowPredictions", "Windows",
    "apply_threshold", "best_spans", "choose_scorings", "collate", "decode", "evaluate", "find_data", "fingerprint",
    "forward_passes", "headline", "load_dataset", "make_windows", "official_metrics", "padding_waste", "parse_question",
    "predict", "predict_windows", "question_scores", "read_examples", "read_settings", "results_table",
    "shard_by_tokens", "span_loss", "tokens_per_pass", "training_batches", "tune_threshold", "write_results",
]  # fmt: skip
