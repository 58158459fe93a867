"""Results cached on disk: what comes back equals what was made, and nothing damaged ever does."""

import dataclasses

import numpy as np
import pytest

import squad.cache
from squad import make_windows, read_examples
from squad.cache import cached_windows
from squad.windows import Ragged

SETTINGS = (40, 8, 8)


@dataclasses.dataclass
class Pair:
    rows: Ragged
    number: int


@pytest.fixture
def source(tiny):
    return tiny / "squad.json"


@pytest.fixture
def made(monkeypatch):
    """How often windows were made, not read."""
    calls = []
    monkeypatch.setattr(squad.cache, "make_windows", lambda *args: calls.append(1) or make_windows(*args))
    return calls


def assert_equal(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        pairs = [(a.values, b.values), (a.row_splits, b.row_splits)] if isinstance(a, Ragged) else [(a, b)]
        for x, y in pairs:
            np.testing.assert_array_equal(x, y)
            assert getattr(x, "dtype", None) == getattr(y, "dtype", None)


def test_the_second_start_reads_what_the_first_made(source, tokenizer, tmp_path, made):
    examples = read_examples(source)
    first = cached_windows(source, examples, tokenizer, SETTINGS, folder=tmp_path)
    second = cached_windows(source, examples, tokenizer, SETTINGS, folder=tmp_path)
    assert len(made) == 1
    assert_equal(first, make_windows(examples, tokenizer, *SETTINGS))
    assert_equal(second, first)


def test_anything_else_is_made_anew(source, tokenizer, tmp_path, made):
    from tokenizers import Tokenizer

    examples = read_examples(source)
    other_file = tmp_path / "other.json"
    other_file.write_bytes(source.read_bytes() + b"\n")
    other_tokenizer = Tokenizer.from_str(tokenizer.to_str())
    other_tokenizer.add_tokens(["mistborn"])
    cached_windows(source, examples, tokenizer, SETTINGS, folder=tmp_path)
    cached_windows(other_file, examples, tokenizer, SETTINGS, folder=tmp_path)
    cached_windows(source, examples[:5], tokenizer, SETTINGS, folder=tmp_path)
    cached_windows(source, examples[1:6], tokenizer, SETTINGS, folder=tmp_path)  # as many, but others
    cached_windows(source, examples, other_tokenizer, SETTINGS, folder=tmp_path)
    for sizes in ((40, 9, 8), (41, 8, 8), (40, 8, 9)):
        cached_windows(source, examples, tokenizer, sizes, folder=tmp_path)
    for change in ({"question": "who was vin"}, {"context": examples[0].context + " "}):  # of the same id
        changed = [dataclasses.replace(examples[0], **change), *examples[1:]]
        cached_windows(source, changed, tokenizer, SETTINGS, folder=tmp_path)
    assert len(made) == 10
    assert len(list(tmp_path.glob("*.npz"))) == 10


@pytest.mark.parametrize("damage", ["a byte", "the end", "all", "a name", "another's"])
def test_a_damaged_file_is_made_anew(source, tokenizer, tmp_path, made, damage):
    examples = read_examples(source)
    expected = cached_windows(source, examples, tokenizer, SETTINGS, folder=tmp_path)
    [path] = tmp_path.glob("*.npz")
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1
    elif damage == "the end":
        del content[-9:]
    elif damage == "all":
        content.clear()
    elif damage == "a name":
        content = content.replace(b"max_length", b"min_length")
    else:
        np.savez(tmp_path / "other.npz", max_length=np.asarray(40))
        content = (tmp_path / "other.npz").read_bytes()
        (tmp_path / "other.npz").unlink()
    path.write_bytes(content)
    before = len(made)
    assert_equal(cached_windows(source, examples, tokenizer, SETTINGS, folder=tmp_path), expected)
    assert len(made) == before + 1
    assert_equal(cached_windows(source, examples, tokenizer, SETTINGS, folder=tmp_path), expected)
    assert len(made) == before + 1  # and it was mended


def test_a_file_with_any_bit_turned_is_made_anew_or_holds_the_same(tmp_path):
    """Every byte of a small file: some damages make zipfile and zlib raise errors of their own."""
    original = Ragged(np.arange(3), np.array([0, 1, 3]))
    target = tmp_path / "a.npz"
    squad.cache._write(target, Pair(original, 7))
    content = target.read_bytes()
    for at in range(len(content)):
        target.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            found = squad.cache._read(Pair, target)
        except squad.cache.UNREADABLE:
            continue
        assert_equal(found, Pair(original, 7))


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(source, tokenizer, tmp_path):
    (tmp_path / "file").touch()
    examples = read_examples(source)
    windows = cached_windows(source, examples, tokenizer, SETTINGS, folder=tmp_path / "file")
    assert_equal(windows, make_windows(examples, tokenizer, *SETTINGS))
