"""Processes without options say how they are used."""

from __future__ import annotations

import pytest
from warmfleet_runtime.commandline import usage


@pytest.mark.parametrize(("arguments", "command"), [([], ""), ([], "check"), (["check"], "check")])
def test_a_process_goes_on_with_what_it_knows(arguments: list[str], command: str) -> None:
    assert usage(arguments, "warmfleet-x", command) is None


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_where_the_settings_are(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage([flag], "warmfleet-x") == 0
    assert "WARMFLEET_* variables" in capsys.readouterr().out


def test_help_says_what_the_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(["--help"], "warmfleet-x", "check", "look whether it works") == 0
    assert "  check  look whether it works\n" in capsys.readouterr().out


def test_anything_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(["--verbose"], "warmfleet-x", "check") == 2
    assert capsys.readouterr().err == "usage: warmfleet-x [check]\n"
