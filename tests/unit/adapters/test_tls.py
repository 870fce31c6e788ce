"""CA files that can't be used are named by their setting, before anything is sent."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.adapters.tls import untrusted
from acequia.errors import ConfigurationError
from acequia.layers import Buckets
from acequia.settings import MinioSettings, PostgresSettings, RabbitSettings
from acequia_auditor.connect import secured
from acequia_lakehouse.catalog import Place

SECRET = SecretStr("secret")


@pytest.fixture(params=["missing", "empty", "no PEM"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    if request.param != "missing":
        path.write_text("" if request.param == "empty" else "-----BEGIN CERTIFICATE-----\n!\n")
    return str(path)


async def test_a_ca_file_that_can_not_be_used_is_told_by_its_setting(unusable: str) -> None:
    minio = MinioSettings(endpoint="store:9000", access_key="a", secret_key=SECRET, secure=True, ca_file=unusable)
    with pytest.raises(ConfigurationError, match=r"^MINIO_CA_FILE="):
        await MinioStore.open(minio, Buckets())
    with pytest.raises(ConfigurationError, match=r"^MINIO_CA_FILE="):
        Place.on_server(minio, Buckets())
    with pytest.raises(ConfigurationError, match=r"^RABBITMQ_CA_FILE="):
        RabbitBus(RabbitSettings(url=SecretStr("amqps://a:b@broker/"), ca_file=unusable))
    with pytest.raises(ConfigurationError, match=r"^PG_CA_FILE="):
        secured("verify-full", unusable)


def test_a_broker_by_tls_is_named_with_the_port_of_tls() -> None:
    assert RabbitBus(RabbitSettings(url=SecretStr("amqps://a:b@broker/"))).server == "RabbitMQ at broker:5671"


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer", "require"])
def test_a_ca_file_for_postgresql_that_nobody_would_look_at_is_refused(sslmode: str) -> None:
    with pytest.raises(ValidationError, match="without PG_SSLMODE"):
        PostgresSettings(password=SECRET, sslmode=sslmode, ca_file="/ca.pem")  # type: ignore[arg-type]


def test_the_name_is_checked_but_where_verify_ca_says_otherwise() -> None:
    checks = {mode: secured(mode, "") for mode in ("", "require", "verify-ca", "verify-full")}
    assert (checks[""], checks["require"]) == (None, "require")
    for mode, named in (("verify-ca", False), ("verify-full", True)):
        context = checks[mode]
        assert not isinstance(context, str)
        assert context is not None
        assert (context.check_hostname, context.verify_mode.name) == (named, "CERT_REQUIRED")


def test_a_certificate_that_is_not_trusted_is_found_behind_the_error_that_it_led_to() -> None:
    away = ConnectionError("no connection")
    away.__cause__ = OSError("closed")
    away.__cause__.__context__ = ssl.SSLCertVerificationError("unknown CA")
    assert "RABBITMQ_CA_FILE" in untrusted(away, "RABBITMQ_CA_FILE")
    assert untrusted(ConnectionError("refused"), "RABBITMQ_CA_FILE") == ""


@pytest.mark.timeout(10)
def test_errors_that_name_each_other_as_their_cause_are_looked_at_once() -> None:
    """A client that hands one error to all who wait makes such rings; the service would hang for ever."""
    one, other = ConnectionError("one"), ConnectionError("other")
    one.__cause__, other.__context__ = other, one
    assert untrusted(one, "RABBITMQ_CA_FILE") == ""
