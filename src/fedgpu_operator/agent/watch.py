"""Follows our Jobs and pods on a member: what is there, and how pods ended that are gone before anybody looked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.identity import Identity, lease_of
from fedgpu_operator.agent.lease import Sight
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.ports import JOBS, PODS, Kube
from fedgpu_operator.reflector import Key, Reflector

PATIENCE_SECONDS: Final = 5.0
"""What is known of a member that cannot be followed is shown no longer than this: as long as one answer may take."""


class MemberWatch:
    """List-and-watch of one member. It shows what may have changed since; `look` asks the member itself."""

    def __init__(self, member: Kube, identity: Identity, wake: Callable[[], None], *, longest_pause: float) -> None:
        self._member = member
        self._identity = identity
        self._wake = wake
        labels = identity.selector
        self._jobs = Reflector(member, JOBS, _slim, self._job_changed, labels=labels, longest_pause=longest_pause)
        self._pods = Reflector(member, PODS, _slim, self._pod_changed, labels=labels, longest_pause=longest_pause)
        self._job_of: dict[str, JSONObject] = {}
        self._present: dict[str, tuple[JSONObject, ...]] = {}
        self._ended: dict[str, tuple[JSONObject, ...]] = {}
        self._ever: set[str] = set()

    async def run(self) -> None:
        """Follow until cancelled; a member that does not answer is asked again, ever more slowly."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._jobs.run())
            group.create_task(self._pods.run())

    async def sight(self) -> Sight:
        """What is known of the member; raises the KubeError for which it cannot be followed."""
        for each in (self._jobs, self._pods):
            await each.synced()
            each.check(PATIENCE_SECONDS)
        return Sight(self._job_of, self._present, self._ended, self._ever)

    def silence(self) -> float:
        """Seconds since the member last told us anything of its pods; what it shows may be as old as that."""
        return self._pods.silence()

    async def look(self, lease: str) -> Sight:
        """What the member shows of one lease, asked now.

        Jobs first: a Job that is already gone then cannot bring forth a pod that the second list lacks.
        """
        labels = self._identity.selector_of(lease)
        jobs, _ = await self._member.list(JOBS, labels=labels)
        pods, _ = await self._member.list(PODS, labels=labels)
        present = {str(pod["metadata"]["uid"]) for pod in pods}
        seen = (*self._present.get(lease, ()), *self._ended.get(lease, ()))
        gone = tuple(pod for pod in seen if pod["metadata"]["uid"] not in present and podlib.settled(pod))
        return Sight({lease_of(job): job for job in jobs}, {lease: tuple(pods)}, {lease: gone}, self._ever)

    def took(self, job: JSONObject) -> JSONObject:
        """The member took a Job of ours: it is there from now on, as the object that the next sight shows."""
        self._ever.add(lease_of(job))
        return self._jobs.put(job) or job

    def forget(self, keep: set[str]) -> None:
        """Drop what is remembered of Jobs and pods that are gone, of all leases but these."""
        self._ever &= keep
        for lease in set(self._ended) - keep:
            del self._ended[lease]

    def _job_changed(self, _: Key, before: JSONObject | None, after: JSONObject | None) -> None:
        if after is not None:
            self._job_of[lease_of(after)] = after
            self._ever.add(lease_of(after))
        elif before is not None and self._job_of.get(lease_of(before)) is before:
            del self._job_of[lease_of(before)]
        self._wake()

    def _pod_changed(self, _: Key, before: JSONObject | None, after: JSONObject | None) -> None:
        if before is not None and after is not None and before["metadata"]["uid"] != after["metadata"]["uid"]:
            self._pod_changed(_, before, None)
        known = after or before or {}
        lease, uid = lease_of(known), known["metadata"]["uid"]
        others = tuple(pod for pod in self._present.get(lease, ()) if pod["metadata"]["uid"] != uid)
        if after is not None:
            self._present[lease] = (*others, after)
        else:
            if podlib.settled(known):
                self._ended[lease] = (*self._ended.get(lease, ()), known)
            if others:
                self._present[lease] = others
            else:
                self._present.pop(lease, None)
        self._wake()


def _slim(obj: JSONObject) -> JSONObject:
    """The object without who wrote which field, and of a Job's spec only whether it is suspended: nobody reads more."""
    meta = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    spec = obj.get("spec", {})
    if "template" in spec:
        return {"metadata": meta, "spec": {"suspend": bool(spec.get("suspend"))}, "status": obj.get("status", {})}
    return {**obj, "metadata": meta}
