"""What goes wrong in pyiceberg and below it, named by what follows. The only place that knows their errors."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import botocore.exceptions
import pyiceberg.exceptions as iceberg
import requests.exceptions
import sqlalchemy.exc
from pydantic import ValidationError

from acequia.errors import AcequiaError, ConfigurationError, TransientFailure, of_this_machine

CATALOG = "the lakehouse's catalog"
RACES = 20
"""How often what somebody else outdid is decided anew."""
_AWAY = ("08", "57P", "53")
"""How a SQLSTATE begins: connections, an operator's shutdown, out of resources."""
_T = TypeVar("_T")


class Outdone(AcequiaError):
    """Somebody else changed the table meanwhile: look at it again and decide anew."""


class Unsure(AcequiaError):
    """Nobody knows whether a commit was taken: look at the table."""


def until_it_holds(act: Callable[[], _T], what: str) -> _T:
    """What `act` returns. Decides anew as long as others are faster; raises TransientFailure where they always are."""
    for race in range(RACES):
        try:
            return act()
        except (Outdone, Unsure) as error:
            last = error
            time.sleep(min(0.02 * 2**race, 1.0))
    raise TransientFailure(f"{what}: others were faster {RACES} times: {last}", dependency="catalog") from last


@contextmanager
def translated() -> Iterator[None]:
    """Raises TransientFailure, ConfigurationError, Outdone or Unsure for what these libraries raise."""
    try:
        yield
    except AcequiaError:
        raise
    except Exception as error:
        if (named := _named(error)) is None:
            raise
        raise named from error


@contextmanager
def no_catalog_told() -> Iterator[None]:
    """Raises ConfigurationError where what is opened as a REST catalog is none, or knows no such warehouse."""
    try:
        yield
    except (iceberg.RESTError, ValidationError) as error:
        # a more special kind of the first says more
        if type(error) not in (iceberg.RESTError, iceberg.BadRequestError, ValidationError):
            raise
        raise ConfigurationError(f"{_URI}: no Iceberg REST catalog answers as it should: {_said(error)}") from error


def _named(error: Exception) -> AcequiaError | None:
    """None: a bug, of ours or of theirs."""
    for kinds, name in _NAMES:
        if isinstance(error, kinds):
            return name(error)
    return None


def _of_database(error: sqlalchemy.exc.DBAPIError) -> AcequiaError:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    said = _said(error)
    if state.startswith(("28", "3D", "3F")):
        return ConfigurationError(f"ACEQUIA_LAKEHOUSE_CATALOG_URI: {said}")
    if state.startswith(("42P01", "42501")) or "no such table" in said:
        return ConfigurationError(
            f"the catalog's tables are missing and may not be made by this role: {said}",
            mend="python -m acequia_lakehouse prepare",
        )
    if state == "42P07" or "already exists" in said:  # SQLite says it in words only
        return Outdone(said)
    if "authentication failed" in said or "does not exist" in said:  # refused before there is a SQLSTATE
        return ConfigurationError(f"ACEQUIA_LAKEHOUSE_CATALOG_URI: {said}")
    away = isinstance(error, sqlalchemy.exc.OperationalError) and (not state or state.startswith(_AWAY))
    return TransientFailure(f"{CATALOG}: {said}", dependency="catalog", away=away)


def _of_aws(error: botocore.exceptions.ClientError) -> AcequiaError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in (
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
    ):
        return ConfigurationError(f"{CATALOG} refuses us: {error}")
    if code in ("ConcurrentModificationException", "AlreadyExistsException"):
        return Outdone(str(error))
    return TransientFailure(f"{CATALOG}: {error}", dependency="catalog")


def _of_files(error: OSError) -> AcequiaError:
    """What Arrow's file systems raise: they tell S3's errors in words."""
    said = str(error)
    if of_this_machine(error):
        return TransientFailure(f"no space or no handles: {said}", dependency="disk")
    if any(
        word in said for word in ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "ExpiredToken")
    ):
        return ConfigurationError(f"MINIO_ACCESS_KEY: the store refuses the lakehouse: {said}")
    away = any(word in said for word in ("NETWORK_CONNECTION", "curlCode", "SERVICE_UNAVAILABLE", "Timeout"))
    return TransientFailure(f"a file of a table: {said}", dependency="minio", away=away)


def _said(error: Exception) -> str:
    """The first line: SQLAlchemy adds the statement and its parameters."""
    return str(error).partition("\n")[0]


def _away(error: Exception) -> AcequiaError:
    return TransientFailure(f"{CATALOG}: {_said(error)}", dependency="catalog", away=True)


def _refused(error: Exception) -> AcequiaError:
    return TransientFailure(f"{CATALOG}: {_said(error)}", dependency="catalog")


def _setting(name: str) -> Callable[[Exception], AcequiaError]:
    return lambda error: ConfigurationError(f"{name}: {CATALOG}: {_said(error)}")


_URI = "ACEQUIA_LAKEHOUSE_CATALOG_URI"
_NAMES: Sequence[tuple[tuple[type[Exception], ...], Callable[[Any], AcequiaError]]] = (
    (
        # of two that create the same, one wins
        (
            iceberg.CommitFailedException,
            iceberg.ValidationException,
            iceberg.TableAlreadyExistsError,
            iceberg.NamespaceAlreadyExistsError,
            sqlalchemy.exc.IntegrityError,
        ),
        lambda error: Outdone(_said(error)),
    ),
    ((iceberg.CommitStateUnknownException,), lambda error: Unsure(_said(error))),
    (
        (
            iceberg.ServerError,
            iceberg.ServiceUnavailableError,
            iceberg.TooManyRequestsError,
            iceberg.AuthorizationExpiredError,
            iceberg.WaitingForLockException,
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
        ),
        _away,
    ),
    ((iceberg.UnauthorizedError, iceberg.ForbiddenError, iceberg.OAuthError), _setting(_URI)),
    (
        (requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL),
        _setting(_URI),
    ),
    ((iceberg.RESTError, requests.exceptions.RequestException), _refused),
    ((iceberg.NoSuchPropertyException,), _setting("ACEQUIA_LAKEHOUSE_CATALOG_PROPERTIES")),
    ((sqlalchemy.exc.ArgumentError,), _setting(_URI)),
    ((sqlalchemy.exc.DBAPIError,), _of_database),
    ((sqlalchemy.exc.TimeoutError,), _away),
    (
        (
            botocore.exceptions.NoCredentialsError,
            botocore.exceptions.PartialCredentialsError,
            botocore.exceptions.NoRegionError,
        ),
        _setting("ACEQUIA_LAKEHOUSE_CATALOG_PROPERTIES"),
    ),
    ((botocore.exceptions.ClientError,), _of_aws),
    ((botocore.exceptions.BotoCoreError,), _away),
    ((OSError,), _of_files),
)
