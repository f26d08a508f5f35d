"""Settings of the verifier."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import Address, ServiceSettings


class VerifierSettings(ServiceSettings):
    """Environment: `DREAMR_VERIFIER_*`."""

    model_config = SettingsConfigDict(env_prefix="DREAMR_VERIFIER_", cli_prog_name="services.verifier")

    target: Address = Field(default="127.0.0.1:7002", description="the target service")
    judge_seconds: float = Field(
        default=5.0, gt=0, description="how long the target may take to judge; then the verdict is a reject"
    )
    top: int = Field(default=20, ge=2, le=20, description="how many of the likeliest words are looked at")
