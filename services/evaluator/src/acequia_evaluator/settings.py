"""Settings of the evaluator. Built in `__main__`, never at import."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EvaluatorSettings(BaseSettings):
    """What a person may turn; each changes the evaluation or its decision, and so the variant."""

    model_config = SettingsConfigDict(env_prefix="ACEQUIA_EVALUATOR_", extra="ignore", frozen=True)

    max_rows: Annotated[int, Field(ge=1, description="Rows scored in one evaluation, at most (drawn by seed)")] = (
        200_000
    )
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 7
    min_positives: Annotated[int, Field(ge=1, description="Labelled attacks needed to judge by labels")] = 5
    min_roc_auc: Annotated[float, Field(ge=0, le=1, description="Gate, with labels")] = 0.7
    champion_tolerance: Annotated[
        float, Field(ge=0, le=1, description="Gate, with labels: how far below the champion's ROC-AUC still passes")
    ] = 0.05
    max_psi: Annotated[float, Field(ge=0, description="Gate, without labels: drift of the scores")] = 0.25
    max_alert_rate: Annotated[float, Field(gt=0, le=1, description="Gate, without labels: share of alerts")] = 0.1
