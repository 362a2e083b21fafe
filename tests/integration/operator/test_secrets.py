"""Runs last in this folder: after all that happened, no credential stands in the operator's log or on the hub."""

from __future__ import annotations

from tests.integration.operator.federation import Federation


def test_no_credential_was_ever_written_down(running: Federation) -> None:
    log = running.operator.log.read_text()
    assert "started; loops:" in log, "the log is there and says something"
    kinds = "gpup,gpur,cjob,clease,cacct,ppol,sepoch,events"
    objects = running.hub.kubectl("get", kinds, "-A", "-o", "yaml").stdout
    for secret in running.secrets:
        assert len(secret) > 20
        assert secret not in log
        assert secret not in objects


def test_nothing_was_forbidden_and_nothing_fell_over(running: Federation) -> None:
    log = running.operator.log.read_text()
    assert "forbidden" not in log.lower()
    assert "Traceback" not in log
