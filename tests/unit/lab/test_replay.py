"""Replays of traces small enough to follow by hand, and the rows that are no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.replay.fleet import State, deal, enough_for
from fedgpu_operator.replay.measure import Shapes, figures, percentile
from fedgpu_operator.replay.run import replay
from fedgpu_operator.replay.schedulers import SCHEDULERS
from fedgpu_operator.replay.trace import Node, Task, read_nodes, read_prices, read_tasks

EXAMPLES = Path(__file__).parents[3] / "examples" / "traces"
HEAD = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
PRICES = {"A": "1.00", "B": "3.00"}


def task(name: str, gpus: int, created: int, seconds: int, *models: str, milli: int = 1000) -> Task:
    return Task(name, gpus, milli, frozenset(models), created, seconds)


def written(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "trace.csv"
    path.write_text(head + "".join(f"{row}\n" for row in rows))
    return path


def test_rows_are_read_and_those_without_an_end_are_counted(tmp_path: Path) -> None:
    read = read_tasks(
        written(
            tmp_path,
            "late,1,1,8,1000,,LS,Running,50,90,60",
            "early,1,1,1,460,V100M16|V100M32,BE,Running,10,40,15",
            "cpu,1,1,0,0,nan,LS,Running,0,9,0",
            "never,1,1,1,1000,,LS,Pending,3,9,",
        )
    )
    assert read.tasks == (task("early", 1, 10, 25, "V100M16", "V100M32", milli=460), task("late", 8, 50, 30))
    assert (read.without_gpu, read.never_started) == (1, 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a,1,1,one,1000,,LS,Running,0,9,0", ":3: num_gpu must be a number, not 'one'"),
        ("a,1,1,1.5,1000,,LS,Running,0,9,0", ":3: num_gpu must be a whole number"),
        ("a,1,1,-1,1000,,LS,Running,0,9,0", ":3: num_gpu must be a whole number from 0"),
        ("a,1,1,1,1001,,LS,Running,0,9,0", ":3: gpu_milli must be a whole number from 0 to 1000"),
        ("a,1,1,1,1000,,LS,Running,0,9,inf", ":3: scheduled_time must be a whole number"),
        ("a,1,1,1,1000,,LS,Running,9,8,9", ":3: it was created at 9, started at 9 and ended at 8"),
        ("good,1,1,1,1000,,LS,Running,0,9,0", ":3: name 'good' stands on line 2 already"),
        ("a,1,1,1", ":3: 11 columns are named and not filled"),
        ("a,1,1,1,1000,,LS,Running,0,9,0,7", ":3: 11 columns are named and not filled"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_tasks(written(tmp_path, "good,1,1,1,1000,,LS,Running,0,9,0", row))
    assert why in str(error.value)


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no column gpu_milli"):
        read_tasks(written(tmp_path, head=HEAD.replace("gpu_milli,", "")))
    with pytest.raises(ConfigurationError, match="no task in it has GPUs"):
        read_tasks(written(tmp_path))
    with pytest.raises(ConfigurationError, match="No such file"):
        read_tasks(tmp_path / "nowhere.csv")
    with pytest.raises(ConfigurationError, match="has 2 GPUs and no model"):
        read_nodes(written(tmp_path, "n1,2,", head="sn,gpu,model\n"))
    (tmp_path / "bytes.csv").write_bytes(b"sn,gpu,model\n\xff,1,T4\n")
    with pytest.raises(ConfigurationError, match="no CSV in UTF-8"):
        read_nodes(tmp_path / "bytes.csv")


def test_prices_of_a_file_are_exact_and_a_model_without_one_is_refused(tmp_path: Path) -> None:
    table = read_prices(written(tmp_path, "A,1.25", head="model,usd_per_gpu_hour\n"))
    fleet = deal([Node(f"n{i}", "A", 4) for i in range(3)], table, providers=3, spread=0.2)
    assert [offer.price for offer in fleet.offers] == [1_000_000, 1_250_000, 1_500_000]
    with pytest.raises(ConfigurationError, match="no price for model 'Z'"):
        deal([Node("n", "Z", 1)], table, providers=1, spread=0)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_replay_that_can_be_followed_by_hand(scheduler: str) -> None:
    fleet = deal([Node("n", "A", 2)], PRICES, providers=1, spread=0)
    tasks = [task("first", 2, 0, 100), task("second", 1, 10, 50), task("third", 1, 10, 10)]
    replayed = replay(tasks, fleet, SCHEDULERS[scheduler], every=10)
    found = figures(replayed, fleet)
    # The first holds both GPUs until 100; then the others start together and the last ends at 150.
    assert sorted(replayed.waits) == [0, 90, 90]
    assert replayed.cost == 1_000_000 * (2 * 100 + 50 + 10)
    assert found["meanGPUsUsed"] == pytest.approx((2 * 100 + 2 * 10 + 1 * 40) / 150, abs=0.01)
    assert (found["tasks"], found["neverRan"], found["mostGPUsUsed"]) == (3, 0, 2)


def test_arrivals_come_faster_and_run_as_long() -> None:
    fleet = deal([Node("n", "A", 1)], PRICES, providers=1, spread=0)
    tasks = [task("a", 1, 0, 100), task("b", 1, 100, 100)]
    assert sorted(replay(tasks, fleet, SCHEDULERS["greedy"], every=10).waits) == [0, 0]
    assert sorted(replay(tasks, fleet, SCHEDULERS["greedy"], every=10, load=10).waits) == [0, 90]


def test_ours_leaves_the_only_place_to_the_task_that_has_no_other() -> None:
    """The greedy one takes the cheap GPU for the task that came first; ours waits for nobody and places both."""
    fleet = deal([Node("a", "A", 1), Node("b", "B", 1)], PRICES, providers=1, spread=0)
    tasks = [task("any", 1, 0, 100), task("only-a", 1, 0, 100, "A")]
    assert max(replay(tasks, fleet, SCHEDULERS["fedgpu"], every=10).waits) == 0
    assert max(replay(tasks, fleet, SCHEDULERS["greedy"], every=10).waits) == 100


def test_the_spreading_scheduler_breaks_nodes_that_ours_keeps_whole() -> None:
    fleet = deal([Node("n1", "A", 4), Node("n2", "A", 4)], PRICES, providers=1, spread=0)
    tasks = [task("one", 1, 0, 100), task("two", 1, 0, 100), task("four", 4, 10, 100)]
    assert max(replay(tasks, fleet, SCHEDULERS["fedgpu"], every=10).waits) == 0
    assert max(replay(tasks, fleet, SCHEDULERS["kube"], every=10).waits) == 90


def test_fragmentation_is_what_the_mean_task_cannot_use() -> None:
    fleet = deal([Node("n1", "A", 4), Node("n2", "B", 2)], PRICES, providers=1, spread=0)
    shapes = Shapes([task("a", 4, 0, 1), task("b", 1, 0, 1), task("c", 2, 0, 1, "A"), task("d", 1, 0, 1)], fleet)
    state = State(fleet)
    # Node n1 serves all four; node n2 is too small for the first and the wrong model for the third.
    assert shapes.fragmented(state) == pytest.approx((4 * 0 + 2 * 2 / 4) / 6)
    state.take(0, 3)
    assert shapes.fragmented(state) == pytest.approx((1 * 2 / 4 + 2 * 2 / 4) / 3)
    state.take(0, 1)
    state.take(1, 2)
    assert shapes.fragmented(state) == 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_nobody_ever_sells_what_is_not_there(scheduler: str) -> None:
    read = read_tasks(EXAMPLES / "tasks.csv")
    fleet = deal(read_nodes(EXAMPLES / "nodes.csv"), {"T4": "0.35", "V100M32": "2", "A10": "1"}, 4, 0.2)
    replayed = replay(read.tasks, fleet, SCHEDULERS[scheduler], every=30)
    assert len(replayed.waits) == len(read.tasks)
    assert replayed.gpu_seconds == sum(each.gpus * each.seconds for each in read.tasks)
    assert all(0 <= each.used <= fleet.total for each in replayed.moments)
    assert replayed.moments[-1].used == 0


def test_a_fleet_is_made_up_for_a_trace_without_nodes() -> None:
    tasks = [task(f"t{i}", 8, 0, 100, "A") for i in range(10)] + [task("other", 8, 0, 100, "B")]
    nodes = enough_for(tasks)
    assert sum(node.gpus for node in nodes) == pytest.approx(0.9 * 88, abs=8)
    assert {node.model for node in nodes} == {"A", "B"}


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile([1, 2, 3, 4], share) for share in (0, 25, 50, 75, 99, 100)] == [1, 1, 2, 3, 4, 4]
