"""The chosen alpha in a pair's settings; comments and layout stay as they are."""

from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError

from services.common.pair import Pair
from services.gateway.rule import Rule


def write_alpha(path: Path, rule: Rule, alpha: float) -> None:
    """Sets `alpha` of the rule's section, or leaves the file as it was.

    Raises:
        ValueError: the file has no such section, or would not be a pair's settings any more.
        OSError: it cannot be read or written.
    """
    try:
        document = tomlkit.parse(path.read_text("utf-8"))
        section = document[rule.value]
    except (TOMLKitError, KeyError) as error:
        raise ValueError(f"pair {path}: has no section [{rule.value}]") from error
    section["alpha"] = alpha
    # Beside it: template folders are relative to the file, and a rename is all or nothing.
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(tomlkit.dumps(document), "utf-8")
        Pair.load(draft)
        draft.chmod(path.stat().st_mode)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
