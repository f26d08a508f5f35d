"""The server's side of TLS."""

import ssl
from collections.abc import Callable

import grpc

from dreamr.tls import Pem, Tls
from services.common.reread import Content, Reread


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials that follow the files: what is renewed on disk counts from the next connection on.

    Args:
        tls: with its `ca`, callers must show a certificate of that CA.

    Raises:
        OSError: a file is not there.
        TlsError: a file cannot be used.
    """
    files = _files(tls, lambda: _configuration(tls.read()))
    return grpc.dynamic_ssl_server_credentials(
        files.current(),
        files.renewed,  # type: ignore[arg-type]  # None, for no change, is missing from the stubs
        require_client_authentication=tls.ca is not None,
    )


def server_context(tls: Tls, *, asks_clients: bool) -> ssl.SSLContext:
    """The same for servers of Python's own: it follows the files, too.

    Args:
        asks_clients: callers must show a certificate of `tls.ca`.

    Raises:
        OSError: a file is not there.
        TlsError: a file cannot be used.
    """

    def load() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        assert tls.cert is not None
        context.load_cert_chain(tls.cert, tls.key)
        if asks_clients:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    files = _files(tls, load)
    first = files.current()

    def renew(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = files.current()

    # Called at each new connection, with or without a name.
    first.sni_callback = renew
    return first


def _files(tls: Tls, load: Callable[[], Content]) -> Reread[Content]:
    """A server's files. gRPC asks for them at each new connection, in its own threads."""
    return Reread("certificate", filter(None, (tls.ca, tls.cert, tls.key)), load)


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    assert pem.cert is not None
    assert pem.key is not None
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.ca)
