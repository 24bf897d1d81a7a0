"""What the documentation shows for other projects' kinds is accepted by those projects' own CRDs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from foreign_crds import NAMES, CrdsUnavailableError, crd_file
from test_docs import PAGES, manifests, page_ids
from warmfleet_localcluster.api import EmbeddedApi
from warmfleet_localcluster.api.embedded import WriteOptions
from warmfleet_localcluster.api.errors import ApiError

FOREIGN = ("karpenter.sh", "argoproj.io", "kustomize.toolkit.fluxcd.io", "monitoring.coreos.com")


def _group(body: dict[str, Any]) -> str:
    return str(body.get("apiVersion", "")).partition("/")[0]


SHOWN = [(page, body) for page in PAGES for body in manifests(page) if _group(body) in FOREIGN]


@pytest.fixture(scope="module")
def api(require_real: bool) -> EmbeddedApi:
    made = EmbeddedApi()
    definitions = made.registry.named("customresourcedefinitions", "apiextensions.k8s.io")
    try:
        files = [crd_file(name) for name in NAMES]
    except CrdsUnavailableError as error:
        if require_real:
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    for file in files:
        made.create(definitions, None, yaml.safe_load(file.read_text(encoding="utf-8")))
    for name in {body["metadata"].get("namespace") for _, body in SHOWN} - {None}:
        made.create(made.registry.named("namespaces"), None, {"metadata": {"name": name}})
    return made


def judge(api: EmbeddedApi, body: dict[str, Any]) -> None:
    resource = api.registry.named(f"{body['kind'].lower()}s", _group(body))
    inside = body["metadata"]["namespace"] if resource.namespaced else None
    api.create(resource, inside, body, WriteOptions(dry_run=True, field_validation="Strict"))


def test_there_is_something_to_judge() -> None:
    assert {body["kind"] for _, body in SHOWN} >= {"NodePool", "Application", "Kustomization"}


@pytest.mark.parametrize(("page", "body"), SHOWN, ids=[f"{page_ids(page)}-{body['kind']}" for page, body in SHOWN])
def test_their_own_crds_accept_it(page: Path, body: dict[str, Any], api: EmbeddedApi) -> None:
    judge(api, body)
    with pytest.raises(ApiError):
        judge(api, {**body, "spec": {**body["spec"], "noSuchField": True}})
