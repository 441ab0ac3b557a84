"""The audit spec, one validated YAML file that says what is audited and how.

All parts of a spec but its name, the data set and the backbones have defaults.
"""

from ttame_core.spec.audit import AuditSpec
from ttame_core.spec.backbone import Backbone, Fit, Preprocessing
from ttame_core.spec.base import (
    SPLITS,
    Location,
    Name,
    Place,
    Section,
    Seed,
    Split,
    problem_of,
)
from ttame_core.spec.compute import Compute
from ttame_core.spec.dataset import (
    Annotations,
    Dataset,
    OpenSection,
    Source,
)
from ttame_core.spec.gates import CHANGED_MAPS, Gate
from ttame_core.spec.load import SpecProblem, SpecProblems, load_spec, parse_yaml
from ttame_core.spec.methods import Evaluation, Explainer, Maps, Metric
from ttame_core.spec.training import RECIPES, Training, recipe_keys, recipe_of, training_keys
from ttame_core.spec.trusted import TRUSTED, is_trusted, trust

__all__ = [
    "CHANGED_MAPS",
    "RECIPES",
    "SPLITS",
    "TRUSTED",
    "Annotations",
    "AuditSpec",
    "Backbone",
    "Compute",
    "Dataset",
    "Evaluation",
    "Explainer",
    "Fit",
    "Gate",
    "Location",
    "Maps",
    "Metric",
    "Name",
    "OpenSection",
    "Place",
    "Preprocessing",
    "Section",
    "Seed",
    "Source",
    "SpecProblem",
    "SpecProblems",
    "Split",
    "Training",
    "is_trusted",
    "load_spec",
    "parse_yaml",
    "problem_of",
    "recipe_keys",
    "recipe_of",
    "training_keys",
    "trust",
]
