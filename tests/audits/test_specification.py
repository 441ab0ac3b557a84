"""A spec is completed by the registries, and all that is wrong with it is told with its place."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ttame_core import spec
from ttame_core.audits.specification import complete, complete_explainer, open_spec
from ttame_core.errors import UserError

GOOD = """\
name: a
dataset: {name: d, source: {kind: shapes}}
backbones: [resnet18]
explainers:
  - ttame
  - random
"""


def _audit() -> spec.AuditSpec:
    return spec.AuditSpec.model_validate(
        {
            "name": "a",
            "dataset": {"name": "d", "source": {"kind": "shapes"}},
            "backbones": ["resnet18"],
        }
    )


def test_defaults_are_filled_in_once() -> None:
    given = _audit()
    audit = complete(given)
    assert not given.evaluation.metrics[0].settings
    assert audit.evaluation.metrics[0].settings["keep"] == [100, 50, 15]
    assert complete(audit) == audit


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    wrong = GOOD.replace("- random", "- randon")
    path.write_text(wrong + "evaluation:\n  metrics: [shape, confidance]\n")
    with pytest.raises(UserError) as caught:
        open_spec(path)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}, line 6, explainers[1]: unknown explainer randon")
    assert second.startswith(f"{path}, line 8, evaluation.metrics[1]: unknown metric confidance")


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ("training:\n  objective: confidance\n", "line 8, training.objective"),
        ("  - ttame: {name: b, training: {objective: confidance}}\n", r"line 7, explainers\[2\]"),
    ],
)
def test_an_objective_that_no_one_has_is_told_where_it_stands(
    tmp_path: Path, section: str, place: str
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD + section)
    words = "unknown objective confidance; allowed: confidence, cross_entropy. Did you mean conf"
    with pytest.raises(UserError, match=f"{place}: {words}"):
        open_spec(path)


def test_gates_are_read_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD + "gates:\n  - AD@7: {at_most: 3}\n")
    with pytest.raises(UserError, match=r"line 7, gates: the gate AD@7.*does not have"):
        open_spec(path)


def test_a_spec_of_no_file_is_checked_and_its_problems_pass_between_processes() -> None:
    audit = _audit().model_copy(update={"explainers": [spec.Explainer(method="randon")]})
    with pytest.raises(spec.SpecProblems, match="Did you mean random") as caught:
        complete(audit)
    (problem,) = caught.value.problems
    assert problem.location == ("explainers", 0)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert [p.location for p in copy.problems] == [problem.location]


def test_one_section_with_a_mistake_is_told_as_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match="gradcam has no setting image"):
        complete_explainer(spec.Explainer.model_validate({"gradcam": {"image": 3}}))
