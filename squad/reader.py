"""Reader: ask a trained model questions about texts; get spans with probabilities, or that there is no answer."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer

from minihub import is_number, json_type, parse_object, read_object
from squad.calibration import MOST_BONUS
from squad.examples import DataError, Example
from squad.predict import predict
from squad.prior import move_threshold
from squad.spans import best_first, probabilities
from squad.windowing import MAX_LENGTH, MAX_QUESTION, OVERLAP, make_windows

# The settings that qa.json may hold.
SETTINGS = {
    "null_threshold": float, "temperature": float, "best_bonus": float, "max_length": int, "window_overlap": int,
    "max_question_tokens": int, "max_answer_tokens": int, "dev_answerable": float, "null_scale": float,
}  # fmt: skip
NO_ANSWER = {"start": 0, "end": 0, "answer": ""}


class Reader:
    """Answers questions about texts of any length with spans of them, or with "" when the text has no answer.

    reader(question="Who is Vin?", context="Vin is a Mistborn.") ->
        {"score": 0.59, "start": 7, "end": 17, "answer": "a Mistborn", "null_margin": -1.0}

    Args:
        model: called as model(input_ids, token_type_ids, attention_mask), each (B, T); returns start and end logits,
            each (B, T). It is moved to `device` and put in eval mode.
        tokenizer: the model's, without truncation or padding of its own.
        null_threshold: the answer is "" when null score - best span's score exceeds it (logits).
        temperature: scores are divided by it before they become probabilities; 1 changes nothing.
        best_bonus: the log odds of the most probable answer then gain it; 0 changes nothing. See `squad.calibration`.
        max_length, window_overlap, max_question_tokens: how contexts are cut, as for `make_windows`.
        max_answer_tokens: of the longest answer looked for.
        device, precision: where to compute, and the dtype of the matrix products.
        answerable: the share of the questions to come that have an answer in their text, above 0 and below 1: the
            threshold moves accordingly, see `squad.prior`. None: the threshold stays as it is.
        dev_answerable, null_scale: that share where the threshold was tuned, and `squad.prior.null_scale` there.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        null_threshold: float = 0.0,
        temperature: float = 1.0,
        max_length: int = MAX_LENGTH,
        window_overlap: int = OVERLAP,
        max_question_tokens: int = MAX_QUESTION,
        max_answer_tokens: int = 30,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        answerable: float | None = None,
        dev_answerable: float | None = None,
        null_scale: float | None = None,
        best_bonus: float = 0.0,
    ):
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, expected a number above 0")
        if not 0 <= best_bonus <= MOST_BONUS:
            raise ValueError(f"best bonus is {best_bonus}, expected 0 to {MOST_BONUS}")
        if not math.isfinite(null_threshold):
            raise ValueError(f"null threshold is {null_threshold}, expected a finite number")
        if max_answer_tokens < 1:
            raise ValueError(f"max answer tokens is {max_answer_tokens}, expected at least 1")
        if dev_answerable is not None and not 0 < dev_answerable < 1:
            raise ValueError(f"dev answerable is {dev_answerable}, expected a share above 0 and below 1")
        if null_scale is not None and not 0 < null_scale < math.inf:
            raise ValueError(f"null scale is {null_scale}, expected a number above 0")
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.null_threshold, self.temperature, self.best_bonus = null_threshold, temperature, best_bonus
        self.max_length, self.window_overlap = max_length, window_overlap
        self.max_question_tokens, self.max_answer_tokens = max_question_tokens, max_answer_tokens
        self.device, self.precision = torch.device(device), precision
        self.dev_answerable, self.null_scale = dev_answerable, null_scale
        self.threshold_for(answerable)
        self.answerable = answerable

    def threshold_for(self, answerable: float | None) -> float:
        """The threshold on the null odds where this share of the questions has an answer; None: the one given.

        Raises ValueError when the share is not above 0 and below 1, or the model was saved without what it takes.
        """
        if answerable is None:
            return self.null_threshold
        if not 0 < answerable < 1:
            raise ValueError(f"answerable is {answerable}, expected a share above 0 and below 1, such as 0.9")
        if self.dev_answerable is None or self.null_scale is None:
            raise ValueError(
                "answerable needs dev_answerable and null_scale, which train.py saves in qa.json and this model is "
                "without; give a null threshold instead"
            )
        return move_threshold(self.null_threshold, self.null_scale, self.dev_answerable, answerable)

    def __call__(
        self,
        question: str | list[str],
        context: str | list[str],
        top_k: int = 1,
        handle_impossible_answer: bool = True,
        progress: Callable[[Iterable], Iterable] = iter,
        answerable: float | None = None,
    ) -> dict | list:
        """The answer to each question; several of them best first.

        Args:
            question, context: a text or a list of texts each; a single one goes with every item of the other. Lists are
                batched by length, and each distinct context is tokenised once.
            top_k: how many different answers to return; there are at most 20 and "".
            handle_impossible_answer: whether "" may be an answer; if not, the best span is returned whatever the null
                score.
            progress: wraps the loop over batches (tqdm, say).
            answerable: as for the class, for these questions only; None: the reader's own.
        Returns for one question a dict or, with top_k > 1, a list of at most top_k; for a list, a list of those.
            answer = context[start:end], character offsets into the raw context ("" has start = end = 0).
            score: the probability of this answer, 0 to 1, against the 20 best spans of all windows and "". After
                calibration on a dev set, about that share of the answers with this score are exactly right there; on
                texts unlike those nothing is promised.
            null_margin: null score - best span's score - threshold, in logits; above 0 when the model says that
                the text has no answer.
            A context without any token (empty, only white space) has "" as its answer, with score 1.
        Raises TypeError for anything that is not text; ValueError for a blank question, for text that is not valid
            Unicode, for lists of different lengths, for top_k below 1, and as `threshold_for` does.
        """
        if not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k is {top_k!r}, expected a whole number of at least 1")
        threshold = self.threshold_for(self.answerable if answerable is None else answerable)
        questions, contexts, single = pairs_of(question, context)
        if not questions:
            return []
        pairs = zip(questions, contexts, strict=True)
        examples = [Example(str(i), q, c, (), True, "") for i, (q, c) in enumerate(pairs)]
        windows = make_windows(examples, self.tokenizer, self.max_length, self.window_overlap, self.max_question_tokens)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            predictions = predict(self.model, examples, windows, self.device, self.max_answer_tokens, progress)
        found = []
        for example in examples:
            answers = self._answers(predictions.nbest[example.id], threshold, handle_impossible_answer)[:top_k]
            margin = predictions.null_odds[example.id] - threshold
            answers = [{**answer, "null_margin": margin} for answer in answers]
            found.append(answers[0] if top_k == 1 else answers)
        return found[0] if single else found

    def _answers(self, entries: list[dict], threshold: float, handle_impossible_answer: bool) -> list[dict]:
        """A question's n-best list -> its answers, most probable first; at least one."""
        chances = probabilities(entries, threshold, self.temperature, self.best_bonus)
        answers = []
        for i in best_first(entries, chances):
            entry, score = entries[i], float(chances[i])
            if entry["start"] is not None:
                span = {"start": entry["start"], "end": entry["end"], "answer": entry["text"]}
                answers.append({"score": score, **span})
            elif handle_impossible_answer or len(entries) == 1:
                answers.append({"score": score, **NO_ANSWER})
        return answers


def parse_question(raw: bytes | str) -> dict:
    """Parse a JSON object with a `question` and a `context`, as in a line of a file or a request.

    Raises ValueError when it is something else, or when a Reader would refuse it.
    """
    item = parse_object(raw, "the question", DataError)
    for name in ("question", "context"):
        if not isinstance(item.get(name), str):
            found = json_type(item[name]) if name in item else "missing"
            raise DataError(f"{name!r} is {found}, expected text")
    pairs_of(item["question"], item["context"])
    return item


def pairs_of(question: str | list[str], context: str | list[str]) -> tuple[list[str], list[str], bool]:
    """-> questions and contexts of one length, and whether both came as single texts.

    Raises TypeError for what is not text; ValueError for a blank question, invalid Unicode, or lists of other lengths.
    """
    single = isinstance(question, str) and isinstance(context, str)
    questions, contexts = _texts("question", question), _texts("context", context)
    if isinstance(question, str):
        questions = questions * len(contexts)
    elif isinstance(context, str):
        contexts = contexts * len(questions)
    if len(questions) != len(contexts):
        raise ValueError(f"{len(questions)} questions and {len(contexts)} contexts, expected equally many")
    for i, text in enumerate(questions):
        if not text.strip():
            raise ValueError(f"question{'' if single else f' {i}'} is blank, expected a question")
    return questions, contexts, single


def _texts(name: str, value: object) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise TypeError(f"{name} is of type {type(value).__name__}, expected a text or a list of texts")
    for i, item in enumerate(items):
        where = name if items is not value else f"{name} {i}"
        if not isinstance(item, str):
            raise TypeError(f"{where} is of type {type(item).__name__}, expected a text")
        try:
            item.encode()
        except UnicodeEncodeError as error:
            message = f"{where} is not valid Unicode: character {error.start} is half a surrogate pair"
            raise ValueError(message) from None
    return list(items)


def settings_of(metrics: dict) -> dict[str, float]:
    """What `squad.evaluate` has tuned, as settings of a Reader."""
    trust = metrics["calibration"]
    settings = {"null_threshold": metrics["threshold"]} | {name: trust[name] for name in ("temperature", "best_bonus")}
    if "prior" in metrics:
        settings |= {"dev_answerable": metrics["prior"]["answerable"], "null_scale": metrics["prior"]["null_scale"]}
    return settings


def read_settings(path: str | Path) -> dict[str, float | int]:
    """The settings that a model was saved with (qa.json), as arguments of a Reader; {} when there is no such file.

    Raises DataError when the file is not a JSON object of numbers.
    """
    path = Path(path)
    if not path.is_file():
        return {}
    content = read_object(path, DataError)
    known = [name for name in SETTINGS if name in content]
    for name in known:
        value, kind = content[name], SETTINGS[name]
        if not is_number(value) or abs(value) >= 1e9 or kind(value) != value:
            expected = "a whole number" if kind is int else "a finite number"
            raise DataError(f"{path}: {name} is {str(value)[:60]}, expected {expected}")
    return {name: SETTINGS[name](content[name]) for name in known}
