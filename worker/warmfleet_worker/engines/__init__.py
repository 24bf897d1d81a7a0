"""Engines an agent can stand beside."""
