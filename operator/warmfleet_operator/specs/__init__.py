"""Builds children as plain dicts: worker pods, router, Service, PDB, RBAC. Pure."""
