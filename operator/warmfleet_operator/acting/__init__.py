"""Brings about what was decided: creates, drains, deletes, writes status, events and checkpoints."""
