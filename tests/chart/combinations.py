"""Values that the chart is rendered with."""

from __future__ import annotations

COMBINATIONS: dict[str, list[str]] = {
    "defaults": [],
    "namespaced": ["--set=namespaced=true"],
    "two replicas by digest": ["--set=replicas=2", f"--set=image.digest=sha256:{'0' * 64}"],
    "everything set": [
        "--set=imagePullSecrets={registry}",
        "--set=serviceAccount.annotations.a=b",
        "--set=podLabels.team=serving",
        "--set=podAnnotations.a=b",
        "--set=priorityClassName=system-cluster-critical",
        "--set=nodeSelector.pool=system",
        '--set-json=tolerations=[{"key":"system","operator":"Exists"}]',
        '--set-json=affinity={"nodeAffinity":{}}',
        '--set-json=config={"tickSeconds":2.5,"agentCommand":["agent","--x"]}',
        "--set=metrics.service.annotations.a=b",
        "--set=commonLabels.team=serving",
        "--set=replicas=3",
        "--set=networkPolicy.enabled=true",
        '--set-json=networkPolicy.scrapers=[{"namespaceSelector":{"matchLabels":{"name":"monitoring"}}}]',
        "--set=metrics.dashboards.enabled=true",
        "--set=metrics.dashboards.annotations.folder=LLM",
        '--set-json=extraEnv=[{"name":"A","value":"b"}]',
        '--set-json=forecaster.extraEnv=[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"metadata.uid"}}}]',
        '--set-json=topologySpreadConstraints=[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]',
        "--set=forecaster.replicas=3",
        "--set=forecaster.persistence.enabled=true",
        "--set=forecaster.persistence.storageClassName=fast",
        "--set=forecaster.serviceAccountAnnotations.a=b",
        '--set-json=forecaster.config={"history":"Prometheus","prometheusUrl":"http://prometheus:9090"}',
    ],
    "small": [
        "--set=networkPolicy.enabled=true",
        "--set=forecaster.enabled=false",
        "--set=fullnameOverride=x",
    ],
    "as little as possible": [
        "--set=crds.enabled=false",
        "--set=rbac.create=false",
        "--set=serviceAccount.create=false",
        "--set=metrics.service.enabled=false",
        "--set=forecaster.enabled=false",
    ],
}
