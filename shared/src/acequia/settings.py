"""Settings of the parts that every service shares. Built in `__main__`, never at import."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from acequia.errors import ConfigurationError
from acequia.layers import Buckets
from acequia.topology import DEFAULT_RETRY_DELAYS


class MinioSettings(BaseSettings):
    """Where the objects lie."""

    model_config = SettingsConfigDict(env_prefix="MINIO_", extra="ignore")

    endpoint: Annotated[str, Field(description="host:port of the S3 API (not of the console)")]
    access_key: str
    secret_key: SecretStr
    session_token: Annotated[SecretStr, Field(description="Of temporary keys (STS): they are not renewed")] = SecretStr(
        ""
    )
    secure: bool = False
    ca_file: Annotated[str, Field(description="PEM of the CAs that TLS trusts; empty: the system's")] = ""
    region: str = "us-east-1"
    arn: Annotated[str, Field(description="ARN of a notification target; {region} and {target} are filled in")] = (
        "arn:minio:sqs:{region}:{target}:amqp"
    )
    notify_region: Annotated[str, Field(description="The region part of the ARN: MinIO's own MINIO_REGION")] = ""


class RabbitSettings(BaseSettings):
    """Where the messages go."""

    model_config = SettingsConfigDict(env_prefix="RABBITMQ_", extra="ignore")

    url: Annotated[SecretStr, Field(description="amqp://user:password@host:5672/vhost; amqps:// for TLS")]
    ca_file: Annotated[str, Field(description="PEM of the CAs that TLS trusts; empty: the system's")] = ""


SslMode: TypeAlias = Literal["", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class PostgresSettings(BaseSettings):
    """Where the audit trail is indexed. Only the auditor reads this."""

    model_config = SettingsConfigDict(env_prefix="PG_", extra="ignore")

    host: str = "localhost"
    port: int = 5432
    user: str = "acequia"
    password: SecretStr
    database: str = "acequia"
    sslmode: Annotated[
        SslMode,
        Field(description="As libpq means it; empty: verify-full where there is a ca_file, else prefer"),
    ] = ""
    ca_file: Annotated[str, Field(description="PEM of the CAs that TLS trusts; empty: the system's")] = ""

    @field_validator("ca_file")
    @classmethod
    def _verified(cls, ca_file: str, given: ValidationInfo) -> str:
        if ca_file and given.data.get("sslmode", "") not in ("", "verify-ca", "verify-full"):
            raise ValueError("without PG_SSLMODE=verify-ca or verify-full it would not be looked at")
        return ca_file


class AcequiaSettings(BaseSettings):
    """What is Acequia's own and the same for every service."""

    model_config = SettingsConfigDict(env_prefix="ACEQUIA_", extra="ignore")

    bucket_prefix: str = "cybersec-ml"
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    retry_delays: Annotated[
        tuple[int, ...],
        NoDecode,
        Field(description="Seconds on each rung of the retry ladder, comma-separated"),
    ] = DEFAULT_RETRY_DELAYS
    concurrency: Annotated[int, Field(ge=1, le=64, description="Work items at once per process")] = 2
    plan_stale_after: Annotated[
        float, Field(gt=0, description="Seconds without a sign of life after which a plan is taken over")
    ] = 30.0
    plan_renew_every: Annotated[float, Field(gt=0, description="Seconds between two signs of life")] = 10.0
    stop_grace: Annotated[float, Field(ge=0, description="Seconds to finish work in hand on SIGTERM")] = 20.0
    temp_dir: Annotated[Path | None, Field(description="Folder for temporary files; default: the system's")] = None
    max_body_bytes: Annotated[int, Field(ge=1, description="Largest JSON body of a request")] = 65_536
    log_level: Annotated[str, Field(pattern="^(?i:debug|info|warning|error|critical)$")] = "INFO"

    @field_validator("retry_delays", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(int(v) for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @cached_property
    def buckets(self) -> Buckets:
        return Buckets(self.bucket_prefix)


S = TypeVar("S", bound=BaseSettings)


def load(settings: type[S], **given: Any) -> S:
    """Read settings from the environment. ConfigurationError, in one line that names each, where one is wrong."""
    try:
        return settings(**given)
    except ValidationError as error:
        raise ConfigurationError(_told(_problems(settings, error))) from None


def check(*kinds: type[BaseSettings]) -> None:
    """Read all of `kinds` and forget them. ConfigurationError, in one line that names each that is wrong in any."""
    problems: list[str] = []
    for kind in kinds:
        try:
            kind()
        except ValidationError as error:
            problems += _problems(kind, error)
    if problems:
        raise ConfigurationError(_told(problems))


def _problems(settings: type[BaseSettings], error: ValidationError) -> list[str]:
    prefix = settings.model_config.get("env_prefix", "")
    return [
        f"{prefix}{'_'.join(str(part) for part in problem['loc'])}".upper() + f": {msg[:1].lower()}{msg[1:]}"
        for problem in error.errors()
        for msg in (problem["msg"].removeprefix("Value error, "),)
    ]


def _told(problems: Sequence[str]) -> str:
    return f"settings: {'; '.join(problems)} (see .env.example)"
