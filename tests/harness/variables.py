"""The environment variables that the services know, by their settings classes."""

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from pydantic_settings import BaseSettings

from acequia.settings import AcequiaSettings, MinioSettings, PostgresSettings, RabbitSettings
from acequia_auditor.settings import MigrationSettings
from acequia_lakehouse.settings import OwnerSettings

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(folder.parent.name for folder in ROOT.glob("services/*/pyproject.toml"))
DECIDED_BY_THE_IMAGE = {"ACEQUIA_HTTP_HOST", "ACEQUIA_HTTP_PORT", "ACEQUIA_TEMP_DIR"}
"""Inside a container they are nobody's to choose."""


def variables(settings: type[BaseSettings]) -> set[str]:
    return {f"{settings.model_config['env_prefix']}{field}".upper() for field in settings.model_fields}


OF_OWNERS = variables(MigrationSettings) | variables(OwnerSettings)
"""Of the roles that make databases and schemas: no service at work knows them."""


def settings_of_service(name: str) -> Iterator[type[BaseSettings]]:
    """The settings classes that the service reads."""
    yield from (AcequiaSettings, MinioSettings, RabbitSettings)
    if name == "auditor":
        yield PostgresSettings
    if importlib.util.find_spec(f"acequia_{name}.settings") is not None:
        module = importlib.import_module(f"acequia_{name}.settings")
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, BaseSettings) and found.__module__ == module.__name__:
                yield found


def variables_of_service(name: str) -> set[str]:
    """Every environment variable that the service's settings classes know."""
    return set().union(*(variables(settings) for settings in settings_of_service(name)))
