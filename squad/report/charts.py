"""Charts as inline SVG: a title and a description for screen readers, colours from the page's style sheet."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 250  # in the SVG's own units; about a pixel each at a phone's width
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 26, 40
LABELS = 88  # of the bar chart, on the left of its bars
ROW = 34
LETTER = 6.5  # a character's width, on average


@dataclass(frozen=True)
class Series:
    """A line of a chart. x, y (P,); step: each y holds up to the next x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    step: bool = False


@dataclass(frozen=True)
class Frame:
    """Where values lie in a chart: the ranges of its axes and the height of the SVG."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = LEFT
    height: float = HEIGHT

    def x(self, value: float) -> float:
        return round(_place(value, self.x_range, self.left, WIDTH - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(_place(value, self.y_range, self.height - BOTTOM, TOP), 1)


def _place(value: float, span: tuple[float, float], low: float, high: float) -> float:
    return low + (value - span[0]) / (span[1] - span[0]) * (high - low)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers for an axis from low to high (low < high): 1, 2 or 5 times a power of ten apart, at most `most`."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * m for m in (1, 2, 5, 10, 20) if (high - low) / (power * m) < most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(k * step, digits) + 0.0 for k in range(first, last + 1)]


def spread(values: Sequence[float], *more: float) -> tuple[float, float]:
    """The range of the values and `more`, never of width 0."""
    low, high = min(*values, *more, math.inf), max(*values, *more, -math.inf)
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def line_chart(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    axes: tuple[str, str],
    frame: Frame,
    marks: Sequence[tuple[float, str]] = (),
    dots: Sequence[tuple[float, float, str]] = (),
) -> str:
    """Lines over one another.

    Args: name: of this chart among the page's ids; axes: what x and y count; marks: (x, label) of vertical lines, those
        outside the frame left out; dots: (x, y, label).
    """
    parts = [_axes(frame, *axes)]
    for i, line in enumerate(series):
        parts.append(f'<path class="line s{i}" d="{_path(line, frame)}"/>')
        if len(line.x) < 25 and not line.step:  # few points are to be seen, one would not be at all
            circles = (_circle(frame, x, y, 2.5, f"s{i}") for x, y in zip(line.x, line.y, strict=True))
            parts += circles
    seen = [(frame.x(x), label) for x, label in marks if frame.x_range[0] <= x <= frame.x_range[1]]
    bottom = frame.height - BOTTOM
    parts += [f'<path class="mark" d="M{x} {TOP}V{bottom}"/>' for x, _ in seen]
    parts += [_beside(x, bottom - 8 - 14 * row, label) for row, (x, label) in enumerate(seen)]
    for i, (x, y, label) in enumerate(dots):  # labels above and below in turn: dots are often neighbours
        below = i % 2 or frame.y(y) < TOP + 14
        parts += [_circle(frame, x, y, 4, "dot"), _beside(frame.x(x), frame.y(y) + (17 if below else -7), label)]
    if len(series) > 1:
        parts.append(_legend([line.name for line in series]))
    return _svg(name, title, description, frame.height, parts)


def bar_chart(name: str, title: str, description: str, rows: Sequence[dict]) -> str:
    """EM and F1 of each group as a pair of bars. rows: as `scores_by_group` gives them, one at least."""
    left = max(LABELS, 16 + 8 * max(len(row["name"]) for row in rows))  # 8 a letter: wider than the mean of usual fonts
    frame = Frame((0, 100), (0, 1), left, TOP + ROW * len(rows) + BOTTOM)
    parts = [_axes(frame, "%", "", x_ticks=[0, 25, 50, 75, 100], y_ticks=[])]
    for i, row in enumerate(rows):
        top = TOP + ROW * i + 3
        parts.append(f'<text x="{left - 8}" y="{top + 12}" text-anchor="end">{escape(row["name"])}</text>')
        count = f"{row['count']:,}"
        parts.append(f'<text class="small" x="{left - 8}" y="{top + 25}" text-anchor="end">{count}</text>')
        for k, value in enumerate((row["exact"], row["f1"])):
            y, width = top + 14 * k, frame.x(value) - left
            parts.append(f'<rect class="s{k}" x="{left}" y="{y}" width="{width:.1f}" height="12"/>')
            inside = value > 85
            x, anchor = (frame.x(value) - 4, "end") if inside else (frame.x(value) + 4, "start")
            look = "small over" if inside else "small"
            parts.append(f'<text class="{look}" x="{x:.1f}" y="{y + 10}" text-anchor="{anchor}">{value:.1f}</text>')
    parts.append(_legend(["EM", "F1"]))
    return _svg(name, title, description, frame.height, parts)


def reliability_chart(name: str, title: str, description: str, bins: dict[str, np.ndarray]) -> str:
    """Share right against mean confidence, a circle a bin, its area its count; a line shows how far off it is.

    Args: bins: as `numbers.reliability` gives them.
    """
    frame = Frame((0, 1), (0, 1))
    parts = [_axes(frame, "confidence", "share that is right")]
    parts.append(f'<path class="ideal" d="{_path(Series("", (0, 1), (0, 1)), frame)}"/>')
    most = max(1, bins["count"].max())
    for count, confidence, right in zip(*(bins[key] for key in ("count", "confidence", "right")), strict=True):
        if count:
            gap = Series("", (confidence, confidence), (confidence, right))
            parts.append(f'<path class="gap" d="{_path(gap, frame)}"/>')
            parts.append(_circle(frame, confidence, right, max(2.0, 11 * math.sqrt(count / most)), "s0 part"))
    return _svg(name, title, description, frame.height, parts)


def number(value: float) -> str:
    """A tick's label: `1,000`, `0.05`, `1.5e-3`, `2e-4`, and a real minus."""
    plain = value == 0 or abs(value) >= 0.01
    return (f"{value:,.10g}" if plain else re.sub(r"\.?0*e-0?", "e-", f"{value:.9e}")).replace("-", "\N{MINUS SIGN}")


def _svg(name: str, title: str, description: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _axes(frame: Frame, x_label: str, y_label: str, x_ticks: list | None = None, y_ticks: list | None = None) -> str:
    bottom, right = frame.height - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in ticks(*frame.x_range) if x_ticks is None else x_ticks:
        x = frame.x(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{number(value)}</text>')
    for value in ticks(*frame.y_range) if y_ticks is None else y_ticks:
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{frame.left - 6}" y="{y + 4}" text-anchor="end">{number(value)}</text>')
    parts.append(f'<path class="axis" d="M{frame.left} {TOP}V{bottom}H{right}"/>')
    parts.append(f'<text x="{right}" y="{frame.height - 8}" text-anchor="end">{escape(x_label)}</text>')
    if y_label:
        parts.append(f'<text x="2" y="14">{escape(y_label)}</text>')
    return "".join(parts)


def _path(series: Series, frame: Frame) -> str:
    points = [(frame.x(x), frame.y(y)) for x, y in zip(series.x, series.y, strict=True)]
    line = [f"M{points[0][0]} {points[0][1]}"]
    line += [f"H{x}V{y}" if series.step else f"L{x} {y}" for x, y in points[1:]]
    return "".join(line)


def _circle(frame: Frame, x: float, y: float, radius: float, look: str) -> str:
    return f'<circle class="{look}" cx="{frame.x(x)}" cy="{frame.y(y)}" r="{radius:.1f}"/>'


def _beside(x: float, y: float, label: str) -> str:
    """A label to the right of x, or to the left where it would leave the chart."""
    fits = x + 6 + LETTER * len(label) < WIDTH - RIGHT
    x, anchor = (x + 6, "start") if fits else (x - 6, "end")
    return f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(label)}</text>'


def _legend(names: Sequence[str]) -> str:
    parts, x = [], WIDTH - RIGHT
    for i, name in reversed(list(enumerate(names))):
        x -= LETTER * len(name) + 4
        parts.append(f'<text x="{x:.1f}" y="14">{escape(name)}</text>')
        x -= 20
        parts.append(f'<path class="line s{i}" d="M{x:.1f} 10h15"/>')
        x -= 10
    return "".join(parts)
