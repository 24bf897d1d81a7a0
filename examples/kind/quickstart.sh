#!/usr/bin/env bash
# A kind cluster with warmfleet and a fleet of simulated engines, all from this checkout; no GPU is needed.
# Needs Docker, kind, kubectl and Helm. Remove it all by: kind delete cluster --name warmfleet
set -euo pipefail
cd "$(dirname "$0")/../.."
cluster=${CLUSTER:-warmfleet}

kind create cluster --name "$cluster" --wait 120s

for component in operator forecaster agent router; do
  image="ghcr.io/warmfleet/$component:dev"
  docker build --file "images/$component/Dockerfile" --tag "$image" .
  kind load docker-image "$image" --name "$cluster"
done

# Simulated engines need no GPU, but ask for one as real engines do: the node says that it has four.
kubectl patch node "$cluster-control-plane" --subresource=status --type=json \
  --patch '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "4"}]'

helm upgrade --install warmfleet charts/warmfleet --namespace warmfleet-system --create-namespace \
  --values examples/kind/values.yaml --wait --timeout 5m
helm test warmfleet --namespace warmfleet-system

kubectl apply --filename examples/kind/fleet.yaml
kubectl wait llmdeployment/chat --for=condition=Ready --timeout=300s
kubectl get llmdeployments,pods

cat <<'SAY'

It serves. Talk to it from another terminal:

  kubectl port-forward service/chat 8080:8080
  curl -s http://127.0.0.1:8080/v1/completions -H 'content-type: application/json' \
    -d '{"model": "meta-llama/Llama-3.1-8B-Instruct", "prompt": "Hello", "max_tokens": 16}'
SAY
