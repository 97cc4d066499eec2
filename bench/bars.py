# SPDX-License-Identifier: Apache-2.0
"""Groups of horizontal bars as SVG text, with nothing but the standard library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

COLOURS: Final = ("#868e96", "#adb5bd", "#d9480f", "#f08c00", "#5f3dc4", "#0b7285", "#2b8a3e", "#1864ab")
WIDTH: Final = 860
LEFT: Final = 110
BAR: Final = 14
GAP: Final = 34


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that are compared with each other, the longest across the whole width."""

    title: str
    values: Mapping[str, float]
    unit: str


def bars(title: str, names: Sequence[str], groups: Sequence[Group]) -> str:
    """The chart. `names` fixes colours and order."""
    height = 60 + sum(GAP + BAR * len(group.values) for group in groups)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">',
        '<g font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="20" y="26" font-size="16" font-weight="bold">{escape(title)}</text>',
    ]
    y = 40
    for group in groups:
        parts.append(f'<text x="20" y="{y + 18}" font-size="12" font-weight="bold">{escape(group.title)}</text>')
        y += 24
        longest = max(group.values.values(), default=1.0)
        for name in names:
            if name not in group.values:
                continue
            value = group.values[name]
            width = value / longest * (WIDTH - LEFT - 130)
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts.append(f'<text x="{LEFT - 8}" y="{y + 10}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + 10}">{value:,.0f} {escape(group.unit)}</text>')
            y += BAR
        y += GAP - 24
    return "\n".join([*parts, "</g></svg>", ""])
