"""Reads the page of a report as a parser of HTML does."""

from typing import Any

from bs4 import BeautifulSoup


def read(text: str) -> Any:
    """The page, to be searched."""
    return BeautifulSoup(text, "html.parser")


def cells_of(page: Any, caption: str) -> list[list[str]]:
    """The cells of the table of that caption, row by row."""
    table = next(one for one in page.find_all("table") if one.caption.get_text() == caption)
    return [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in table.tbody.find_all("tr")]
