"""The files that squad.report reads: a mistake in one is said in a line, and no page is written."""

import json
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

from squad.report.__main__ import main


def rewrite(name, change):
    def breaks(run):
        content = json.loads((run / name).read_text(encoding="utf-8"))
        (run / name).write_text(json.dumps(change(content) or content))

    return breaks


def text(name, content):
    return lambda run: (run / name).write_text(content)


def drop(name):
    return lambda run: (run / name).unlink()


BROKEN = {
    "no metrics": (drop("metrics.json"), "no such file; give the folder of a run that has been evaluated"),
    "no config": (drop("config.json"), "config.json: cannot be read"),
    "no data": (drop("data.json"), "data.json: no such file; the run's config.json names it: give --dev"),
    "cut JSON": (text("null_odds.json", '{"a": '), "null_odds.json: not readable as JSON"),
    "deep JSON": (text("config.json", "[" * 100_000), "config.json: not readable as JSON"),
    "a list": (text("metrics.json", "[]"), "metrics.json: found a list, expected an object"),
    "cut log": (text("log.jsonl", '{"step": 1}\n{"st'), "log.jsonl: line 2: not readable as JSON"),
    "loss NaN": (text("log.jsonl", '{"step": 1, "lr": 1, "loss": NaN}'), "line 1: loss is nan, expected a number"),
    "no lr": (text("log.jsonl", '{"step": 1, "loss": 2}'), "line 1: lr is missing, expected a number"),
    "no dev": (rewrite("config.json", lambda c: c.pop("dev") and None), "config.json: dev is missing"),
    "no threshold": (rewrite("metrics.json", lambda m: m.pop("threshold") * 0 or None), "threshold is missing"),
    "text F1": (rewrite("metrics.json", lambda m: m | {"f1": "high"}), "metrics.json: f1 is high, expected a number"),
    "no calibration": (
        rewrite("metrics.json", lambda m: m | {"calibration": 3}),
        "calibration is a whole number, expected an",
    ),
    "temperature 0": (
        rewrite("metrics.json", lambda m: m["calibration"].update(temperature=0)),
        "calibration: temperature is 0.0, expected 0.001 to 1000",
    ),
    "a bonus without end": (
        rewrite("metrics.json", lambda m: m["calibration"].update(best_bonus=1000)),
        "calibration: best_bonus is 1000.0, expected 0 to 5.0",
    ),
    "coverage 3": (rewrite("metrics.json", lambda m: m | {"prior": {"coverage": 3}}), "coverage is 3, expected a list"),
    "coverage without shares": (
        rewrite("metrics.json", lambda m: m | {"prior": {"coverage": [{"answerable": 0.5}]}}),
        "metrics.json: prior: threshold is missing, expected a number",
    ),
    "no interval": (
        rewrite("metrics.json", lambda m: m["at_zero"].pop("f1_interval") and None),
        "at_zero: f1_interval is None, expected two numbers",
    ),
    "another scoring": (
        rewrite("metrics.json", lambda m: m | {"scoring": ["mlqa"]}),
        """metrics.json: scoring is "['mlqa']", expected official or multilingual""",
    ),
    "odds text": (rewrite("null_odds.json", lambda o: o | {"wrong": "x"}), "null_odds.json: 'wrong' is x"),
    "strange id": (rewrite("null_odds.json", lambda o: o | {"other": 1}), "1 ids are not in the data, the first"),
    "missing id": (rewrite("null_odds.json", lambda o: o.pop("wrong") and None), "1 of 6 questions are missing"),
    "other text": (
        rewrite("nbest_predictions.json", lambda n: n["wrong"][0].update(start=0)),
        "'wrong': 'Luthadel' at 0 is not in its text; is this the evaluated file?",
    ),
    "no start": (rewrite("nbest_predictions.json", lambda n: n["wrong"][1].pop("start")), "'' at missing is not in"),
    "no list": (rewrite("nbest_predictions.json", lambda n: n | {"wrong": 3}), "'wrong': expected a list of answers"),
    "no null": (rewrite("nbest_predictions.json", lambda n: n["wrong"].pop() and None), 'expected the answer "" once'),
    "other answers": (
        rewrite("predictions.json", lambda p: p | {"wrong": "Vin"}),
        "not what the other files give at the threshold",
    ),
    "other gold": (
        rewrite("data.json", lambda d: d["data"][0]["paragraphs"][0]["qas"][0]["answers"][0].update(text="Kels")),
        "metrics.json says EM 33.33, its predictions score 16.67",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said_in_a_line(name, mixed, tmp_path):
    breaks, said = BROKEN[name]
    run = tmp_path / "run"
    shutil.copytree(mixed, run)
    (run / "report.html").unlink()
    rewrite("config.json", lambda c: c | {"dev": str(run / "data.json")})(run)
    breaks(run)
    with pytest.raises(ValueError) as error:
        main([str(run)])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(run.glob("report*"))


def test_status_2_and_no_traceback(mixed, tmp_path):
    for more, said in (
        ([str(tmp_path)], "no such file"),
        ([str(mixed), "--tokenizer", "nowhere"], "no such folder here"),
    ):
        command = [sys.executable, "-m", "squad.report", *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("squad.report: ") and said in done.stderr
        assert done.stderr.count("\n") == 1
