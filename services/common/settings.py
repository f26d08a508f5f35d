"""Settings of a service: one validated object from the environment and flags; unknown ones are refused."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:]+\]|[^\s:/,]+):(\d{1,5})$")


def _check_address(value: str) -> str:
    match = _ADDRESS.match(value)
    if not match or int(match[2]) > 65535:
        raise ValueError(f"must be HOST:PORT with a port up to 65535, not {value!r}")
    return value


def _check_addresses(value: str) -> str:
    for address in value.split(","):
        _check_address(address)
    return value


Address = Annotated[str, AfterValidator(_check_address)]
Addresses = Annotated[str, AfterValidator(_check_addresses)]
"""One address or several, with commas between."""


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

    @classmethod
    def load(cls, arguments: list[str]) -> Self:
        """Reads flags and the environment, or exits with 2 and a message that names what is wrong."""
        prefix = cls.model_config.get("env_prefix", "")
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        unknown = sorted(name for name in os.environ if name.startswith(prefix) and name not in known)
        if unknown:
            _refuse(f"unknown settings in the environment: {', '.join(unknown)}")
        try:
            return cls(_cli_parse_args=arguments)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
            _refuse("; ".join(problems))
        except (SettingsError, ValueError) as error:
            _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"settings: {message}\n")
    raise SystemExit(2)
