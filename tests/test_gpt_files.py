"""GPT-2 on disk: checkpoints of the hub and of transformers, impossible configs, adapters for PEFT."""

import copy
import json

import pytest
import torch
from gpt import ODD, close, left_padded
from helpers import GOLDEN, shake
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lora
import minigpt
from experiments.ablate import GPT_FIVE, flags_of
from minigpt.small import train_tokenizer
from minigpt.tokenizer import EOS
from minigpt.weights import TRANSPOSED, checkpoint_shapes
from minihub import CheckpointError
from minirun.packed import can_pack, pack_frozen


@pytest.fixture
def model():
    torch.manual_seed(0)
    return minigpt.GPT2LMHead(ODD).eval()


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


def test_a_tokenizer_of_two_files_is_read(tmp_path):
    texts = ["Vin ist eine Mistborn.", "  two  spaces, naïve 漢字 🙂\n", "isn't 2026"]
    made = train_tokenizer(texts * 3, vocab_size=300)
    made.model.save(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    found = minigpt.load_tokenizer(tmp_path)
    for text in [*texts, f"Vin{EOS}"]:
        assert found.encode(text).ids == made.encode(text).ids
        assert found.decode(found.encode(text).ids) == made.decode(made.encode(text).ids) == text.removesuffix(EOS)
    with (tmp_path / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("no such pair\n")
    with pytest.raises(CheckpointError, match=r"vocab\.json: not a readable vocabulary with its merges\.txt"):
        minigpt.load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.json without a merges\.txt beside it"):
        minigpt.load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json and no vocab\.json"):
        minigpt.load_tokenizer(tmp_path)


# ------------------------------------------------------------------------------------------- LoRA around it


def test_a_bare_name_means_both_projections(model):
    wrapped = lora.add_lora(model, 2, 4, targets="c_proj")
    assert sorted(wrapped) == sorted(f"transformer.h.{i}.{part}.c_proj" for i in range(2) for part in ("attn", "mlp"))


def test_the_five_configurations_are_the_reports():
    assert GPT_FIVE == (
        (4, 16, 1e-4, "c_attn"), (8, 16, 2e-4, "c_attn"), (16, 16, 5e-4, "c_attn"),
        (8, 16, 2e-4, "c_attn,mlp.c_proj"), (32, 32, 2e-4, "c_attn,mlp.c_proj"),
    )  # fmt: skip
    assert {flags_of(*five, 10, "gpt2")[-1] for five in GPT_FIVE} == {"0.1"}  # the last flag: dropout of the updates


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
    assert theirs.peft_config[
        "default"
    ].fan_in_fan_out  # PEFT warns where it has to correct this, and is not heard here
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
