"""What is wrong with a spec is said in one line: file, line, key, what is allowed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ttame_core.audits.specification import open_spec
from ttame_core.errors import UserError
from ttame_core.spec import RECIPES, AuditSpec, Dataset, Explainer, Training
from ttame_core.spec.load import load_spec

GOOD = """\
name: a
dataset:
  name: d
  source: {kind: folder, path: "${DATA}/images"}
backbones:
  - resnet50.a1_in1k
  - model: vit_tiny_patch16_224
    checkpoint: ${here}/vit.safetensors
"""


@pytest.fixture
def write(tmp_path: Path):
    def to_file(text: str) -> Path:
        (tmp_path / "spec.yaml").write_text(text)
        return tmp_path / "spec.yaml"

    return to_file


def test_defaults_and_variables(write, tmp_path: Path) -> None:
    audit = open_spec(write(GOOD), {"DATA": "/data"})
    assert audit.dataset.source.path == "/data/images"
    first, second = audit.backbones
    assert (first.model, first.name, first.pretrained) == ("resnet50.a1_in1k",) * 2 + (True,)
    assert second.checkpoint == f"{tmp_path}/vit.safetensors"
    assert [e.name for e in audit.explainers] == ["ttame", "gradcam", "random", "oracle"]
    confidence = audit.evaluation.metrics[0]
    assert (confidence.family, confidence.settings["keep"]) == ("confidence", [100, 50, 15])


def test_explainers_and_metrics_are_names_or_names_with_settings(write) -> None:
    audit = open_spec(
        write(
            GOOD
            + """
explainers:
  - random
  - gradcam: {images: 20, name: few}
evaluation:
  metrics:
    - localization
    - confidence: {keep: [15], images: 50}
"""
        ),
        {"DATA": "/data"},
    )
    first, second = audit.explainers
    assert (first.method, first.name, first.images) == ("random", "random", None)
    assert (second.method, second.name, second.images) == ("gradcam", "few", 20)
    places, confidence = audit.evaluation.metrics
    assert (places.family, places.settings) == ("localization", {"tolerance": 15.0})
    assert (confidence.settings["keep"], confidence.images) == ([15.0], 50)
    permuted = Explainer.model_validate({"ttame": {"training": {"labels": "permuted"}}})
    assert permuted.name == "ttame-permuted"
    assert AuditSpec.model_validate(audit.model_dump(mode="json")) == audit  # as Prefect passes it


def test_the_published_constants() -> None:
    training = Training(recipe="paper")
    assert (training.objective, training.map) == ("cross_entropy", "class")
    assert (training.lambda_variation, training.lambda_area) == (0.01, 2)
    assert (training.lambda_confidence, training.area_exponent) == (1.5, 0.3)
    assert (training.optimizer, training.learning_rate, training.momentum) == ("sgd", 1e-3, 0.9)
    assert (training.weight_decay, training.batch_size, training.epochs) == (5e-4, 32, 8)


def test_a_recipe_fills_what_the_user_leaves_out() -> None:
    paper = Training(recipe="paper", epochs=3)
    assert paper.epochs == 3
    for key, value in RECIPES["paper"].items():
        if key != "epochs":
            assert getattr(paper, key) == value
    assert Training() == Training(recipe="tuned")


def test_a_recipe_is_left_to_the_classifier_where_none_of_its_keys_is_given() -> None:
    assert Training(min_steps=9, learning_rate=1e-4).recipe == "tuned"
    assert Training(noise=0.0).recipe == "whole"
    undecided = Training(min_steps=9)
    assert Training.model_validate(undecided.model_dump()) == undecided
    occluded = undecided.decided(reads_occluded=True)
    assert occluded == Training(recipe="occluded", min_steps=9)
    assert undecided.decided(reads_occluded=False) == Training(recipe="whole", min_steps=9)
    for decided in (Training(recipe="paper"), Training(noise=1.0), occluded):
        assert decided.decided(reads_occluded=False) == decided


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("backbones:", "backbone:", 5, ["backbone", "Did you mean backbones"]),
        ("kind: folder", "kind: folders", 4, ["dataset.source", "folder", "shapes"]),
        ("kind: folder", "kind: folders", 4, ["unknown kind", "Did you mean folder"]),
        ("folder, ", "folder, pth: x, ", 4, ["dataset.source.pth", "allowed: path", "mean path"]),
        ("kind: folder, ", "kind: list, ", 4, ["dataset.source.root", "key is required"]),
        ("kind: folder, path", "kind: shapes, train", 4, ["dataset.source.train", "integer"]),
        (
            "name: d\n",
            "name: d\n  annotations: {kind: voc, path: b, object: {}}\n",
            4,
            ["dataset.annotations.object: unknown key", "Did you mean objects"],
        ),
        (
            "name: d\n",
            "name: d\n  annotations: {kind: voc, path: {tren: b}}\n",
            4,
            ["dataset.annotations.path"],
        ),
        (
            "    checkpoint",
            "    chekpoint",
            8,
            ["backbones[1].chekpoint", "Did you mean checkpoint"],
        ),
        ("  name: d\n", "  name: d\n  max_size: 3\n", 4, ["dataset.max_size", "16"]),
        ("  name: d\n", "  name: d/e\n", 3, ["dataset.name: a name begins with", "(got 'd/e')"]),
        ("name: a\n", "name: a\nexplainers: [gradcan]\n", 2, ["explainers", "gradcam", "oracle"]),
        ("name: a\n", "name: a\nmaps: {targets: bottom}\n", 2, ["maps.targets", "top-K"]),
        (
            "name: a\n",
            "name: a\nexplainers: [random, gradcam: {image: 3}]\n",
            2,
            ["explainers[1]", "gradcam has no setting image", "Did you mean images"],
        ),
        ("name: a\n", "name: a\nexplainers: [random: {images: 0}]\n", 2, ["explainers[0]", "1"]),
        ("name: a\n", "name: a\nexplainers: [random, random]\n", 2, ["two explainers", "random"]),
        (
            "name: a\n",
            "name: a\nevaluation: {metrics: [confidence: {keep: [0]}]}\n",
            2,
            ["evaluation.metrics[0]", "keep of confidence", "above 0"],
        ),
        (
            "name: a\n",
            "name: a\nevaluation: {metrics: [confidance]}\n",
            2,
            ["unknown metric confidance", "Did you mean confidence"],
        ),
        ("    checkpoint: ${here}/vit.safetensors\n", "", 7, ["no weights", "fit:"]),
        ("name: a\n", "name: a\ncompute: {devices: 3}\n", 1, ["batch_size, 32", "3 compute"]),
        ("name: a\n", "name: a\ncompute: {at_once: 2}\n", 2, ["at_once needs an engine"]),
        (
            "name: a\n",
            "name: a\ncompute: {engine: processes, address: 'tcp://a:1'}\n",
            2,
            ["only dask and ray have an address"],
        ),
        ("name: a\n", "name: a\ncompute: {trust: true}\n", 2, ["compute.trust: unknown key"]),
        (
            "name: a\n",
            "name: a\ncompute: {engine: ray, device: 'cuda:1'}\n",
            2,
            ["engine ray shares out the GPUs"],
        ),
        (
            "name: a\n",
            "name: a\ncompute: {device: cuda:1, devices: 2}\n",
            2,
            ["compute", "2 devices cannot all be cuda:1"],
        ),
        ("name: a\n", "name: a\nname: b\n", 2, ["name stands there twice"]),
        ("name: a\n", "name: a\ntraining: {recipe: [1]}\n", 2, ["training.recipe"]),
        ("name: a\n", "name: a\nexplainers: [{method: rise, settings: 3}]\n", 2, ["settings"]),
        ("  - model", "  - resnet50.a1_in1k\n  - model", 5, ["resnet50.a1_in1k", "another"]),
        ("name: d\n", "name: d\n  splits: {train: 0.5}\n", 4, ["dataset.splits", "add up to 1"]),
    ],
)
def test_a_mistake_is_one_line(write, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        open_spec(path, {"DATA": "/data"})
    message = str(caught.value)
    found = [m for m in message.splitlines() if f"{path}, line {line}," in m]
    assert found, message
    assert all(word in found[0] for word in words), message


def test_one_line_for_wrong_targets(write) -> None:
    path = write(GOOD + "maps: {targets: bottom}\n")
    with pytest.raises(UserError) as caught:
        open_spec(path, {"DATA": "/data"})
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_missing_is_named(write) -> None:
    with pytest.raises(UserError, match=r"backbones: this key is required"):
        open_spec(write("name: a\ndataset: {name: d, source: {kind: shapes}}\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [("name: [", "not valid YAML"), ("- a\n", "must be a mapping"), ("", "must be a mapping")],
)
def test_what_is_no_spec(write, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_spec(write(text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        open_spec(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(UserError, match="cannot read the spec"):
        open_spec(tmp_path / "latin.yaml")


def test_a_variable_that_is_not_set(write) -> None:
    with pytest.raises(UserError, match="--var DATA=VALUE"):
        open_spec(write(GOOD))


def test_a_frozen_spec_is_the_same_spec(write, tmp_path: Path) -> None:
    audit = open_spec(write(GOOD), {"DATA": "/data"})
    (tmp_path / "frozen.yaml").write_text(yaml.safe_dump(audit.model_dump(mode="json")))
    assert open_spec(tmp_path / "frozen.yaml") == audit
    assert AuditSpec.model_validate(audit.model_dump()) == audit


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("examples/*.yaml")))
def test_the_examples_are_valid(path: Path) -> None:
    assert open_spec(path, {"FIELD3": "/data/field3", "IMAGENET": "/data/imagenet"}).name


def test_splits_do_not_depend_on_the_order_in_which_they_are_named() -> None:
    shares = {"test": 0.2, "val": 0.1, "train": 0.7}
    dataset = Dataset.model_validate({"name": "d", "source": {"kind": "shapes"}, "splits": shares})
    assert [*dataset.splits.items()] == [("train", 0.7), ("val", 0.1), ("test", 0.2)]


def test_a_spec_is_read_without_any_method() -> None:
    code = (
        "import sys; from ttame_core.spec import load_spec; "
        "audit = load_spec('examples/shapes.yaml'); assert audit.explainers; "
        "loaded = {'torch', 'duckdb', 'timm', 'pyarrow'} & set(sys.modules); "
        "assert not loaded, loaded; "
        "rooms = {m.split('.')[1] for m in sys.modules if m.startswith('ttame_core.')}; "
        "assert rooms <= {'spec', 'errors', 'stopping', 'storage'}, rooms"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 100000 values"),
        ("a: &a [*a]", "nested more than 100 deep"),
        ("a: &a\n  b: *a", "nested more than 100 deep"),
        ("a: " + "[" * 5000 + "]" * 5000, "is not valid YAML"),
        ("a: " + "[" * 200 + "]" * 200, "nested more than 100 deep"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("a: 2026-99-99", "is not valid YAML"),
    ],
)
def test_yaml_that_would_take_for_ever(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(UserError, match=words):
        load_spec(tmp_path / "spec.yaml")
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "abc"),
        ("AWS_SECRET_ACCESS_KEY", "abc"),
        ("MY_PASSWORD", "abc"),
        ("DATABASE", "postgres://me:abc@host/db"),
    ],
)
def test_secrets_of_the_environment_fill_no_spec(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    (tmp_path / "spec.yaml").write_text(f"name: ${{{name}}}\n")
    with pytest.raises(UserError, match=rf"uses \$\{{{name}\}}") as refused:
        load_spec(tmp_path / "spec.yaml")
    assert "abc" not in str(refused.value)
    with pytest.raises(UserError, match="required"):  # what the user gives by name is none
        load_spec(tmp_path / "spec.yaml", {name: "plain"})


@pytest.mark.parametrize("value", ["no", "007", "1.5", "2026-01-02"])
def test_a_text_that_yaml_takes_for_something_else(tmp_path: Path, value: str) -> None:
    text = (
        f"name: a\ndataset: {{name: d, source: {{kind: folder, path: x}}, classes: [a, {value}]}}"
    )
    (tmp_path / "s.yaml").write_text(f"{text}\nbackbones: [resnet18]\n")
    with pytest.raises(UserError, match=r"classes\[1\].* put it in quotes"):
        load_spec(tmp_path / "s.yaml")
