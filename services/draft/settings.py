"""Settings of the draft service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import Address, ServiceSettings


class DraftSettings(ServiceSettings):
    """Environment: `DREAMR_DRAFT_*`."""

    model_config = SettingsConfigDict(env_prefix="DREAMR_DRAFT_", cli_prog_name="services.draft")

    triton: Address = Field(default="127.0.0.1:8001", description="Triton that serves the draft model")
    triton_name: str = Field(
        default="", description="DNS name in Triton's certificate; with it Triton is reached by TLS"
    )
