"""Whom a TLS connection of ours trusts."""

import ssl

from acequia.errors import ConfigurationError


def trusting(ca_file: str, setting: str) -> ssl.SSLContext:
    """For a client that checks certificates and names: by the CAs of `ca_file` (PEM) alone, or by the system's.

    Raises ConfigurationError, which names `setting`, where the file can't be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ConfigurationError(f"{setting}={ca_file}: no CA certificates in PEM can be read there: {error}") from None


def untrusted(error: BaseException, setting: str) -> str:
    """What to add to a message where a server's certificate was not trusted, which time alone does not heal."""
    found: BaseException | None = error
    seen = set[int]()  # causes can make a ring
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"; {setting} names the CAs that are trusted"
        found = found.__cause__ or found.__context__
    return ""
