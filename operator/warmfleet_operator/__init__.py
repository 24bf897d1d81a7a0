"""The warmfleet operator: observe, decide, act (see ``docs/architecture.md``)."""
