"""Bodies in protobuf, as Helm 4 and kubectl send them."""

from __future__ import annotations

SECRETS = "/api/v1/namespaces/default/secrets"
MEDIA = {"Content-Type": "application/vnd.kubernetes.protobuf"}


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128, "one byte of length is enough for these tests"
    return bytes([number << 3 | 2, len(content)]) + content


def message(kind: str, body: bytes) -> bytes:
    type_meta = field(1, b"v1") + field(2, kind.encode())
    return b"k8s\0" + field(1, type_meta) + field(2, body)


async def test_release_secret(client):
    label = field(1, b"owner") + field(2, b"helm")
    body = field(1, field(1, b"release.v1") + field(11, label))
    body += field(2, field(1, b"release") + field(2, b"\x00\xff")) + field(3, b"helm.sh/release.v1")
    async with client.session.post(client.url + SECRETS, data=message("Secret", body), headers=MEDIA) as response:
        assert response.status == 201, await response.text()
    _, secret = await client.get(f"{SECRETS}/release.v1")
    assert (secret["type"], secret["data"]) == ("helm.sh/release.v1", {"release": "AP8="})
    assert secret["metadata"]["labels"] == {"owner": "helm"}


async def test_other_kinds_and_torn_messages_are_refused_with_the_way_out(client):
    whole = message("Deployment", b"")
    for raw in (whole, message("Secret", b"\x0a")[:-1], b"k8s\0\xff"):
        async with client.session.post(client.url + SECRETS, data=raw, headers=MEDIA) as response:
            status = await response.json()
        assert (response.status, status["reason"]) == (415, "UnsupportedMediaType")
        assert "send JSON" in status["message"]
