"""Which leases need no look now: nothing of them changed, and nothing is due. Forgetting it costs time only."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from fedgpu_operator.agent.lease import Sight, Step
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import ComputeLease

NOTHING: tuple[JSONObject, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease and what the member showed of it at one moment: what a step is decided on."""

    lease: ComputeLease
    job: JSONObject | None
    pods: tuple[JSONObject, ...]
    gone: tuple[JSONObject, ...]
    ever: bool = False

    @property
    def sight(self) -> Sight:
        """As a reconciler takes it."""
        name = self.lease.metadata.name
        jobs = {} if self.job is None else {name: self.job}
        return Sight(jobs, {name: self.pods}, {name: self.gone}, {name} if self.ever else frozenset())


class Rests:
    """By lease uid. What did not change is the very same object; a hub that is listed anew rests never."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._rests: dict[str, tuple[Seen, float]] = {}

    def restless(self, leases: Iterable[ComputeLease], sight: Sight) -> list[Seen]:
        """The leases to look at, with what is seen of them now; they are forgotten until `keep`."""
        now, found = time.monotonic(), []
        for lease in leases:
            name, uid = lease.metadata.name, lease.metadata.uid
            job, pods, gone = sight.jobs.get(name), sight.pods.get(name, NOTHING), sight.gone.get(name, NOTHING)
            known = self._rests.get(uid)
            if known is not None and now < known[1]:
                rest = known[0]
                if rest.lease is lease and rest.job is job and rest.pods is pods and rest.gone is gone:
                    continue
            self._rests.pop(uid, None)
            found.append(Seen(lease, job, pods, gone, name in sight.ever))
        return found

    def keep(self, seen: Seen, step: Step) -> None:
        """Look at it again when something changes, when it wants to be, or in a while."""
        due = self._settings.resync
        if step.lease.status.ended and not step.busy:
            due = self._settings.report_interval
        elif step.due is not None:
            due = max(0.0, min(step.due, self._settings.usage_interval) if step.live else step.due)
        after = Seen(step.lease, step.created or seen.job, seen.pods, seen.gone)
        self._rests[seen.lease.metadata.uid] = (after, time.monotonic() + due)

    def only(self, keep: set[str]) -> None:
        """Drop all but the leases of these uids."""
        for uid in set(self._rests) - keep:
            del self._rests[uid]

    def due(self) -> float:
        """Seconds until the first of them is due."""
        return min((until for _, until in self._rests.values()), default=float("inf")) - time.monotonic()
