"""The pages of ``docs/`` against the code: metrics, sources, files and links."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from spar_core import registry
from spar_core.registry import load_member
from spar_core.reporting.page.glossary import explain
from spar_core.training.context import Context
from tests.fakes import CANDIDATES, ROOT, tiny_settings

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PAGE_OF = {"anchor": "anchors.md", "critic": "critics.md", "improvement": "improvement.md"}
MEMBERS = [(family, kind) for family, table in registry.FAMILIES.items() for kind in table]
every_member = pytest.mark.parametrize(("family", "kind"), MEMBERS, ids=map("-".join, MEMBERS))

LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"(#{1,6}) +(.+?) *")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# The first cell of a table's row, and the names of metrics in it.
FIRST_CELL = re.compile(r"^\| (`[^|]+) \|", re.MULTILINE)
METRIC = re.compile(r"`(\w+/\w+)`")


# --- reading pages ---


@cache
def sections(page: Path) -> dict[str, tuple[int, str]]:
    """Level and text of each heading's section (without the sections below it), by its anchor on GitHub."""
    found: dict[str, tuple[int, str]] = {}
    anchor, fenced = "", False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else HEADING.fullmatch(line)
        if heading:
            anchor = free(slug(heading[2]), found)
            found[anchor] = (len(heading[1]), "")
        elif anchor:
            level, text = found[anchor]
            found[anchor] = (level, text + line + "\n")
    return found


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", title).lower())
    return kept.replace(" ", "-")


def free(anchor: str, taken: Iterable[str]) -> str:
    """The anchor, numbered where the page already has one of that name."""
    names = [anchor, *(f"{anchor}-{i}" for i in range(1, 99))]
    return next(name for name in names if name not in taken)


def whole(page: Path, anchor: str) -> str:
    """The text of a section with the sections below it."""
    own = sections(page)
    level, text = own[anchor]
    below = list(own)[list(own).index(anchor) + 1 :]
    for name in below:
        if own[name][0] <= level:
            break
        text += own[name][1]
    return text


def told(page: Path, anchor: str) -> str:
    """A member's section, those of the same page that it refers to, and what is common to all members."""
    own = whole(page, anchor)
    referred = [link[1:] for link, _ in LINK.findall(own) if link.startswith("#")]
    (common,) = (name for name in sections(page) if name.startswith("common-to-every"))
    return own + "".join(whole(page, name) for name in [common, *dict.fromkeys(referred)] if name in sections(page))


def place(page: Path, anchor: str) -> str:
    return f"docs/{page.name}#{anchor} (or a section of the page that it links to, or the common one)"


def explained(text: str) -> set[str]:
    """The metrics that the tables of a text explain."""
    return {name for cell in FIRST_CELL.findall(text) for name in METRIC.findall(cell)}


# --- members ---


@pytest.fixture(scope="module")
def fitted(toy, parts):
    """Every member and the residual model, fitted for a few steps."""
    results = {}
    for family, kind in MEMBERS:
        member = load_member(family, kind)
        inputs = (toy, parts.frozen((0,))) if family == "improvement" else (toy,)
        results[family, kind] = member.fit(Context.quiet(inputs[0], (0,)), *inputs[1:], tiny_settings(member))
    return results


def logged(result) -> tuple[set[str], set[str]]:
    """Names of final metrics and of curves; curves of a candidate stand under its name, and are its own."""
    curves = {row[2] for row in result.curves}
    return set(result.metrics), {name.partition("/")[2] if name.startswith(CANDIDATES) else name for name in curves}


def counts(family: str) -> set[str]:
    """What the stages add to the metrics of a family."""
    return {f"{family}/parameters"} | ({"policy/parameters"} if family == "improvement" else set())


@every_member
def test_every_metric_of_a_member_is_in_its_section(fitted, family, kind):
    final, curves = logged(fitted[family, kind])
    page = DOCS / PAGE_OF[family]
    assert kind in sections(page), f"docs/{page.name} has no heading ## `{kind}`"
    missing = sorted((final | curves | counts(family)) - explained(told(page, kind)))
    assert not missing, f"{place(page, kind)} does not explain {missing}"


@every_member
def test_every_member_states_its_source_and_its_deviations(family, kind):
    page = DOCS / PAGE_OF[family]
    text = whole(page, kind)
    missing = [part for part in ("**Source.**", "**Deviations.**") if part not in text]
    assert not missing, f"docs/{page.name}#{kind} does not state {missing}"
    if family == "critic":
        named = load_member(family, kind).conservatism
        assert named in " ".join(text.split()), f"docs/{page.name}#{kind} does not say '{named}'"


@every_member
def test_every_member_is_in_the_index(family, kind):
    index = (DOCS / "algorithms.md").read_text(encoding="utf-8")
    file = registry.FAMILIES[family][kind].partition(":")[0].replace(".", "/") + ".py"
    link = f"({PAGE_OF[family]}#{kind})"
    assert any(link in line and f"`{file}`" in line for line in index.splitlines()), (
        f"docs/algorithms.md has no row with `{file}` and a link to {link}"
    )


def test_every_metric_of_the_residual_model_is_in_its_section(parts):
    final, curves = logged(parts.residual)
    page = DOCS / "improvement.md"
    missing = sorted((final | curves | counts("residual")) - explained(whole(page, "residual-model-stage-i")))
    assert not missing, f"docs/{page.name}#residual-model-stage-i does not explain {missing}"


def test_no_page_explains_a_metric_that_nothing_logs(fitted, parts):
    known = set().union(*logged(parts.residual), counts("residual"))
    for (family, _), result in fitted.items():
        known = known.union(*logged(result), counts(family))
    stale = {page: sorted(explained((DOCS / page).read_text(encoding="utf-8")) - known) for page in PAGE_OF.values()}
    assert not any(stale.values()), f"nothing logs {stale}"


def test_every_final_metric_has_a_line_in_the_glossary(fitted, parts):
    final = set(parts.residual.metrics) | counts("residual")
    for (family, _), result in fitted.items():
        final |= set(result.metrics) | counts(family)
    missing = sorted(key for key in final if not explain(key))
    assert not missing, f"spar_core/reporting/page/glossary.py has no line for {missing}"


# --- links ---


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for groups in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        link = groups[0] or groups[1]
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(f"{link}: no such file")
        elif anchor and anchor not in sections(target):
            broken.append(f"{link}: {target.name} has no such heading")
    assert not broken, f"broken links in {page.relative_to(ROOT)}: {broken}"


def test_headings_get_the_anchors_that_github_gives_them():
    assert slug("`spar_mlp`") == "spar_mlp"
    assert slug("3. What the update is, to first order") == "3-what-the-update-is-to-first-order"
    assert slug("The dataset's own steps") == "the-datasets-own-steps"
    assert [free("a", []), free("a", ["a"]), free("a", ["a", "a-1"])] == ["a", "a-1", "a-2"]
