"""Settings of the ingestor, beside those that all services share."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class IngestorSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ACEQUIA_INGESTOR_", extra="ignore")

    rows_per_part: Annotated[int, Field(ge=1, description="Most rows of one RAW object")] = 1_000_000
    max_rows: Annotated[int, Field(ge=1, description="Most rows that one request may ask to draw")] = 50_000_000
    max_upload_bytes: Annotated[int, Field(ge=1, description="Largest uploaded file")] = 64 * 2**30
    max_unpacked_bytes: Annotated[int, Field(ge=1, description="Largest file once unpacked")] = 64 * 2**30
    max_ratio: Annotated[float, Field(gt=1, description="Largest ratio of unpacked to packed bytes")] = 200.0
    auditor_url: Annotated[
        str, Field(description="Where the auditor answers: it is asked for runs, and its calls are handed on")
    ] = "http://127.0.0.1:8001"
    reconciler_url: Annotated[str, Field(description="Where the reconciler answers: its calls are handed on")] = (
        "http://127.0.0.1:8002"
    )
