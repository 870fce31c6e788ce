"""Settings of the ingestor, beside those that all services share."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, SecretStr
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
    lakehouse_url: Annotated[str, Field(description="Where the lakehouse answers: its calls are handed on")] = (
        "http://127.0.0.1:8003"
    )


_NAMED = re.compile(r"ACEQUIA_SOURCE_POSTGRES_([A-Z0-9_]+)_DSN")


class PostgresSourceSettings(BaseSettings):
    """Databases whose tables are ingested. Further ones have a name: ACEQUIA_SOURCE_POSTGRES_<NAME>_DSN."""

    model_config = SettingsConfigDict(env_prefix="ACEQUIA_SOURCE_POSTGRES_", extra="ignore")

    dsn: Annotated[
        SecretStr | None, Field(description="postgresql://user:password@host:5432/database, of a role that may read")
    ] = None
    statement_timeout: Annotated[float, Field(ge=0, description="Seconds of one statement at the source; 0: any")] = (
        1200.0
    )
    load_seconds: Annotated[
        float, Field(gt=0, le=1200, description="Seconds after which a load is put as far as it has come, and goes on")
    ] = 600.0
    _named: dict[str, SecretStr] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any, /) -> None:
        self._named = {
            match[1].lower(): SecretStr(value)
            for name, value in os.environ.items()
            if value and (match := _NAMED.fullmatch(name.upper()))
        }

    @property
    def connections(self) -> Mapping[str, SecretStr]:
        """The databases that have a name."""
        return self._named

    def dsn_of(self, connection: str | None) -> str | None:
        """The DSN of a named database, or of the one without a name; None where there is none."""
        found = self.dsn if connection is None else self._named.get(connection.lower())
        return found.get_secret_value() if found is not None and found.get_secret_value() else None
