"""A certificate authority for trying and testing: it issues each role a certificate."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dreamr.errors import TlsError
from dreamr.files import replace
from dreamr.tls import ROLES, SERVERS, Tls

CA_DAYS = 3650
"""How long a CA is valid; no certificate of its is valid for longer."""

_CA_KEY = "ca-key.pem"
_SKEW = timedelta(minutes=5)
"""By so much may clocks differ."""

_HOST = re.compile(r"^(\*\.)?[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$")


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA and its private key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls) -> Self:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("dreamr CA")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(name, name, key.public_key(), datetime.now(UTC) + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The one in a folder; a new one, written there, where there is none.

        Raises:
            OSError: a file of it is missing or cannot be read.
            TlsError: its files are not a CA's, or do not belong together.
        """
        files = folder / "ca.pem", folder / _CA_KEY
        if not any(path.exists() for path in files):
            made = cls.make()
            replace(files[1], _key_pem(made.key), 0o600)
            replace(files[0], made.certificate.public_bytes(Encoding.PEM), 0o644)
            return made
        cert, key = (path.read_bytes() for path in files)
        try:
            certificate, private = x509.load_pem_x509_certificate(cert), load_pem_private_key(key, None)
        except (ValueError, TypeError) as error:
            raise TlsError(f"{folder}: ca.pem and {_CA_KEY} are not a certificate and its key") from error
        if (
            not isinstance(private, ec.EllipticCurvePrivateKey)
            or certificate.public_key() != private.public_key()
        ):
            raise TlsError(f"{folder}: {_CA_KEY} is not the key of ca.pem")
        return cls(private, certificate)

    def issue(self, folder: Path, role: str, days: int, hosts: Sequence[x509.GeneralName] = ()) -> datetime:
        """Writes a new certificate and key for a role, over those that are there.

        Args:
            hosts: further names and addresses that the certificate is for.

        Returns:
            When it ends: after so many days, or with the CA.

        Raises:
            TlsError: the CA has ended.
        """
        end = min(datetime.now(UTC) + timedelta(days=days), self.certificate.not_valid_after_utc)
        if end < datetime.now(UTC):
            raise TlsError(f"the CA has ended on {end:%Y-%m-%d}; a new one needs another folder")
        key = ec.generate_private_key(ec.SECP256R1())
        # A service is a client of others; a client's certificate is of no use to a server.
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role in SERVERS:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names = [x509.DNSName(role), *hosts]
        issuer = self.certificate.subject
        builder = (
            _builder(_name(f"dreamr {role}"), issuer, key.public_key(), end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        certificate = builder.sign(self.key, hashes.SHA256())
        files = Tls.of(folder, role)
        assert files.cert
        assert files.key
        replace(files.key, _key_pem(key), 0o600)
        replace(files.cert, certificate.public_bytes(Encoding.PEM), 0o644)
        return end


def host_name(host: str) -> x509.GeneralName:
    """A host's name or address, as certificates have it.

    Raises:
        TlsError: it is neither, or is a role: who has it in a certificate would be taken for that role.
    """
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        if not _HOST.match(host):
            raise TlsError(f"hosts: {host!r} is no name or address") from None
        if host.lower() in ROLES:
            raise TlsError(f"hosts: {host} is a role") from None
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
