"""The only I/O of the operator: Kubernetes, telemetry, Lease."""
