"""Charts as inline SVG: lines, intervals, calibration. Text is escaped, colours are classes that the page's style sets
for light and dark. Knows numbers and labels, nothing of runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

COLOURS = 8  # classes c0 .. c7 in the style sheet
NARROW, WIDE = 340, 540  # of a chart in a page of three columns, and of two
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Line:
    """A named series; points whose value is not finite are left out."""

    name: str
    points: Sequence[Point]
    colour: int = 0


@dataclasses.dataclass(frozen=True)
class Whisker:
    """A value with its interval on one row of an interval chart."""

    row: str
    series: str
    value: float
    low: float
    high: float
    colour: int = 0
    hollow: bool = False


def number(value: float) -> str:
    """A number as a person writes it: 0.25, 1,200, 3e-05; n/a where there is none."""
    if not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.2g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float) -> str:
    """0.25 as 25%."""
    return f"{number(100 * value)}%" if math.isfinite(value) else "n/a"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover low..high, about `count` of them."""
    if not high > low:
        spread = abs(low) or 1.0
        low, high = low - spread / 2, high + spread / 2
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(float(place * step), 12) for place in range(first, last + 1)]


class Frame:
    """A plot area with axes; `x` and `y` place data in the picture."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], *, height: int, x_label: str = "",
                 form: Callable[[float], str] = number, x_form: Callable[[float], str] = number) -> None:
        self.height, self.width, self.left, self.right, self.top = height, NARROW, 46, 18, 12
        self.bottom = 34 if x_label else 22
        self.x_ticks, self.y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
        self.x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (self.x_ticks[0], self.x_ticks[-1])
        if all(float(x).is_integer() for x in xs):  # there is no step 2.5
            self.x_ticks = [tick for tick in self.x_ticks if tick.is_integer()]
        margin = 0.05 * (max(ys) - min(ys))
        self.y_range = (min(ys) - margin, max(ys) + margin) if margin else (self.y_ticks[0], self.y_ticks[-1])
        self.parts: list[Markup] = []
        self._axes(x_label, form, x_form)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def _axes(self, x_label: str, form: Callable[[float], str], x_form: Callable[[float], str]) -> None:
        floor = self.height - self.bottom
        for value in (tick for tick in self.y_ticks if self.y_range[0] <= tick <= self.y_range[1]):
            self.line((self.left, self.y(value)), (self.width - self.right, self.y(value)), "grid")
            self.text(self.left - 6, self.y(value) + 3.5, form(value), anchor="end")
        for value in self.x_ticks:
            if self.x_range[0] - 1e-9 <= value <= self.x_range[1] + 1e-9:
                self.text(self.x(value), floor + 14, x_form(value), anchor="middle")
        if x_label:
            self.text((self.left + self.width - self.right) / 2, self.height - 3, x_label, anchor="middle")

    def line(self, start: Point, end: Point, style: str) -> None:
        self.parts.append(Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
            *start, *end, style))

    def text(self, x: float, y: float, text: str, *, anchor: str) -> None:
        self.parts.append(Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text))

    def path(self, points: Sequence[Point], style: str) -> None:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(Markup('<polyline points="{}" class="{}"/>').format(places, style))

    def dot(self, point: Point, title: str, style: str, radius: float = 3) -> None:
        self.parts.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"><title>{}</title></circle>').format(
            self.x(point[0]), self.y(point[1]), radius, style, title))

    def svg(self, title: str) -> Markup:
        return picture(self.parts, self.width, self.height, title)


def picture(parts: Sequence[Markup], width: int, height: float, title: str) -> Markup:
    """The parts as one SVG element with an accessible title."""
    return Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        width, height, title, Markup("").join(parts))


def legend(keys: Sequence[tuple[str, str]]) -> Markup:
    """Names beside their keys (a class of the style sheet), as HTML."""
    return Markup('<div class="legend">{}</div>').format(Markup("").join(
        Markup('<span><i class="key {}"></i>{}</span>').format(style, name) for name, style in keys))


def smoothed(points: Sequence[Point], *, window: int) -> list[Point]:
    """Centred moving average over `window` points."""
    half = window // 2
    values = [y for _, y in points]
    return [(x, sum(near) / len(near)) for index, (x, _) in enumerate(points)
            if (near := values[max(0, index - half):index + half + 1])]


def line_chart(lines: Sequence[Line], *, title: str, x_label: str = "step", height: int = 190,
               form: Callable[[float], str] = number) -> Markup:
    """Values over steps. Long series show faintly, their moving average on top."""
    drawn = [dataclasses.replace(line, points=[point for point in line.points if all(map(math.isfinite, point))])
             for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return Markup("")
    frame = Frame([x for line in drawn for x, _ in line.points], [y for line in drawn for _, y in line.points],
                  height=height, x_label=x_label, form=form)
    for line in drawn:
        colour = line.colour % COLOURS
        long = len(line.points) > 40
        frame.path(line.points, f"line c{colour}{' faint' if long else ''}")
        if long:
            frame.path(smoothed(line.points, window=max(5, len(line.points) // 12)), f"line c{colour}")
        else:
            for point in line.points:
                frame.dot(point, f"{line.name} {number(point[0])}: {form(point[1])}", f"dot k{colour}", 2)
    names = legend([(line.name, f"k{line.colour % COLOURS}") for line in drawn]) if len(drawn) > 1 else Markup("")
    return frame.svg(title) + names


def interval_chart(whiskers: Sequence[Whisker], *, title: str, zero: bool = False, width: int = WIDE,
                   form: Callable[[float], str] = percent) -> Markup:
    """One row a name, one whisker a series on it; `zero` draws the line a difference must not cross."""
    rows = list(dict.fromkeys(whisker.row for whisker in whiskers))
    series = list(dict.fromkeys(whisker.series for whisker in whiskers))
    if not rows:
        return Markup("")
    left, step = min(width // 2, 16 + 7 * max(map(len, rows))), 13 * len(series) + 9
    edges = [edge for whisker in whiskers for edge in (whisker.low, whisker.high)] + ([0.0] if zero else [])
    places = ticks(min(edges), max(edges))
    height = step * len(rows) + 26

    def x(value: float) -> float:
        return left + (value - places[0]) / (places[-1] - places[0]) * (width - left - 18)

    parts = []
    for value in places:
        style = "zero" if zero and value == 0 else "grid"
        parts.append(Markup('<line x1="{0:.1f}" y1="4" x2="{0:.1f}" y2="{1:.1f}" class="{2}"/>').format(
            x(value), height - 20, style))
        parts.append(Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
            x(value), height - 6, form(value)))
    for place, row in enumerate(rows):
        parts.append(Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="end" class="row">{}</text>').format(
            left - 10, step * (place + 0.5) + 4, row))
    for whisker in whiskers:
        middle = step * rows.index(whisker.row) + 10 + 13 * series.index(whisker.series) + 2
        parts.append(_whisker(whisker, x, middle, form))
    return picture(parts, width, height, title) + (_keys(whiskers) if len(series) > 1 else Markup(""))


def _keys(whiskers: Sequence[Whisker]) -> Markup:
    """Series by colour, or, where some are hollow and a colour is a row's, by filled and hollow."""
    by_row = any(whisker.hollow for whisker in whiskers)
    return legend(list({whisker.series: ("ring" if whisker.hollow else "disc") if by_row
                        else f"k{whisker.colour % COLOURS}" for whisker in whiskers}.items()))


def _whisker(whisker: Whisker, x: Callable[[float], float], y: float, form: Callable[[float], str]) -> Markup:
    colour = whisker.colour % COLOURS
    text = f"{whisker.row}, {whisker.series}: {form(whisker.value)} [{form(whisker.low)}, {form(whisker.high)}]"
    return Markup('<g><title>{0}</title><line x1="{1:.1f}" y1="{3:.1f}" x2="{2:.1f}" y2="{3:.1f}" '
                  'class="line c{4} whisker"/><circle cx="{5:.1f}" cy="{3:.1f}" r="4" class="{6}"/></g>').format(
        text, x(whisker.low), x(whisker.high), y, colour, x(whisker.value),
        f"hollow c{colour}" if whisker.hollow else f"dot k{colour}")


def calibration_chart(bins: Sequence[Mapping[str, float]], *, title: str) -> Markup:
    """Observed against predicted shares; the diagonal is a perfectly calibrated model."""
    if not bins:
        return Markup("")
    low = min(0.5, *(row["low"] for row in bins))
    frame = Frame([0.5, 1.0], [low, 1.0], height=230, x_label="predicted: sigmoid of the score difference",
                  form=percent, x_form=percent)
    frame.line((frame.x(0.5), frame.y(0.5)), (frame.x(1), frame.y(1)), "zero")
    for row in bins:
        x, style = frame.x(row["predicted"]), "line c0 whisker"
        frame.line((x, frame.y(row["low"])), (x, frame.y(row["high"])), style)
    for row in bins:
        frame.dot((row["predicted"], row["observed"]), f"{int(row['n'])} pairs: predicted {percent(row['predicted'])}, "
                  f"observed {percent(row['observed'])}", "dot k0", 2.5 + 4 * math.sqrt(row["n"] / sum(
                      other["n"] for other in bins)))
    return frame.svg(title)
