"""docs/benchmarks.md: the parts of it that are drawn from results, each between marks that name its file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[1] / "docs" / "benchmarks.md"
END: Final = "<!-- end of figures -->"


def rendered(page: str, name: str, text: str) -> str:
    """The page with this text as what is drawn from `benchmarks/results/{name}.json`; ValueError without its marks."""
    begin = f"<!-- figures of benchmarks/results/{name}.json -->"
    before, found, rest = page.partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"the page has no marks {begin} … {END}")
    return f"{before}{begin}\n{text}\n{END}{after}"


def draw(name: str, text: str) -> None:
    """Put it into the page."""
    PAGE.write_text(rendered(PAGE.read_text(), name, text))
