"""SQuAD 2.0: examples, offset alignment, windows, batches, span decoding, metrics and a reader."""

from squad.align import char_to_token_span, token_to_char_span
from squad.batches import (
    Batch,
    collate,
    equal_shares,
    evaluation_batches,
    forward_passes,
    padding_waste,
    training_batches,
)
from squad.cache import cached_windows, fingerprint
from squad.calibration import calibrate, calibration_error, probabilities
from squad.dataset import Dataset, load_dataset
from squad.download import find_squad_v2
from squad.evaluation import Found, evaluate, headline, predict, results_table, search, write_results
from squad.examples import Answer, DataError, Example, read_examples
from squad.lengths import MAX_LENGTHS, lengths_table, measure_lengths, suggest_max_length
from squad.metrics import (
    bootstrap_interval,
    cross_fitted_answers,
    official_metrics,
    question_scores,
    tune_threshold,
)
from squad.reader import Reader, parse_question, read_settings
from squad.scoring import OFFICIAL, Scoring, choose_scorings, find_scoring, is_english
from squad.spans import Predictions, apply_threshold, best_spans, decode, span_loss
from squad.windows import Windows, make_windows

__all__ = [
    "MAX_LENGTHS",
    "OFFICIAL",
    "Answer",
    "Batch",
    "DataError",
    "Dataset",
    "Example",
    "Found",
    "Predictions",
    "Reader",
    "Scoring",
    "Windows",
    "apply_threshold",
    "best_spans",
    "bootstrap_interval",
    "cached_windows",
    "calibrate",
    "calibration_error",
    "char_to_token_span",
    "choose_scorings",
    "collate",
    "cross_fitted_answers",
    "decode",
    "equal_shares",
    "evaluate",
    "evaluation_batches",
    "find_scoring",
    "find_squad_v2",
    "fingerprint",
    "forward_passes",
    "headline",
    "is_english",
    "lengths_table",
    "load_dataset",
    "make_windows",
    "measure_lengths",
    "official_metrics",
    "padding_waste",
    "parse_question",
    "predict",
    "probabilities",
    "question_scores",
    "read_examples",
    "read_settings",
    "results_table",
    "search",
    "span_loss",
    "suggest_max_length",
    "token_to_char_span",
    "training_batches",
    "tune_threshold",
    "write_results",
]
