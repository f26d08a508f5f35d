"""The server's side of TLS."""

import ssl

import grpc
import structlog

from dreamr.errors import TlsError
from dreamr.tls import Pem, Tls

log = structlog.get_logger()

_Stamp = tuple[tuple[int, int], ...]


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials that follow the files: what is renewed on disk counts from the next connection on.

    Args:
        tls: with its `ca`, callers must show a certificate of that CA.

    Raises:
        OSError: a file is not there.
        TlsError: a file cannot be used.
    """
    files = _Files(tls)
    return grpc.dynamic_ssl_server_credentials(
        files.first,
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

    def made() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        assert tls.cert is not None
        context.load_cert_chain(tls.cert, tls.key)
        if asks_clients:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    files = _Files(tls)
    first = latest = made()

    def renew(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        nonlocal latest
        if files.renewed():
            latest = made()
        connection.context = latest

    # Called at each new connection, with or without a name.
    first.sni_callback = renew
    return first


class _Files:
    """A server's files, as they were last read."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._stamp = self._look()
        self.first = _configuration(tls.read())

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold, if they have changed. gRPC asks at each new connection, in its own threads."""
        try:
            # Looked at before they are read, so that a change in between is seen the next time.
            stamp = self._look()
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            found = _configuration(self._tls.read())
        except (OSError, TlsError) as error:
            # Half of a renewal, perhaps: the other half is a change again.
            log.warning("certificate not renewed", reason=str(error))
            return None
        log.info("certificate renewed", path=str(self._tls.cert))
        return found

    def _look(self) -> _Stamp:
        paths = filter(None, (self._tls.ca, self._tls.cert, self._tls.key))
        return tuple((status.st_mtime_ns, status.st_ino) for status in (path.stat() for path in paths))


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    assert pem.cert is not None
    assert pem.key is not None
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.ca)
