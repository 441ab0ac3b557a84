"""The roles of an audit's explainers, and the files in which SQL finds them.

Rivals compete, yardsticks are what rivals are measured by, and controls have heads that were
trained on permuted labels. A role follows from the method and the training, never from the name.
Each backbone and explainer has a file of one row with the role. It is apart from the maps, which
have many files, and which stay when a changed spec changes the role. So roles are in no
fingerprint, and nothing is made again for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ttame_core import spec
from ttame_core.explainers import REGISTRY, training_of
from ttame_core.lake import Lake, explainer_file
from ttame_core.lake.schemas import CONTROL, EXPLAINERS, RIVAL


@dataclass(frozen=True)
class Role:
    """The method and the role of an explainer in an audit: the row of its file.

    Attributes:
        method: method of the explainer in the spec.
        role: RIVAL, YARDSTICK or CONTROL.
        control_of: name of the explainer that a control is compared with; None for others, and
            where the audit has no such explainer.
    """

    method: str
    role: str
    control_of: str | None = None


def roles(audit: spec.AuditSpec) -> dict[str, Role]:
    """Return the role of each explainer of an audit, by its name, in the order of the spec."""
    return {
        explainer.name: Role(
            explainer.method,
            CONTROL if _is_control(audit, explainer) else REGISTRY[explainer.method].role,
            _controlled(audit, explainer),
        )
        for explainer in audit.explainers
    }


def rivals(audit: spec.AuditSpec) -> list[str]:
    """Return the names of the explainers that compete, in the order of the spec."""
    return [name for name, role in roles(audit).items() if role.role == RIVAL]


def write_roles(lake: Lake, audit: spec.AuditSpec, backbones: Iterable[str]) -> None:
    """Write a file with the role of each of the audit's explainers on each of the backbones.

    Files that are there already, with the same role, stay as they are.
    """
    for path, row in missing_roles(lake, audit, backbones).items():
        lake.write_parquet(path, [row], EXPLAINERS, row)


def missing_roles(
    lake: Lake, audit: spec.AuditSpec, backbones: Iterable[str]
) -> dict[str, dict[str, str | None]]:
    """Return the rows of the audit's files of roles that are missing or outdated, by their path."""
    files = {
        explainer_file(audit.dataset.name, backbone, name): asdict(role)
        for backbone in backbones
        for name, role in roles(audit).items()
    }
    there = lake.are_current(list(files.items()))
    return {
        path: row for (path, row), current in zip(files.items(), there, strict=True) if not current
    }


def _is_control(audit: spec.AuditSpec, explainer: spec.Explainer) -> bool:
    trained = REGISTRY[explainer.method].needs_head
    return trained and training_of(audit.training, explainer).labels == "permuted"


def _controlled(audit: spec.AuditSpec, control: spec.Explainer) -> str | None:
    """Return the name of the explainer that a control is compared with.

    That is the explainer with the control's name without `-permuted`; else the first with the same
    method and settings but the labels; else the first with the same method.
    """
    if not _is_control(audit, control):
        return None
    trained = [
        e for e in audit.explainers if REGISTRY[e.method].needs_head and not _is_control(audit, e)
    ]
    same = [e for e in trained if e.method == control.method]
    alike = [e for e in same if _but_labels(audit, e) == _but_labels(audit, control)]
    named = [e for e in trained if f"{e.name}-permuted" == control.name]
    return next((e.name for e in (*named, *alike, *same)), None)


def _but_labels(audit: spec.AuditSpec, explainer: spec.Explainer) -> object:
    own = {key: value for key, value in explainer.settings.items() if key != "training"}
    return own, training_of(audit.training, explainer).model_dump(exclude={"labels"})
