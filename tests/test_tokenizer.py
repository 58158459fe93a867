"""Tokenizers from tokenizer.json and vocab.txt."""

import pytest
from tokenizers import Tokenizer

import minibert
import minihub
from minibert import CheckpointError
from minibert.wordpiece import SPECIAL_TOKENS, wordpiece_tokenizer


def test_the_files_own_truncation_and_padding_are_reset(tokenizer, tmp_path):
    cut = Tokenizer.from_str(tokenizer.to_str())
    cut.enable_truncation(4)
    cut.enable_padding(length=9)
    cut.save(str(tmp_path / "tokenizer.json"))
    loaded = minibert.load_tokenizer(tmp_path)
    assert loaded.truncation is None
    assert loaded.padding is None
    assert len(loaded.encode("the paris of france in paris", add_special_tokens=False).ids) == 6


def test_minilm_s_128_is_reset(has_minilm):
    encoding = minibert.load_tokenizer("minilm").encode("word " * 500, add_special_tokens=False)
    assert len(encoding.ids) == 500


def test_vocab_txt_gives_the_same_tokens_and_offsets(has_minilm, tmp_path):
    folder = minihub.find_model("minilm")
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    ours, theirs = minibert.load_tokenizer(tmp_path), minibert.load_tokenizer("minilm")
    text = "Ünïcode, \u4e2d\u6587 Beyonc\u00e9's \U0001f468 don't\u00a0STOP\r\n supercalifragilistic!"
    a, b = (t.encode(text, add_special_tokens=False) for t in (ours, theirs))
    assert (a.ids, a.offsets) == (b.ids, b.offsets)
    a, b = (t.encode("Who?", text) for t in (ours, theirs))  # with [CLS] and [SEP]
    assert (a.tokens, a.type_ids, a.offsets) == (b.tokens, b.type_ids, b.offsets)


def test_offsets_index_the_raw_text(tokenizer):
    encoding = tokenizer.encode("Pàrìs  IS", add_special_tokens=False)
    assert encoding.tokens == ["paris", "is"]
    assert encoding.offsets == [(0, 5), (7, 9)]


def test_a_vocabulary_with_capitals_is_a_cased_model_s():
    cased = wordpiece_tokenizer([*SPECIAL_TOKENS, "The", "the", ""])
    assert cased.encode("The the THE", add_special_tokens=False).tokens == ["The", "the", "[UNK]"]


def test_errors(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json and no vocab\.txt"):
        minibert.load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\nthe\n")
    with pytest.raises(
        CheckpointError, match=r"vocab\.txt: the tokens \[UNK\], \[CLS\], \[SEP\], \[MASK\] are missing"
    ):
        minibert.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        minibert.load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=r"has ids up to [0-9]+, but the model only 37 embeddings"):
        minihub.check_fit(tokenizer, 37, 11, 8)
    with pytest.raises(CheckpointError, match="windows of 12 tokens, but this model has 11"):
        minihub.check_fit(wordpiece_tokenizer(list(SPECIAL_TOKENS)), 37, 11, 12)
    minihub.check_fit(wordpiece_tokenizer(list(SPECIAL_TOKENS)), 5, 11, 11)
    with pytest.raises(CheckpointError, match="has ids up to 4, but the model only 4 embeddings"):  # one id too many
        minihub.check_fit(wordpiece_tokenizer(list(SPECIAL_TOKENS)), 4, 11, 11)


def test_a_tokenizer_json_can_be_named_itself(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "x.json"))
    assert minihub.load_tokenizer(tmp_path / "x.json").get_vocab() == tokenizer.get_vocab()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json$"):
        minihub.load_tokenizer(tmp_path)
