"""The page of squad.report: what it shows, and what must never be in one."""

import html
import json
import math
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from helpers import ROOT, check_digests, read
from reports import URDU, VIN, make_run, question

import squad
import train
from squad import DataError, read_examples
from squad.evaluation import labels
from squad.report.__main__ import main
from squad.report.numbers import INVENTED, SILENT, WRONG
from squad.report.page import windows_per_question
from squad.scoring import find_scoring


def read_page(folder):
    """The page, checked for what holds for every one: its policy, its charts, nothing loaded."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    check_digests(page, policy)
    tags = re.findall(r"<[a-zA-Z][^<>]*>", page)
    assert not [t for t in tags if re.search(r"\s(src|srcset|style|on\w+|action)\s*=", t)]
    assert [t for t in tags if "href" in t] == ['<link rel="icon" href="data:,">']
    assert "@import" not in page and "url(" not in page and "innerHTML" not in page
    assert "{{" not in page.replace("{{name}}", "")
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert [root.find(name).get("id") for name in ("title", "desc")] == root.get("aria-labelledby").split()
        assert all(root.find(name).text for name in ("title", "desc"))
        assert "nan" not in svg and "inf" not in svg
    return page


def charts(page):
    return re.findall(r'<title id="([\w-]+)-title">', page)


def test_hostile_text_stays_text(mixed):
    page = read_page(mixed)
    assert "<img" not in page and page.count("<script") == page.count("</script>") == 1
    assert "&lt;script&gt;document.title=&#x27;owned&#x27;" in page
    assert "{{name}}" in page  # said by a text, and left as it is
    assert "<title>Run a&lt;b&gt;</title>" in page


def test_what_the_page_shows(mixed):
    page = read_page(mixed)
    assert charts(page) == [
        "loss", "rate", "threshold", "precision", "calibration-before", "calibration-after", "by-word", "by-length",
    ]  # fmt: skip
    metrics = json.loads((mixed / "metrics.json").read_text(encoding="utf-8"))
    for name, label in labels(False).items():
        row = metrics[name] if name else metrics
        cells = rf"</th><td>{row['exact']:.2f}<small>[^<]*</small></td><td>{row['f1']:.2f}<"
        assert re.search(re.escape(html.escape(label)) + cells, page), label
    assert f"always &quot;&quot;, the baseline</dt><dd>{metrics['always_empty']['f1']:.2f}<" in page
    assert metrics["crossfit"]["f1"] != metrics["f1"]
    cards = re.search(r'<dl class="cards">.*?</dl>', page, re.DOTALL)[0]
    for name in ("exact", "f1"):
        assert f"cross-fitted threshold</dt><dd>{metrics['crossfit'][name]:.2f}<" in cards
    assert f"Expected calibration error {metrics['calibration']['ece_before']:.1%}." in page
    assert "give --tokenizer PATH" in page
    found = re.findall(r'data-kind="([^"]+)">.*?Who is (\w+)\?', page)
    # the margin of all but one is 2 logits; of the silent ones "" leads
    assert sorted(found) == [(INVENTED, "invented"), (SILENT, "silent"), (WRONG, "evil"), (WRONG, "wrong")]
    assert '<mark class="gold">Kelsier</mark>' in page and '<mark class="said">Luthadel</mark>' in page
    assert f'<mark class="said">{URDU[:5]}</mark>' in page


def test_how_often_to_answer_is_a_table_where_the_run_has_measured_it(mixed, tmp_path):
    assert "How often to answer" not in read_page(mixed)  # its threshold was given
    run = tmp_path / "run"
    shutil.copytree(mixed, run)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    row = {
        "answerable": 0.9,
        "threshold": 2.5,
        "answered": 0.75,
        "right": 0.5,
        "answered_there": 1.0,
        "right_there": 0.625,
    }
    (run / "metrics.json").write_text(json.dumps(metrics | {"prior": {"coverage": [row]}}))
    assert main([str(run), "--dev", str(mixed / "data.json")]) == 0
    cells = "<td>75.0%</td><td>50.0%</td><td>100.0%</td><td>62.5%</td>"
    assert f'<tr><th scope="row">90%</th><td>2.50</td>{cells}</tr>' in read_page(run)


def test_the_same_files_make_the_same_page(mixed, tmp_path):
    assert main([str(mixed), "--output", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_bytes() == (mixed / "report.html").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]


def test_a_real_run_and_its_evaluation(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert train.main(["--evaluate", str(folder)]) == 0
    for here, missing in ((folder, set()), (folder / "evaluation", {"loss", "rate", "evaluations"})):
        command = [sys.executable, "-m", "squad.report", str(here)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{here / 'report.html'}\n", "")
        page = read_page(here)
        everything = {"loss", "rate", "evaluations", "threshold", "precision", "by-word", "by-length", "by-windows"}
        assert set(charts(page)) == everything - missing | {"calibration-before", "calibration-after"}
    assert "<h1>Run <bdi>run/evaluation</bdi></h1>" in page
    assert "No log.jsonl here" in page


def test_windows_are_counted_with_the_runs_own_sizes(tiny, tokenizer):
    examples = read_examples(tiny / "squad.json")
    sizes = {"max_length": 20, "window_overlap": 8, "max_question_tokens": 8}
    expected = []
    for example in examples:
        words, asked = (len(tokenizer.encode(t, add_special_tokens=False)) for t in (example.context, example.question))
        room = 20 - 3 - min(8, asked)
        expected.append(1 + max(0, math.ceil((words - room) / (room - 8))))
    assert max(expected) > min(expected) > 1
    for model, path in (("elsewhere", str(tiny)), (str(tiny), None)):
        assert windows_per_question(examples, {"model": model, **sizes}, path).tolist() == expected
    assert "give --tokenizer" in windows_per_question(examples, {"model": "some/model"}, None)
    with pytest.raises(DataError, match="the window sizes are"):
        windows_per_question(examples, {"model": str(tiny), "max_length": "40"}, None)


def test_nothing_wrong_and_one_log_line(tmp_path):
    text = "Vin met Kelsier."
    run = make_run(tmp_path / "run", {"Vin": (text, [question("a", text, "Kelsier", "Kelsier", "")])})
    assert main([str(run)]) == 0
    page = read_page(run)
    assert "No question was answered wrongly." in page
    assert "loss" in charts(page)
    assert "threshold tuned" not in page and "the run&#x27;s own threshold" in page  # one article: no cross-fitting


@pytest.mark.parametrize("log", [[], [{"step": 1, "exact": 1.0, "f1": 2.0}], None])
def test_no_question_has_an_answer(tmp_path, log):
    text = "Vin met Kelsier."
    questions = [question("a", text, "", "Kelsier", ""), question("b", text, "", "", "Vin")]
    run = make_run(tmp_path / "run", {"Vin": (text, questions)}, log)
    assert main([str(run)]) == 0
    page = read_page(run)
    assert "precision" not in charts(page) and "No answerable question" in page
    assert charts(page)[: len(log or [])] == ["evaluations"] * len(log or [])


def test_where_all_have_an_answer_the_cards_show_always_answering(tmp_path):
    """As `squad.headline` chooses; a threshold means nothing there."""
    text = "Vin met Kelsier."
    asked = [question("a", text, "Kelsier", "Kelsier", ""), question("b", text, "Vin", "", "Vin")]
    run = make_run(tmp_path / "run", {"Vin": (text, asked)})
    metrics = read(run / "metrics.json")
    assert squad.headline(metrics)["exact"] == 100 > metrics["exact"]
    assert main([str(run)]) == 0
    cards = re.search(r'<dl class="cards">.*?</dl>', read_page(run), re.DOTALL)[0]
    assert "EM, always answering</dt><dd>100.00" in cards


def test_a_threshold_far_beyond_all_odds(tmp_path):
    text = "Vin met Kelsier."
    run = make_run(tmp_path / "run", {"Vin": (text, [question(c, text, "Vin", "Vin", "") for c in "abc"])}, None, -1e6)
    assert main([str(run)]) == 0
    assert "\u22121000000.00" in read_page(run)


def test_answers_are_compared_as_the_run_did(tmp_path):
    """Right but for the full stop, which only the multilingual rules know."""
    context = "Vin met Kelsier\u06d4 Elend read."
    texts = {"Vin": (context, [question("stop", context, "Kelsier", "Kelsier\u06d4", "")])}
    page = {}
    for name in ("official", "multilingual"):
        folder = make_run(tmp_path / name, texts, threshold=9.0, scoring=find_scoring(name, "ur"))
        assert main([str(folder)]) == 0
        page[name] = read_page(folder)
    assert re.search(r"<dt>EM, .*?</dt><dd>0\.00<", page["official"])
    assert re.search(r"<dt>EM, .*?</dt><dd>100\.00<", page["multilingual"])


def test_questions_that_the_run_left_out_are_left_out(tmp_path):
    """The run evaluated two of the three questions in its file; the page's figures are theirs."""
    asked = [question(id, VIN, "Kelsier", "Kelsier", "") for id in ("one", "two")]
    folder = make_run(tmp_path / "run", {"Vin": (VIN, asked)}, answerable_only=True)
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    data["data"][0]["paragraphs"][0]["qas"].append(question("none", VIN, "", "", "Elend")[0])
    (folder / "data.json").write_text(json.dumps(data))
    assert main([str(folder)]) == 0
    assert "<dt>questions</dt><dd>2<" in read_page(folder)
