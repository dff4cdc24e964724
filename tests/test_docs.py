"""The documentation: decisions have one form, links lead somewhere, and tables of outputs are described."""

import re
import tomllib
from pathlib import Path

import pytest

from lesiondelta.outputs import lesions, visit_table

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PARTS = ["Status", "Context", "Decision", "Consequences"]
MOST_WORDS = 350
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_four_parts_on_half_a_page(page: Path):
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem[:3]} ")
    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == PARTS
    assert len(text.split()) <= MOST_WORDS


def test_the_index_has_every_decision_with_its_title():
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    titles = {page: page.read_text(encoding="utf-8").splitlines()[0][2:].partition(" ") for page in DECISIONS}
    rows = [f"| [{number}]({page.name}) | {title} |" for page, (number, _, title) in titles.items()]
    assert sorted(rows) == sorted(line for line in index.splitlines() if line.startswith("| ["))


def test_every_decision_that_is_referred_to_exists():
    numbers = {page.stem[:3] for page in DECISIONS}
    files = [path for folder in ("src", "recipes", "scripts", "docs") for path in (ROOT / folder).rglob("*.*")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".md")]
    assert {number for text in texts for number in re.findall(r"[dD]ecisions? (\d{3})", text)} <= numbers


def test_rooms_are_named_in_the_order_that_is_enforced():
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    rooms = [layer.removeprefix("lesiondelta.") for layer in layers]
    decision = (DOCS / "decisions" / "001-rooms.md").read_text(encoding="utf-8")
    assert ", ".join(rooms) in " ".join(decision.split())
    tour = (DOCS / "tour.md").read_text(encoding="utf-8")
    assert re.findall(r"^  \| (\w+)", tour, re.MULTILINE) == rooms


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path):
    links = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    for link in (link for link in links if "://" not in link):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if heading:
            assert heading in _headings(target), link


def _headings(page: Path) -> set[str]:
    """As GitHub names them in addresses."""
    lines = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_every_column_of_a_table_is_described():
    text = (DOCS / "outputs.md").read_text(encoding="utf-8")
    columns = [*visit_table.COLUMNS, *lesions.LESION_COLUMNS, *lesions.STEP_COLUMNS]
    assert not [column for column in columns if f"`{column}`" not in text]
