"""`dreamr certs`: what it writes, and what it does not write over. tests/unit/test_tls.py serves with it."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from dreamr.errors import TlsError
from dreamr.tls import ROLES, Tls
from tests.unit.issued import certs, issued


def certificate(folder: Path, role: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{role}.pem").read_bytes())


def names(found: x509.Certificate) -> x509.SubjectAlternativeName:
    return found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_every_role_gets_a_certificate_of_the_ca(tmp_path: Path) -> None:
    folder = issued(tmp_path / "new" / "certs", "--days", "7", "--hosts", "reason.example,10.0.0.7")
    ca = certificate(folder, "ca")
    for role in ROLES:
        found = certificate(folder, role)
        found.verify_directly_issued_by(ca)
        assert isinstance(found.public_key(), ec.EllipticCurvePublicKey)
        assert abs(found.not_valid_after_utc - datetime.now(UTC) - timedelta(days=7)) < timedelta(minutes=1)
        hosts = ["reason.example"] if role == "gateway" else []
        assert names(found).get_values_for_type(x509.DNSName) == [role, *hosts]
        usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert (ExtendedKeyUsageOID.SERVER_AUTH in usages) == (role != "client")
        Tls.of(folder, role).read()
    assert names(certificate(folder, "gateway")).get_values_for_type(x509.IPAddress) == [
        ip_address("10.0.0.7")
    ]
    assert len(list(folder.iterdir())) == 2 * (len(ROLES) + 1), "nothing else is left there"


def test_only_the_owner_can_read_keys(tmp_path: Path) -> None:
    folder = issued(tmp_path)
    for name in ("ca", *ROLES):
        assert (folder / f"{name}-key.pem").stat().st_mode & 0o777 == 0o600


def test_a_folder_with_files_is_left_alone_unless_forced(tmp_path: Path) -> None:
    folder = issued(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    refused = certs(folder)
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before

    issued(folder, "--force")
    changed = {path.name for path, held in before.items() if path.read_bytes() != held}
    assert changed == {f"{role}{end}" for role in ROLES for end in (".pem", "-key.pem")}
    for role in ROLES:
        certificate(folder, role).verify_directly_issued_by(certificate(folder, "ca"))
        assert (folder / f"{role}-key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "held", "error"),
    [
        ("ca-key.pem", None, FileNotFoundError),
        ("ca-key.pem", "junk", TlsError),
        ("ca.pem", "junk", TlsError),
        ("ca-key.pem", "another's", TlsError),
    ],
)
def test_half_a_ca_renews_nothing(
    tmp_path: Path, name: str, held: str | None, error: type[Exception]
) -> None:
    folder, other = issued(tmp_path / "one"), issued(tmp_path / "other")
    (folder / name).unlink()
    if held:
        text = (other / name).read_text() if held == "another's" else held
        (folder / name).write_text(text)
    before = (folder / "draft.pem").read_bytes()
    refused = certs(folder, "--force")
    assert isinstance(refused.exception, error)
    assert name in str(refused.exception)
    assert (folder / "draft.pem").read_bytes() == before


@pytest.mark.parametrize("host", ["draft", "client", "a b:c", "http://x"])
def test_a_host_that_cannot_be_one_is_named(tmp_path: Path, host: str) -> None:
    refused = certs(tmp_path, "--hosts", host)
    assert isinstance(refused.exception, TlsError)
    assert "hosts" in str(refused.exception)
    assert not list(tmp_path.iterdir())
