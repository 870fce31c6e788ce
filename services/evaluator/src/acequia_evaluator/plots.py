"""Small line and bar charts as inline SVG: no script, no font, nothing from elsewhere; readable in grey too."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 430, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 16, 44
MOST_POINTS = 300

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or the bars of one histogram (`bars`: points are (left edge, height) of equal-width bins)."""

    name: str
    points: Sequence[Point]
    style: str
    """CSS class: "a", "b", or "rule" (a dashed guide)."""
    bars: bool = False


def chart(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    x_range: Point,
    y_range: Point,
    mark: tuple[float, str] | None = None,
    bin_width: float = 0.0,
) -> str:
    """An SVG figure. `mark`: a vertical line at x, with what it says."""
    (x0, x1), (y0, y1) = _wide(x_range), _wide(y_range)
    inner_w, inner_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def px(value: float) -> float:
        return LEFT + (value - x0) / (x1 - x0) * inner_w

    def py(value: float) -> float:
        return TOP + inner_h - (value - y0) / (y1 - y0) * inner_h

    parts = [f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    parts.append(f"<title>{escape(title)}</title>")
    for i in range(5):
        value_x, value_y = x0 + (x1 - x0) * i / 4, y0 + (y1 - y0) * i / 4
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(value_y):.1f}" y2="{py(value_y):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{py(value_y) + 3.5:.1f}" text-anchor="end">{value_y:.3g}</text>'
        )
        parts.append(
            f'<text class="tick" x="{px(value_x):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">'
            f"{value_x:.3g}</text>"
        )
    parts.append(
        f'<text class="axis" x="{LEFT + inner_w / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>'
        f'<text class="axis" transform="translate(12 {TOP + inner_h / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y)}</text>"
    )
    for one in series:
        if one.bars:
            for left, height in one.points:
                if height > 0:
                    top = py(height)
                    parts.append(
                        f'<rect class="bar {one.style}" x="{px(left):.1f}" y="{top:.1f}" '
                        f'width="{max(px(left + bin_width) - px(left) - 0.5, 0.5):.1f}" height="{py(y0) - top:.1f}"/>'
                    )
        else:
            line = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in thin(one.points))
            parts.append(f'<polyline class="line {one.style}" points="{line}"/>')
    if mark and x0 <= mark[0] <= x1:
        at = px(mark[0])
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{py(y0):.1f}"/>')
        anchor, shift = ("end", -4) if at > LEFT + inner_w / 2 else ("start", 4)
        parts.append(
            f'<text class="tick" x="{at + shift:.1f}" y="{TOP + 9}" text-anchor="{anchor}">{escape(mark[1])}</text>'
        )
    parts.append("</svg>")
    keys = "".join(f'<span class="key {s.style}">{escape(s.name)}</span>' for s in series if s.name)
    parts.append(f'<div class="keys">{keys}</div></figure>')
    return "".join(parts)


def thin(points: Sequence[Point]) -> Sequence[Point]:
    """At most about `MOST_POINTS` of them, the ends among them."""
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(MOST_POINTS)]


def _wide(low_high: Point) -> Point:
    low, high = low_high
    return (low, high) if high > low else (low - 0.5, low + 0.5)
