"""Decides: ``plan(snapshot, memory, now) -> (FleetPlan, memory)``. Pure: no I/O, no wall clock, no randomness."""
