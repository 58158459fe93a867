"""Writing with GPT-2: where it stops, what is drawn, the filters against brute force and transformers."""

import dataclasses

import pytest
import torch
from gpt import ODD, left_padded
from hypothesis import given
from hypothesis import strategies as st

import minigpt
from minigpt.sampling import keep_top_k, keep_top_p, next_token


@pytest.fixture
def model():
    torch.manual_seed(0)
    return minigpt.GPT2LMHead(ODD).eval()


def test_writing_stops_at_eos_and_at_the_last_position(model):
    ids, mask = left_padded(31, 3, 7, seed=4)
    free = minigpt.generate(model, ids, mask, 100)
    assert free.shape == (3, 7)  # 13 positions, 7 of them taken, and the last token needs none
    assert minigpt.generate(model, ids, mask, 0).shape == (3, 0)
    full, full_mask = left_padded(31, 1, 13, seed=5)
    assert minigpt.generate(model, full, full_mask, 5).tolist() == [[int(model(full, full_mask)[0, -1].argmax())]]
    with pytest.raises(ValueError, match="a sequence of 14 tokens, but this model has 13 positions"):
        minigpt.generate(model, *left_padded(31, 1, 14, seed=5), 5)
    first = int(free[0, 0])
    alone = minigpt.generate(model, ids[:1], mask[:1], 5, eos_id=first)
    assert alone.tolist() == [[first]]  # eos at once, and nothing after it
    together = minigpt.generate(model, ids, mask, 5, eos_id=first, pad_id=30)
    assert together[0].tolist() == [first] + [30] * (together.size(1) - 1)  # while the others go on
    assert together.size(1) > 1 and torch.equal(together[1], free[1, : together.size(1)])


def test_sampling_follows_the_probabilities(model):
    """Shares of 20,000 draws against softmax(logits / temperature), within five standard deviations."""
    ids, mask = left_padded(31, 1, 7, seed=6)
    logits = model(ids, mask)[0, -1]
    rows = 20_000
    # Temperature comes before the nucleus: which tokens are in it depends on the order.
    ways = [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.6), (1.0, 7, 0.8), (0.5, 0, 0.6), (2.0, 7, 0.6)]
    for temperature, k, p in ways:
        kept = keep_top_p(keep_top_k(logits / temperature, k), p).softmax(-1)
        generator = torch.Generator().manual_seed(0)
        drawn = next_token(logits.expand(rows, -1), temperature, k, p, generator)
        share = torch.bincount(drawn, minlength=31) / rows
        assert ((share - kept).abs() <= 5 * (kept * (1 - kept) / rows).sqrt()).all()


def test_sampling_with_a_seed_repeats_itself(model):
    ids, mask = left_padded(31, 3, 7, seed=7)

    def write(seed):
        return minigpt.generate(model, ids, mask, 5, temperature=1.0, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(write(1), write(1))
    assert not torch.equal(write(1), write(2))


def test_the_token_that_reaches_p_stays():
    probabilities = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3])
    kept = keep_top_p(probabilities.log(), 0.7).softmax(-1)
    torch.testing.assert_close(kept, torch.tensor([0.0, 0.0, 0.2, 0.25, 0.3]) / 0.75)


def test_tokens_as_probable_as_the_kth_stay():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert keep_top_k(logits, 2).isfinite().tolist() == [[False, True, True, True, False]]
    assert torch.equal(keep_top_k(logits, 0), logits)
    assert torch.equal(keep_top_k(logits, 99), logits)


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=9), st.floats(0.05, 1.0), st.integers(1, 9))
def test_filters_equal_brute_force(values, p, k):
    logits = torch.tensor(values, dtype=torch.float64)
    probability = logits.softmax(-1)
    order = sorted(range(len(values)), key=lambda i: -values[i])  # stable, as the filter's sort
    nucleus, total = set(), 0.0
    for i in order:
        if total >= p - 1e-12 and nucleus:
            break
        nucleus.add(i)
        total += float(probability[i])
    kept = {i for i, x in enumerate(keep_top_p(logits, p).tolist()) if x != -float("inf")}
    assert kept == nucleus or abs(sum(float(probability[i]) for i in kept & nucleus) - p) < 1e-9
    least = sorted(values, reverse=True)[min(k, len(values)) - 1]
    kept = {i for i, x in enumerate(keep_top_k(logits, k).tolist()) if x != -float("inf")}
    assert kept == {i for i, x in enumerate(values) if x >= least}


@pytest.mark.filterwarnings("ignore")
def test_filters_equal_transformers():
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.randn(3, 31, generator=torch.Generator().manual_seed(0))
    for k, p in ((1, 0.1), (5, 0.5), (30, 0.9), (31, 0.99)):
        assert torch.equal(keep_top_k(logits, k), warpers.TopKLogitsWarper(k)(None, logits))
        assert torch.equal(keep_top_p(logits, p), warpers.TopPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, r"temperature is -0.1, expected 0 \(greedy\), or a number"),
        ({"temperature": 1e-40}, "temperature is 1e-40"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1, expected at least 0"),
        ({"top_p": 0.0}, "top_p is 0.0, expected above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3, expected at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        minigpt.generate(model, *left_padded(31, 1, 3, seed=0), **{"max_new_tokens": 2} | settings)


def test_rows_with_their_padding_on_the_right_are_refused(model):
    ids, mask = left_padded(31, 3, 7, seed=1)
    assert not mask.all()
    with pytest.raises(ValueError, match="a row ends in padding, expected it on the left"):
        minigpt.generate(model, ids.flip(1), mask.flip(1), 2)


def test_without_an_eos_given_it_is_the_configs_and_padding_too(model):
    ids, mask = left_padded(31, 3, 7, seed=4)
    free = minigpt.generate(model, ids, mask, 6, eos_id=-1)
    model.config = dataclasses.replace(model.config, eos_token_id=int(free[1, 2]))
    end = model.config.eos_token_id
    expected = free.clone()
    for row in expected:
        after = (row == end).cumsum(0) > 0
        row[after] = end
    found = minigpt.generate(model, ids, mask, 6)
    assert torch.equal(found, expected[:, : found.size(1)])
    assert (expected[:, found.size(1) :] == end).all()
