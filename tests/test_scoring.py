"""MLQA's rules against a second, plainer writing of them and worked examples; and which scoring a run prints."""
# ruff: noqa: RUF001 (letters of many scripts look alike)

import json
import string
import unicodedata

import pytest
from helpers import flags, predicted
from hypothesis import given
from hypothesis import strategies as st

import train
from squad import Answer, Example, choose_scorings, evaluate, official_metrics, question_scores, results_table
from squad.metrics import exact_match, f1_score
from squad.scoring import OFFICIAL, find_scoring, is_english, normalize_answer, normalize_multilingual

LANGUAGES = ("", "en", "es", "de", "vi", "ar", "hi", "zh", "ur")
ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "vi": "của là cái chiếc những",
}

# ------------------------------------------------------------------------------------------ the words


def is_letter(c):
    """What a regular expression's word boundary lies between: re's \\w, without using re."""
    return c.isalnum() or c == "_"


def plainly(text, language):
    """MLQA's rules written again without regular expressions: runs of letters that are articles become spaces."""
    kept = ""
    for c in text.lower():
        if c not in string.punctuation and unicodedata.category(c)[0] != "P":
            kept += c
    if language == "ar":
        kept = " ".join(kept.split("\u0627\u0644"))
    runs = []
    for c in kept:
        if runs and is_letter(runs[-1][-1]) == is_letter(c):
            runs[-1] += c
        else:
            runs.append(c)
    kept = "".join(" " if run in ARTICLES.get(language, "").split() else run for run in runs)
    if language == "zh":
        kept = "".join(f" {c} " if 0x4E00 <= ord(c) <= 0x9FA5 else c for c in kept)
    return kept.split()


WORKED = [
    ("", "The «Mona» Lisa!", "the mona lisa"),
    ("en", "The «Mona» Lisa’s", "mona lisas"),
    ("en", "theatre of an A", "theatre of"),
    ("es", "¿El Niño o la Niña?", "niño o niña"),
    ("de", "„Der Rhein“, den die Römer", "rhein römer"),
    ("de", "a the", "a the"),
    ("vi", "của những Hà Nội", "hà nội"),
    ("ar", "الكتاب، بالكتاب؟", "كتاب ب كتاب"),  # as MLQA does it: inside a word too
    ("hi", "नई दिल्ली।", "नई दिल्ली"),
    ("zh", "在1999年，iPhone 4。", "在 1999 年 iphone 4"),
    ("zh", "《红楼梦》 the", "红 楼 梦 the"),
    ("", "红楼梦", "红楼梦"),
    ("ur", "لاہور، پاکستان۔", "لاہور پاکستان"),
    ("ur", "C++ $5 €5", "c 5 €5"),  # string.punctuation has + and $, Unicode's P* has neither, nor the euro sign
    ("es", "…!", ""),
]


@pytest.mark.parametrize(("language", "text", "expected"), WORKED)
def test_worked_examples(language, text, expected):
    assert normalize_multilingual(text, language) == expected.split()
    assert plainly(text, language) == expected.split()


letters = st.sampled_from("ab \t\n.,_-$«»،。؟।’1é红楼ال梦いन€ß")
words = st.sampled_from([*" ".join(ARTICLES.values()).split(), "the", "ال", "红", "x", "THE", "Der"])
texts = st.lists(st.one_of(letters, words, st.just(" "), st.characters(codec="utf-8")), max_size=12).map("".join)


@given(texts, st.sampled_from(LANGUAGES))
def test_any_text_as_written_plainly(text, language):
    assert normalize_multilingual(text, language) == plainly(text, language)


ascii_texts = st.text(string.printable, max_size=30)


@given(ascii_texts, ascii_texts, st.sampled_from(LANGUAGES))
def test_on_ascii_without_articles_both_scorings_are_one(gold, predicted, language):
    taken_out = {article for articles in ARTICLES.values() for article in articles.split()}

    def without_articles(text):
        return " ".join(word for word in text.split() if not set(plainly(word, "")) & taken_out)

    gold, predicted = without_articles(gold), without_articles(predicted)
    multilingual = find_scoring("multilingual", language).normalize
    assert multilingual(gold) == normalize_answer(gold)
    assert exact_match(gold, predicted, multilingual) == exact_match(gold, predicted)
    assert f1_score(gold, predicted, multilingual) == f1_score(gold, predicted)


@given(ascii_texts)
def test_on_ascii_english_is_the_official_scoring(text):
    assert normalize_multilingual(text, "en") == normalize_answer(text)


def test_another_name_is_an_error():
    assert find_scoring("official", "ur") is OFFICIAL
    with pytest.raises(ValueError, match="scoring is 'mlqa', expected official or multilingual"):
        find_scoring("mlqa")


# ---------------------------------------------------------------------------------------- the figures


def asked(*golds, id="q", context="x", title="t"):
    return Example(id, "?", context, tuple(Answer(gold, 0) for gold in golds), not golds, title)


def test_golds_without_a_word_are_dropped_by_each_scorings_own_words():
    """The official script keeps "。" as a gold that only "。" matches; MLQA's rules leave nothing of it."""
    only = [asked("。")]
    urdu = find_scoring("multilingual", "ur").normalize
    assert question_scores(only, {"q": ""}) == (0.0, 0.0)
    assert question_scores(only, {"q": ""}, urdu) == (1.0, 1.0)
    beside = [asked("。", "x")]
    assert question_scores(beside, {"q": ""}, urdu) == (0.0, 0.0)
    assert question_scores(beside, {"q": "x۔"}, urdu) == (1.0, 1.0)
    assert question_scores([asked("the")], {"q": ""}) == (1.0, 1.0)
    assert question_scores([asked("the")], {"q": ""}, urdu) == (0.0, 0.0)


def test_every_figure_of_an_evaluation_follows_the_scoring():
    """Right but for "۔": worth answering by MLQA's rules only, and then at a threshold above both odds."""
    examples = [asked("لاہور", id="0", title="a"), asked("کراچی", id="1", title="b"), asked(id="2", title="b")]
    predictions = predicted({"0": "لاہور۔", "1": "کراچی۔", "2": "x"}, {"0": 1.0, "1": 2.0, "2": 3.0})
    official = evaluate(examples, predictions)
    both = [find_scoring(name, "ur") for name in ("official", "multilingual")]
    urdu = evaluate(examples, predictions, scoring=both[1], compared=both)
    assert (official["scoring"], official["f1"], official["always_answer"]["f1"]) == ("official", 100 / 3, 0.0)
    assert urdu["language"] == "ur"
    assert (urdu["scoring"], urdu["threshold"], urdu["f1"], urdu["best_f1"]) == ("multilingual", 2.5, 100.0, 100.0)
    assert urdu["at_zero"]["exact"] == 100 / 3
    assert urdu["always_answer"]["HasAns_exact"] == 100.0
    # half a wants to answer at odds 1 (threshold 2), half b at 2 and not at 3 (2.5): each fits the other too
    assert (urdu["crossfit"]["f1"], official["crossfit"]["f1"]) == (100.0, 100 / 3)
    same = {name: (row["exact"], row["f1"]) for name, row in urdu["scorings"].items()}
    assert same == {"official": (100 / 3, 100 / 3), "multilingual": (100.0, 100.0)}
    assert urdu["calibration"] != official["calibration"]
    assert "scorings" not in official
    json.dumps(urdu, allow_nan=False)


def test_the_table_compares_both_and_says_why():
    examples, predictions = [asked("el sol")], predicted({"q": "sol"}, {"q": -1.0})
    both = [find_scoring(name, "es") for name in ("official", "multilingual")]
    *_, head, official, multilingual, why = results_table(evaluate(examples, predictions, compared=both)).splitlines()
    assert head.split()[-2:] == ["EM", "F1"]
    assert official.split() == ["official", "0.00", "66.67"]
    assert multilingual.split() == ["multilingual", "100.00", "100.00"]
    assert why == (
        "why they differ: official removes ASCII punctuation and a, an, the; "
        "multilingual removes all Unicode punctuation and the articles of 'es'"
    )
    assert "scored by the multilingual rules" in results_table(evaluate(examples, predictions, scoring=both[1]))
    plain = results_table(evaluate(examples, predictions))
    assert "multilingual" not in plain and "why" not in plain


# ------------------------------------------------------------------------------------------- the data


@pytest.mark.parametrize(
    ("contexts", "language", "expected"),
    [
        (["Paris is big."], "", True),
        (["Paris is big."], "en", True),
        (["París es grande."], "", True),  # the script cannot tell
        (["París es grande."], "es", False),
        (["لاہور پاکستان کا شہر ہے"], "", False),
        (["لاہور پاکستان کا شہر ہے"], "en", True),
        (["ab لا"], "", True),  # half
        (["ab لاہ"], "", False),
        (["a" * 1000, "لا" * 1000], "", True),  # only the first 1,000 letters count
        (["12 " * 500, "a" * 499, "لا" * 1000], "", False),  # 499 of 1,000; digits are no letters
        (["12 " * 500, "a" * 500, "لا" * 1000], "", True),
        (["1, 2"], "", True),
        ([], "", True),
    ],
)
def test_is_english(contexts, language, expected):
    assert is_english(contexts, language) is expected


def test_both_scorings_are_chosen_off_english_only():
    scoring, compared = choose_scorings("official", "", ["Paris is big."])
    assert (scoring, compared) == (OFFICIAL, [])
    scoring, compared = choose_scorings("multilingual", "es", ["Paris is big."])
    assert (scoring.name, scoring.normalize("los Andes")) == ("multilingual", ["andes"])
    assert [(each.name, each.normalize("los Andes")) for each in compared] == [
        ("official", ["los", "andes"]),
        ("multilingual", ["andes"]),
    ]


def test_runs_print_both_scorings_where_the_data_is_not_english(tiny, tmp_path, capsys):
    urdu = json.loads((tiny / "squad.json").read_text(encoding="utf-8"))
    for article in urdu["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["context"] += " لاہور پاکستان کا شہر ہے۔" * 10
    (tmp_path / "urdu.json").write_text(json.dumps(urdu))
    out = tmp_path / "run"
    assert train.main(flags(tiny, out, "--epochs", "1", "--dev", str(tmp_path / "urdu.json"))) == 0
    assert "why they differ: official" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["scoring"] == "official"
    assert metrics["scorings"]["official"]["f1"] == metrics["f1"]

    again = ("--evaluate", str(out), "--scoring", "multilingual")
    assert train.main([*again, "--language", "ur"]) == 0
    printed = capsys.readouterr().out
    assert "scored by the multilingual rules" in printed and "why they differ" in printed
    evaluated = json.loads((out / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert evaluated["scoring"] == "multilingual"
    assert evaluated["scorings"]["multilingual"]["f1"] == evaluated["f1"]
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8")) == metrics

    assert train.main([*again, "--dev", str(tiny / "squad.json")]) == 0
    assert "why they differ" not in capsys.readouterr().out
    assert train.main(["--evaluate", str(out), "--dev", str(tiny / "squad.json"), "--language", "de"]) == 0
    assert "the articles of 'de'" in capsys.readouterr().out


def test_official_metrics_take_other_words():
    examples = [asked("el sol")]
    assert official_metrics(examples, {"q": "sol"})["exact"] == 0.0
    assert (
        official_metrics(examples, {"q": "sol"}, normalize=find_scoring("multilingual", "es").normalize)["exact"]
        == 100.0
    )
