"""Settings of the reconciler, beside those that all services share."""

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from acequia.datasets import load_registry
from acequia.errors import ConfigurationError
from acequia_reconciler.schedules import chosen, load_schedules


class ReconcilerSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ACEQUIA_RECONCILER_", extra="ignore")

    interval: Annotated[float, Field(gt=0, description="Seconds between two sweeps")] = 60.0
    grace: Annotated[float, Field(ge=0, description="Objects younger than these seconds are left alone")] = 120.0
    queue_limit: Annotated[int, Field(ge=1, description="Nothing is sent again while a queue is this long")] = 1000
    rate: Annotated[float, Field(gt=0, description="At most so many messages a second are sent again")] = 200.0
    full_every: Annotated[
        float, Field(gt=0, description="Seconds between two sweeps that look at everything, not from the marks on")
    ] = 86_400.0


class ScheduleSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ACEQUIA_", extra="ignore")

    schedules: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Names of the schedules that are fired, comma-separated; * for all", validate_default=True),
    ] = ()

    @field_validator("schedules", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("schedules")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            chosen(names, load_schedules(load_registry()))
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return names


class CommandSettings(BaseSettings):
    """What a command pins. It is the ingestor's to say: a schedule's command is as if it had been asked for there."""

    model_config = SettingsConfigDict(env_prefix="ACEQUIA_INGESTOR_", extra="ignore")

    rows_per_part: Annotated[int, Field(ge=1, description="Most rows of one RAW object")] = 1_000_000
