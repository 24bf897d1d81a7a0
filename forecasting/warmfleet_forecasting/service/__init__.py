"""The forecaster as a service: watches, refits on a schedule in processes of its own, reports."""
