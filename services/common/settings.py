"""Settings of a service: one validated object from the environment and flags; unknown ones are refused."""

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from dreamr.tls import Tls

_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:]+\]|[^\s:/,]+):(\d{1,5})$")


def _check_address(value: str) -> str:
    match = _ADDRESS.match(value)
    if not match or int(match[2]) > 65535:
        raise ValueError(f"must be HOST:PORT with a port up to 65535, not {value!r}")
    return value


def _check_targets(value: str) -> str:
    for target in value.split(","):
        _check_address(re.sub("^dns:(///)?", "", target))
    return value


Address = Annotated[str, AfterValidator(_check_address)]
Targets = Annotated[str, AfterValidator(_check_targets)]
"""Addresses of servers, with commas between; behind `dns:///` or `dns:` a name that stands for several."""


class ServiceSettings(BaseSettings):
    """What every service can be told. A flag wins over the environment; seconds and counts throughout."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True
    )

    listen: Address = Field(default="127.0.0.1:0", description="where to serve; port 0 picks a free one")
    metrics: Address = Field(default="127.0.0.1:0", description="where Prometheus finds the metrics")
    pair: Path = Field(default=Path("models/bundled.toml"), description="the pair's settings")
    log_format: Literal["json", "console"] = "console"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    drain_seconds: float = Field(default=10.0, ge=0, description="how long running calls may take on SIGTERM")
    startup_seconds: float = Field(default=60.0, gt=0, description="how long to wait for what is needed")
    probe_seconds: float = Field(default=5.0, gt=0, description="time between two health probes")
    max_calls: int = Field(default=256, ge=1, description="calls in flight at most")
    max_call_seconds: float = Field(
        default=600.0, gt=0, description="how long a call may take, also where it brings a later deadline"
    )
    tls_cert: Path | None = Field(
        default=None, description="the service's certificate (PEM); with it TLS is served"
    )
    tls_key: Path | None = Field(default=None, description="the certificate's private key (PEM)")
    tls_ca: Path | None = Field(
        default=None,
        description="CA (PEM) of callers, who then need a certificate, and of the services that are called; "
        "without it those are called in plaintext",
    )

    otlp: str = Field(
        default="",
        pattern=r"^(https?://(\[[0-9a-fA-F:]+\]|[^\s:/,]+):\d{1,5})?$",
        description="collector that traces are sent to by OTLP over gRPC: http://HOST:4317, or https:// for "
        "TLS; empty means that there are none",
    )
    trace_share: float = Field(
        default=1.0, ge=0, le=1, description="of the traces that no caller has begun, those that are kept"
    )

    @property
    def tls(self) -> Tls | None:
        """The files that TLS is served with, or None for plaintext."""
        return Tls(self.tls_ca, self.tls_cert, self.tls_key) if self.tls_cert or self.tls_key else None

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.tls_ca and not self.tls_cert:
            raise ValueError("tls_cert: is missing, and tls_ca is set")
        if self.tls:
            self.tls.read()
        return self

    @model_validator(mode="after")
    def _check_otlp(self) -> Self:
        if self.otlp:
            try:
                import_module("services.common.collector")
            except ImportError as error:
                raise ValueError(f"otlp: needs pip install 'dreamr[traces]' ({error})") from error
        return self

    @classmethod
    def load(cls, arguments: list[str]) -> Self:
        """Reads flags and the environment, or exits with 2 and a message that names what is wrong.

        What neither sets may stand in a file of the folder that `DREAMR_SECRETS` names, which is called like
        the variable in lower case: `dreamr_gateway_redis`.
        """
        prefix = cls.model_config.get("env_prefix", "")
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        unknown = sorted(name for name in os.environ if name.startswith(prefix) and name not in known)
        if unknown:
            _refuse(f"unknown settings in the environment: {', '.join(unknown)}")
        secrets = os.environ.get("DREAMR_SECRETS")
        if secrets and not Path(secrets).is_dir():
            _refuse(f"DREAMR_SECRETS: {secrets} is no folder")
        try:
            return cls(_cli_parse_args=arguments, _secrets_dir=secrets)
        except ValidationError as error:
            _refuse("; ".join(map(_problem, error.errors())))
        except (SettingsError, ValueError) as error:
            _refuse(str(error))


def _problem(detail: ErrorDetails) -> str:
    # What several settings have wrong together has no place of its own; the message names them.
    place = ".".join(map(str, detail["loc"]))
    return f"{place}: {detail['msg']}" if place else str(detail["ctx"]["error"])


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"settings: {message}\n")
    raise SystemExit(2)
