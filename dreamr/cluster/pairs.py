"""Pairs of models by name: the bundled one, an emulated one, or a file of the user's own."""

from dataclasses import dataclass
from pathlib import Path

from dreamr.cluster.triton import MODELS

PROFILES = MODELS / "emulated" / "profiles"
_EMULATED = "emulated:"
_CONFIG = """\
backend: "emulated"
instance_group [ {{ count: 1 kind: KIND_MODEL }} ]
parameters {{ key: "ROLE" value {{ string_value: "{role}" }} }}
parameters {{ key: "PROFILE" value {{ string_value: "{profile}" }} }}
parameters {{ key: "MAX_QUEUE_SIZE" value {{ string_value: "1024" }} }}
"""


class PairError(ValueError):
    """There is no such pair; the message names those that there are."""


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Where a pair's settings and Triton's model repository are."""

    settings: Path
    repository: Path

    @classmethod
    def of(cls, name: str, repository: Path | None, folder: Path) -> "PairFiles":
        """The pair of that name.

        Args:
            name: `bundled`, `emulated:PROFILE` (a name or a TOML file), or the path of a pair's settings.
            repository: of a pair of one's own; by default the one beside its settings, or the bundled one's.
            folder: where an emulated pair's repository may be written.

        Raises:
            PairError: there is no such pair.
        """
        if name.startswith(_EMULATED):
            return cls(MODELS / "emulated" / "pair.toml", _emulated(name.removeprefix(_EMULATED), folder))
        settings = MODELS / "bundled.toml" if name == "bundled" else Path(name)
        if not settings.is_file():
            raise PairError(
                f"pair {name!r}: neither `bundled`, nor one of {', '.join(emulated())}, nor a file"
            )
        beside = settings.resolve().parent / "repository"
        default = beside if beside.is_dir() else MODELS / "repository"
        return cls(settings.resolve(), (repository or default).resolve())


def emulated() -> list[str]:
    """Names of the emulated pairs."""
    return sorted(f"{_EMULATED}{path.stem}" for path in PROFILES.glob("*.toml"))


def _emulated(profile: str, folder: Path) -> Path:
    path = Path(profile).resolve() if profile.endswith(".toml") else PROFILES / f"{profile}.toml"
    if not path.is_file():
        raise PairError(f"pair {_EMULATED}{profile}: there are {', '.join(emulated())}")
    repository = folder / "repository"
    for role in ("draft", "target"):
        (repository / role / "1").mkdir(parents=True)
        (repository / role / "config.pbtxt").write_text(_CONFIG.format(role=role, profile=path))
    return repository
