"""GPT-2 against transformers: stored golden tensors everywhere, the real thing where it is installed."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from gpt import ODD, close, left_padded, stored_gradients
from helpers import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import minigpt
from squad.prompts import answer_loss


def next_token_loss(logits, input_ids, attention_mask):
    """transformers' loss, of the labels below."""
    labels = labels_of(input_ids, attention_mask)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def labels_of(input_ids, attention_mask):
    """Every token that another one comes before: nothing but padding would predict a row's first."""
    return input_ids.masked_fill(F.pad(attention_mask, (1, 0))[:, :-1] == 0, -100)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return minigpt.GPT2LMHead(ODD).eval()


def test_logits_loss_and_every_gradient_equal_transformers_golden():
    golden = load_file(GOLDEN / "gpt2.safetensors")
    model = minigpt.load_pretrained(GOLDEN / "gpt2")
    real = golden["attention_mask"].bool()
    logits = model(golden["input_ids"], golden["attention_mask"])
    close(logits[real], golden["logits"][real])
    close(next_token_loss(logits, golden["input_ids"], golden["attention_mask"]), golden["loss"])
    x = model.transformer(golden["input_ids"], golden["attention_mask"])  # the loss as train_gpt.py has it
    loss = answer_loss(x, labels_of(golden["input_ids"], golden["attention_mask"]), model.lm_head)
    close(loss, golden["loss"])
    loss.backward()
    expected = {k.removeprefix("gradient."): v for k, v in golden.items() if k.startswith("gradient.")}
    gradients = stored_gradients(model)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        close(gradient, expected[name])


def test_greedy_tokens_equal_transformers_golden():
    golden = load_file(GOLDEN / "gpt2.safetensors")
    model = minigpt.load_pretrained(GOLDEN / "gpt2")
    ids, mask, expected = golden["input_ids"], golden["attention_mask"], golden["written"]
    assert (expected[:2, -2:] == 30).all() and not (expected[2] == 30).any()  # two rows end early, one does not
    for use_cache in (True, False):
        written = minigpt.generate(model, ids, mask, 6, eos_id=19, pad_id=30, use_cache=use_cache)
        assert torch.equal(written, expected)
        for row in range(3):  # each alone, without its padding
            real, ends = mask[row].bool(), int((expected[row] != 30).sum())
            alone = minigpt.generate(model, ids[row, real][None], mask[row, real][None], 6, eos_id=19, pad_id=30,
                                     use_cache=use_cache)  # fmt: skip
            assert torch.equal(alone[0], expected[row, :ends])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "sizes", [(41, 11, 15, 2, 3, None), (29, 9, 14, 1, 7, 5), (53, 17, 24, 3, 4, 31)], ids=lambda sizes: str(sizes[0])
)
def test_random_models_equal_transformers(tmp_path, sizes):
    transformers = pytest.importorskip("transformers")
    names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
    fields = dict(zip(names, sizes, strict=True)) | {"eos_token_id": 7, "bos_token_id": 7, "initializer_range": 0.3}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**fields)).eval()
    theirs.save_pretrained(tmp_path)
    ours = minigpt.load_pretrained(tmp_path)
    V, T = sizes[0], sizes[1] - 4
    input_ids, mask = left_padded(V, 3, T, seed=V)
    output = theirs(input_ids, attention_mask=mask, position_ids=places(mask), labels=labels_of(input_ids, mask))
    logits = ours(input_ids, mask)
    close(logits[mask.bool()], output.logits[mask.bool()])
    loss = answer_loss(ours.transformer(input_ids, mask), labels_of(input_ids, mask), ours.lm_head)
    close(loss, output.loss)
    loss.backward()
    output.loss.backward()
    theirs_by_name = dict(theirs.named_parameters())
    for name, gradient in stored_gradients(ours).items():
        close(gradient, theirs_by_name[name].grad)
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 7, "eos_token_id": 7}
    for rows in (slice(0, 3), slice(0, 1)):  # a batch, and the row without padding alone
        expected = theirs.generate(input_ids[rows], attention_mask=mask[rows], **settings)[:, T:]
        for use_cache in (True, False):
            written = minigpt.generate(ours, input_ids[rows], mask[rows], 4, eos_id=7, pad_id=7, use_cache=use_cache)
            assert torch.equal(written, expected)
    full, mask = left_padded(V, 3, sizes[1], seed=V)  # of exactly n_positions: one token more can be written
    expected = theirs.generate(full, attention_mask=mask, max_new_tokens=1, do_sample=False, pad_token_id=7)
    assert torch.equal(minigpt.generate(ours, full, mask, 4), expected[:, sizes[1] :])
    close(
        ours(full, mask)[mask.bool()], theirs(full, attention_mask=mask, position_ids=places(mask)).logits[mask.bool()]
    )


def places(mask):
    """The positions of tokens, counted from 0 in each row, as transformers' generate() makes them."""
    return (mask.cumsum(1) - 1).clamp(min=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("T", [1, 4, 7])
def test_attention_is_its_formula_both_ways(monkeypatch, T, fused):
    B, N, S, D = 3, 2, 7, 5
    q, k, v = (torch.randn(B, N, n, D) for n in (T, S, S))
    _, tokens = left_padded(31, B, S, seed=0)
    monkeypatch.setattr(minigpt.model, "fused_attention_pays", lambda *_: fused)
    found = minigpt.model.attention(q, k, v, minigpt.model.causal_mask(tokens, T), 0.0)
    for b, n, t in itertools.product(range(B), range(N), range(T)):
        own = S - T + t
        seen = [s for s in range(own + 1) if tokens[b, s] or s == own]
        weights = [math.exp(float(q[b, n, t] @ k[b, n, s]) / math.sqrt(D)) for s in seen]
        close(found[b, n, t], sum(w * v[b, n, s] for w, s in zip(weights, seen, strict=True)) / sum(weights))


def test_float16_masks_do_not_overflow():
    q, k, v = torch.randn(3, 1, 2, 7, 5).half().unbind(0)
    tokens = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    out = minigpt.model.eager_attention(q, k, v, minigpt.model.causal_mask(tokens, 7), 0.0)[:, :, 3:]
    own = minigpt.model.causal_mask(tokens[:, 3:], 4)
    assert out.isfinite().all()
    torch.testing.assert_close(out, minigpt.model.eager_attention(*(x[:, :, 3:] for x in (q, k, v)), own, 0.0))


def test_no_token_sees_those_after_it(model):
    ids, mask = left_padded(31, 1, 7, seed=1)
    logits = model(ids, mask)
    changed = ids.clone()
    changed[0, 4] = (ids[0, 4] + 1) % 31
    assert torch.equal(model(changed, mask)[:, :4], logits[:, :4])
    assert not torch.allclose(model(changed, mask)[:, 4:], logits[:, 4:])


def test_left_padding_changes_nothing_and_is_finite(model):
    ids, mask = left_padded(31, 1, 6, seed=2)
    padded = F.pad(ids, (3, 0), value=30), F.pad(mask, (3, 0), value=0)
    logits = model(*padded)
    close(logits[:, 3:], model(ids, mask))
    assert logits.isfinite().all()


@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_the_cache_changes_nothing(seed, pieces):
    torch.manual_seed(0)
    model = minigpt.GPT2LMHead(ODD).eval()
    T = min(sum(pieces), 13)
    ids, mask = left_padded(31, 3, T, seed)
    cache, found, at = minigpt.model.Cache(ODD, most=T), [], 0
    for size in pieces:
        end = min(at + size, T)
        if end > at:
            found.append(model(ids[:, at:end], mask[:, :end], cache))
        at = end
    real = mask.bool()
    close(torch.cat(found, dim=1)[real], model(ids, mask)[real])


def test_a_mask_that_does_not_cover_the_cache_is_refused(model):
    ids, mask = left_padded(31, 3, 5, seed=2)
    cache = minigpt.Cache(ODD, most=9)
    model(ids, mask, cache)
    for other in (mask[:, :1], torch.cat([mask, mask], 1)[:, :7], mask):  # the new token's only, too long, a new text's
        with pytest.raises(ValueError, match="5 tokens in the cache and 1 new ones, but an attention mask of"):
            model(ids[:, :1], other, cache)
    model(ids[:, :1], torch.cat([mask, torch.ones_like(mask[:, :1])], 1), cache)


def test_more_tokens_than_the_cache_holds_are_refused(model):
    ids, mask = left_padded(31, 3, 6, seed=2)
    cache = minigpt.Cache(ODD, most=5)
    model(ids[:, :5], mask[:, :5], cache)
    with pytest.raises(ValueError, match="6 tokens, but this cache has room for 5"):
        model(ids[:, 5:], mask, cache)
    with pytest.raises(ValueError, match="6 tokens, but this cache has room for 4"):
        model(ids, mask, minigpt.Cache(ODD, most=4))


def test_too_long_a_sequence_is_refused(model):
    ids, mask = left_padded(31, 1, 14, seed=0)
    with pytest.raises(ValueError, match="a sequence of 14 tokens, but this model has 13 positions"):
        model(ids, mask)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rate", ["resid_pdrop", "embd_pdrop", "attn_pdrop"])
def test_dropout_acts_in_training_only(rate, fused, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(minigpt.model, "fused_attention_pays", lambda *_: fused)
    model = minigpt.GPT2LMHead(dataclasses.replace(ODD.with_dropout(0.0), **{rate: 0.5}))
    ids, mask = left_padded(31, 3, 7, seed=3)
    assert not torch.equal(model(ids, mask), model(ids, mask))
    assert torch.equal(model.eval()(ids, mask), model(ids, mask))
