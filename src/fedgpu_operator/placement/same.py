"""What is the very same object as before; where most is, that is quicker to find out than what is equal."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_

import numpy as np


def moved(before: Sequence[object], now: Sequence[object]) -> list[int]:
    """The places, as far as both reach, at which another object stands than before."""
    return np.flatnonzero(~np.frombuffer(bytes(map(is_, before, now)), dtype=np.bool_)).tolist()
