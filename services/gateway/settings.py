"""Settings of the gateway."""

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from dreamr.keys import KeyFile
from services.common.settings import Address, ServiceSettings, Targets
from services.gateway.redis_url import RedisUrl, RedisUrlError

_RECENT = 32


class GatewaySettings(ServiceSettings):
    """Environment: `DREAMR_GATEWAY_*`."""

    model_config = SettingsConfigDict(env_prefix="DREAMR_GATEWAY_", cli_prog_name="services.gateway")

    http: Address | Literal[""] = Field(
        default="",
        description="where OpenAI clients are served; port 0 picks a free one, empty means nowhere",
    )
    http_hosts: str = Field(
        default="",
        pattern=r"^([^\s:/,]+(,[^\s:/,]+)*)?$",
        description="names, with commas between, that OpenAI clients may ask for where there are neither "
        "keys nor TLS, besides IP addresses and localhost",
    )
    draft: Targets = Field(
        default="127.0.0.1:7001",
        description="draft services, with commas between; dns:///HOST:PORT is one at each address of HOST",
    )
    target: Targets = Field(default="127.0.0.1:7002", description="target services")
    verifier: Targets = Field(default="127.0.0.1:7003", description="verifier services")
    resolve_seconds: float = Field(
        default=5.0, ge=0.1, description="how often names are resolved anew, besides when a replica fails"
    )
    redis: str = Field(
        default="",
        repr=False,  # it may have a password
        description="URL of the sessions' Redis: redis[s]://, redis[s]+sentinel://HOSTS/SERVICE, "
        "redis[s]+cluster://HOSTS; empty keeps them in memory",
    )
    redis_client: Literal["redis-py", "asyncio-redis"] = Field(
        default="redis-py", description="which client library talks to Redis"
    )
    session_ttl_seconds: int = Field(
        default=3600, ge=1, description="how long a session is kept on which nobody works"
    )
    durable_only: bool = Field(default=False, description="refuse sessions that the store cannot take now")
    lease_seconds: float = Field(
        default=9.0, gt=0, description="how long a session of a gateway that is gone stays untouched"
    )
    max_adoptions: int = Field(
        default=8, ge=1, description="gateways that take on a session in the background before it has failed"
    )
    verdict_seconds: float = Field(default=3.0, gt=0, description="how long a verdict may take")
    keys: Path | None = Field(
        default=None, description="file of API keys (`dreamr keys`); without it everybody may call"
    )
    record: Path | None = Field(
        default=None,
        description="folder to record sessions to, as training data: questions, images, candidates, "
        "verdicts, rivals and answers; without it nothing is kept",
    )
    record_share: float = Field(default=0.01, ge=0, le=1, description="of the sessions, those recorded")
    record_max_bytes: int = Field(
        default=1 << 30, ge=1, description="of all that is in that folder; then recording ends"
    )
    recent_sessions: int | None = Field(
        default=None,
        ge=0,
        description="timelines of the last sessions that are kept in memory, for who asked them, where there "
        "is `http`; 0 keeps none. Unset means 32 with `keys` or with `http` on this machine alone, else "
        "none: callers without keys are one, who sees them all",
    )
    recent_max_bytes: int = Field(default=16 << 20, ge=1 << 16, description="of all those timelines")
    max_sessions: int = Field(default=64, ge=1, description="sessions that run at once")
    max_waiting: int = Field(default=128, ge=0, description="sessions that may wait for a place")
    max_image_bytes: int = Field(default=16 << 20, ge=1)
    max_image_pixels: int = Field(default=16_000_000, ge=1)

    @property
    def timelines(self) -> int:
        """How many sessions' timelines are kept."""
        if not self.http:
            return 0
        if self.recent_sessions is not None:
            return self.recent_sessions
        return _RECENT if self.keys or _is_local(self.http) else 0

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, path: Path | None) -> Path | None:
        if path:
            KeyFile.load(path)
        return path

    @model_validator(mode="after")
    def _check_redis(self) -> Self:
        if not self.redis:
            return self
        try:
            url = RedisUrl.parse(self.redis)
            if self.redis_client == "asyncio-redis":
                # Imported only where it is asked for: it need not be installed otherwise.
                from services.gateway.asyncio_redis_store import address_of

                address_of(url)
        except RedisUrlError as error:
            raise ValueError(f"redis: {error}") from None
        except ImportError as error:
            raise ValueError("redis_client: asyncio-redis is not installed") from error
        return self


def _is_local(address: str) -> bool:
    """Whether an address is reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
