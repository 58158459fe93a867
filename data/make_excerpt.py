"""Cut the excerpts in this folder out of full SQuAD 2.0 files, by whole articles.

    python data/make_excerpt.py train-v2.0-partial.json.gz data/train.json.gz --questions 5000 --unanswerable 0.2 0.7
    python data/make_excerpt.py train-v2.0-sample.json.gz data/sample.json.gz --questions 50000
    python data/make_excerpt.py dev-v2.0.json.gz data/dev.json.gz --titles Oxygen Steam_engine Amazon_rainforest Normans

The first two sources are parts of the train set, see README.md. Articles are taken in an order drawn from seed 0 until
there are enough questions. The bytes written depend on nothing but the input and the flags.
"""

import argparse
import gzip
import json
import random


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--titles", nargs="+", help="these articles")
    parser.add_argument("--questions", type=int, help="or articles up to this many questions")
    parser.add_argument("--unanswerable", nargs=2, type=float, default=(0, 1), help="share per article, low and high")
    options = parser.parse_args()
    with gzip.open(options.source, "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    chosen = [a for a in articles if a["title"] in (options.titles or ())]
    if options.questions:
        low, high = options.unanswerable
        mixed = [a for a in articles if low <= sum(map(unanswerable, questions(a))) / len(questions(a)) <= high]
        random.Random(0).shuffle(mixed)
        for article in mixed:
            if sum(len(questions(a)) for a in chosen) + len(questions(article)) <= options.questions:
                chosen.append(article)
    text = json.dumps({"version": "v2.0", "data": [slim(a) for a in chosen]}, ensure_ascii=False)
    with open(options.target, "wb") as file:
        file.write(gzip.compress(text.encode("utf-8"), 9, mtime=0))
    asked = [qa for article in chosen for qa in questions(article)]
    print(f"{len(chosen)} articles, {len(asked)} questions, {sum(map(unanswerable, asked))} unanswerable")


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
