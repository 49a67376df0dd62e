"""The colours of the pages are far enough apart: WCAG 2.2, success criteria 1.4.3 and 1.4.11, level AA."""

import re

import pytest

from tests.conftest import ROOT

CSS = (ROOT / "onnxq" / "report" / "templates" / "report.css").read_text(encoding="utf-8")
TEXT, GRAPHICS = 4.5, 3.0
"""Least contrast of text, and of what is drawn."""
HEAT = [f"h{i}" for i in (0, 1, 2, 3, 4, "x")]
REASONS = [f"k{i}" for i in (0, 1, 2, 3, 4, 5, "i")]
TEXTS = [
    *(
        (name, ground)
        for name in ("ink", "soft", "int8", "good", "bad", "warn")
        for ground in ("card", "ground")
    ),
    *(("ink", ground) for ground in (*HEAT, *REASONS)),
]
DRAWN = [(name, "card") for name in ("int8", "float")]


def colours(text):
    found = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", text))
    return {
        name: value if len(value) > 4 else "#" + "".join(2 * c for c in value[1:])
        for name, value in found.items()
    }


def schemes():
    light, _, rest = CSS.partition("@media (prefers-color-scheme: dark)")
    dark = rest[: rest.index("* {")]
    return {"light": colours(light), "dark": colours(light) | colours(dark)}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_black_on_white_is_the_largest_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("pairs", "least"), [(TEXTS, TEXT), (DRAWN, GRAPHICS)], ids=["text", "drawn"])
def test_contrast(scheme, pairs, least):
    found = schemes()[scheme]
    assert len(found) == 23
    low = {pair: round(contrast(found[pair[0]], found[pair[1]]), 2) for pair in pairs}
    assert {pair: value for pair, value in low.items() if value < least} == {}
