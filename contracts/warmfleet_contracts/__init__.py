"""What every warmfleet component agrees on: resources, labels, reasons, the agent protocol and the performance model.

Pure: no I/O beyond reading this package's own data, no clock, no Kubernetes client.
"""
