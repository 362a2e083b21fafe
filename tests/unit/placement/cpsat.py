"""The best that can be reached with gangs, by CP-SAT over raw resources; imports nothing of the project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ortools.sat.python import cp_model
from tests.unit.placement.optimum import Value, levels_of
from tests.unit.placement.oracle import Pair, Raw, forbidden, gpus_of, nodes_of, slots_of
from tests.unit.placement.prices import effective_cost

Choice = tuple[str, Pair]


class Search:
    """Every lawful way to place the jobs of a world (funds left out) as one model of CP-SAT.

    A choice is (job uid, (provider, product)). Replicas are counted node by node, so nothing is assumed of packing.
    """

    def __init__(self, world: Raw) -> None:
        self.world = world
        self.model = cp_model.CpModel()
        self.chosen: dict[Choice, cp_model.IntVar] = {}
        self.costs: dict[Choice, int] = {}
        for provider in world["providers"]:
            self._provider(provider)
        for job in world["jobs"]:
            self.model.add_at_most_one(self._of(job["metadata"]["uid"]))

    def best(self) -> Value:
        """Jobs left out per priority, highest first, and the least cost of leaving out just those."""
        left = []
        for level in levels_of(self.world):
            uids = [job["metadata"]["uid"] for job in self.world["jobs"] if job["spec"].get("priority", 0) == level]
            placed = [choice for uid in uids for choice in self._of(uid)]
            self.model.maximize(sum(placed))
            most = round(self._solved())
            self.model.add(sum(placed) == most)
            left.append(len(uids) - most)
        return (*left, self.least_cost())

    def exactly(self, uids: Iterable[str], count: int) -> None:
        """From now on, just so many of these jobs are placed."""
        self.model.add(sum(choice for uid in uids for choice in self._of(uid)) == count)

    def least_cost(self) -> int:
        """The least total effective cost (µUSD · s per hour) under all that was asked for."""
        self.model.minimize(sum(choice * self.costs[key] for key, choice in self.chosen.items()))
        return round(self._solved())

    def _of(self, uid: str) -> list[cp_model.IntVar]:
        return [choice for (name, _), choice in self.chosen.items() if name == uid]

    def _provider(self, provider: Raw) -> None:
        here: list[cp_model.IntVar] = []
        for product in provider["status"]["inventory"]:
            nodes = nodes_of(provider, product)
            used: list[list[cp_model.LinearExprT]] = [[] for _ in nodes]
            for job in self.world["jobs"]:
                if not forbidden(self.world, job, provider, product):
                    here.append(self._choice(job, provider, product, nodes, used))
            for free, pieces in zip(nodes, used, strict=True):
                self.model.add(sum(pieces) <= free)
        self.model.add(sum(here) <= slots_of(provider))

    def _choice(
        self, job: Raw, provider: Raw, product: str, nodes: tuple[int, ...], used: list[list[cp_model.LinearExprT]]
    ) -> cp_model.IntVar:
        gpus, replicas = gpus_of(job)
        key = (job["metadata"]["uid"], (provider["metadata"]["name"], product))
        choice = self.chosen[key] = self.model.new_bool_var("")
        self.costs[key] = effective_cost(self.world, job, provider, product)
        laid = []
        for free, pieces in zip(nodes, used, strict=True):
            times = self.model.new_int_var(0, min(replicas, free // gpus), "")
            laid.append(times)
            pieces.append(times * gpus)
        self.model.add(sum(laid) == choice * replicas)
        return choice

    def _solved(self) -> float:
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        status = solver.solve(self.model)
        assert status == cp_model.OPTIMAL, solver.status_name(status)
        return solver.objective_value


def exact(world: Raw) -> Value:
    """The least value over every lawful placement (funds left out); see `value_of`."""
    return Search(world).best()


def least_cost(world: Raw, counts: Mapping[tuple[str, ...], int]) -> int:
    """The least cost of placing just so many of the jobs of each group of uids."""
    search = Search(world)
    for uids, count in counts.items():
        search.exactly(uids, count)
    return search.least_cost()
