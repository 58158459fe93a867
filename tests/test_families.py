"""RoBERTa, XLM-R and DistilBERT: the same encoder under other names, and their tokenizers' offsets."""

import json

import numpy as np
import pytest
import torch
from helpers import GOLDEN, HEAD, INPUTS, shake
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import lora
import minibert
import minihub
import squad
from minibert.families import FAMILIES
from minibert.wordpiece import SPECIAL_TOKENS, wordpiece_tokenizer
from squad.windowing import find_template

RELATIVES = ("roberta", "xlm-roberta", "distilbert")


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------- the encoder


@pytest.mark.parametrize("name", RELATIVES)
def test_logits_loss_and_every_gradient_equal_transformers_golden(name):
    golden = load_file(GOLDEN / "families" / f"{name}.safetensors")
    model = minibert.load_pretrained(GOLDEN / "families" / name)
    logits = model(*(golden[key] for key in INPUTS))
    real = golden["attention_mask"].bool()
    for ours, key in zip(logits, ("start_logits", "end_logits"), strict=True):
        close(ours[real], golden[key][real])
    loss = squad.span_loss(*logits, golden["start_positions"], golden["end_positions"], real)
    close(loss, golden["loss"])
    loss.backward()
    names = minibert.checkpoint_names(model.config)
    expected = {key.removeprefix("gradient."): tensor for key, tensor in golden.items() if key.startswith("gradient.")}
    seen = set()
    for key, parameter in model.named_parameters():
        module, _, kind = key.rpartition(".")
        stored = f"{names[module]}.{kind}"
        seen.add(stored)
        close(parameter.grad, expected[stored])
    assert seen == expected.keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RELATIVES)
def test_transformers_loads_what_is_saved(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    golden = load_file(GOLDEN / "families" / f"{name}.safetensors")
    minibert.save_pretrained(minibert.load_pretrained(GOLDEN / "families" / name), tmp_path)
    theirs, info = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        output = theirs.eval()(input_ids=golden["input_ids"], attention_mask=golden["attention_mask"])
    real = golden["attention_mask"].bool()
    close(output.start_logits[real], golden["start_logits"][real])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RELATIVES)
def test_adapters_go_to_peft_and_back(name, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    folder = GOLDEN / "families" / name
    golden = load_file(GOLDEN / "families" / f"{name}.safetensors")
    model = minibert.load_pretrained(folder)
    lora.add_lora(model, 3, 5, head=HEAD)
    shake(model)
    names = minibert.checkpoint_names(model.config)
    lora.save_adapter(model.eval(), tmp_path / "ours", names, "QUESTION_ANS", str(folder))
    base = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    with torch.no_grad():
        expected = model(*(golden[key] for key in INPUTS))[0]
        inputs = {key: golden[key] for key in ("input_ids", "attention_mask")}
        output = theirs.get_base_model()(**inputs).start_logits
    real = golden["attention_mask"].bool()
    torch.testing.assert_close(output[real], expected[real], rtol=1e-5, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    again = minibert.load_pretrained(folder)
    lora.load_adapter(again, tmp_path / "theirs", names, HEAD)
    with torch.no_grad():
        torch.testing.assert_close(again(*(golden[key] for key in INPUTS))[0], expected)


def test_positions_and_segments_by_hand():
    roberta = minibert.load_pretrained(GOLDEN / "families" / "roberta")
    assert (roberta.config.first_position, roberta.config.longest_sequence) == (2, 11)
    ids = torch.randint(3, 37, (3, 11))
    embeddings = roberta.bert.embeddings
    expected = embeddings.norm(
        embeddings.word(ids) + embeddings.position(torch.arange(2, 13)) + embeddings.token_type.weight[0]
    )
    with torch.no_grad():
        torch.testing.assert_close(embeddings(ids, torch.ones_like(ids)), expected)
    with pytest.raises(ValueError, match="a sequence of 12 tokens, but this model has 11 positions"):
        embeddings(torch.randint(3, 37, (3, 12)), torch.zeros(3, 12).long())
    with pytest.raises(minibert.CheckpointError, match="windows of 12 tokens, but this model has 11 positions"):
        minihub.check_fit(wordpiece_tokenizer(list(SPECIAL_TOKENS)), 37, roberta.config.longest_sequence, 12)


@pytest.mark.parametrize("name", FAMILIES)
def test_config_round_trip(name):
    folder = GOLDEN / "tiny" if name == "bert" else GOLDEN / "families" / name
    config = minibert.BertConfig.from_json(folder / "config.json")
    assert config.model_type == name
    assert minibert.BertConfig.from_dict(config.to_dict()) == config
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del stored["pad_token_id"]  # transformers leaves out what is the class's default
    assert minibert.BertConfig.from_dict(stored).pad_token_id == config.pad_token_id
    assert {key: value for key, value in config.to_dict().items() if key in stored} == {
        key: stored[key] for key in config.to_dict() if key in stored
    }


def test_weights_of_the_language_model_head_are_left_out(tmp_path):
    from safetensors.torch import save_file

    folder = GOLDEN / "families" / "roberta"
    state = load_file(folder / "model.safetensors")
    extra = {"lm_head.dense.weight": torch.zeros(2, 2), "roberta.pooler.dense.bias": torch.zeros(2)}
    save_file({**state, **extra}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    loaded, plain = minibert.load_pretrained(tmp_path), minibert.load_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), plain.parameters(), strict=True))
    # as sentence encoders are saved: without the prefix
    bare = {key.removeprefix("roberta."): tensor for key, tensor in state.items()}
    save_file(bare, tmp_path / "model.safetensors")
    loaded = minibert.load_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), plain.parameters(), strict=True))


# ------------------------------------------------------------------------------------------ their tokenizers

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXT = [
    "Paris is the capital of France, and the Seine is in Paris.",
    "وِن ایک مسٹ بورن ہے اور کیلسیئر گڑھوں کا بچ جانے والا ہے",
    "文是迷霧之子。", "Вин — рождённая туманом.", "emoji 👨‍👩‍👧 and 🇵🇰 flags",
]  # fmt: skip


def byte_level(texts=TEXT, trim_offsets=True) -> Tokenizer:
    """RoBERTa's kind of tokenizer, trained on a few texts."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=SPECIAL, initial_alphabet=alphabet, vocab_size=320, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets)
    return tokenizer


def sentence_piece() -> Tokenizer:
    """XLM-R's kind of tokenizer, trained on a few texts."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(special_tokens=SPECIAL, unk_token="<unk>", vocab_size=150, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    template = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.post_processor = template
    return tokenizer


WORDS = ["vin", "is", "Ünïcode", "دھند", "迷霧", "👨‍👩‍👧", "🇵🇰", "x.", "١٢"]
TOKENIZERS = {
    "byte-level": byte_level(),
    "byte-level, blanks counted": byte_level(trim_offsets=False),
    "SentencePiece": sentence_piece(),
}


def make_windows(tokenizer, question, context, answers=(), **sizes):
    example = squad.Example("x", question, context, tuple(answers), not answers, "t")
    sizes = {"max_length": 200, "overlap": 20, "max_question_tokens": 60} | sizes
    return squad.make_windows([example], tokenizer, **sizes)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_window_is_what_the_tokenizer_makes_of_a_pair(name):
    tokenizer = TOKENIZERS[name]
    windows = make_windows(tokenizer, "who is in paris?", TEXT[0])
    batch = squad.collate(windows, np.array([0]))
    expected = tokenizer.encode("who is in paris?", TEXT[0]).ids
    assert batch.input_ids[0, : len(expected)].tolist() == expected
    assert batch.attention_mask.sum() == len(expected)
    assert set(batch.input_ids[0, len(expected) :].tolist()) <= {1}
    # an answer may lie at <s> and in the context, nowhere else
    question = tokenizer.encode("who is in paris?", add_special_tokens=False).ids
    allowed = [0, *range(len(question) + 3, len(expected) - 1)]
    assert batch.span_mask[0].nonzero()[:, 0].tolist() == allowed


@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9), st.data())
def test_words_are_read_back_whole_without_their_blanks(name, words, data):
    context = " ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    start = len(" ".join([*words[:first], ""])) if first else 0
    text = " ".join(words[first : last + 1])
    assert context[start : start + len(text)] == text
    windows = make_windows(TOKENIZERS[name], "who?", context, [squad.Answer(text, start)])
    labelled = (windows.start_positions, windows.end_positions)
    assert labelled[0][0] > 0
    [(a, b)] = windows.char_spans(np.array([0]), *labelled)
    assert context[a:b] == text


@given(st.text(max_size=40), st.sampled_from(sorted(TOKENIZERS)))
def test_any_text_has_offsets_in_order_and_inside(text, name):
    windows = make_windows(TOKENIZERS[name], "who?", text)
    offsets = windows.offsets.values
    assert (offsets >= 0).all()
    assert (offsets <= len(text)).all()
    assert (offsets[:, 0] <= offsets[:, 1]).all()
    assert (offsets[1:] >= offsets[:-1]).all()
    assert not any(text[a].isspace() for a, b in offsets.tolist() if a < b)


def test_an_emoji_of_several_tokens_is_one_answer():
    tokenizer = TOKENIZERS["byte-level"]
    context = "we are 👩‍🚀 now"
    tokens = tokenizer.encode("👩‍🚀", add_special_tokens=False).ids
    assert len(tokens) > 2
    windows = make_windows(tokenizer, "who?", context, [squad.Answer("👩‍🚀", 7)])
    positions = windows.start_positions, windows.end_positions
    assert positions[1][0] - positions[0][0] + 1 >= len(tokens)
    [(a, b)] = windows.char_spans(np.array([0]), *positions)
    assert context[a:b] == "👩‍🚀"


def test_templates():
    assert find_template(TOKENIZERS["byte-level"]).separators == 2
    with pytest.raises(squad.DataError, match=r"neither \[CLS\], \[SEP\] and \[PAD\] nor <s>, </s> and <pad>"):
        find_template(Tokenizer(models.BPE()))
