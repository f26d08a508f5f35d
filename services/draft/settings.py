"""Settings of the draft service."""

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from dreamr.versions import VersionFile
from services.common.settings import Address, ServiceSettings


class DraftSettings(ServiceSettings):
    """Environment: `DREAMR_DRAFT_*`."""

    model_config = SettingsConfigDict(env_prefix="DREAMR_DRAFT_", cli_prog_name="services.draft")

    triton: Address = Field(default="127.0.0.1:8001", description="Triton that serves the draft model")
    triton_name: str = Field(
        default="", description="DNS name in Triton's certificate; with it Triton is reached by TLS"
    )
    versions: Path | None = Field(
        default=None,
        description="file of the draft's versions (`dreamr draft`); without it, or where it is not there, "
        "the latest one that Triton has loaded drafts",
    )

    @field_validator("versions")
    @classmethod
    def _check_versions(cls, path: Path | None) -> Path | None:
        if path:
            VersionFile.load(path)
        return path
