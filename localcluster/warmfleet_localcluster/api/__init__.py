"""An embedded, in-memory Kubernetes API for tests and the demo.

It keeps the semantics that operators lean on (optimistic locking, watches, finalizers, graceful deletion, custom
resource validation) and drops what a single-user sandbox can do without: **any bearer token is accepted, there is no
RBAC, no TLS and no persistence**. It must therefore only ever listen on loopback.

Not there, so believe these only from a real cluster: types of built-in fields, field ownership and apply conflicts,
ratcheting of stored custom objects, conversion and admission webhooks, enforcement of quotas and limit ranges, CEL's
optional selection (`self.?field`), protobuf of anything but a few small kinds (`kubectl create deployment` sends it;
use `kubectl apply`). A watch from a resource version of the future gets 410 Gone: it can only come from an earlier run.

Start it with::

    api = EmbeddedApi()
    runner = await serve(api, "127.0.0.1", 0)
    write_kubeconfig(path, server_url(runner))

A `kubectl get pods` then travels `server` (HTTP) -> `embedded.EmbeddedApi` (verbs) -> `store.ObjectStore` (objects and
event log).
"""

from warmfleet_localcluster.api.embedded import EmbeddedApi
from warmfleet_localcluster.api.errors import ApiError
from warmfleet_localcluster.api.kubeconfig import write_kubeconfig
from warmfleet_localcluster.api.server import serve, server_url

__all__ = ["ApiError", "EmbeddedApi", "serve", "server_url", "write_kubeconfig"]
