"""The metrics that docs/metrics.md tells of."""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path("docs/metrics.md")
_ROW = re.compile(r"^\| `([\w:]+)` \| (counter|gauge|histogram) \| ([\w, ]*?) ?\| .+ \|$", re.MULTILINE)
_OTHER = re.compile(r"^\| `([\w:]+)` \| (?!counter|gauge|histogram)\w+ \| .+ \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Documented:
    """One metric."""

    name: str
    kind: str
    labels: tuple[str, ...]

    @property
    def samples(self) -> set[str]:
        """What a query may name."""
        ends = ("_bucket", "_sum", "_count") if self.kind == "histogram" else ("",)
        return {self.name + end for end in ends}


def documented() -> set[Documented]:
    """Our own metrics."""
    return {
        Documented(name, kind, tuple(filter(None, labels.split(", "))))
        for name, kind, labels in _ROW.findall(PAGE.read_text("utf-8"))
    }


def of_others() -> set[str]:
    """Names of other programs' metrics."""
    return set(_OTHER.findall(PAGE.read_text("utf-8")))
