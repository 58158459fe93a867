"""Prompts for a model that writes: what it reads, what it is taught, what is cut."""

import numpy as np
import pytest
import torch
from helpers import DATA, example
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import squad
from squad.prompts import IGNORED, QUESTION, answer_loss, collate_prompts, kept_context, make_prompts, text_chunks

CONTEXT = "Vin is a Mistborn of great power. Kelsier, the Survivor of Hathsin, taught her. She lives in Luthadel."


@pytest.fixture(scope="module")
def bpe():
    """A byte-level BPE tokenizer, as GPT-2's, trained on one text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator([CONTEXT, QUESTION], trainer)
    return tokenizer


EOS = 0


def asked(text=None, question="Who taught Vin?", id="x"):
    return example(question, CONTEXT, [squad.Answer(text, CONTEXT.index(text))] if text else (), id)


def test_a_prompt_reads_as_it_should(bpe):
    examples = [asked("Kelsier", id="a"), asked(id="b", question="Who is Elend?")]
    prompts = make_prompts(examples, bpe, 500, EOS)
    read = [bpe.decode(ids.tolist(), skip_special_tokens=False) for ids in prompts.ids]
    assert read == [
        f"{CONTEXT}\n\nQuestion: Who taught Vin?\nAnswer: Kelsier<|endoftext|>",
        f"{CONTEXT}\n\nQuestion: Who is Elend?\nAnswer:<|endoftext|>",
    ]
    said = make_prompts(examples, bpe, 500, EOS, silence="unanswerable")
    assert bpe.decode(said.ids[1].tolist()).endswith("Answer: unanswerable")
    asking = make_prompts(examples, bpe, 500, EOS, answer_room=9)
    assert bpe.decode(asking.ids[0].tolist()) == f"{CONTEXT}\n\nQuestion: Who taught Vin?\nAnswer:"
    for trained, asked_only in zip(prompts.ids, asking.ids, strict=True):
        assert trained[: len(asked_only)].tolist() == asked_only.tolist()  # both see the same tokens


def test_only_the_answer_and_its_eos_are_labels(bpe):
    prompts = make_prompts(
        [asked("Kelsier", id="a"), asked(id="b", question="Elend?"), asked("Vin", id="c")], bpe, 500, EOS
    )
    for left in (False, True):
        batch = collate_prompts(prompts, [0, 1, 2], pad_id=EOS, left=left)  # padding is eos too
        taught = [row[row != IGNORED].tolist() for row in batch.labels]
        assert [bpe.decode(ids, skip_special_tokens=False) for ids in taught] == [
            " Kelsier<|endoftext|>", "<|endoftext|>", " Vin<|endoftext|>",
        ]  # fmt: skip
        assert torch.equal(batch.labels != IGNORED, (batch.labels == batch.input_ids) & (batch.attention_mask == 1))
        assert batch.attention_mask.sum(1).tolist() == [len(ids) for ids in prompts.ids]
        real = [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
        assert real == [ids.tolist() for ids in prompts.ids]
    assert batch.attention_mask[:, -1].all()  # on the left, all rows end together


def test_texts_are_one_stream_cut_in_pieces(bpe):
    """Each context once, whatever is asked about it, and an end after each."""
    texts = ["Vin is a Mistborn.", "She lives in Luthadel."]
    examples = [
        example("Who?", texts[0], id="a"),
        example("What?", texts[0], id="b"),
        example("Who?", texts[1], id="c"),
    ]
    stream = [id for text in texts for id in (*bpe.encode(text).ids, EOS)]
    chunks = text_chunks(examples, bpe, 7, EOS)
    assert [ids.tolist() for ids in chunks.ids] == [stream[at : at + 7] for at in range(0, len(stream), 7)]
    assert chunks.answer_tokens.tolist() == [len(ids) - 1 for ids in chunks.ids]


def test_the_fingerprint_is_of_tokens_and_answers(bpe):
    one, same, other, moved = (
        make_prompts([asked(text, question)], bpe, 500, EOS).fingerprint()
        for text, question in (
            ("Kelsier", "Who taught Vin?"), ("Kelsier", "Who taught Vin?"), ("Hathsin", "Who taught Vin?"),
            ("Kelsier", "Who taught viN?"),
        )
    )  # fmt: skip
    assert one == same
    assert len({one, other, moved}) == 3


def test_the_loss_equals_one_token_at_a_time():
    torch.manual_seed(0)
    x, W = torch.randn(3, 7, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    labels = torch.full((3, 7), IGNORED)
    labels[0, 4:6], labels[1, 6], labels[2, 2:7] = torch.tensor([3, 0]), 0, torch.tensor([1, 2, 3, 4, 0])
    asked = []

    def head(states):
        asked.append(len(states))
        return states @ W.T

    places = [(b, t) for b in range(3) for t in range(7) if labels[b, t] >= 0]
    losses = [-(W @ x[b, t - 1]).log_softmax(-1)[labels[b, t]] for b, t in places]
    found, expected = answer_loss(x, labels, head), torch.stack(losses).mean()
    assert asked == [len(places)] == [8]
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(loss, (x, W)) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@given(st.data())
def test_kept_context_equals_cutting_token_by_token(data):
    tokens, room = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    first = data.draw(st.integers(0, tokens - 1))
    last = data.draw(st.integers(first, tokens - 1))
    begin, end = kept_context(tokens, room, (first, last))
    assert 0 <= begin <= end <= tokens and end - begin == min(tokens, room)
    left, right = 0, tokens
    further_left = first > tokens - 1 - last
    while right - left > room:
        can_left, can_right = left < first, right - 1 > last
        if can_left and (further_left or not can_right):
            left += 1
        else:
            right -= 1
    assert (begin, end) == (left, right)
    if last - first + 1 <= room:
        assert begin <= first and last < end
    assert kept_context(tokens, room, None) == (0, min(tokens, room))


def test_what_is_too_long_loses_context_only(bpe):
    ample = make_prompts([asked("Luthadel")], bpe, 500, EOS).ids[0]
    for max_length in range(len(ample) - 20, len(ample) + 3):
        prompts = make_prompts([asked("Luthadel")], bpe, max_length, EOS)
        assert len(prompts.ids[0]) == min(max_length, len(ample))
        read = bpe.decode(prompts.ids[0].tolist())
        assert "Luthadel.\n\nQuestion: Who taught Vin?\nAnswer: Luthadel" in read
    question = len(bpe.encode(QUESTION.format("Who taught Vin?")).ids)
    with pytest.raises(
        squad.DataError, match=rf"question 'x' has {question} tokens .* no context fits into {question + 5}"
    ):
        make_prompts([asked("Kelsier")], bpe, question + 5, EOS, answer_room=5)


def test_real_questions_keep_their_answers(bpe):
    examples = squad.read_examples(DATA / "dev.json.gz")[::40]
    prompts = make_prompts(examples, bpe, 420, EOS)
    assert all(len(ids) <= 420 for ids in prompts.ids)
    cut = 0
    for e, ids, answer in zip(examples, prompts.ids, prompts.answer_tokens, strict=True):
        read = bpe.decode(ids[: len(ids) - answer].tolist())
        assert read.endswith(QUESTION.format(e.question))
        cut += not read.startswith(e.context)
        if e.answers:
            assert e.answers[0].text in read.removesuffix(QUESTION.format(e.question))
            assert bpe.decode(ids[len(ids) - answer :].tolist()) == f" {e.answers[0].text}"
    assert cut > 0
    assert np.array_equal(prompts.answer_tokens > 1, [bool(e.answers) for e in examples])
