"""Admission webhooks work without a kube-proxy: the API server calls an endpoint of the Service."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
from collections.abc import Iterator

import pytest
from cluster import ControlPlane
from objects import apply, config_map, eventually, get, pod, report_ready, wait


class Denier(http.server.BaseHTTPRequestHandler):
    """Allows every object but those called ``forbidden``."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = review["request"]
        answer = {"uid": request["uid"], "allowed": request["name"] != "forbidden", "status": {"message": "so be it"}}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def webhook(controlplane: ControlPlane, namespace: str) -> Iterator[str]:
    """A webhook server on a pod address; yields the address. It listens on port 9443."""
    address = str(controlplane.pod_network[60])
    certificate, key = controlplane.server_certificate("webhook", dns=[f"webhook.{namespace}.svc"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer((address, 9443), Denier)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield address
    server.shutdown()
    thread.join()
    server.server_close()
    controlplane.kubectl("delete", "validatingwebhookconfiguration", namespace)


def test_a_webhook_behind_a_service_decides(
    controlplane: ControlPlane, namespace: str, node: str, webhook: str
) -> None:
    labels = {"app": "webhook"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "webhook", "namespace": namespace},
        "spec": {"selector": labels, "ports": [{"port": 443, "targetPort": 9443}]},
    }
    apply(controlplane, service, pod("webhook", namespace, labels=labels))
    wait(controlplane, "condition=PodScheduled", "pod/webhook", f"-n={namespace}")
    report_ready(controlplane, namespace, "webhook", webhook)
    slices = ("endpointslices", f"-n={namespace}", "-l=kubernetes.io/service-name=webhook")
    eventually(lambda: any(each.get("endpoints") for each in get(controlplane, *slices)["items"]))
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    validator = {
        "name": "deny.warmfleet.dev",
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "clientConfig": {
            "service": {"name": "webhook", "namespace": namespace, "path": "/"},
            "caBundle": base64.b64encode(controlplane.ca_file.read_bytes()).decode(),
        },
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    apply(controlplane, {**kind, "metadata": {"name": namespace}, "webhooks": [validator]})

    def denied() -> bool:
        create = [controlplane.kubectl_path, "create", "configmap", "forbidden", f"-n={namespace}", "--dry-run=server"]
        done = controlplane.run(create, check=False)
        assert done.returncode == 0 or 'admission webhook "deny.warmfleet.dev" denied' in done.stderr, done.stderr
        return done.returncode != 0

    eventually(denied)  # the API server notices the configuration a moment later
    apply(controlplane, config_map("welcome", namespace))
