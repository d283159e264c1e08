"""The doctor believes answers, not package names, and never waits."""

from __future__ import annotations

import socket
import time
from types import ModuleType
from typing import Any

import pytest
import torch

from studio import doctor, extras, online


def found(part: str, findings: list[doctor.Finding]) -> doctor.Finding:
    return next(finding for finding in findings if finding.part == part)


@pytest.fixture(scope="module")
def findings() -> list[doctor.Finding]:
    return list(doctor.findings(ask_hub=False))


@pytest.mark.parametrize("part", ["torch", "packages", "device", "memory", "disk"])
def test_what_works_here_is_found_to_work(findings: list[doctor.Finding], part: str):
    assert found(part, findings).ok, found(part, findings).words


def test_every_attention_choice_is_asked(findings: list[doctor.Finding]):
    from studio.kernels.attention import KINDS

    assert {f"attention {kind}" for kind in KINDS} <= {finding.part for finding in findings}
    assert found("attention sdpa", findings).ok


def test_an_absent_extra_is_no_fault_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "release", lambda package: "")
    finding = doctor.extra("prodigy", "prodigyopt", lambda: "never asked", "optimizers")
    assert finding.ok is None
    assert "pip install personalization-studio[optimizers]" in finding.words


def test_an_extra_that_imports_but_does_not_answer_is_a_fault(monkeypatch: pytest.MonkeyPatch):
    class Idle(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            pass

    package = ModuleType("prodigyopt")
    package.Prodigy = Idle  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", package)
    monkeypatch.setattr(doctor, "release", lambda name: "1.0")
    finding = doctor.extra("prodigy", "prodigyopt", extras.optimizer_answers("prodigyopt", "Prodigy"), "optimizers")
    assert finding.ok is False
    assert "did not move the weights" in finding.words


def test_an_optimizer_that_works_answers():
    assert extras.step_of(torch.optim.AdamW) == "takes a step"


def test_a_name_lookup_that_hangs_does_not_hang_the_doctor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(online, "HUB_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5))
    monkeypatch.setattr(online, "fetch", lambda: socket.getaddrinfo("hub", 443) or "")
    start = time.monotonic()
    finding = doctor.asked("hub", online.hub)
    assert time.monotonic() - start < 2
    assert finding.ok is False
    assert "no answer within" in finding.words


def test_only_torch_is_vital(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def broken() -> str:
        raise ImportError("libtorch is damaged\nmore")

    monkeypatch.setattr(doctor, "torch_answers", broken)
    assert doctor.report(ask_hub=False) == 1
    assert "ImportError: libtorch is damaged" in capsys.readouterr().out


def test_the_report_ends_well_when_torch_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(doctor, "attention", lambda: iter(()))
    assert doctor.report(ask_hub=False) == 0
    assert torch.__version__ in capsys.readouterr().out
