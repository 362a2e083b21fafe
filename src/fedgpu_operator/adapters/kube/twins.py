"""Lets objects that say the same share what they say: a hub holds ten thousand, most of them alike but for a name."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from typing import Final, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

NO_FIELDS: Final[set[str]] = set()
KEPT: Final = 4
"""Values of one field that a new one is compared with: those met last, since what is made together is alike."""
MOST_WORDS: Final = 4096
"""Texts that are remembered; the one that was met longest ago goes first."""
OWN: Final = frozenset({"name", "uid", "resource_version", "workload_uid", "signature"})
"""Fields whose text no other object has: remembering it would push out what many have."""


class Words:
    """Equal texts as one, at most so many: what `sys.intern` of Python 3.12.0 to 3.12.5 takes stays for ever."""

    def __init__(self, most: int = MOST_WORDS) -> None:
        self._most = most
        self._met: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._met)

    def share(self, word: str) -> str:
        """The equal text that was met before, or this one."""
        known = self._met.setdefault(word, word)
        self._met.move_to_end(word)
        if len(self._met) > self._most:
            self._met.popitem(last=False)
        return known


WORDS: Final = Words()
"""Of all kinds together: a provider's name stands in jobs, leases and reports."""


class Twins:
    """Remembers, by type and field, the parts of models that were met last, and their words.

    The parts are frozen, and nobody changes a list or a mapping inside one, so that sharing them is not seen.
    """

    def __init__(self, words: Words = WORDS) -> None:
        self._words = words
        self._met: defaultdict[tuple[type[BaseModel], str], deque[BaseModel]] = defaultdict(lambda: deque(maxlen=KEPT))

    def share(self, model: BaseModel) -> None:
        """Put parts and words met before in the place of equal ones, from the inside out.

        Which fields were written out, and which by default, nobody asks; those sets are a third of all, and go.
        """
        object.__setattr__(model, "__pydantic_fields_set__", NO_FIELDS)
        fields = model.__dict__
        for name, value in fields.items():
            if type(value) is str:
                fields[name] = value if name in OWN else self._words.share(value)
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
