"""Plots of cost against events, both logarithmic, as SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_COLOURS: Final = ("#1f6fb4", "#c0392b", "#2e8b57", "#777")
_WIDTH, _HEIGHT = 300, 220  # of a panel's inside
_LEFT, _TOP, _GAP, _BOTTOM = 56, 34, 84, 46


@dataclass(frozen=True)
class Panel:
    """``lines``: name -> points (how many, value), all above 0. ``across``: of what."""

    title: str
    lines: dict[str, list[tuple[float, float]]]
    across: str = "events"


def draw(*panels: Panel) -> str:
    """The panels side by side, with one legend."""
    width = _LEFT + len(panels) * (_WIDTH + _GAP)
    height = _TOP + _HEIGHT + _BOTTOM
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        body += _panel(panel, _LEFT + number * (_WIDTH + _GAP))
    return "\n".join([*body, "</svg>", ""])


def _panel(panel: Panel, left: int) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    across = _decades([x for x, _ in points])
    up = _decades([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + _WIDTH * (math.log10(x) - across[0]) / (across[-1] - across[0]),
            _TOP + _HEIGHT * (1 - (math.log10(y) - up[0]) / (up[-1] - up[0])),
        )

    body = [f'<text x="{left}" y="{_TOP - 14}" font-size="13">{panel.title}</text>']
    for decade in across:
        x, _ = place(10**decade, 10 ** up[0])
        body.append(f'<path d="M{x:.1f} {_TOP}V{_TOP + _HEIGHT}" stroke="#ddd"/>')
        body.append(
            f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle">10<tspan dy="-4"'
            f' font-size="8">{decade}</tspan></text>'
        )
    for decade in up:
        _, y = place(10 ** across[0], 10**decade)
        body.append(f'<path d="M{left} {y:.1f}H{left + _WIDTH}" stroke="#ddd"/>')
        body.append(
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>'
        )
    middle = left + _WIDTH / 2
    body.append(
        f'<text x="{middle}" y="{_TOP + _HEIGHT + 34}" text-anchor="middle">{panel.across}</text>'
    )
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        spots = [place(x, y) for x, y in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        body.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        body.append(
            f'<text x="{left + 10}" y="{_TOP + 16 + 15 * number}" fill="{colour}">{name}</text>'
        )
    return body


def _decades(values: list[float]) -> list[int]:
    low = math.floor(math.log10(min(values)) + 0.01)
    high = math.ceil(math.log10(max(values)) - 0.01)
    return list(range(low, max(high, low + 1) + 1))
