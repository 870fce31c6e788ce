"""Settings of the transformer. Built in `__main__`, never at import."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TransformerSettings(BaseSettings):
    """What a person may turn; each changes SILVER, and so the variant."""

    model_config = SettingsConfigDict(env_prefix="ACEQUIA_TRANSFORMER_", extra="ignore", frozen=True)

    burst_seconds: Annotated[int, Field(ge=1, description="Length of the window of source_recent_events")] = 60
