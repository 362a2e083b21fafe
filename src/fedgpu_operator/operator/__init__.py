"""The Kopf operator: what happens at start, at the end, on a probe, and on a change of an object of each kind.

`lifecycle` holds the activities and `handlers` the changes, kind by kind; importing this package registers both, which
is all that ``kopf run -m fedgpu_operator.operator`` needs. Nothing is decided here: handlers parse, and wake loops.
"""

from __future__ import annotations

from fedgpu_operator.operator import handlers, lifecycle

__all__ = ["handlers", "lifecycle"]
