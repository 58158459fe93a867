# ruff: noqa: RUF001 (the formulas have a Greek letter and a multiplication sign)
"""The drawings of the documentation, as SVG text: one style, light or dark as the reader's system is set.

480 pixels wide where possible, so that words can be read on a telephone. Each function returns the text of a file.
"""

import itertools
from collections.abc import Sequence
from html import escape

import numpy as np

from minibert import BertConfig

WIDTH, EDGE = 480, 16
STYLE = """<style>
  .page { fill: #ffffff } text { fill: #1c1c1c } .quiet { fill: #666666 } .line { stroke: #666666; fill: none }
  .special { fill: #e4e4e4 } .question { fill: #cfe2f7 } .context { fill: #f6e7c4 } .answer { fill: #c05621 }
  .frozen { fill: #dfe5ec } .trained { fill: #f6cdb4 } .start { fill: #2b6cb0 } .end { fill: #c05621 }
  .chosen { stroke: #1c1c1c; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #14181f } text { fill: #e8e8e8 } .quiet { fill: #a4adb8 } .line { stroke: #a4adb8 }
    .special { fill: #3b4149 } .question { fill: #244566 } .context { fill: #574a22 } .answer { fill: #ec8f5e }
    .frozen { fill: #333c47 } .trained { fill: #74401f } .start { fill: #6ba6e8 } .end { fill: #ec8f5e }
    .chosen { stroke: #e8e8e8 }
  }
</style>"""


# ------------------------------------------------------------------------------------------------ parts
def page(height: float, title: str, parts: Sequence[str], width: float = WIDTH) -> str:
    """A whole file. title: what the picture shows, for those who cannot see it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif"'
    lines = [f'{head} role="img">', f"<title>{escape(title)}</title>", STYLE, box(0, 0, width, height, "page")]
    return "\n".join([*lines, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, size: int = 15, anchor: str = "start", more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place} {more}>{escape(words)}</text>"


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """kind: its classes in STYLE."""
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="3" class="{kind}"/>'


def arrow(x: float, y: float, down: float) -> str:
    return f'<path d="M{x:.1f} {y:.1f} v{down:.1f} m-5 -6 l5 6 l5 -6" class="line" stroke-width="1.5"/>'


def line(path: str, more: str = "") -> str:
    return f'<path d="{path}" class="line" stroke-width="1.5" {more}/>'


def labelled(y: float, height: float, kind: str, words: str, small: str = "", inset: float = 0) -> list[str]:
    """A box over the width of the page with one or two lines of text in its middle."""
    x = EDGE + inset
    parts = [box(x, y, WIDTH - 2 * x, height, kind)]
    parts.append(text(WIDTH / 2, y + (22 if small else height / 2 + 5), words, 15, "middle"))
    return [*parts, text(WIDTH / 2, y + 41, small, 13, "middle", 'class="quiet"')] if small else parts


# --------------------------------------------------------------------------------------------- diagrams
def model(config: BertConfig) -> str:
    """The encoder with its QA head, with the shape of what goes from part to part."""
    H, N, inner = config.hidden_size, config.num_attention_heads, config.intermediate_size
    D, middle = H // N, WIDTH / 2
    parts, y = [text(middle, 28, "input_ids (B, T): [CLS] question [SEP] context [SEP]", 15, "middle")], 36

    def step(height: float, kind: str, words: str, small: str, shape: str, inset: float = 0) -> None:
        nonlocal y
        parts.extend([arrow(middle, y, 22), *labelled(y + 26, height, kind, words, small, inset)])
        y += 26 + height
        if shape:
            parts.append(text(middle + 14, y + 18, shape, 13, more='class="quiet"'))

    step(54, "special", "embeddings: word + position + segment", f"LayerNorm; a row of {H} numbers per token",
         f"(B, T, H), H = {H}")  # fmt: skip
    top = y + 26
    y += 32
    steps = [
        (
            "q, k, v = three linear layers of x",
            f"{N} heads of D = {D} numbers",
            f"each (B, N, T, D) = (B, {N}, T, {D})",
        ),
        ("softmax(q kᵀ / √D) v", "each token takes from all", "(B, T, H)"),
        ("linear; x = LayerNorm(x + that)", "attention's output, beside what came in", "(B, T, H)"),
        (f"linear {H} → {inner}, GELU, linear {inner} → {H}", "x = LayerNorm(x + that)", "(B, T, H)"),
    ]
    for words, small, shape in steps:
        step(54, "context", words, small, shape, inset=18)
    parts.append(f'<rect x="{EDGE}" y="{top}" width="{WIDTH - 2 * EDGE}" height="{y - top + 26}" rx="6" class="line"/>')
    parts.append(text(WIDTH - EDGE - 8, top + 20, f"{config.num_hidden_layers} layers like this", 14, "end",
                      'font-weight="bold"'))  # fmt: skip
    y += 18
    step(54, "trained", f"QA head: linear {H} → 2", "new: BERT comes without it", "")
    parts.append(arrow(middle, y, 22))
    parts.append(text(middle, y + 42, "start_logits (B, T), end_logits (B, T)", 15, "middle"))
    return page(y + 60, "BERT with a question-answering head, and the shape after each part", parts)


def windows(pieces: Sequence[tuple[int, int]], total: int, answer: tuple[int, int], labels: Sequence[str]) -> str:
    """Windows over a context.

    Args: pieces: (first, behind) of the context tokens in each window; total: tokens of the context; answer: its first
        and its last token; labels: what each window is told in training.
    """
    scale = (WIDTH - 2 * EDGE) / total
    at = lambda token: EDGE + scale * token  # noqa: E731
    height = 62 + 58 * len(pieces)
    parts = [text(EDGE, 26, f"the context: {total} tokens", 15), box(EDGE, 36, scale * total, 12, "special")]
    for (_, behind), (after, _) in itertools.pairwise(pieces):
        parts += [box(at(after), 36, scale * (behind - after), height - 44, "question")]
        parts.append(text(at((after + behind) / 2), 26, f"overlap {behind - after}", 13, "middle", 'class="quiet"'))
    for row, ((first, behind), label) in enumerate(zip(pieces, labels, strict=True)):
        y = 66 + 58 * row
        parts += [box(at(first), y, scale * (behind - first), 20, "context")]
        words = f"window {row}, tokens {first} to {behind - 1}: {label}"
        room = len(words) * 7.2 < WIDTH - EDGE - at(first)
        parts.append(text(at(first) if room else WIDTH - EDGE, y + 37, words, 14, "start" if room else "end"))
        if first <= answer[0] and answer[1] < behind:
            parts.append(box(at(answer[0]), y, max(scale * (answer[1] + 1 - answer[0]), 3), 20, "answer"))
    parts.append(box(at(answer[0]), 36, max(scale * (answer[1] + 1 - answer[0]), 3), 12, "answer"))
    return page(height, f"{len(pieces)} overlapping windows over a text of {total} tokens", parts)


def lora(inputs: int, outputs: int, rank: int, alpha: float) -> str:
    """A linear layer with an adapter beside it, and how many numbers each matrix has."""
    W, A, B = outputs * inputs, rank * inputs, outputs * rank
    left, right, middle = 130, 350, WIDTH / 2
    scale = f"{alpha / rank:g}"
    parts = [
        text(middle, 28, f"x: {inputs} numbers of one token", 15, "middle"),
        line(f"M{middle} 36 v18 M{left} 54 H{right}"),
        arrow(left, 54, 24), arrow(right, 54, 24),
        box(left - 95, 82, 190, 190, "frozen"),
        text(left, 166, f"W ({outputs} × {inputs}), b", 15, "middle"), text(left, 188, f"{W:,} numbers", 14, "middle"),
        text(left, 210, "frozen", 14, "middle", 'font-weight="bold"'),
        f'<path d="M{right - 95} 82 h190 l-71 70 h-48 z" class="trained"/>',
        text(right, 106, f"A ({rank} × {inputs}), {A:,}", 14, "middle"), text(right, 128, "random", 13, "middle"),
        arrow(right, 154, 24), text(right + 12, 173, f"{rank} numbers", 13, more='class="quiet"'),
        f'<path d="M{right - 24} 182 h48 l71 70 h-190 z" class="trained"/>',
        text(right, 222, "zero", 13, "middle"), text(right, 243, f"B ({outputs} × {rank}), {B:,}", 14, "middle"),
        text(right, 272, f"times α / r = {alpha:g} / {rank} = {scale}", 14, "middle"),
        line(f"M{left} 274 v34 H{middle - 12} M{right} 280 v28 H{middle + 12}"),
        f'<circle cx="{middle}" cy="308" r="12" class="line" stroke-width="1.5"/>',
        text(middle, 313, "+", 16, "middle"),
        arrow(middle, 322, 22),
        text(middle, 364, f"h = W x + b + {scale} B A x: {outputs} numbers", 15, "middle"),
        text(middle, 390, f"trained: {A + B:,} numbers, {(A + B) / W:.1%} of W's", 14, "middle", 'font-weight="bold"'),
    ]  # fmt: skip
    return page(406, f"A linear layer with a LoRA adapter of rank {rank} beside it", parts)


# ------------------------------------------------------------------------------------------------ values
def shares(title: str, names: Sequence[str], values: Sequence[float]) -> str:
    """One row per name: a bar as long as its value, from 0 to 1 times the largest, and the value."""
    longest, parts = max(values), [text(EDGE, 26, title, 15)]
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        y = 42 + 24 * row
        parts.append(text(130, y + 14, name, 14, "end", 'font-family="monospace"'))
        parts.append(box(140, y, 2 + 250 * value / longest, 18, "start"))
        parts.append(text(148 + 250 * value / longest, y + 14, f"{value:.2f}", 14))
    return page(54 + 24 * len(names), title, parts)


def bars(
    y: float,
    kind: str,
    values: np.ndarray,
    centres: Sequence[float],
    words: dict[int, str],
    longest: float,
    width: float,
) -> list[str]:
    """A row of bars that stand on y, one per finite value; words: what stands above some of them, by number."""
    low, high, parts = values[np.isfinite(values)].min(), values.max(), []
    for i, (value, centre) in enumerate(zip(values, centres, strict=True)):
        if np.isfinite(value):
            height = 2 + longest * (value - low) / (high - low)
            parts.append(box(centre - width / 2, y - height, width, height, kind))
        if i in words:
            near_the_edge = centre < 2 * EDGE
            x, anchor = (EDGE, "start") if near_the_edge else (centre, "middle")
            parts.append(text(x, y - height - 6, words[i], 13, anchor))
    return parts


def scores(names: Sequence[str], start: np.ndarray, end: np.ndarray, chosen: tuple[int, int]) -> str:
    """The two logits of every token as bars, none at -inf; the values at [CLS] and at the chosen start and end."""
    step, parts = (WIDTH - 2 * EDGE) / len(names), []
    centres = [EDGE + (i + 0.5) * step for i in range(len(names))]
    for top, kind, values, best in ((0, "start", start, chosen[0]), (170, "end", end, chosen[1])):
        parts.append(text(EDGE, top + 26, f"{kind}_logits", 15))
        words = {i: f"{names[i]} {values[i]:.1f}" for i in (0, best)}
        parts += bars(top + 150, kind, values, centres, words, longest=88, width=max(step - 1, 1))
    return page(340, "Start and end logits of every token of one window", parts)
