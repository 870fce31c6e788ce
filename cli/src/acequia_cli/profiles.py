"""Named environments: one settings file says for `local`, `dev`, `prod`, .. where Acequia is and what it needs there.

    [env.prod]
    MINIO_ENDPOINT = "s3.us-east-1.amazonaws.com"
    MINIO_SECRET_KEY = "${PROD_SECRET_KEY}"

A value may refer to the environment (`${NAME}`, anywhere in a text) or to a file (`file:/run/secrets/x`, the whole of
it): so the file itself holds no secret. `acequia.example.toml` shows all of it.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from acequia_cli.complaints import WrongUse

FILE = Path("acequia.toml")
LOCAL = "local"
"""The environment that is there without a file: `--url`, or else the embedded installation in `--data`."""
STORE = "MINIO_ENDPOINT"
"""The setting that makes an environment without url and data one whose store the command works on by itself."""
MASK = "********"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAMED_DATABASE = re.compile(r"ACEQUIA_SOURCE_POSTGRES_[A-Z0-9_]+_DSN")
_PASSWORD = re.compile(r"(?<=://)([^/@\s]*:)[^/@\s]+(?=@)")
_FILE_REFERENCE = re.compile(r"file:(?!//)(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Profile:
    """One environment, with all that it refers to filled in."""

    name: str
    url: str | None = None
    """A running installation."""
    data: Path | None = None
    """The folder of an embedded one."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """As the environment would name them."""
    store: bool = False
    """Neither url nor data: the command itself runs what is needed, once, over the store that the settings name."""

    def take_effect(self) -> None:
        """From here on this process reads its settings as the profile says them; they come before the environment's."""
        os.environ.update(self.settings)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a profile, for people: no secret is in it."""

    key: str
    shown: str
    origin: str
    """Where it comes from: `file`, `${NAME}`, `file:/run/secrets/x`."""
    problem: str | None = None


def resolve(name: str, config: Path | None = None) -> Profile:
    """The environment of that name, ready to take effect.

    `config`: the settings file; `acequia.toml` in the working directory if left out. Where there is none, `local` is
    the embedded installation or ACEQUIA_URL, and any other is what the process's own environment says.
    WrongUse where the file, or what it refers to, is not as it should be.
    """
    if (file := _settings_file(config)) is None:
        return _without_file(name)
    profiles = read_file(file)
    if (told := profiles.get(name)) is None:
        if name == LOCAL:
            return _without_file(name)
        raise WrongUse(
            f"{file} has no environment {name!r}{_nearest(name, profiles)} "
            f"There is: {', '.join(dict.fromkeys((*profiles, LOCAL)))}."
        )
    where = f"{file}, [env.{name}]"
    filled = {key: _filled(where, key, value, file.parent) for key, value in told.items()}
    url, data = filled.pop("url", None), filled.pop("data", None)
    if url is None and data is None and STORE not in filled:
        raise WrongUse(
            f"{where}: it says neither url (a running installation) nor data (a folder) nor {STORE} (a store that the "
            "command works on by itself)"
        )
    store = url is None and data is None
    return Profile(name, url, None if data is None else file.parent / Path(data).expanduser(), filled, store)


def entries(name: str, config: Path | None = None) -> tuple[Path, list[Entry]]:
    """The settings file and what it says of an environment; what can't be filled in is told there and not raised."""
    if (file := _settings_file(config)) is None:
        raise WrongUse(_no_file())
    profiles = read_file(file)
    if name not in profiles:
        raise WrongUse(f"{file} has no environment {name!r}{_nearest(name, profiles)} There is: {', '.join(profiles)}.")
    secrets = {key for key, secret in known_settings().items() if secret}
    found = []
    for key, value in profiles[name].items():
        text, problem = _text(value), None
        secret = key in secrets or _NAMED_DATABASE.fullmatch(key)
        try:
            text = _filled("", key, value, file.parent)
        except WrongUse as error:
            problem = str(error).removeprefix(": ")
        origin = "file"
        if isinstance(value, str) and (reference := _FILE_REFERENCE.fullmatch(value)):
            origin = f"file:{reference[1]}"
        elif names := _REFERENCE.findall(_text(value)):
            origin = ", ".join(f"${{{variable}}}" for variable in dict.fromkeys(names))
        shown = MASK if secret else _PASSWORD.sub(rf"\1{MASK}", text)
        found.append(Entry(key, "" if problem else shown, origin, problem))
    return file, found


def known_settings() -> Mapping[str, bool]:
    """The settings that an environment may name, and whether each is a secret."""
    from acequia.settings import AcequiaSettings, MinioSettings, PostgresSettings, RabbitSettings  # noqa: PLC0415
    from acequia_auditor.settings import AuditorSettings, MigrationSettings  # noqa: PLC0415
    from acequia_evaluator.settings import EvaluatorSettings  # noqa: PLC0415
    from acequia_ingestor import settings as of_the_ingestor  # noqa: PLC0415
    from acequia_lakehouse.settings import LakehouseSettings  # noqa: PLC0415
    from acequia_reconciler.settings import ReconcilerSettings, ScheduleSettings  # noqa: PLC0415
    from acequia_trainer.settings import TrainerSettings  # noqa: PLC0415
    from acequia_transformer.settings import TransformerSettings  # noqa: PLC0415

    ingestor = [
        kind
        for kind in vars(of_the_ingestor).values()
        if isinstance(kind, type) and issubclass(kind, BaseSettings) and kind is not BaseSettings
    ]
    kinds: list[type[BaseSettings]] = [
        MinioSettings, RabbitSettings, PostgresSettings, AcequiaSettings, MigrationSettings, AuditorSettings,
        EvaluatorSettings, LakehouseSettings, ReconcilerSettings, ScheduleSettings, TrainerSettings,
        TransformerSettings, *ingestor,
    ]  # fmt: skip
    return {
        f"{kind.model_config.get('env_prefix', '')}{name}".upper(): _is_secret(info.annotation)
        for kind in kinds
        for name, info in kind.model_fields.items()
    }


def read_file(file: Path) -> dict[str, dict[str, Any]]:
    """The environments of a settings file as they are written. WrongUse where one is not as it should be."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUse(f"{file} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise WrongUse(f"{file} is no TOML: {error}") from error
    if unknown := [key for key in document if key != "env"]:
        raise WrongUse(f"{file}: unknown key {unknown[0]!r}: an environment begins with [env.NAME]")
    profiles = document.get("env", {})
    if not isinstance(profiles, dict):
        raise WrongUse(f"{file}: env is a table of environments, each begun with [env.NAME]")
    known = known_settings()
    for name, told in profiles.items():
        if not isinstance(told, dict):
            raise WrongUse(f"{file}: env.{name} is no environment: begin it with [env.{name}]")
        where = f"{file}, [env.{name}]"
        for key, value in told.items():
            if key not in known and key not in ("url", "data") and not _NAMED_DATABASE.fullmatch(key):
                raise WrongUse(f"{where}: unknown key {key!r}{_nearest(key, (*known, 'url', 'data'))}")
            if key in ("url", "data") and (not isinstance(value, str) or not value):
                raise WrongUse(f"{where}: {key} is a text")
            if not isinstance(value, str | int | float | list | dict):
                raise WrongUse(f"{where}: {key} is a text, a number, true or false, or a list or table of them")
        if "url" in told and "data" in told:
            raise WrongUse(f"{where}: url is a running installation, data the folder of an embedded one: choose one")
    return profiles


def _settings_file(config: Path | None) -> Path | None:
    if config is not None:
        if not config.is_file():
            raise WrongUse(f"{config}: no such file")
        return config
    return FILE if FILE.is_file() else None


def _without_file(name: str) -> Profile:
    if name == LOCAL:
        return Profile(name)
    if url := os.environ.get("ACEQUIA_URL"):
        return Profile(name, url=url)
    if os.environ.get(STORE):
        return Profile(name, store=True)
    raise WrongUse(f"environment {name!r}: {_no_file()}, and neither ACEQUIA_URL nor {STORE} is set")


def _no_file() -> str:
    return f"there is no {FILE} in this folder, and --config (ACEQUIA_CONFIG) names none"


def _filled(where: str, key: str, value: Any, folder: Path) -> str:
    """A value as the environment would hold it, with what it refers to. WrongUse where that is not there."""
    if isinstance(value, list):
        return _text([_filled(where, key, one, folder) for one in value])
    if not isinstance(value, str):
        return _text(value)
    if reference := _FILE_REFERENCE.fullmatch(value):
        path = folder / Path(reference[1]).expanduser()
        try:
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not text"
            raise WrongUse(f"{where}: {key} refers to {path}, which can't be read: {why}") from error

    def variable(match: re.Match[str]) -> str:
        if (found := os.environ.get(match[1])) is None:
            raise WrongUse(f"{where}: {key} refers to ${{{match[1]}}}, which is not set in the environment")
        return found

    return _REFERENCE.sub(variable, value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _nearest(word: str, known: Iterable[str]) -> str:
    spelled = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), spelled, n=1, cutoff=0.6)
    return f", did you mean {spelled[close[0]]!r}?" if close else "."


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))
