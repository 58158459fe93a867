"""Cut the excerpts in this folder out of full SQuAD 2.0 files: whole articles to train on, paragraphs of all for dev.

    python data/make_excerpt.py train-v2.0-sample.json.gz data/sample.json.gz --questions 50000
    python data/make_excerpt.py data/sample.json.gz data/train.json.gz --words 130 --questions 9000 3000
    python data/make_excerpt.py dev-v2.0.json.gz data/dev.json.gz --every 9

The first source is a part of the train set, see README.md. Articles are taken in an order drawn from seed 0 until there
are enough questions; two kinds are mixed evenly, so that the first questions of the file are like all. A dev set of a
few whole articles would have wide intervals, as questions of one article succeed and fail together: every ninth
paragraph is of all 35. The bytes written depend on nothing but the input and the flags.
"""

import argparse
import gzip
import itertools
import json
import random
from collections.abc import Iterable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--every", type=int, metavar="N", help="the first paragraph of the file and each N-th after it")
    parser.add_argument("--questions", nargs="+", type=int, default=[], help="or articles up to this many questions; "
                        "two numbers: with unanswerable questions, without any")  # fmt: skip
    parser.add_argument("--words", type=float, default=1e9, help="only articles whose mean text has fewer words")
    options = parser.parse_args()
    with gzip.open(options.source, "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    chosen = thinned(articles, options.every) if options.every else []
    short = [article for article in articles if mean_words(article) < options.words]
    random.Random(0).shuffle(short)
    kinds = [[a for a in short if has_unanswerable(a)], [a for a in short if not has_unanswerable(a)]]
    if len(options.questions) == 1:
        chosen += take(short, *options.questions)
    elif options.questions:
        chosen += in_proportion(take(kind, most) for kind, most in zip(kinds, options.questions, strict=True))
    text = json.dumps({"version": "v2.0", "data": [slim(a) for a in chosen]}, ensure_ascii=False)
    with open(options.target, "wb") as file:
        file.write(gzip.compress(text.encode("utf-8"), 9, mtime=0))
    asked = [qa for article in chosen for qa in questions(article)]
    print(f"{len(chosen)} articles, {len(asked)} questions, {sum(map(unanswerable, asked))} unanswerable")


def thinned(articles: list[dict], every: int) -> list[dict]:
    """All articles with one paragraph of `every`, counted through the whole file."""
    number = itertools.count()
    kept = [{**a, "paragraphs": [p for p in a["paragraphs"] if next(number) % every == 0]} for a in articles]
    return [article for article in kept if article["paragraphs"]]


def take(articles: list[dict], most: int) -> list[dict]:
    """Articles in this order, leaving out those with which there would be more than `most` questions."""
    taken, total = [], 0
    for article in articles:
        if total + len(questions(article)) <= most:
            taken.append(article)
            total += len(questions(article))
    return taken


def in_proportion(kinds: Iterable[list[dict]]) -> list[dict]:
    """The articles of all kinds, so mixed that every beginning of the list has each kind's share of the questions."""
    placed = []
    for articles in kinds:
        ends = list(itertools.accumulate(len(questions(article)) for article in articles))
        placed += [(end / ends[-1], article) for end, article in zip(ends, articles, strict=True)]
    return [article for _, article in sorted(placed, key=lambda pair: pair[0])]


def mean_words(article: dict) -> float:
    """Of the texts, each counted once a question: what the questions cost in training."""
    words = sum(len(paragraph["context"].split()) * len(paragraph["qas"]) for paragraph in article["paragraphs"])
    return words / len(questions(article))


def has_unanswerable(article: dict) -> bool:
    return any(map(unanswerable, questions(article)))


def questions(article: dict) -> list[dict]:
    return [qa for paragraph in article["paragraphs"] for qa in paragraph["qas"]]


def unanswerable(qa: dict) -> bool:
    return qa["is_impossible"]


def slim(article: dict) -> dict:
    """The article with the official fields only."""
    fields = ("question", "id", "answers", "is_impossible")
    paragraphs = [
        {"qas": [{f: qa[f] for f in fields} for qa in p["qas"]], "context": p["context"]} for p in article["paragraphs"]
    ]
    return {"title": article["title"], "paragraphs": paragraphs}


if __name__ == "__main__":
    main()
