"""The read side over HTTP: runs, artifacts, lineage, dead letters."""

from fastapi import APIRouter

from acequia.datasets import Registry
from acequia_auditor.database import Database


def read_router(database: Database, registry: Registry) -> APIRouter:
    """`/runs`, `/runs/{run_id}`, `/artifacts`, `/lineage`, `/dead-letters`. Errors are problem+json (RFC 9457)."""
    raise NotImplementedError
