"""The pages: links lead somewhere, README leads to all, tables hold together, examples of gateway.yaml are good."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from openmcp.config import ConfigurationError, load

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "manifests/**/*.md") for page in ROOT.glob(pattern)
)
SECTIONS = {"listen", "identity", "sessions", "telemetry", "approvals", "state", "source", "servers", "policies"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Those that headings have, as the usual renderers make them."""
    found = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading).lower() for heading in found)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def links(page: Path) -> list[tuple[Path, str]]:
    """Files and folders of ours that a page leads to, each with its anchor."""
    found = re.findall(r"]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)", prose(page))
    return [((page.parent / path).resolve() if path else page, anchor) for path, anchor in found]


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"


def test_readme_leads_to_every_page() -> None:
    found, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        page = page / "README.md" if page.is_dir() else page
        if page.suffix == ".md" and page.exists() and page not in found:
            found.add(page)
            ahead += [target for target, _ in links(page)]
    assert set(PAGES) - found == set()


@each_page
def test_tables_hold_together(page: Path) -> None:
    """A row with other columns than its head, or apart from it, is not shown as one."""
    for table in re.findall(r"(?:^\|.*\n)+", prose(page), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table
        assert re.match(r".*\n\|[-|: ]+\|\n", table), table


def parts() -> list[tuple[str, str]]:
    """Blocks of all pages that are sections of a gateway.yaml, and where they stand."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            keys = {str(key) for key in next(yaml.safe_load_all(block)) or ()}
            if keys & SECTIONS and not keys - SECTIONS - {"apiVersion"} and "enabled:" not in block:  # of the chart
                found.append((str(page.relative_to(ROOT)), block))
    return found


def test_the_blocks_are_found() -> None:
    assert len(parts()) > 10


@pytest.mark.parametrize(("page", "block"), parts())
def test_what_is_shown_of_a_configuration_is_accepted(page: str, block: str, tmp_path: Path) -> None:
    head = "" if "apiVersion:" in block else "apiVersion: openmcp.dev/v1alpha1\n"
    file = tmp_path / "gateway.yaml"
    file.write_text(head + block.replace("0f3c...", "0" * 64))
    try:
        load(file)
    except ConfigurationError as error:
        pytest.fail(f"{page}:\n{block}\n{error}")
