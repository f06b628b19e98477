"""docs/settings.md is what the settings classes give, and says what each setting means."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveInt

from scripts import settings_page
from spar_core.settings import Settings
from tests.fakes import ROOT


class Inner(Settings):
    shares: Annotated[tuple[float, ...], Field(min_length=2)] = (0.5, 1.0)


class Sample(Settings):
    """A setting of each type."""

    needed: str
    count: PositiveInt = 3
    share: float = Field(0.25, ge=0, le=1, description="part of the whole")
    open_share: float = Field(1.0, gt=0, lt=2)
    even: int = Field(64, ge=64, multiple_of=64)
    any_number: float = -1.0
    switch: bool = True
    choice: Literal["a", "b"] = "a"
    most: int | None = Field(None, gt=0)
    names: tuple[str, ...] = ()
    inner: Inner = Inner()


def rows_of(settings):
    return [settings_page.row(name, field) for name, field in settings.model_fields.items()]


def test_a_row_says_default_allowed_values_and_meaning():
    assert rows_of(Sample) == [
        "|`needed`|required|string||",
        "|`count`|3|integer > 0||",
        "|`share`|0.25|0 to 1|part of the whole|",
        "|`open_share`|1|> 0, < 2||",
        "|`even`|64|integer >= 64, multiple of 64||",
        "|`any_number`|-1|number||",
        "|`switch`|true|true or false||",
        "|`choice`|a|`a`, `b`||",
        "|`most`|none|integer > 0 or none||",
        "|`names`|none|list of strings||",
        "|`inner`|below|mapping||",
    ]
    assert rows_of(Inner) == ["|`shares`|[0.5, 1]|list of numbers, at least 2||"]
    assert settings_page.parts_of(Sample) == {"inner": Inner}


def test_kinds_that_share_a_row_share_a_table():
    class More(Inner):
        extra: bool = False

    tables = dict(settings_page.by_kinds({"plain": Inner, "more": More}))
    assert list(tables) == ["every kind", "`more`"]
    assert tables["`more`"] == ["|`extra`|false|true or false||"]


def test_the_committed_page_is_what_the_classes_give():
    page = (ROOT / settings_page.PAGE).read_text(encoding="utf-8")
    assert page == settings_page.page(), "run `python -m scripts.settings_page`"


def test_check_fails_where_the_page_is_another(tmp_path, monkeypatch):
    page = tmp_path / "settings.md"
    monkeypatch.setattr(settings_page, "PAGE", page)
    settings_page.main([])
    settings_page.main(["--check"])
    page.write_text("old")
    with pytest.raises(SystemExit, match=r"run `python -m scripts.settings_page`"):
        settings_page.main(["--check"])
    assert page.read_text() == "old"


def test_every_setting_says_what_it_means():
    silent = {
        f"{settings.__name__}.{name}"
        for settings in settings_page.every_class()
        for name, field in settings.model_fields.items()
        if name != "source" and not field.description
    }
    assert not silent, "give each field a description"
    ends = [line for line in settings_page.page().splitlines() if line.endswith(".|")]
    assert not ends, "a description ends without a full stop"
