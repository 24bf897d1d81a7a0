"""The images without a container engine: what the Dockerfiles say, what they would install, and that it starts.

The dependencies of an image are those of one extra, at the versions that CI runs with. A program that imports anything
else works in the development environment and fails in its image; that is found here by comparing what is loaded with
what the extra brings. The smallest image's installation is carried out as its Dockerfile says.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from dockerfile import Stage, stages
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from warmfleet_contracts.api import InstanceType, LLMDeployment

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMAGES = {path.parent.name: path for path in sorted((ROOT / "images").glob("*/Dockerfile"))}
EXTRAS = {"operator": "operator", "forecaster": "forecasting", "agent": "worker"}
PROGRAMS = {
    "operator": ["warmfleet_operator.__main__"],
    "forecaster": ["warmfleet_forecasting.__main__", "warmfleet_forecasting.service.pool"],
    "agent": ["warmfleet_worker.__main__", "warmfleet_worker.engines.simulated.__main__"],
}
OWN = {path.name for path in ROOT.glob("*/warmfleet_*") if path.is_dir()}


def last(image: str) -> Stage:
    return stages(IMAGES[image])[-1]


def test_there_is_an_image_for_every_component_of_the_chart() -> None:
    chart = yaml.safe_load((ROOT / "charts/warmfleet/Chart.yaml").read_text(encoding="utf-8"))
    listed = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    built = release["jobs"]["images"]["strategy"]["matrix"]["component"]
    assert sorted(IMAGES) == sorted(each["name"] for each in listed) == sorted(built)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_in_stages_pinned_and_without_root(image: str) -> None:
    build, final = stages(IMAGES[image])
    assert build.name == "build"
    for stage in (build, final):
        assert re.fullmatch(r"docker\.io/library/python:\d+\.\d+\.\d+-slim-[a-z]+", stage.base), stage.base
        assert not stage.all("ADD")
    assert final.all("USER") == ["10001:10001"]
    assert [step for step, _ in final.steps].index("USER") > [step for step, _ in final.steps].index("COPY")
    assert all(text.startswith("--from=build ") for text in final.all("COPY")), "no source in the image"
    for step in build.all("RUN"):
        if "install" in step:
            assert {"--no-cache-dir", "--constraint"} <= set(shlex.split(step))
    for step in final.all("RUN"):
        assert "rm -rf /var/lib/apt/lists/*" in step


@pytest.mark.parametrize("image", EXTRAS)
def test_what_an_image_starts_is_what_it_installs(image: str) -> None:
    build, final = stages(IMAGES[image])
    (program,) = final.command("ENTRYPOINT")
    assert program in PROJECT["scripts"]
    (install,) = (step for step in build.all("RUN") if "install" in step)
    assert shlex.split(install)[-1] == f".[{EXTRAS[image]}]"
    (copied,) = (text for text in final.all("COPY"))
    folder = copied.split()[-1]
    assert any(text.startswith(f"PATH={folder}/bin:") for text in final.all("ENV"))


def test_everything_that_is_copied_exists_and_enters_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and line[0] != "#"]
    for path in IMAGES.values():
        for text in stages(path)[0].all("COPY"):
            for source in text.split()[:-1]:
                assert (ROOT / source).exists(), f"{path}: {source}"
                assert not ignored(source, rules), f".dockerignore keeps {source} out, which {path} copies"
    assert ignored(".git", rules)
    assert ignored("tests", rules)
    assert ignored("operator/warmfleet_operator/__pycache__", rules)


def ignored(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore keeps a path out: the last rule that matches it, or a folder above it, counts."""
    out = False
    above = [str(parent) for parent in Path(path).parents if str(parent) != "."]
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        subjects = [Path(path).name] if rule.startswith("**/") else [path, *above]
        if any(fnmatch.fnmatchcase(subject, pattern) for subject in subjects):
            out = not rule.startswith("!")
    return out


def distributions(extra: str) -> set[str]:
    """Names of all distributions that the extra brings, with their dependencies, from what is installed here."""
    known: set[str] = set()
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        new = {f"{name}[{each}]" for each in requirement.extras} | {name}
        if new <= known:
            continue
        known |= new
        for text in importlib.metadata.distribution(name).requires or []:
            child = Requirement(text)
            marks = [{"extra": each} for each in (*requirement.extras, "")]
            if child.marker is None or any(child.marker.evaluate(mark) for mark in marks):
                wanted.append(child)
    return {name for name in known if "[" not in name}


_WITHOUT = """
import importlib, json, sys
hidden = set(json.loads(sys.argv[1]))
def without(find):
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else find(name, path, target)
    return find_spec
for finder in sys.meta_path:
    finder.find_spec = without(finder.find_spec)
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("image", EXTRAS)
def test_a_program_starts_with_what_its_image_has(image: str) -> None:
    brought = distributions(EXTRAS[image])
    providers = importlib.metadata.packages_distributions()
    hidden = [
        module
        for module, names in providers.items()
        if module not in OWN and not {str(canonicalize_name(name)) for name in names} & brought
    ]
    assert {"pytest", "rich"} <= set(hidden)
    command = [sys.executable, "-c", _WITHOUT, json.dumps(hidden), *PROGRAMS[image]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"extra {EXTRAS[image]}: {done.stderr[-1500:]}"


@pytest.mark.timeout(600)
def test_the_agents_image_is_installed_as_its_dockerfile_says_and_starts(tmp_path: Path) -> None:
    """Also the simulated engine, which trials without a GPU run from the same image."""
    build, final = stages(IMAGES["agent"])
    context = tmp_path / "src"
    context.mkdir()
    for text in build.all("COPY"):
        *sources, target = text.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, context / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, context / source)
    prefix = tmp_path / "opt"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    pip = f"{shlex.quote(sys.executable)} -m pip"
    for step in build.all("RUN"):
        command = step.replace("/opt/warmfleet", str(prefix)).replace("--no-cache-dir ", "")  # CI's own cache helps
        command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", re.sub(r"^pip ", f"{pip} ", command))
        done = subprocess.run(
            command, shell=True, cwd=context, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{step}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
    (program,) = final.command("ENTRYPOINT")
    for name in (program, "warmfleet-simulated-engine"):
        module = PROJECT["scripts"][name].partition(":")[0]
        subprocess.run([prefix / "bin/python", "-c", f"import {module}"], env=environment, check=True, cwd=tmp_path)
        assert os.access(prefix / "bin" / name, os.X_OK)
    done = subprocess.run(
        [prefix / "bin/python", "-c", "import kopf"], env=environment, capture_output=True, check=False
    )
    assert done.returncode, "the agent's image has no operator's dependencies"


def test_actions_of_the_release_are_pinned_by_commit() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", each) for each in used), used
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read", "packages": "write", "id-token": "write"}
        assert any("cosign sign" in step.get("run", "") for step in job["steps"])


def test_a_release_has_one_version() -> None:
    script = ROOT / "deploy/version.py"
    version = PROJECT["version"]
    assert subprocess.run([sys.executable, script, version], capture_output=True, check=False).returncode == 0
    done = subprocess.run([sys.executable, script, "9.9.9"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"pyproject.toml is {version}, not 9.9.9" in done.stderr


KIND = ROOT / "examples" / "kind"


def test_the_kind_quickstart_fits_the_images_and_the_chart() -> None:
    script = (KIND / "quickstart.sh").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(KIND / "quickstart.sh")], check=True)
    (components,) = re.findall(r"^for component in (.*); do$", script, re.MULTILINE)
    assert sorted(components.split()) == sorted(IMAGES)
    for path in re.findall(r"(?:examples|charts)/[\w./-]+", script):
        assert (ROOT / path).exists(), path
    values = yaml.safe_load((KIND / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "charts/warmfleet/values.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(values, schema)
    built = {f"ghcr.io/warmfleet/{component}:dev" for component in IMAGES}
    types, fleet = yaml.safe_load_all((KIND / "fleet.yaml").read_text(encoding="utf-8"))
    fleet, types = LLMDeployment.model_validate(fleet), InstanceType.model_validate(types)
    assert fleet.spec.variants[0].instance_type == types.metadata.name
    assert {fleet.spec.engine.image, values["config"]["agentImage"], values["config"]["routerImage"]} <= built
    assert values["config"]["engineCommand"][0] in PROJECT["scripts"]
