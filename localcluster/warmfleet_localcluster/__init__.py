"""Embedded Kubernetes API and process node, for the demo and the tests."""
