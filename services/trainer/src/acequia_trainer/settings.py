"""Settings of the trainer. Built in `__main__`, never at import."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TrainerSettings(BaseSettings):
    """What a person may turn. All but `gather_*` and `n_jobs` change the model, and so the variant."""

    model_config = SettingsConfigDict(env_prefix="ACEQUIA_TRAINER_", extra="ignore", frozen=True)

    window_rows: Annotated[int, Field(ge=0, description="Rows of new and earlier objects, together, to train on")] = (
        1_000_000
    )
    window_objects: Annotated[int, Field(ge=0, description="Earlier objects read again, at most")] = 50
    window_days: Annotated[int, Field(ge=0, description="Days of earlier partitions to choose them from")] = 7
    holdout_fraction: Annotated[float, Field(gt=0, le=0.5, description="Share held out, the last by event time")] = 0.2
    min_holdout: Annotated[int, Field(ge=1, description="With fewer rows held out the model is judged in sample")] = 50
    max_rows: Annotated[int, Field(ge=1, description="Rows drawn for one training, at most")] = 200_000
    n_estimators: Annotated[int, Field(ge=1, le=10_000)] = 100
    max_samples: Annotated[int, Field(ge=2, description="Rows per tree, at most")] = 256
    contamination: Annotated[
        float, Field(gt=0, le=0.5, description="Share of the training rows above the threshold")
    ] = 0.02
    max_features: Annotated[float, Field(gt=0, le=1, description="Share of the features per tree")] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 7
    n_jobs: Annotated[int, Field(description="Threads of one training; -1: one per core")] = 1
    gather_quiet: Annotated[float, Field(ge=0, description="Seconds without news after which a plan is made")] = 0.2
    gather_most: Annotated[float, Field(ge=0, description="Seconds after which a plan is made in any case")] = 5.0


NOT_IN_VARIANT = frozenset({"gather_quiet", "gather_most", "n_jobs"})
"""Settings that say when and how fast, not what."""
