"""What users write reaches programs as it is: no shell reads it, no variable is put into it, no flag is made of it."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from built import KINDS, record, router, worker
from pydantic import ValidationError
from warmfleet_contracts.api.model import HuggingFaceSource, Model
from warmfleet_localcluster.node.expand import expand

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("contracts", "runtime", "operator", "worker", "forecasting", "simulation", "localcluster", "cli", "deploy")
SHELLS = {"create_subprocess_shell", "getoutput", "getstatusoutput", "popen2"}
OS_SHELLS = {"system", "popen"}
INTERPRETERS = {"sh", "bash", "/bin/sh", "/bin/bash", "eval"}


def shelled(tree: ast.AST) -> Iterator[str]:
    """Calls that hand text to a shell."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
        shell = next((k.value for k in node.keywords if k.arg == "shell"), None)
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            yield f"line {node.lineno}: shell="
        if name in SHELLS or (owner == "os" and name in OS_SHELLS) or (not owner and name in {"eval", "exec"}):
            yield f"line {node.lineno}: {owner or ''}.{name}"


def test_no_code_hands_text_to_a_shell() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 200
    found = {str(f.relative_to(ROOT)): list(shelled(ast.parse(f.read_text(encoding="utf-8")))) for f in files}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(x, shell=True)",
        "run(x, shell=flag)",
        "os.system(x)",
        "asyncio.create_subprocess_shell(x)",
        "eval(x)",
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert list(shelled(ast.parse(text)))


HOSTILE = [
    "m; rm -rf /", "$(HF_TOKEN)", "`id`", "$HOME", "a b", "a'b\"c", "x\ny", "$$(HF_TOKEN)", "|cat", "../../etc",
    "模型", "%s{0}",
]  # fmt: skip


def words_of(pod: dict[str, Any], container: str) -> list[str]:
    """The engine's command line as its process sees it."""
    spec = pod["spec"]
    one = next(c for c in [*spec["containers"], *spec.get("initContainers", ())] if c["name"] == container)
    env = {e["name"]: e.get("value") or f"<{e['name']}>" for e in one["env"]}
    return [expand(word, env) for word in [*one["command"], *one.get("args", ())]]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_one_word_as_it_was_written(text: str) -> None:
    hf = {"hf": {"repo": text, "revision": text, "tokenSecretRef": {"name": "hf", "key": "token"}}}
    words = words_of(worker(record(model={"name": text, "source": hf})), "engine")
    assert words[2] == text
    assert words[words.index("--served-model-name") + 1] == text
    assert words[words.index("--revision") + 1] == text
    assert "<HF_TOKEN>" not in " ".join(words)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_arguments_stay_one_word_each(text: str) -> None:
    if "$(" in text:
        pytest.skip("engine.args may refer to variables of the container, as args in a pod may")
    words = words_of(worker(record(engine={"image": "v", "args": ["--chat-template", text]})), "engine")
    place = words.index("--chat-template")
    assert words[place + 1] == text
    found = words_of(router(record(routing={"args": ["--request-id-headers", text]})), "router")
    assert found[found.index("--request-id-headers") + 1] == text


@pytest.mark.parametrize("text", ["--api-key=x", "-x", "--host", ""])
def test_a_name_that_would_be_a_flag_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Model.model_validate({"name": text, "source": {"hf": {"repo": "a/b"}}})
    for field in ("repo", "revision"):
        with pytest.raises(ValidationError):
            HuggingFaceSource.model_validate({"repo": "a/b", field: text})


@pytest.mark.parametrize("kind", KINDS)
def test_no_container_starts_with_a_shell(kind: str) -> None:
    for pod in (worker(record(**copy.deepcopy(KINDS[kind]))), router(record())):
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]:
            assert isinstance(container["command"], list)
            assert not INTERPRETERS & {*container["command"], *container.get("args", ())}
            hooks = container.get("lifecycle", {}).get("preStop", {})
            assert "exec" not in hooks
