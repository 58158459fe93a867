"""Runs made up for the tests of squad.report: questions, what a model said to them, and the files of a run."""

import json

from squad import Predictions, evaluate, read_examples, write_results
from squad.scoring import OFFICIAL

EVIL = "</script><script>document.title='owned'</script><img src=https://x.test/a.png onerror=alert(1)> & \"'{{name}}"
URDU = "\u0644\u0627\u06c1\u0648\u0631 \u0634\u06c1\u0631 \u06c1\u06d2\u06d4"


def question(id, context, gold, *said):
    """One question, as SQuAD's JSON and as an n-best list. said: texts, best first, "" where it ranks."""
    answers = [{"text": gold, "answer_start": context.index(gold)}] if gold else []
    nbest = [
        {"text": text, "score": 5.0 - 2 * i, "start": context.index(text) if text else None,
         "end": context.index(text) + len(text) if text else None}
        for i, text in enumerate(said)
    ]  # fmt: skip
    return {"id": id, "question": f"Who is {id}?", "answers": answers, "is_impossible": not gold}, nbest


def make_run(folder, texts, log=({"step": 5, "loss": 2.5, "lr": 0.001},), threshold=0.0, scoring=OFFICIAL, **config):
    """A run's folder as train.py leaves it, with a data.json. texts: title -> (context, [questions])."""
    folder.mkdir(parents=True)
    data, nbest = [], {}
    for title, (context, questions) in texts.items():
        data.append({"title": title, "paragraphs": [{"context": context, "qas": [q for q, _ in questions]}]})
        nbest |= {q["id"]: entries for q, entries in questions}
    (folder / "data.json").write_text(json.dumps({"data": data}))
    best = {id: next(e for e in entries if e["text"]) for id, entries in nbest.items()}
    null = {id: next(e for e in entries if not e["text"])["score"] for id, entries in nbest.items()}
    odds = {id: null[id] - best[id]["score"] for id in nbest}
    predictions = Predictions({id: entry["text"] for id, entry in best.items()}, odds, nbest)
    metrics = evaluate(read_examples(folder / "data.json"), predictions, threshold, scoring=scoring)
    write_results(folder, predictions, metrics)
    options = {"dev": str(folder / "data.json"), "train": "excerpt", "model": "some/model", "seed": 0} | config
    (folder / "config.json").write_text(json.dumps(options))
    if log is not None:
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


VIN = f"Vin met Kelsier in Luthadel. {EVIL} Elend read books."
MIXED = {
    "Vin": (VIN, [
        question("right", VIN, "Kelsier", "Kelsier", ""), question("wrong", VIN, "Kelsier", "Luthadel", ""),
        question("evil", VIN, EVIL, "books", ""), question("silent", VIN, "Luthadel", "", "Elend"),
    ]),
    "Lahore": (URDU, [question("invented", URDU, "", URDU[:5], ""), question("nothing", URDU, "", "", URDU[:5])]),
}  # fmt: skip
