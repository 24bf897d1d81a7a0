"""Turns traffic history into what the planner buys on, and says how far to trust it."""
