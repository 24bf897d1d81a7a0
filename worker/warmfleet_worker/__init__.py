"""The agent beside each engine: reports what it sees and drains the worker before it leaves."""
