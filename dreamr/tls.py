"""The files that prove who one is, and channels to services that must prove who they are."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

import grpc

from dreamr.errors import TlsError

SERVICES = ("draft", "target", "verifier", "gateway")
SERVERS = (*SERVICES, "triton", "redis")
"""Who may be called."""
ROLES = (*SERVERS, "client")
"""A role is a DNS name in a certificate; `client` is for people and their programs."""


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files hold."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of one side of a connection.

    Attributes:
        ca: certificates of the authority that vouches for the other side.
        cert: one's own certificate, with those between it and the authority behind it.
        key: its private key, not encrypted.

    Raises:
        TlsError: a certificate without its key, or a key without its certificate.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.cert and not self.key:
            raise TlsError("tls_key: is missing, and tls_cert is set")
        if self.key and not self.cert:
            raise TlsError("tls_cert: is missing, and tls_key is set")

    @classmethod
    def of(cls, folder: str | PathLike[str], role: str = "client") -> Self:
        """A role's files in a folder as `dreamr certs` writes it."""
        root = Path(folder)
        return cls(ca=root / "ca.pem", cert=root / f"{role}.pem", key=root / f"{role}-key.pem")

    def read(self) -> Pem:
        """Reads the files and checks that they belong together.

        Raises:
            TlsError: a file cannot be read, holds something else, or the key is another certificate's.
        """
        # gRPC takes any bytes, and says no more than that the handshake failed; OpenSSL knows what is wrong.
        pem = Pem(_read("tls_ca", self.ca), _read("tls_cert", self.cert), _read("tls_key", self.key))
        _check_certificates("tls_ca", self.ca)
        _check_certificates("tls_cert", self.cert)
        if self.cert:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, password="")
            except (ssl.SSLError, ValueError) as error:
                raise TlsError(f"tls_key: {self.key} is not the private key of {self.cert}") from error
        return pem

    def open_channel(self, address: str, role: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """A channel to a service whose certificate must name the role, whatever its address.

        Raises:
            TlsError: see `read`; or there is no `ca` to verify the service by.
        """
        if self.ca is None:
            raise TlsError("tls_ca: is missing, and the other side is verified by it")
        pem = self.read()
        return grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert),
            options=[*options, ("grpc.ssl_target_name_override", role)],
        )


def _read(setting: str, path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise TlsError(f"{setting}: cannot read {path}: {error.strerror}") from error


def _check_certificates(setting: str, path: Path | None) -> None:
    if path:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
        except ssl.SSLError as error:
            raise TlsError(f"{setting}: {path} holds no PEM certificate") from error
