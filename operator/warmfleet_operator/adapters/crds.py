"""Whether the cluster's CRDs are those of this release; asked before the process serves or decides anything."""

from __future__ import annotations

import logging

from warmfleet_contracts.api import skew
from warmfleet_runtime.resources import CUSTOM_RESOURCE_DEFINITIONS

from warmfleet_operator.adapters.kube import KubeApi, KubeError

_LOG = logging.getLogger(__name__)
_NOT_FOUND = 404


async def refusals(api: KubeApi) -> list[str]:
    """Why the installed CRDs cannot be used, one sentence each.

    A CRD that is not there is none of them: the process waits for it. One that cannot be read is logged and trusted,
    because a running fleet must not depend on the right to read it.
    """
    found = []
    for name in skew.names():
        try:
            installed = await api.get(CUSTOM_RESOURCE_DEFINITIONS, name)
        except KubeError as error:
            if error.status != _NOT_FOUND:
                _LOG.warning("CRD %s could not be compared with this release: %s", name, error)
            continue
        difference = skew.compare(installed)
        if difference.differs:
            found.append(difference.text("operator"))
    return found
