"""Settings of the target service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import Address, ServiceSettings


class TargetSettings(ServiceSettings):
    """Environment: `DREAMR_TARGET_*`."""

    model_config = SettingsConfigDict(env_prefix="DREAMR_TARGET_", cli_prog_name="services.target")

    triton: Address = Field(default="127.0.0.1:8001", description="Triton that serves the target model")
    triton_name: str = Field(
        default="", description="DNS name in Triton's certificate; with it Triton is reached by TLS"
    )
