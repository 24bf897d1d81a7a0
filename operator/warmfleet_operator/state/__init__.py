"""Frozen records of what is observed and decided, and the planner's memory. Pure."""
