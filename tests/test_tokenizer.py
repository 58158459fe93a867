"""Tokenizers from tokenizer.json and vocab.txt."""

import pytest

import minibert
from minibert import CheckpointError
from minibert.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer


def test_the_files_own_truncation_and_padding_are_reset(tokenizer, tmp_path):
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    loaded = minibert.load_tokenizer(tmp_path)
    assert loaded.truncation is None
    assert loaded.padding is None
    assert len(loaded.encode("the paris of france in paris", add_special_tokens=False).ids) == 6


def test_minilm_s_128_is_reset(has_minilm):
    encoding = minibert.load_tokenizer("minilm").encode("word " * 500, add_special_tokens=False)
    assert len(encoding.ids) == 500


def test_vocab_txt_gives_the_same_tokens_and_offsets(has_minilm, tmp_path):
    folder = minibert.find_model("minilm")
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    ours, theirs = minibert.load_tokenizer(tmp_path), minibert.load_tokenizer("minilm")
    text = "Ünïcode, \u4e2d\u6587 Beyonc\u00e9's \U0001f468 don't\u00a0STOP\r\n supercalifragilistic!"
    a, b = (t.encode(text, add_special_tokens=False) for t in (ours, theirs))
    assert (a.ids, a.offsets) == (b.ids, b.offsets)


def test_offsets_index_the_raw_text(tokenizer):
    encoding = tokenizer.encode("Pàrìs  IS", add_special_tokens=False)
    assert encoding.tokens == ["paris", "is"]
    assert encoding.offsets == [(0, 5), (7, 9)]


def test_a_vocabulary_with_capitals_is_a_cased_model_s():
    cased = wordpiece_tokenizer([*SPECIAL_TOKENS, "The", "the", ""])
    assert cased.encode("The the THE", add_special_tokens=False).tokens == ["The", "the", "[UNK]"]


def test_errors(tmp_path, tokenizer, config):
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.txt"):
        minibert.load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\nthe\n")
    with pytest.raises(CheckpointError, match=r"\[UNK\], \[CLS\], \[SEP\], \[MASK\] missing"):
        minibert.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        minibert.load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=r"makes ids up to [0-9]+, the model has 37"):
        minibert.check_fit(tokenizer, config, 8)
    with pytest.raises(CheckpointError, match="windows of 12 tokens, but this model has 11"):
        minibert.check_fit(wordpiece_tokenizer(list(SPECIAL_TOKENS)), config, 12)
