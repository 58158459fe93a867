"""Unanswerable questions made from answerable ones."""

import functools
import random
import re

import pytest
from helpers import ROOT, example

import squad
from squad.augment import augment, leave_out, unanswerable, ways
from squad.augment.__main__ import main
from squad.augment.ways import entities, negate, sentence_around, swap_entity, swap_opposite

TEXT = (
    "Later the painter Claude Monet moved to Giverny. In 1883 he rented a house there. "
    "The garden was opened by Georges Clemenceau in 1980, and 500 visitors came in from Paris on 3 May 1980."
)


def asked(question, answer, id="q"):
    return example(question, TEXT, [squad.Answer(answer, TEXT.index(answer))], id)


def test_entities_have_types():
    assert entities(TEXT) == {
        "3 May 1980": "date", "1883": "year", "1980": "year", "500": "number", "3": "number", "Paris": "place",
        "Claude Monet": "name", "Giverny": "name", "Georges Clemenceau": "name", "May": "name",
    }  # fmt: skip


def test_an_entity_is_replaced_by_one_of_its_type_from_another_sentence():
    rng = random.Random(0)
    evidence = sentence_around(TEXT, TEXT.index("Giverny"), TEXT.index("Giverny") + 7)
    assert evidence == "Later the painter Claude Monet moved to Giverny."
    made = swap_entity("Where did Claude Monet move?", TEXT, evidence, rng)
    assert made in ("Where did Georges Clemenceau move?", "Where did May move?")
    assert swap_entity("Where did he rent a house in 1883?", TEXT, "In 1883 he rented a house.", rng) == (
        "Where did he rent a house in 1980?"
    )


def test_nothing_is_swapped_where_the_old_answer_could_stay_right():
    rng = random.Random(0)
    assert swap_entity("Where did Claude Monet move?", TEXT, TEXT, rng) is None  # every entity is in the evidence
    assert swap_entity("Where did Claude Monet move?", TEXT, "He moved to Giverny.", rng) is None  # says nothing of it
    assert swap_opposite("Who was the first?", "", "The first and the last were both Vin.", rng) is None
    assert negate("Who was defeated?", "", "Vin was never defeated.", rng) is None
    assert negate("Who was not defeated?", "", "Vin was defeated.", rng) is None
    for evidence in ("The gates cannot be opened.", "The gates aren\u2019t opened.", "None of the gates were opened."):
        assert negate("Which gates were opened?", "", evidence, rng) is None
    assert negate("Which gates were opened?", "", "Northern gates, a knot.", rng) == "Which gates were not opened?"


def test_opposites_and_negation():
    rng = random.Random(0)
    assert swap_opposite("Who came before Vin?", "", "Kelsier came before Vin.", rng) == "Who came after Vin?"
    assert negate("Which gate was opened by Vin?", "", "Vin opened a gate.", rng) == "Which gate was not opened by Vin?"
    assert negate("Who is Vin?", "", "Vin is a Mistborn.", rng) is None  # there is no verb to put it before


@pytest.fixture(scope="module")
def real():
    return squad.read_examples(ROOT / "data" / "dev.json.gz")


def test_made_questions_are_new_and_keep_all_else(real):
    old = {e.id: e for e in real}
    made = augment(real, 100, seed=3)
    assert len({e.id for e in made}) == len(made) == 100
    for new in made:
        source = old[new.id.removesuffix("-made-3")]
        assert source.answers and not new.answers and new.is_impossible
        assert (new.context, new.title) == (source.context, source.title)
        assert new.question != source.question
        # What was put in stands in no sentence that holds a gold answer.
        added = set(new.question.split()) - set(source.question.split())
        evidence = " ".join(sentence_around(new.context, a.start, a.end) for a in source.answers)
        assert not added & set(evidence.split())


def test_what_is_made_depends_on_seed_and_example_only(real):
    made = augment(real, 50, seed=3)
    assert made == augment(real, 50, seed=3) != augment(real, 50, seed=4)
    assert made[:20] == augment(real, 20, seed=3)
    alone = [e for e in real if e.id == made[7].id.removesuffix("-made-3")]
    assert augment(alone, 5, seed=3) == [made[7]]
    assert augment(real, 10**6, seed=3)[:50] == made  # asked for more than there can be
    assert augment(real, 0, seed=3) == []


def test_an_unanswerable_question_is_not_changed_again(real):
    assert augment([e for e in real if not e.answers], 10, seed=0) == []


def test_one_of_the_ways_that_work_is_drawn():
    assert unanswerable(asked("Who is Vin?", "Giverny"), random.Random(0)) is None
    before = asked("Who was moved before Claude Monet?", "Giverny")
    made = {unanswerable(before, random.Random(seed)).question for seed in range(50)}
    assert made == {
        "Who was moved after Claude Monet?", "Who was not moved before Claude Monet?",
        "Who was moved before Georges Clemenceau?", "Who was moved before May?",
    }  # fmt: skip


def test_the_sentences_of_the_gold_answers_are_left_out(monkeypatch):
    monkeypatch.setattr(ways, "LEAST", 9)
    made = leave_out(asked("Where did he rent a house?", "there"))
    assert made.context == TEXT.replace("In 1883 he rented a house there. ", "")
    assert leave_out(asked("Where did he move?", "Giverny")).context == TEXT.partition(" Giverny. ")[2]
    assert leave_out(asked("What was opened?", "The garden")).context == TEXT.partition(" The garden")[0]
    two = example("When?", TEXT, [squad.Answer(text, TEXT.index(text)) for text in ("1883", "500", "1980")])
    assert leave_out(two) is None  # eight words would be left
    assert leave_out(asked("Who painted?", "Later the painter")).context  # stands nowhere else
    assert leave_out(asked("Who moved?", "he")) is None  # the next sentence has it too


def test_texts_that_lost_the_answer_have_it_nowhere(real):
    old = {e.id: e for e in real}
    made = augment(real, 0, seed=3, left_out=100)
    assert len({e.id for e in made}) == len(made) == 100
    assert made == augment(real, 7, seed=3, left_out=100)[7:]
    for new in made:
        source = old[new.id.removesuffix("-left-3")]
        assert (new.question, new.answers, new.is_impossible) == (source.question, (), True)
        assert len(new.context) < len(source.context)
        assert set(new.context.split()) <= set(source.context.split())
        assert not any(re.search(rf"\b{re.escape(a.text)}\b", new.context) for a in source.answers)


def test_made_questions_are_trained_on_as_unanswerable(tokenizer):
    data = squad.load_dataset(
        ROOT / "data" / "dev.json.gz", tokenizer, limit=30, extend=functools.partial(augment, count=5, seed=1)
    )
    assert (len(data.examples), data.made) == (35, 5)
    assert "5 of the questions were made" in data.summary()
    rows = [i for i, at in enumerate(data.windows.example_index) if at >= 30]
    assert rows
    batch = squad.collate(data.windows, rows)
    assert not batch.start_positions.any() and not batch.end_positions.any()


@pytest.mark.parametrize(("flag", "value", "least"), [("--seed", "-1", 0), ("--count", "0", 1)])
def test_the_command_refuses_numbers_that_are_too_small(flag, value, least):
    with pytest.raises(ValueError, match=f"{flag} is {value}, expected at least {least}"):
        main([str(ROOT / "data" / "dev.json.gz"), flag, value])


def test_the_command_shows_old_and_new(capsys):
    assert main([str(ROOT / "data" / "dev.json.gz"), "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[1].startswith("  -> ") and lines[10].startswith("  -> the text without: ")
    assert main([str(ROOT / "data" / "dev.json.gz"), "--count", "100000"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    count = sum(line.startswith("  -> ") for line in lines)
    assert last == f"these {count} instead of 200000: of one kind or both no more could be made"
