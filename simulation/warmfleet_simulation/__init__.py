"""Replays traffic through the shipped planning code, beside rivals and a clairvoyant optimum."""
