"""Lets objects that say the same share what they say: a hub holds ten thousand, most of them alike but for a name."""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from typing import Final, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

NO_FIELDS: Final[set[str]] = set()
KEPT: Final = 4
"""Values of one field that a new one is compared with: those met last, since what is made together is alike."""


class Twins:
    """Remembers, by type and field, the parts of models that were met last.

    The parts are frozen, and nobody changes a list or a mapping inside one, so that sharing them is not seen.
    """

    def __init__(self) -> None:
        self._met: defaultdict[tuple[type[BaseModel], str], deque[BaseModel]] = defaultdict(lambda: deque(maxlen=KEPT))

    def share(self, model: BaseModel) -> None:
        """Put parts met before in the place of equal ones, from the inside out, and intern its words.

        Which fields were written out, and which by default, nobody asks; those sets are a third of all, and go.
        """
        object.__setattr__(model, "__pydantic_fields_set__", NO_FIELDS)
        fields = model.__dict__
        for name, value in fields.items():
            if type(value) is str:
                fields[name] = sys.intern(value)
            elif isinstance(value, BaseModel):
                fields[name] = self._twin(value, name)
            elif isinstance(value, list):
                fields[name] = [self._twin(each, name) if isinstance(each, BaseModel) else each for each in value]

    def _twin(self, part: M, field: str) -> M:
        self.share(part)
        met = self._met[type(part), field]
        for each in met:
            # Its own parts are shared by now, so that equal ones are the very same: the comparison is a short one.
            if isinstance(each, type(part)) and each.__dict__ == part.__dict__:
                return each
        met.append(part)
        return part
