"""``warmfleet fit``: the table and its document, the flags, and refusals that name the input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from warmfleet_cli.main import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = str(ROOT / "examples" / "quickstart.yaml")
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["fit", *arguments, "-o", "json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_variants_of_a_manifest_and_their_flags(capsys: pytest.CaptureFixture[str]) -> None:
    rows = document(capsys, "-f", EXAMPLE)["rows"]
    assert [row["variant"] for row in rows] == ["h100", "l40s"]
    assert all(row["fits"] and row["meetsSlo"] and row["kvCacheTokens"] > 16384 for row in rows)
    assert rows[0]["flags"][0] == MODEL
    assert rows[0]["flags"][-2:] == ["--shutdown-timeout", "30"]


def test_a_model_by_name_is_sized_on_list_prices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "Qwen/Qwen3-32B", "--max-model-len", "32768", "--kv-cache-dtype", "fp8"]) == 0
    told = capsys.readouterr()
    assert "list prices" in told.err
    assert "do not fit 8 x A10G" not in told.out
    assert "--kv-cache-dtype fp8" in told.out
    assert told.out.count(" \\\n") > 5, "a flag on each line, to be pasted into a shell"
    costs = [row["dollarsPerMillionTokens"] for row in document(capsys, "Qwen/Qwen3-32B", "--all")["rows"]]
    assert len(costs) > 8
    known = [cost for cost in costs if cost is not None]
    assert known[0] == min(known)


def test_nothing_that_fits_is_an_exit_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = tmp_path / "t.yaml"
    small.write_text(
        "kind: InstanceType\nmetadata: {name: small}\nspec: {accelerator: {name: L4}, price: {onDemand: 0.8}}\n"
    )
    assert main(["fit", "meta-llama/Llama-3.1-70B", "-f", str(small)]) == 1
    assert "do not fit 1 x L4" in capsys.readouterr().out
    assert main(["fit", "some/model", "-f", str(small)]) == 1
    told = capsys.readouterr()
    assert "set model.profile to one of" in told.err
    assert "?" in told.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give MODEL, or --name"),
        ([MODEL, "--name", "x"], "MODEL and --name"),
        ([MODEL, "--quantization", "int3"], "spec.model.quantization"),
        ([MODEL, "--max-model-len", "1"], "spec.model.maxModelLen"),
        ([MODEL, "--ttft", "fast"], "spec.slo.ttft"),
        ([MODEL, "--hit-ratio", "2"], "--hit-ratio 2"),
        ([MODEL, "--output-tokens", "0"], "--output-tokens 0"),
        (["-f", "none.yaml"], "none.yaml: No such file"),
        (["-f", EXAMPLE, "--name", "other"], "in the cluster: chat"),
    ],
)
def test_bad_input_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_variant_without_its_type_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = tmp_path / "f.yaml"
    documents = (ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8").split("---")
    only.write_text("---".join([documents[0], documents[2]]), encoding="utf-8")
    assert main(["fit", "-f", str(only)]) == 2
    assert "variants[l40s].instanceType: there is no InstanceType l40s" in capsys.readouterr().err
