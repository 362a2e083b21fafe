"""What an object weighs in etcd, and how much room its later writes need; pure.

etcd refuses a request of more than 1.5 MiB (`--max-request-bytes`, default 1572864), and a custom resource is stored as
one JSON document. An object that was let in just below that limit could never be given a status again. So an object
that we must be able to write later has to leave room for all of its later writes.
"""

from __future__ import annotations

import json
import re
from typing import Final

from fedgpu_operator.api.base import JSONObject

MOST_STORED: Final = 3 * 2**19
"""Bytes of one object in etcd: its default limit of a request."""
HEADROOM: Final = 256 * 1024
"""Bytes left for what others add: labels, annotations, finalizers and the field managers' bookkeeping."""
JOB_STATUS_BYTES: Final = 32 * 1024
"""The most that a ComputeJob's status weighs; `hub.statusfit` keeps it."""
LEASE_STATUS_BYTES: Final = 512 * 1024
"""The most that a ComputeLease's status can weigh by its schema; a test writes the fullest one."""
LEASE_METADATA_BYTES: Final = 8 * 1024
"""What an API server adds to a lease at its creation, and our own annotations on it."""

_ESCAPED: Final = re.compile("[<>&\u2028\u2029]")


def stored_bytes(obj: object) -> int:
    """Bytes of a JSON value as an API server stores it.

    Go's encoder writes `<`, `>`, `&`, U+2028 and U+2029 as six bytes each (encoding/json, HTML escaping, which the
    unstructured codec leaves on) and everything else as UTF-8.
    """
    text = json.dumps(obj, ensure_ascii=False, separators=(",", ":"))
    escaped = _ESCAPED.findall(text)
    return len(text.encode(errors="surrogatepass")) + sum(6 - len(each.encode()) for each in escaped)


def excess_of_job(job: JSONObject) -> int:
    """By how many bytes a ComputeJob, as the API server returned it, is too large to be followed to its end.

    0 where its status and the head-room for others fit.
    """
    known = {key: value for key, value in job.items() if key != "status"}
    return max(0, stored_bytes(known) + JOB_STATUS_BYTES + HEADROOM - MOST_STORED)


def excess_of_lease(lease: JSONObject) -> int:
    """By how many bytes a ComputeLease that is to be created would be too large to be followed to its end."""
    later = LEASE_METADATA_BYTES + LEASE_STATUS_BYTES + HEADROOM
    return max(0, stored_bytes(lease) + later - MOST_STORED)
