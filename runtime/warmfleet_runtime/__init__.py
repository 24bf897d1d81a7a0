"""What every long-running part shares: the clock, logs, a bounded reader of metrics, a Kubernetes client."""
