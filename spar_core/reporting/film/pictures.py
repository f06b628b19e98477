"""Takes side by side as WebP: a strip of frames at equally spaced times, and a short moving picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from spar_core.reporting.film.takes import Take, amount

WIDTH, HEIGHT = 256, 192  # of a frame, in pixels
FRAMES = 6  # per row of a strip
_GAP, _LINE = 8, 33
_SIZE = 26  # of the letters, in pixels; a phone shows a picture at half its size
_PAPER, _INK, _GREY = "white", "#111111", "#5a5a5a"


def strip_steps(takes: Sequence[Take]) -> list[int]:
    """Steps of a strip's frames: equally spaced from the start to the end of the longest episode."""
    longest = max(take.length for take in takes)
    return sorted({round(step) for step in np.linspace(0, longest, FRAMES)})


def moving_steps(takes: Sequence[Take], step_seconds: float, seconds: float, rate: float) -> list[int]:
    """Steps of the moving picture: the first ``seconds`` in real time, with about ``rate`` frames per second."""
    stride = max(1, round(1 / (rate * step_seconds)))
    longest = max(take.length for take in takes)
    return list(range(0, min(longest, round(seconds / step_seconds)) + 1, stride))


def strip(takes: Mapping[str, Take], steps: Sequence[int], step_seconds: float | None) -> bytes:
    """One row per take: a frame at each step, with the time and the return so far below it."""
    row = _LINE + HEIGHT + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (len(steps) * (WIDTH + _GAP) - _GAP, len(takes) * row), _PAPER)
    for i, (name, take) in enumerate(takes.items()):
        _write(sheet, (0, i * row), f"{name}: {_end(take)}")
        for j, step in enumerate(steps):
            x, y = j * (WIDTH + _GAP), i * row + _LINE
            sheet.paste(_frame(take, step), (x, y))
            when, total = _under(take, step, step_seconds)
            _write(sheet, (x, y + HEIGHT), when, grey=True)
            _write(sheet, (x, y + HEIGHT + _LINE), total)
    return _webp([sheet])


def moving(takes: Mapping[str, Take], steps: Sequence[int], step_seconds: float, quality: int = 60) -> bytes:
    """An animation of the takes side by side."""
    duration = round(1000 * (steps[1] - steps[0]) * step_seconds) if len(steps) > 1 else 1000
    sheets = []
    for step in steps:
        size = (len(takes) * (WIDTH + _GAP) - _GAP, HEIGHT + 3 * _LINE)
        sheet = Image.new("RGB", size, _PAPER)
        for i, (name, take) in enumerate(takes.items()):
            x = i * (WIDTH + _GAP)
            _write(sheet, (x, 0), name)
            sheet.paste(_frame(take, step), (x, _LINE))
            when, total = _under(take, step, step_seconds)
            _write(sheet, (x, _LINE + HEIGHT), when, grey=True)
            _write(sheet, (x, 2 * _LINE + HEIGHT), total)
        sheets.append(sheet)
    return _webp(sheets, duration, quality)


def _frame(take: Take, step: int) -> Image.Image:
    """The frame at a step; after the end of the episode, its last frame in pale."""
    frame = Image.fromarray(take.frames[take.last(step)])
    if frame.size != (WIDTH, HEIGHT):
        frame = ImageOps.pad(frame, (WIDTH, HEIGHT), color=_PAPER)
    return Image.blend(frame, Image.new("RGB", frame.size, _PAPER), 0.6) if step > take.length else frame


def _under(take: Take, step: int, step_seconds: float | None) -> tuple[str, str]:
    """Time and return so far, as texts below a frame."""
    total = f"return {amount(take.totals[take.last(step)])}"
    when = clock(take.last(step), step_seconds)
    return (f"over at {when}" if step > take.length else when), total


def _end(take: Take) -> str:
    """Return and length of an episode, as text."""
    return f"return {amount(take.totals[-1])} in {take.length} steps"


def clock(step: int, step_seconds: float | None) -> str:
    """A step in seconds; as a number where the environment does not say how long a step is."""
    return f"step {step}" if step_seconds is None else f"{step * step_seconds:.2f} s"


def _write(sheet: Image.Image, at: tuple[int, int], text: str, grey: bool = False) -> None:
    ImageDraw.Draw(sheet).text(at, text, _GREY if grey else _INK, ImageFont.load_default(_SIZE))


def _webp(sheets: Sequence[Image.Image], duration: int = 0, quality: int = 80) -> bytes:
    buffer = io.BytesIO()
    if len(sheets) == 1:
        sheets[0].save(buffer, "WEBP", quality=quality, method=6)
    else:
        sheets[0].save(
            buffer,
            "WEBP",
            quality=quality,
            method=4,
            save_all=True,
            append_images=sheets[1:],
            duration=duration,
            loop=0,
        )
    return buffer.getvalue()
