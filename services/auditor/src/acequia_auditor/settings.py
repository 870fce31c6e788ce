"""Settings of the auditor, beside those that all services share and PG_*."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class AuditorSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ACEQUIA_AUDITOR_", extra="ignore")

    prefetch: Annotated[int, Field(ge=1, le=2000, description="Audit records in hand at once")] = 500
    catch_up_interval: Annotated[
        float, Field(gt=0, description="Seconds between two looks for commit objects whose record was lost")
    ] = 300.0
    catch_up_window: Annotated[float, Field(gt=0, description="Seconds back that such a look reaches")] = 3600.0
    anchor_interval: Annotated[
        float, Field(gt=0, description="Seconds between two anchors of the audit chain's head in the store")
    ] = 300.0


class MigrationSettings(BaseSettings):
    """The role that owns the schema. Only `migrate` needs it; a role at run time does better without."""

    model_config = SettingsConfigDict(env_prefix="PG_MIGRATION_", extra="ignore")

    user: Annotated[str, Field(description="The schema's owner; empty: PG_USER migrates")] = ""
    password: SecretStr = SecretStr("")
