"""The ledger read by somebody who does not trust it: sound books pass, an altered row is named."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from eth_utils.crypto import keccak
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger, archives
from fedgpu_operator.cli import main
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.ledger import ArchiveWish, Position, PostingKind
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochDraft, EpochPlan, EpochStage
from fedgpu_operator.settlement import build_epoch

if TYPE_CHECKING:
    from .conftest import Cli

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT, PROVIDER = "0x" + "11" * 20, "0x" + "22" * 20


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """An attempt with five usage checkpoints, charged 5 dollars, 3 of them set aside."""
    path = tmp_path / "ledger.db"
    request = AttemptRequest(
        job_uid="job",
        request_id="first",
        tenant="acme",
        job_name="train",
        provider="owner",
        product="NVIDIA-L4",
        price=MicroUSD(1_000_000),
        gpus=1,
        run_limit=3600,
    )
    positions = [
        Position(PostingKind.CHARGED, TENANT, PROVIDER, MicroUSD(5_000_000)),
        Position(PostingKind.SET_ASIDE, TENANT, "", MicroUSD(3_000_000)),
    ]

    async def fill() -> None:
        async with await SqlLedger.open(path) as ledger:
            attempt = await open_attempt(ledger, request, NOW)
            for sequence in range(1, 6):
                await ledger.record_usage(
                    attempt.lease_name, sequence, 60 * sequence, NOW + timedelta(minutes=sequence)
                )
                await ledger.seal()
            await ledger.post(positions, NOW, block=4)

    asyncio.run(fill())
    return path


def altered(path: Path, statement: str) -> None:
    """What somebody with the file can do behind the ledger's back."""
    with sqlite3.connect(path) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(statement)


def test_sound_books_pass_and_sum_to_zero(books: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = books.read_bytes()
    assert main(["ledger", "verify", "--ledger", str(books)]) == 0
    out = capsys.readouterr().out
    assert "✓ trial balance 0.00 USD over 4 postings" in out
    assert "- books of no escrow yet" in out
    assert "nothing was altered" in out
    assert main(["ledger", "balance", "--ledger", f"sqlite:///{books}"]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[1:5]] == [
        [f"escrow/{TENANT}", "3.00"],
        [f"provider/{PROVIDER}", "-5.00"],
        [f"tenant/{TENANT}", "2.00"],
        ["TOTAL", "0.00"],
    ]
    assert books.read_bytes() == before, "an audit writes nothing"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE usage_records SET gpu_seconds = 61 WHERE sequence = 1", ["usage_records", "-1 1"]),
        ("DELETE FROM usage_records WHERE sequence = 3", ["usage_records"]),
        ("UPDATE lease_usage SET signed_at = 7", ["lease_usage", "job-1"]),
        ("UPDATE pair_totals SET numerator = '1'", ["pair_totals", "acme owner"]),
        ("UPDATE attempts SET price = 1", ["attempts", "job"]),
        ("UPDATE postings SET amount = amount - 1 WHERE account LIKE 'provider/%'", ["postings", "trial balance"]),
    ],
)
def test_what_was_altered_is_named_and_fails(
    books: Path, capsys: pytest.CaptureFixture[str], statement: str, words: list[str]
) -> None:
    altered(books, statement)
    assert main(["ledger", "verify", "--ledger", str(books)]) == 1
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("✗")]
    for word in words:
        assert any(word in fault for fault in faults), faults


def test_books_that_cannot_be_read_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for location in (str(tmp_path / "none" / "x.db"), "mysql://a", "postgresql://me:secret@127.0.0.1:1/db"):
        assert main(["ledger", "verify", "--ledger", location]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        assert "secret" not in err


def test_a_manifest_that_the_hub_shows_no_longer_comes_from_the_ledger(
    books: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    plan = build_epoch(
        chain_id=1,
        escrow=PROVIDER,
        seq=0,
        prev_root="0x" + "00" * 32,
        period_end=1,
        pairs={(TENANT, PROVIDER): MicroUSD(1)},
        debits={TENANT: MicroUSD(1)},
    )
    keep(books, plan, "")
    for name in ("1", plan.manifest_hash, plan.manifest_hash.upper().replace("0X", "0x")):
        assert main(["ledger", "manifest", name, "--ledger", str(books)]) == 0
        assert capsysbinary.readouterr().out == plan.manifest, "byte for byte, or its hash is another"
    for name, code, words in (
        ("2", 1, b"epoch 2 not found in the ledger"),
        ("0x" + "00" * 32, 1, b"epoch 0x00"),
        ("one", 2, b"EPOCH"),
    ):
        assert main(["ledger", "manifest", name, "--ledger", str(books)]) == code
        assert words in capsysbinary.readouterr().err


def head_of(path: Path) -> str:
    async def read() -> str:
        async with await SqlLedger.open(path, read_only=True) as ledger:
            return str(await ledger.head())

    return asyncio.run(read())


def keep(path: Path, plan: EpochPlan, head: str) -> None:
    """The ledger's row of an epoch that it says is number 1 on the chain."""
    draft = EpochDraft(
        seq=plan.seq,
        prev_root=plan.prev_root,
        root=plan.root,
        manifest=plan.manifest,
        manifest_hash=plan.manifest_hash,
        period_end=NOW,
        total=plan.total,
        lines=(),
        covers=(),
        ledger_head=head,
    )

    async def kept() -> None:
        async with await SqlLedger.open(path) as ledger:
            epoch = await ledger.store_epoch(draft, NOW)
            await ledger.mark_epoch(epoch.number, EpochStage.POSTED, chain_epoch=1)
            await ledger.mark_epoch(epoch.number, EpochStage.FINALIZED)

    asyncio.run(kept())


def test_what_was_posted_pins_the_books(own_cli: Cli, books: Path) -> None:
    """Who owns the ledger can write a new one, sound in itself; the chain remembers the old one."""
    tenant = own_cli.chain.accounts[14]
    own_cli.fund(tenant, 10, 10)
    verify, head = ("ledger", "verify", "--ledger", str(books)), head_of(books)
    assert "no epoch of this ledger is on the chain yet" in own_cli(*verify).out
    plan = own_cli.post({(tenant.address, PROVIDER): 1}, {tenant.address: 1}, ledger_head=head)
    forged = books.with_name("forged.db")
    forged.write_bytes(books.read_bytes())
    keep(books, plan, head)
    honest = own_cli(*verify)
    assert honest.code == 0, honest.out
    assert "✓ epoch 1 pins all rows up to attempts 1," in honest.out
    assert "usage_records 5" in honest.out

    other = build_epoch(
        chain_id=plan.chain_id,
        escrow=plan.escrow,
        seq=plan.seq,
        prev_root=plan.prev_root,
        period_end=plan.period_end,
        pairs={(tenant.address, PROVIDER): MicroUSD(2_000_000)},
        debits=plan.debits,
        ledger_head=head,
    )
    keep(forged, other, head)
    assert main(["ledger", "verify", "--ledger", str(forged)]) == 0, "sound in itself"
    found = own_cli("ledger", "verify", "--ledger", str(forged))
    assert found.code == 1
    assert f"posted was {plan.manifest_hash}" in found.out


def paid(path: Path, number: int) -> None:
    """An epoch over all that is in the ledger, paid."""

    async def kept() -> None:
        async with await SqlLedger.open(path) as ledger:
            manifest = f"manifest {number}".encode()
            draft = EpochDraft(
                seq=number,
                prev_root="0x",
                root=f"0x{number}",
                manifest=manifest,
                manifest_hash="0x" + keccak(manifest).hex(),
                period_end=NOW + timedelta(days=number),
                total=MicroUSD(1),
                lines=(),
                covers=(),
                ledger_head=str((await ledger.seal()).head),
            )
            await ledger.store_epoch(draft, NOW)
            for stage in (EpochStage.POSTED, EpochStage.FINALIZED, EpochStage.PAID):
                await ledger.mark_epoch(number, stage)

    asyncio.run(kept())


def test_books_are_archived_verified_backed_up_and_restored(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paid(books, 1)
    folder, backup, restored = tmp_path / "archive", tmp_path / "backup.db", tmp_path / "restored.db"
    folder.mkdir()

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["ledger", *arguments]) == code
        told = capsys.readouterr()
        return told.out if code == 0 or told.out else told.err

    at = ("--ledger", str(books))
    assert "would leave the ledger: 4 of postings" in run("archive", str(folder), *at, "--dry-run")
    assert list(folder.iterdir()) == []
    assert "no further: epoch 1 is not before epoch 1" in run("archive", str(folder), *at, "--before", "1")
    out = run("archive", str(folder), *at)
    assert "postings-000000000001-000000000004.jsonl.gz" in out
    assert "left the ledger: 4 of postings" in out
    assert "Nothing to archive." in run("archive", str(folder), *at, "--older-than", "1h")
    out = run("verify", *at)
    assert "archived and not read: 4 of postings, 5 of usage_records; name their folder with --archive" in out
    assert "✓ of what was read, nothing was altered" in out
    out = run("verify", *at, "--archive", str(folder))
    assert "✓ nothing was altered" in out
    assert "0.00 USD over 4 postings" in out
    assert "✓ verified" in run("backup", str(backup), *at)
    assert "already exists" in run("backup", str(backup), *at, code=2)
    assert "not empty" in run("restore", str(backup), *at, code=2)
    run("restore", str(backup), "--ledger", str(restored))
    assert "✓ nothing was altered" in run("verify", "--ledger", str(restored), "--archive", str(folder))
    (folder / "postings-000000000001-000000000004.jsonl.gz").unlink()
    assert "is missing" in run("verify", *at, "--archive", str(folder), code=1)
    assert "folder not found" in run("verify", *at, "--archive", str(tmp_path / "none"), code=2)


def test_the_manifest_of_an_archived_epoch_is_read_from_its_file(
    books: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for number in (1, 2):
        paid(books, number)
    folder = tmp_path / "archive"
    folder.mkdir()
    now = NOW + timedelta(days=90)
    archives.archive(str(books), folder, ArchiveWish(whole=1), now)
    at = ("ledger", "manifest", "1", "--ledger", str(books))
    capsysbinary.readouterr()
    assert main([*at]) == 1
    assert b"archived in epochs-000000000001-000000000001.jsonl.gz: name its folder" in capsysbinary.readouterr().err
    assert main([*at, "--archive", str(folder)]) == 0
    assert capsysbinary.readouterr().out == b"manifest 1"
