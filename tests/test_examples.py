"""SQuAD files: real ones, and what is wrong with the others."""

import copy
import gzip
import json

import pytest
from helpers import DATA

from squad import Answer, DataError, read_examples
from squad.examples import WrongOffsetError

GOOD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Vin",
            "paragraphs": [
                {
                    "context": "Vin is a Mistborn.",
                    "qas": [
                        {"id": "a", "question": "Who is Vin?", "is_impossible": False,
                         "answers": [{"text": "a Mistborn", "answer_start": 7}]},
                        {"id": "b", "question": "Who is Kelsier?", "is_impossible": True, "answers": []},
                    ],
                }
            ],
        }
    ],
}  # fmt: skip


def write(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_reads_fields_in_file_order(tmp_path):
    first, second = read_examples(write(tmp_path / "x.json", GOOD))
    assert (first.id, first.question, first.title) == ("a", "Who is Vin?", "Vin")
    assert first.answers == (Answer("a Mistborn", 7),)
    assert (second.id, second.answers, second.is_impossible) == ("b", (), True)
    with pytest.raises(AttributeError):
        first.id = "c"


def test_articles_without_a_title_are_different_ones(tmp_path):
    """As cross-fitting and intervals go by articles, one name for all of them would make them one."""
    articles = []
    for number, title in enumerate(({}, {"title": None}, {"title": ""}, {"title": "Vin"})):
        context = copy.deepcopy(GOOD["data"][0]["paragraphs"])
        for qa in context[0]["qas"]:
            qa["id"] += str(number)
        articles.append(title | {"paragraphs": context})
    found = read_examples(write(tmp_path / "x.json", {"data": articles}))
    assert [e.title for e in found][::2] == ["article 0", "article 1", "article 2", "Vin"]


def test_gzip_and_version_1_are_the_same(tmp_path):
    plain = read_examples(write(tmp_path / "x.json", GOOD))
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert read_examples(tmp_path / "x.json.gz") == plain
    old = copy.deepcopy(GOOD)
    for qa in old["data"][0]["paragraphs"][0]["qas"]:
        del qa["is_impossible"]
    assert read_examples(write(tmp_path / "old.json", old)) == plain


def test_a_dict_is_read_and_checked_as_a_file(tmp_path):
    assert read_examples(GOOD) == read_examples(write(tmp_path / "x.json", GOOD))
    wrong = copy.deepcopy(GOOD)
    wrong["data"][0]["paragraphs"][0]["qas"][0]["answers"] = ({"text": "a Mistborn", "answer_start": 7},)
    with pytest.raises(
        DataError, match=r"the dict: article 'Vin', question a: 'answers' is a Python tuple, expected a list"
    ):
        read_examples(wrong)


@pytest.mark.parametrize(("name", "total", "unanswerable"), [("train", 11_960, 4833), ("dev", 1323, 665)])
def test_the_excerpts_are_what_their_readme_says(name, total, unanswerable):
    examples = read_examples(DATA / f"{name}.json.gz")
    assert (len(examples), sum(e.is_impossible for e in examples)) == (total, unanswerable)


def spoil(**changes):
    """GOOD with fields of question a, its answer (answer__...) or its paragraph (paragraph__...) changed."""
    data = copy.deepcopy(GOOD)
    paragraph = data["data"][0]["paragraphs"][0]
    places = {"qa": paragraph["qas"][0], "answer": paragraph["qas"][0]["answers"][0], "paragraph": paragraph}
    for name, value in changes.items():
        place, _, key = name.rpartition("__")
        places[place or "qa"][key] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "found a list, expected an object"),
        ({"data": {}}, "'data' is an object, expected a list"),
        ({}, "'data' is missing, expected a list"),
        ({"data": [3]}, "found a whole number where an object with 'paragraphs'"),
        (spoil(paragraph__context=7), "article 'Vin': 'context' is a whole number, expected text"),
        (spoil(question=None), "question a: 'question' is null, expected text"),
        (spoil(id=5), "article 'Vin': 'id' is a whole number, expected text"),
        (spoil(id="b"), "question b: this id occurs twice"),
        (spoil(is_impossible="false"), "question a: is_impossible is 'false'"),
        (spoil(is_impossible=True), "question a: is_impossible is True, but there are 1 answers"),
        (spoil(answers=[]), "question a: is_impossible is False, but there are 0 answers"),
        (spoil(answer__answer_start=8), "question a: answer 'a Mistborn' at 8, but the context has ' Mistborn.' there"),
        (spoil(answer__answer_start=-11), "answer 'a Mistborn' at -11"),
        (spoil(answer__answer_start=10**9), "answer 'a Mistborn' at 1000000000"),
        (spoil(answer__answer_start=True), "'answer_start' is true or false, expected a whole number"),
        (spoil(answer__text=""), "answer '' at 7"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, data, message):
    path = write(tmp_path / "bad.json", data)
    with pytest.raises(DataError) as error:
        read_examples(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"data": [' + b"[" * 100_000])
def test_what_is_no_json_is_said(tmp_path, content):
    for name in ("bad.json", "bad.json.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"not readable as JSON|cannot be read"):
            read_examples(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read_examples(tmp_path / "nowhere.json")


def test_bad_questions_can_be_left_out(tmp_path):
    messages = []
    examples = read_examples(write(tmp_path / "bad.json", spoil(answer__answer_start=8)), messages.append)
    assert [e.id for e in examples] == ["b"]
    [error] = messages
    assert isinstance(error, WrongOffsetError)
    assert "question a" in str(error)


def test_a_test_set_without_answers(tmp_path):
    """Only ids, questions and contexts are read, whatever stands in the place of answers."""
    data = spoil(answers="kept secret", is_impossible="who knows")
    del data["data"][0]["paragraphs"][0]["qas"][1]["answers"]
    path = write(tmp_path / "x.json", data)
    with pytest.raises(DataError):
        read_examples(path)
    found = read_examples(path, need_answers=False)
    assert [(e.id, e.question, e.answers) for e in found] == [("a", "Who is Vin?", ()), ("b", "Who is Kelsier?", ())]
    with pytest.raises(DataError, match="'question' is null"):
        read_examples(write(path, spoil(question=None)), need_answers=False)
