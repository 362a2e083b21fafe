"""What `fedgpu quote` says of jobs in files: where they would go, the cost by its parts, every verdict, the wait."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.market import Market, Premium, PricePoint
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, Offer
from fedgpu_operator.errors import (
    AlreadyExistsError,
    ForbiddenError,
    KubeError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from fedgpu_operator.hub.services.market import KEY, NAME, MarketDocument, QuotedOffer, packed

if TYPE_CHECKING:
    from .conftest import FakeHub

    Run = Callable[..., tuple[int, str, str]]
    Publish = Callable[..., None]
    Write = Callable[..., str]

NOW = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
H100 = GpuModel("NVIDIA-H100-80GB-HBM3", 81_559, "hopper")
USD = 10**6
Json = dict[str, Any]


def quoted(
    name: str, price: float, free: int, country: str = "DE", *, premium: float | None = 0, freed: int = 0
) -> QuotedOffer:
    offer = Offer(
        name, H100, MicroUSD(round(price * USD)), Location(country), {free: 1} if free else {}, watts=700,
        carbon_g_per_kwh=300,
    )  # fmt: skip
    high = None if premium is None else MicroUSD(round(premium * USD))
    return QuotedOffer(offer, Premium(MicroUSD(0), high), freed)


def everywhere(unmet: int) -> Market:
    prices = MicroUSD(USD), None, MicroUSD(USD), MicroUSD(USD)
    return Market(PricePoint(NOW, H100.product, "GLOBAL", *prices, free=0, wanted=unmet, unmet=unmet), 1, ())


def job(name: str = "train", namespace: str | None = None, **spec: Any) -> Json:
    body = {
        "runLimitSeconds": 7200,
        "template": {"spec": {"containers": [{"name": "a", "image": "example.com/b:1"}]}},
        **spec,
    }
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "fedgpu.dev/v1alpha1", "kind": "ComputeJob", "metadata": meta, "spec": body}


@pytest.fixture
def publish(hub: FakeHub) -> Publish:
    """Puts a market of these offers on the hub."""

    def publish(*offers: QuotedOffer, **changes: Any) -> None:
        document = MarketDocument(
            at=NOW,
            certified=True,
            markets=(),
            offers=tuple(sorted(offers, key=lambda each: each.offer.name)),
            history=(),
            window=24,
            waiting_jobs=0,
            waiting_gpus=0,
            default_deny=False,
            vantages=(),
        )
        data = base64.b64encode(packed(replace(document, **changes))).decode()
        meta = {"name": NAME, "namespace": "fedgpu-system"}
        hub.objects[:] = [each for each in hub.objects if each["metadata"]["name"] != NAME]
        hub.objects.append({"kind": "ConfigMap", "metadata": meta, "binaryData": {KEY: data}})

    return publish


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes documents to a file and returns its path."""

    def write(*documents: Json, name: str = "job.yaml") -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump_all(documents))
        return str(path)

    return write


def test_a_quote_names_the_place_the_cost_by_parts_and_every_verdict(run: Run, publish: Publish, write: Write) -> None:
    publish(quoted("berlin", 2.0, 8), quoted("paris", 3.0, 8, "FR"), quoted("austin", 1.0, 8, "US"))
    path = write(job(gpu={"count": 2}, placement={"groups": ["EU"]}, strategy={"rates": {"usdPerKgCO2e": "1"}}))
    code, out, err = run("quote", "-f", path, "-o", "json")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)["quotes"]
    assert (found["namespace"], found["name"], found["gpus"], found["fits"]) == ("acme", "train", 2, True)
    here = found["placement"]
    # 0.7 kW at 300 g per kWh is 0.21 kg an hour, at 1 USD per kg.
    assert (here["provider"], here["price"], here["components"]["carbon"]) == ("berlin", "2.00", "0.21")
    assert (here["effectivePrice"], here["maxCost"]) == ("2.21", "8.033333")
    assert (found["runLimitSeconds"], found["billableSeconds"]) == (7200, 7230)
    assert here["fullCost"] == {"price": "8.033333", "carbon": "0.8435"}
    assert found["wait"] == {"hours": 0.0, "why": "it fits now"}
    assert {each["provider"]: each["reason"] for each in found["offers"]} == {
        "berlin": None,
        "paris": None,
        "austin": "ResidencyDenied",
    }
    code, out, _ = run("quote", "-f", path)
    assert code == 0
    for said in (
        "acme/train: 2 GPUs for at most 2h",
        "Placement berlin, NVIDIA-H100-80GB-HBM3, DE",
        "Price     2.00 USD per GPU-hour; at most 8.033333 USD for run and grace period",
        "Effective 2.21 = 2.00 price + 0.21 carbon",
        "Wait      none: it fits now",
        "country US is not among",
        "Nothing was applied",
    ):
        assert said in out


def test_what_others_then_pay_more_decides_with_the_price(run: Run, publish: Publish, write: Write) -> None:
    publish(quoted("cheap", 2.0, 8, premium=1.5), quoted("dear", 3.0, 8), quoted("contested", 1.0, 8, premium=None))
    path = write(job())
    (found,) = json.loads(run("quote", "-f", path, "-o", "json")[1])["quotes"]
    assert (found["placement"]["provider"], found["placement"]["clearingPremium"]) == ("dear", "0.00")
    publish(quoted("contested", 1.0, 8, premium=None))
    (found,) = json.loads(run("quote", "-f", path, "-o", "json")[1])["quotes"]
    assert found["placement"]["clearingPremium"] is None
    assert found["wait"]["hours"] is None
    assert "priority decides" in run("quote", "-f", path)[1]


def test_the_wait_is_what_is_ahead_over_what_comes_free(run: Run, publish: Publish, write: Write) -> None:
    path = write(job(gpu={"count": 4}))
    publish(quoted("a", 2.0, 0, freed=24), quoted("b", 2.0, 1, freed=24), markets=(everywhere(unmet=6),))
    (found,) = json.loads(run("quote", "-f", path, "-o", "json")[1])["quotes"]
    # 24 + 24 GPUs in 24 h are 2 an hour; 6 ahead and 4 of its own.
    assert (found["wait"]["hours"], found["wait"]["gpusAhead"], found["wait"]["gpusFreedPerHour"]) == (5.0, 6, 2.0)
    assert not found["fits"]
    said = run("quote", "-f", path)[1]
    assert "about 5 h: 6 GPUs queued ahead of this job's 4" in said
    publish(quoted("a", 2.0, 0))
    assert "unknown: no GPU of these offers was freed in the last 24 h" in run("quote", "-f", path)[1]
    unlawful = write(job(placement={"countries": ["US"]}))
    assert "unknown: more than free GPUs is missing" in run("quote", "-f", unlawful)[1]


def test_policies_and_funds_are_those_of_the_namespace(hub: FakeHub, run: Run, publish: Publish, write: Write) -> None:
    publish(quoted("berlin", 2.0, 8), quoted("austin", 1.0, 8, "US"))
    hub.objects += [
        {"kind": "Namespace", "metadata": {"name": "clinic", "labels": {"tier": "health"}}},
        {
            "kind": "PlacementPolicy",
            "metadata": {"name": "eu-only", "generation": 3},
            "spec": {"namespaceSelector": {"matchLabels": {"tier": "health"}}, "placement": {"groups": ["EU"]}},
        },
    ]
    path = write(job("a"), job("b", "clinic"))
    alone, bound = json.loads(run("quote", "-f", path, "-o", "json")[1])["quotes"]
    assert (alone["placement"]["provider"], alone["policies"]) == ("austin", [])
    assert (bound["placement"]["provider"], bound["policies"]) == ("berlin", ["eu-only@3"])
    assert (alone["namespaceLabelsKnown"], bound["namespaceLabelsKnown"]) == (False, True)
    hub.objects.append(
        {
            "kind": "ConfigMap",
            "metadata": {"name": "fedgpu-settlement", "namespace": "fedgpu-system"},
            "data": {"hub": "uid", "chainID": "1", "escrow": "0x" + "11" * 20},
        }
    )
    hub.objects.append(
        {
            "kind": "ComputeAccount",
            "metadata": {"name": "default", "namespace": "clinic"},
            "spec": {"wallet": "0x" + "22" * 20},
            "status": {"available": "3.99", "conditions": []},
        }
    )
    broke, poor = json.loads(run("quote", "-f", path, "-o", "json")[1])["quotes"]
    assert {each["reason"] for each in broke["offers"]} == {"Unfunded"}
    assert "the account has 3.99 USD left" in next(
        each["message"] for each in poor["offers"] if each["provider"] == "berlin"
    )


def test_what_the_asker_may_not_read_is_said(
    hub: FakeHub, run: Run, publish: Publish, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(quoted("berlin", 2.0, 8), own_rules=("ourPark",))
    reading = hub.list

    async def only_published(kind: Any, namespace: str = "", *, labels: str = "") -> Any:
        if kind.kind != "ConfigMap":
            raise ForbiddenError(f"{kind.plural} is forbidden", status=403)
        return await reading(kind, namespace, labels=labels)

    monkeypatch.setattr(hub, "list", only_published)
    code, out, _ = run("quote", "-f", write(job()))
    assert code == 0
    assert "you may not list PlacementPolicies" in out
    assert "you may not read the account" in out
    assert "you may not list PriorityClasses" in out
    assert "Rules     ourPark not evaluated here" in out


def test_the_priority_is_that_of_the_jobs_class(hub: FakeHub, run: Run, publish: Publish, write: Write) -> None:
    publish(quoted("berlin", 2.0, 0, freed=48), markets=(everywhere(6),))
    for name, value, default in (("urgent", 1000, False), ("usual", 10, True)):
        meta = {"metadata": {"name": name}, "value": value, "globalDefault": default}
        hub.objects.append({"kind": "PriorityClass", **meta})
    path = write(job("a"), job("b", priorityClassName="urgent"))
    code, out, _ = run("quote", "-f", path, "-o", "json")
    assert code == 0
    quotes = json.loads(out)["quotes"]
    assert [(each["priority"], each["priorityKnown"]) for each in quotes] == [(10, True), (1000, True)]
    out = run("quote", "-f", path)[1]
    assert "Priority  1000" in out
    assert "whatever their priority" in " ".join(out.split()), "what waits is published without its priorities"

    code, out, err = run("quote", "-f", write(job(priorityClassName="nobodys")))
    assert (code, out) == (1, "")
    assert "ComputeJob acme/train: spec.priorityClassName: the hub has no PriorityClass nobodys" in err


def test_files_are_taken_as_kubectl_takes_them(
    run: Run, publish: Publish, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(quoted("berlin", 2.0, 8))

    def names(*arguments: str) -> list[tuple[str, str]]:
        code, out, err = run("quote", *arguments, "-o", "json")
        assert (code, err) == (0, "")
        return [(each["namespace"], each["name"]) for each in json.loads(out)["quotes"]]

    one, two = write(job("a"), {"kind": "Namespace"}, name="a.yaml"), write(job("b", "team"), name="b.json")
    (tmp_path / "notes.txt").write_text(": no yaml : at all")
    assert names("-f", one) == [("acme", "a")]
    assert names("--file", one, "--filename", two) == [("acme", "a"), ("team", "b")]
    assert names("-f", str(tmp_path)) == names("-f", one, "-f", two)
    (tmp_path / "kubeconfig.yaml").unlink(missing_ok=True)
    assert names("-f", one, "-n", "other") == [("other", "a")]
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump({"kind": "List", "items": [job("c"), job("d")]})))
    assert names("-f", "-", "-n", "other") == [("other", "c"), ("other", "d")]
    assert "Skipped 1 object of other kinds" in run("quote", "-f", one, "-n", "other")[1]


@pytest.mark.parametrize(
    ("document", "code", "said"),
    [
        (job(replicas=0), 1, "ComputeJob train: spec.replicas: "),
        (job(gpu={"count": "many"}), 1, "spec.gpu.count"),
        (job(gpu={"counts": 2}), 1, "unknown field spec.gpu.counts"),
        (
            job(template={"spec": {"containers": [{"name": "a", "image": "b", "comand": []}]}}),
            1,
            "containers[0].comand",
        ),
        ({**job(), "apiVersion": "fedgpu.dev/v2"}, 1, "apiVersion: must be fedgpu.dev/v1alpha1"),
        ({**job(), "metadata": {}}, 1, "metadata.name: must be set"),
        (job(placement={"countries": ["XX"]}), 1, "spec.placement.countries.0: must be an ISO 3166-1 alpha-2"),
        (job(maxPricePerGPUHour="1,5"), 1, "spec.maxPricePerGPUHour: must be a decimal string of US dollars"),
        (job(deadline="2026-12-31"), 1, "spec.deadline: Input should have timezone info"),
        ({"kind": "Pod", "apiVersion": "v1"}, 2, "--file: no ComputeJob found in"),
        (job("b", "team"), 2, "its namespace is team, but -n is acme"),
    ],
)
def test_a_mistake_is_named_by_file_object_and_field(
    run: Run, publish: Publish, write: Write, document: Json, code: int, said: str
) -> None:
    publish(quoted("berlin", 2.0, 8))
    ended, out, err = run("quote", "-f", write(document), "-n", "acme")
    assert (ended, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) == 1


POST = "POST /apis/fedgpu.dev/v1alpha1/namespaces/acme/computejobs"
NO_RIGHT = ForbiddenError(f'{POST}: 403: computejobs.fedgpu.dev is forbidden: User "me" cannot create', status=403)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        pytest.param(
            RejectedError(f'{POST}: 422: ComputeJob.fedgpu.dev "train" is invalid: spec: a: 422: b', status=422),
            'ComputeJob.fedgpu.dev "train" is invalid: spec: a: 422: b',
            id="a rule of the schema",
        ),
        pytest.param(
            KubeError(f'{POST}: 400: strict decoding error: unknown field "spec.replica"', status=400),
            'strict decoding error: unknown field "spec.replica"',
            id="a field that is none",
        ),
        pytest.param(
            ForbiddenError(f'{POST}: 403: computejobs "train" is forbidden: exceeded quota: jobs', status=403),
            'computejobs "train" is forbidden: exceeded quota: jobs',
            id="a quota",
        ),
        pytest.param(
            NotFoundError(f'{POST}: 404: namespaces "acme" not found', status=404),
            'namespaces "acme" not found',
            id="no such namespace",
        ),
    ],
)
def test_what_the_api_server_refuses_gets_no_quote(
    hub: FakeHub, run: Run, publish: Publish, write: Write, refusal: KubeError, said: str
) -> None:
    publish(quoted("berlin", 2.0, 8))
    hub.refusal, path = refusal, write(job())
    code, out, err = run("quote", "-f", path)
    assert (code, out) == (1, "")
    assert err == f"error: {path}: ComputeJob train: rejected by the API server: {said}\n"


@pytest.mark.parametrize("may", [False, ForbiddenError("none may ask", status=403)])
def test_who_may_not_create_is_quoted_and_told_who_judged(
    hub: FakeHub, run: Run, publish: Publish, write: Write, may: bool | KubeError
) -> None:
    publish(quoted("berlin", 2.0, 8))
    hub.refusal, hub.may = NO_RIGHT, may
    code, out, _ = run("quote", "-f", write(job()))
    assert code == 0
    assert "Checked   by this command only: you may not create ComputeJobs in acme" in out
    assert hub.asked == [{"namespace": "acme", "verb": "create", "group": "fedgpu.dev", "resource": "computejobs"}]
    (found,) = json.loads(run("quote", "-f", write(job()), "-o", "json")[1])["quotes"]
    assert (found["fits"], found["checkedByServer"]) == (True, False)


@pytest.mark.parametrize(
    ("refusal", "by_server", "said"),
    [
        pytest.param(AlreadyExistsError("taken", status=409), True, "acme already has one of this name", id="taken"),
        pytest.param(
            KubeError('x: 400: admission webhook "w" does not support dry run', status=400),
            False,
            "does not support dry runs",
            id="a webhook that cannot be asked",
        ),
    ],
)
def test_what_the_api_server_could_not_be_asked_is_said(
    hub: FakeHub, run: Run, publish: Publish, write: Write, refusal: KubeError, by_server: bool, said: str
) -> None:
    publish(quoted("berlin", 2.0, 8))
    hub.refusal = refusal
    (found,) = json.loads(run("quote", "-f", write(job()), "-o", "json")[1])["quotes"]
    assert (found["fits"], found["checkedByServer"]) == (True, by_server)
    assert said in found["checked"]


@pytest.mark.parametrize(
    "broken",
    [
        ForbiddenError("POST /x: 401: Unauthorized", status=401),
        NotFoundError("POST /x: 404: the server could not find the requested resource", status=404),
        UnreachableError("POST /x: 503: not ready", status=503),
    ],
)
def test_a_server_that_cannot_judge_refuses_nothing(
    hub: FakeHub, run: Run, publish: Publish, write: Write, broken: KubeError
) -> None:
    publish(quoted("berlin", 2.0, 8))
    hub.refusal = broken
    code, _, err = run("quote", "-f", write(job()))
    assert code == 1
    assert "ComputeJob train" not in err


def test_the_job_is_quoted_as_the_api_server_would_store_it(
    hub: FakeHub, run: Run, publish: Publish, write: Write
) -> None:
    publish(quoted("berlin", 2.0, 8), quoted("austin", 1.0, 8, "US"))
    hub.defaults = {"placement": {"groups": ["EU"]}}
    (found,) = json.loads(run("quote", "-f", write(job()), "-o", "json")[1])["quotes"]
    assert (found["placement"]["provider"], found["checked"]) == ("berlin", "by the API server, which would accept it")


def test_an_instant_stays_the_text_that_kubectl_sends(run: Run, publish: Publish, tmp_path: Path, write: Write) -> None:
    publish(quoted("berlin", 2.0, 8))
    path = Path(write(job(deadline="2999-12-31T18:00:00Z")))
    path.write_text(path.read_text().replace("'2999-12-31T18:00:00Z'", "2999-12-31T18:00:00Z"))
    assert run("quote", "-f", str(path))[0] == 0
    path.write_text(path.read_text().replace("2999-12-31T18:00:00Z", "!!binary aGFsbG8="))
    code, _, err = run("quote", "-f", str(path))
    assert code == 2
    assert "ComputeJob train: holds a value that JSON cannot represent" in err


def test_a_file_that_is_not_there_and_one_that_is_no_yaml(run: Run, publish: Publish, tmp_path: Path) -> None:
    publish(quoted("berlin", 2.0, 8))
    code, _, err = run("quote", "-f", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "cannot be read: No such file or directory" in err
    (tmp_path / "bad.yaml").write_text("a: [")
    code, _, err = run("quote", "-f", str(tmp_path / "bad.yaml"))
    assert code == 2
    assert "bad.yaml: not valid YAML" in err
    assert run("quote")[0] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: ComputeJob\nat: !!int ten\n", "value cannot be read"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_file_that_breaks_its_reader_is_named(run: Run, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    code, _, err = run("quote", "-f", str(tmp_path / "odd.yaml"))
    assert code == 2
    assert "odd.yaml: " in err
    assert said in err


@pytest.mark.usefixtures("hub")
def test_standard_input_that_is_no_text_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), encoding="utf-8"))
    code, _, err = run("quote", "-f", "-")
    assert (code, err) == (2, "error: --file: standard input cannot be read: not UTF-8 text\n")


def test_a_hub_that_does_not_answer_is_an_error_of_its_own(hub: FakeHub, run: Run, write: Write) -> None:
    hub.error = KubeError("broken", status=500)
    code, _, err = run("quote", "-f", write(job()))
    assert (code, err) == (1, "error: broken\n")
