"""The documentation is true: generated pages are fresh, links lead somewhere, manifests and commands are accepted."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate
from warmfleet_cli.main import SUBCOMMANDS, main, parser
from warmfleet_localcluster.api import EmbeddedApi
from warmfleet_localcluster.api.embedded import WriteOptions
from warmfleet_localcluster.api.errors import ApiError

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in [ROOT / "README.md", *DOCS.rglob("*.md")] if "decisions" not in p.parts)
BESIDE = [ROOT / "charts/warmfleet/README.md", ROOT / "examples/kind/README.md"]
"""Pages outside of docs/ with commands."""
RUNBOOKS = sorted((DOCS / "runbooks").glob("Warmfleet*.md"))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def page_ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fences(path: Path, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(path.read_text(encoding="utf-8")) if found == language]


@cache
def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_what_the_code_says() -> None:
    for path, text in script("generate").pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python docs/generate.py`"


def test_pictures_of_terminals_are_what_the_commands_print() -> None:
    found = script("pictures").terminals()
    shown = {name for page in PAGES for name in _LINK.findall(page.read_text(encoding="utf-8"))}
    assert {path.name for path in found} <= {Path(name).name for name in shown}
    for path, picture in found.items():
        assert path.read_text(encoding="utf-8") == picture, f"{path.name}: run `python docs/pictures.py`"


@pytest.mark.parametrize("page", [*PAGES, *BESIDE, *sorted((DOCS / "decisions").glob("*.md"))], ids=page_ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    linked = {(DOCS / t).resolve() for t in _LINK.findall((DOCS / "README.md").read_text(encoding="utf-8"))}
    own = {p for p in DOCS.rglob("*.md") if not {"decisions", "reference"} & set(p.parts) and p.name != "README.md"}
    outside = sorted(p.name for p in own - linked if p.parent in (DOCS, DOCS / "how-to"))
    assert not outside, f"docs/README.md does not lead to {outside}"


_EXCERPT = re.compile(r"^`([\w/]+\.py)`\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_excerpts_of_the_architecture_are_the_code() -> None:
    found = _EXCERPT.findall((DOCS / "architecture.md").read_text(encoding="utf-8"))
    assert len(found) >= 8
    for name, text in found:
        assert text in (ROOT / name).read_text(encoding="utf-8"), f"{name} no longer says:\n{text}"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    lists = [project["project"]["dependencies"], project["build-system"]["requires"], *extras]
    named = {re.split(r"[>=<\[]", requirement)[0] for requirements in lists for requirement in requirements}
    text = (DOCS / "dependencies.md").read_text(encoding="utf-8")
    assert sorted(name for name in named - {"warmfleet"} if f"`{name}`" not in text) == []
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert sorted(listed - named) == [], "no longer needed"


COMPONENTS = {
    "operator": ("operator", "runtime", "contracts"),
    "forecasting": ("forecasting", "runtime", "contracts"),
    "worker": ("worker", "runtime", "contracts"),
    "localcluster": ("localcluster", "runtime"),
    "traces": ("contracts",),
    "simulation": ("simulation",),
    "cli": ("cli", "runtime"),
    "demo": ("cli",),
    "dev": ("tests", "bench", "docs"),
}
"""Extras and the folders whose imports they are for."""
NO_IMPORT = {
    "import-linter",
    "mypy",
    "pytest-asyncio",
    "pytest-rerunfailures",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
}
"""Commands, and plugins of pytest."""


@pytest.mark.parametrize("extra", COMPONENTS)
def test_what_an_extra_brings_is_imported(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[>=<\[]", requirement)[0] for requirement in project["optional-dependencies"][extra]}
    imported = {name for names in imports(COMPONENTS[extra]).values() for name in names}
    kept = {name for name in named if not name.startswith("types-")} - NO_IMPORT - {"warmfleet"}
    assert sorted(kept - imported) == []


def imports(folders: tuple[str, ...]) -> dict[str, set[str]]:
    """Modules imported by the folders' sources, with the distributions here that have them."""
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lines = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    found = re.findall(r"^\s*(?:import|from) (\w+)", lines, re.MULTILINE)
    distributions = packages_distributions()
    return {module: {name.lower().replace("_", "-") for name in distributions.get(module, ())} for module in found}


def brought(extra: str) -> set[str]:
    """Names of what an extra asks for, with the extras that it is made of."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set(project["dependencies"])
    for requirement in project["optional-dependencies"][extra]:
        of = re.fullmatch(r"warmfleet\[(.+)\]", requirement)
        named |= set().union(*(brought(part) for part in of[1].split(","))) if of else {requirement}
    return {re.split(r"[>=<\[]", name)[0].lower() for name in named}


@pytest.mark.parametrize("extra", [name for name in COMPONENTS if name != "traces"])
def test_what_is_imported_is_asked_for_by_name(extra: str) -> None:
    own = COMPONENTS[extra] if extra == "dev" else COMPONENTS[extra][:1]
    allowed = brought("demo" if extra == "cli" else extra) | {"warmfleet"}
    lacking = {module for module, names in imports(own).items() if names and not names & allowed}
    assert sorted(lacking) == [], "it comes only by another's dependencies"


# -- manifests --------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "model": {"name": "llama-3.1-8b", "source": {"hf": {"repo": "x/y"}}},
    "engine": {"image": "vllm/vllm-openai:v0.32.0"},
    "variants": [{"name": "a", "instanceType": "h100"}],
    "scaling": {"min": 1, "max": 8},
}


def wrapped(fragment: dict[str, Any]) -> dict[str, Any]:
    """A fragment of a spec inside an LLMDeployment."""
    meta = {"name": "fragment", "namespace": "default"}
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": meta,
        "spec": {**BASE, **fragment},
    }


@pytest.fixture(scope="module")
def api() -> EmbeddedApi:
    made = EmbeddedApi()
    crds = made.registry.named("customresourcedefinitions", "apiextensions.k8s.io")
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        made.create(crds, None, yaml.safe_load(path.read_text(encoding="utf-8")))
    return made


def manifests(page: Path) -> Iterator[dict[str, Any]]:
    texts = fences(page, "yaml") if page.suffix == ".md" else [page.read_text(encoding="utf-8")]
    for text in texts:
        for body in yaml.safe_load_all(text):
            assert isinstance(body, dict), f"{page.name}: {text[:60]}"
            yield body


def judge(api: EmbeddedApi, body: dict[str, Any]) -> None:
    """Refuse what a cluster would refuse.

    Raises:
        ApiError: One of ours is wrong; unknown fields count.
    """
    if "apiVersion" not in body:
        if not set(body) <= {*BASE, "slo", "kvCache", "routing", "rollout", "replicas", "priorityClassName"}:
            return  # values of the chart, settings of others
        body = wrapped(body)
    group = body["apiVersion"].partition("/")[0]
    if group == "warmfleet.dev":
        plural = body["kind"].lower() + "s"
        resource = api.registry.named(plural, "warmfleet.dev")
        inside = body["metadata"].get("namespace", "default") if resource.namespaced else None
        api.create(resource, inside, body, WriteOptions(dry_run=True, field_validation="Strict"))
    elif "." not in group or group.endswith("k8s.io"):
        validate(body, "1.34", strict=True)


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "examples").glob("*.yaml"))], ids=page_ids)
def test_manifests_are_accepted(page: Path, api: EmbeddedApi) -> None:
    for body in manifests(page):
        judge(api, body)


def test_a_wrong_manifest_would_be_found(api: EmbeddedApi) -> None:
    for wrong in ({"kvCache": {"dytpe": "fp8"}}, {"slo": {"ttft": "fast"}}, {"engine": {"maxNumSeqs": 1}}):
        with pytest.raises(ApiError):
            judge(api, wrong)


# -- commands ---------------------------------------------------------------------------------------------------------

CHEAP = {"fit", "plan"}
"""Subcommands that are run on the repository's own files; the others are parsed."""


def commands(page: Path) -> Iterator[list[str]]:
    for block in fences(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words[1:] if words[:2] == ["kubectl", "warmfleet"] else words


_STEP = re.compile(r"^\d+\. .*$", re.MULTILINE)
_INLINE = re.compile(r"`(kubectl [^`]+)`")


def steps(runbook: Path) -> Iterator[list[str]]:
    """Commands in the numbered steps of a runbook, with their placeholders."""
    for step in _STEP.findall(runbook.read_text(encoding="utf-8")):
        for command in _INLINE.findall(step):
            words = shlex.split(command)
            yield words[1:] if words[:2] == ["kubectl", "warmfleet"] else words


def test_runbooks_say_what_to_type() -> None:
    assert sum(len(list(steps(page))) for page in RUNBOOKS) > 20


_COMMAND = re.compile(r"^(warmfleet|kubectl|helm|curl|make|cosign|docker) ", re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=page_ids)
def test_no_command_stands_where_it_is_not_looked_for(page: Path) -> None:
    if "reference" in page.parts:
        return  # forms of commands, generated from their parsers
    blocks = _FENCE.findall(page.read_text(encoding="utf-8"))
    hidden = [found for language, body in blocks if language != "sh" for found in _COMMAND.findall(body)]
    assert not hidden, f"{page.name}: a block with a command begins with ```sh"


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=page_ids)
def test_commands_exist(page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert {w for w in words[1:] if "=" not in w} <= targets, words
        elif words[0] == "warmfleet" and "--help" not in words:
            assert words[1] in SUBCOMMANDS, words
            try:
                parser(words[1:]).parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"{' '.join(words)}: {capsys.readouterr().err}")
            files = [Path(after) for flag, after in itertools.pairwise(words) if flag in ("-f", "--snapshot")]
            if words[1] in CHEAP and "--live" not in words and all(path.exists() for path in files):
                assert main(words[1:]) == 0, words
        elif words[0] in ("kubectl", "helm"):
            for word in words:
                if word.startswith(("charts/", "examples/", "deploy/")):
                    assert (ROOT / word).exists(), words


def test_a_wrong_command_would_be_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser(["fit"]).parse_args(["fit", "--quantisation", "fp8"])
    assert "unrecognized arguments" in capsys.readouterr().err
    assert sys.modules["warmfleet_cli.fit"] is not None
