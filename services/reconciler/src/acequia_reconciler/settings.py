"""Settings of the reconciler, beside those that all services share."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ReconcilerSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ACEQUIA_RECONCILER_", extra="ignore")

    interval: Annotated[float, Field(gt=0, description="Seconds between two sweeps")] = 60.0
    grace: Annotated[float, Field(ge=0, description="Objects younger than these seconds are left alone")] = 120.0
    queue_limit: Annotated[int, Field(ge=1, description="Nothing is sent again while a queue is this long")] = 1000
    rate: Annotated[float, Field(gt=0, description="At most so many messages a second are sent again")] = 200.0
    full_every: Annotated[
        float, Field(gt=0, description="Seconds between two sweeps that look at everything, not from the marks on")
    ] = 86_400.0
