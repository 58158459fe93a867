"""GPT-2 against transformers: stored golden tensors everywhere, the real thing where it is installed."""

import copy
import dataclasses
import itertools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import GOLDEN, shake
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lora
import minigpt
from experiments.ablate import GPT_FIVE, flags_of
from minigpt.sampling import keep_top_k, keep_top_p, next_token
from minigpt.weights import TRANSPOSED, checkpoint_shapes
from minihub import CheckpointError
from minirun.packed import can_pack, pack_frozen

ODD = minigpt.GPT2Config(
    vocab_size=31, n_positions=13, n_embd=12, n_layer=2, n_head=3, n_inner=17, eos_token_id=30, initializer_range=0.3
)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def next_token_loss(logits, input_ids, attention_mask):
    """transformers' loss, of the labels below."""
    labels = labels_of(input_ids, attention_mask)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def labels_of(input_ids, attention_mask):
    """Every token that another one comes before: nothing but padding would predict a row's first."""
    return input_ids.masked_fill(F.pad(attention_mask, (1, 0))[:, :-1] == 0, -100)


def stored_gradients(model):
    return {k: p.grad.T if k.endswith(TRANSPOSED) else p.grad for k, p in model.named_parameters()}


def left_padded(vocabulary, B, T, seed):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, vocabulary, (B, T), generator=generator)
    attention_mask = (torch.arange(T) >= torch.arange(B)[:, None]).long()  # row i has i tokens of padding
    return input_ids, attention_mask


@pytest.fixture
def model():
    torch.manual_seed(0)
    return minigpt.GPT2LMHead(ODD).eval()


# ------------------------------------------------------------------------------------------- the decoder


def test_logits_loss_and_every_gradient_equal_transformers_golden():
    golden = load_file(GOLDEN / "gpt2.safetensors")
    model = minigpt.load_pretrained(GOLDEN / "gpt2")
    real = golden["attention_mask"].bool()
    logits = model(golden["input_ids"], golden["attention_mask"])
    close(logits[real], golden["logits"][real])
    loss = next_token_loss(logits, golden["input_ids"], golden["attention_mask"])
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
    written = minigpt.generate(model, golden["input_ids"], golden["attention_mask"], 6, eos_id=19, pad_id=30)
    assert torch.equal(written, golden["written"])
    assert (written[:2, -2:] == 30).all() and not (written[2] == 30).any()  # two rows end early, one does not


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
    loss = next_token_loss(logits, input_ids, mask)
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


# ------------------------------------------------------------------------------------------- generation


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


def test_sampling_follows_the_probabilities(model):
    """Shares of 20,000 draws against softmax(logits / temperature), within five standard deviations."""
    ids, mask = left_padded(31, 1, 7, seed=6)
    logits = model(ids, mask)[0, -1]
    rows = 20_000
    for temperature, k, p in ((1.0, 0, 1.0), (0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.6), (1.0, 7, 0.8)):
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


# ------------------------------------------------------------------------------------------- files


def test_what_is_saved_loads_again_here_and_in_transformers(model, tmp_path):
    minigpt.save_pretrained(model, tmp_path)
    ids, mask = left_padded(31, 3, 7, seed=8)
    assert torch.equal(minigpt.load_pretrained(tmp_path)(ids, mask), model(ids, mask))
    transformers = pytest.importorskip("transformers")
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    close(theirs.eval()(ids[:1]).logits, model(ids[:1], mask[:1]))


def test_shards_and_hub_ids_are_read(tmp_path, monkeypatch):
    """Shards, the second without the prefix, that a hub id leads to: only the files that are needed are asked for."""
    import huggingface_hub

    whole = load_file(GOLDEN / "gpt2" / "model.safetensors")
    keys = sorted(whole)
    parts = {"a.safetensors": {k: whole[k] for k in keys[::2]},
             "b.safetensors": {k.removeprefix("transformer."): whole[k] for k in keys[1::2]}}  # fmt: skip
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text((GOLDEN / "gpt2" / "config.json").read_text(encoding="utf-8"))
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    model = minigpt.load_pretrained("openai-community/gpt2-medium", revision="v1")
    assert asked[0][0] == ("openai-community/gpt2-medium",) and asked[0][1]["revision"] == "v1"
    for name, tensor in minigpt.load_pretrained(GOLDEN / "gpt2").state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        minigpt.load_pretrained(tmp_path)


def test_files_of_the_hub_are_read_with_old_buffers_and_without_the_prefix(tmp_path):
    """The hub's gpt2 has no prefix, one causal mask a layer, and sometimes the head a second time."""
    state = load_file(GOLDEN / "gpt2" / "model.safetensors")
    bare = {key.removeprefix("transformer."): tensor for key, tensor in state.items()}
    for i in range(2):
        bare[f"h.{i}.attn.bias"] = torch.ones(1, 1, 13, 13).tril()
        bare[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    bare["lm_head.weight"] = bare["wte.weight"].clone()
    save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((GOLDEN / "gpt2" / "config.json").read_text(encoding="utf-8"))
    ids, mask = left_padded(31, 3, 7, seed=9)
    assert torch.equal(
        minigpt.load_pretrained(tmp_path)(ids, mask), minigpt.load_pretrained(GOLDEN / "gpt2")(ids, mask)
    )
    bare["h.0.attn.c_attn.weight"] = bare["h.0.attn.c_attn.weight"].T.contiguous()
    save_file(bare | {"stray": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected: transformer\.stray; of another shape: .*c_attn\.weight"):
        minigpt.load_pretrained(tmp_path)


def test_shapes_are_those_of_the_model(model):
    named = {k: tuple(p.T.shape if k.endswith(TRANSPOSED) else p.shape) for k, p in model.named_parameters()}
    assert checkpoint_shapes(ODD) == named


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_head", 5, "n_head is 5, expected a divisor of n_embd, 12"),
        ("n_layer", 0, "n_layer is 0, expected 1 to 256"),
        ("n_embd", "12", "n_embd is '12', expected 1 to"),
        ("attn_pdrop", 1.0, r"attn_pdrop is 1.0, expected in \[0, 1\)"),
        ("layer_norm_epsilon", 0, "layer_norm_epsilon is 0, expected above 0"),
        ("eos_token_id", 31, "eos_token_id is 31, expected an id below vocab_size"),
        ("activation_function", "relu", "activation_function is 'relu', minigpt computes only 'gelu_new'"),
        ("tie_word_embeddings", False, "tie_word_embeddings is False, minigpt computes only True"),
        ("model_type", "bert", "model_type is 'bert', minigpt reads 'gpt2'"),
    ],
)
def test_an_impossible_config_is_refused(tmp_path, field, value, message):
    config = json.loads((GOLDEN / "gpt2" / "config.json").read_text(encoding="utf-8")) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        minigpt.GPT2Config.from_json(tmp_path / "config.json")


# ------------------------------------------------------------------------------------------- LoRA around it


def test_the_five_configurations_are_the_reports():
    assert GPT_FIVE == (
        (4, 16, 1e-4, "c_attn"), (8, 16, 2e-4, "c_attn"), (16, 16, 5e-4, "c_attn"),
        (8, 16, 2e-4, "c_attn,mlp.c_proj"), (32, 32, 2e-4, "c_attn,mlp.c_proj"),
    )  # fmt: skip
    assert {flags_of(*five, "gpt2")[-1] for five in GPT_FIVE} == {"0.1"}  # the last flag: dropout of the updates


COUNTED = [(147_456, 0.1184), (294_912, 0.2364), (589_824, 0.4717), (663_552, 0.5304), (2_654_208, 2.0884)]


@pytest.mark.parametrize(("five", "counted"), list(zip(GPT_FIVE, COUNTED, strict=True)))
def test_gpt2_small_trains_as_many_numbers_as_the_report_counted(five, counted):
    (rank, alpha, _, targets), (trained, share) = five, counted
    with torch.device("meta"):
        model = minigpt.GPT2LMHead(minigpt.GPT2Config())
        assert sum(p.numel() for p in model.parameters()) == 124_439_808
        lora.add_lora(model, rank, alpha, 0.1, targets)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert sum(size for size, trains in sizes if trains) == trained
    assert round(100 * trained / sum(size for size, _ in sizes), 4) == share


def test_the_head_stays_the_embedding_matrix(model, tmp_path):
    """In copies, in another dtype, packed, and with adapters on all linear layers, of which it is none."""
    ids, mask = torch.randint(31, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    expected = model(ids, mask).detach()
    assert "lm_head.weight" not in dict(model.named_parameters())
    wrapped = lora.add_lora(model, 2, 4)
    assert {name.rpartition(".")[2] for name in wrapped} == {"c_attn", "c_proj", "c_fc"}
    lora.remove_lora(model.requires_grad_(False))
    pack_frozen(model, pays=lambda weight: can_pack())
    for each in (model, copy.deepcopy(model)):
        assert each.lm_head.weight is each.transformer.wte.weight
        torch.testing.assert_close(each(ids, mask), expected)
        assert each.to(torch.bfloat16).lm_head.weight is each.transformer.wte.weight
    minigpt.save_pretrained(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118


@pytest.mark.filterwarnings("ignore")
def test_adapters_go_to_peft_and_back(tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    folder = GOLDEN / "gpt2"
    ours = minigpt.load_pretrained(folder)
    lora.add_lora(ours, 3, 5, targets="c_attn,mlp.c_proj")
    shake(ours)
    names = minigpt.checkpoint_names(ours.config)
    lora.save_adapter(ours, tmp_path / "ours", names, "CAUSAL_LM", str(folder), fan_in_fan_out=True)
    ids, mask = left_padded(31, 1, 7, seed=10)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(folder), tmp_path / "ours"
    )
    close(theirs.eval()(ids).logits, ours(ids, mask))
    plain = minigpt.load_pretrained(folder)
    assert not torch.allclose(plain(ids, mask), ours(ids, mask), atol=1e-2)
    theirs.save_pretrained(tmp_path / "theirs")
    lora.load_adapter(plain, tmp_path / "theirs", names)
    close(plain(ids, mask), ours(ids, mask))
    merged = theirs.merge_and_unload()
    lora.merge(ours)
    close(merged(ids).logits, ours(ids, mask))


def test_what_a_layer_adds_starts_smaller_the_deeper_the_model_is():
    config = minigpt.GPT2Config(vocab_size=31, n_positions=8, n_embd=96, n_layer=8, n_head=3, eos_token_id=0)
    for name, part in minigpt.GPT2LMHead(config).named_modules():
        if hasattr(part, "weight") and part.weight.dim() == 2:
            expected = 0.02 / 4 if name.endswith("c_proj") else 0.02  # sqrt(2 x 8) = 4
            assert part.weight.std().item() == pytest.approx(expected, rel=0.1), name
