"""Tables that come with the package: CSV files in domain/data, each with its source and its date, read once."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Final

DATA: Final = files(__package__).joinpath("data")


def rows(file: str) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns; lines that begin with # give its source and date."""
    lines = DATA.joinpath(file).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))
