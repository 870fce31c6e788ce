import importlib
import importlib.util
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parents[3]
SERVICES = sorted(folder.name for folder in (ROOT / "services").iterdir() if (folder / "pyproject.toml").exists())


@pytest.mark.parametrize("package", ["acequia", *(f"acequia_{name}" for name in SERVICES)])
def test_every_setting_of_a_package_stands_in_env_example(package):
    if importlib.util.find_spec(f"{package}.settings") is None:
        pytest.skip(f"{package} has no settings of its own")
    module = importlib.import_module(f"{package}.settings")
    lines = (line.removeprefix("# ") for line in (ROOT / ".env.example").read_text().splitlines())
    named = {line.partition("=")[0] for line in lines if "=" in line}
    missing = [
        name
        for settings in vars(module).values()
        if isinstance(settings, type) and issubclass(settings, BaseSettings) and settings.__module__ == module.__name__
        for field in settings.model_fields
        if (name := f"{settings.model_config['env_prefix']}{field}".upper()) not in named
    ]
    assert missing == [], "add them to .env.example, commented out, with the default and a line on what they do"


def test_a_setting_without_a_default_is_not_commented_out():
    from acequia.settings import MinioSettings, PostgresSettings, RabbitSettings

    uncommented = {
        line.partition("=")[0]
        for line in (ROOT / ".env.example").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    }
    required = {
        f"{settings.model_config['env_prefix']}{name}".upper()
        for settings in (MinioSettings, RabbitSettings, PostgresSettings)
        for name, field in settings.model_fields.items()
        if field.is_required()
    }
    assert uncommented == required
