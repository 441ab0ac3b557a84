"""What classifiers return, and what is made of it: logits, or one sentence."""

from __future__ import annotations

import copy
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import PLAIN, small_resnet
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.backbones import Backbone, load_backbone, logits_of
from ttame_core.backbones.checkpoints import load_weights, read_checkpoint
from ttame_core.backbones.wrapping import is_quantised, unwrapped
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, NotApplicable

LOGITS = torch.arange(6.0).view(2, 3)
MAPS = torch.ones(2, 3, 4, 4)


@dataclass
class Record:
    features: Tensor
    logits: Tensor
    loss: None = None


Named = namedtuple("Named", ["aux", "logits"])


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"hidden": LOGITS + 1, "logits": LOGITS},
        {"loss": None, "logits": LOGITS},
        {"features": MAPS, "out": LOGITS},
        {"anything": LOGITS},
        (LOGITS,),
        [None, LOGITS],
        (LOGITS, None, 3),
        (MAPS, LOGITS),
        Record(LOGITS + 1, LOGITS),
        Named(LOGITS + 1, LOGITS),
    ],
    ids=str,
)
def test_logits_are_found(output: Any) -> None:
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize(
    "output",
    [(LOGITS, LOGITS + 1), {"a": LOGITS, "b": LOGITS}, {"loss": None}, "logits", (), None],
    ids=str,
)
def test_what_could_be_several_things_is_refused(output: Any) -> None:
    with pytest.raises(UserError, match="not known which are its logits"):
        logits_of(output)


def test_model_outputs_of_transformers() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    kind = outputs.ImageClassifierOutput
    assert logits_of(kind(loss=None, logits=LOGITS, hidden_states=(MAPS,))) is LOGITS


class Ending(nn.Module):
    """A small network with something after its logits."""

    def __init__(self, end: nn.Module | Any, classes: int = 10) -> None:
        super().__init__()
        self.net = small_resnet()
        self.net.fc = nn.Linear(512, classes)
        self.end = end

    def forward(self, images: Tensor) -> Any:
        return self.end(self.net(images))


def _images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "end", [nn.Softmax(dim=1), lambda logits: logits.exp() / logits.exp().sum(1, True)]
)
def test_a_softmax_at_the_end_is_undone(end: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = Ending(end).eval()
    backbone = Backbone(model, "soft", PLAIN)
    with torch.no_grad():
        own = model.net(_images())
        logits = backbone(_images())
    torch.testing.assert_close(backbone.probabilities(logits), own.softmax(dim=1))
    torch.testing.assert_close(logits, own.log_softmax(dim=1), atol=1e-5, rtol=1e-4)
    assert "ends in a softmax" in caplog.text
    assert [tap.name for tap in backbone.taps] == ["net.layer2", "net.layer3", "net.layer4"]
    features = backbone.features(_images())
    torch.testing.assert_close(features[0], logits)


@pytest.mark.parametrize(
    "end", [nn.Sigmoid(), torch.sigmoid, lambda logits: nn.functional.sigmoid(logits).view(-1, 10)]
)
def test_a_sigmoid_at_the_end_is_undone_and_means_many_labels(end: Any) -> None:
    model = Ending(end).eval()
    backbone = Backbone(model, "many", PLAIN)
    with torch.no_grad():
        logits, own = backbone(_images()), model.net(_images())
    assert backbone.outputs.kind == "sigmoid"
    torch.testing.assert_close(logits, own, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(backbone.probabilities(logits), own.sigmoid())


@pytest.mark.parametrize(("end", "shape"), [(nn.Identity(), (-1, 1)), (nn.Sigmoid(), (-1,))])
def test_one_logit_is_two_classes(end: nn.Module, shape: tuple[int, ...]) -> None:
    model = Ending(lambda logits: end(logits).view(shape), classes=1).eval()
    backbone = Backbone(copy.deepcopy(model), "one", PLAIN)
    with torch.no_grad():
        p = backbone.probabilities(backbone(_images()))
        own = model.net(_images()).sigmoid()
    assert backbone.num_classes == 2
    assert backbone.outputs.kind == "softmax"
    torch.testing.assert_close(p, torch.cat([1 - own, own], dim=1))
    with pytest.raises(UserError, match="`outputs: softmax` is for two outputs or more"):
        Backbone(copy.deepcopy(model), "one", PLAIN, outputs="softmax")


def test_logits_stay_as_they_are() -> None:
    model = Ending(nn.Identity()).eval()
    backbone = Backbone(model, "plain", PLAIN)
    assert backbone.outputs.kind == "softmax"
    assert torch.equal(backbone(_images()), model(_images()))
    many = Backbone(copy.deepcopy(model), "plain", PLAIN, outputs="sigmoid")
    assert torch.equal(many(_images()), model(_images()))
    assert many.outputs.kind == "sigmoid"
    for declared, words in (("binary", "has 10 outputs"),):
        with pytest.raises(UserError, match=words):
            Backbone(copy.deepcopy(model), "plain", PLAIN, outputs=declared)
    with pytest.raises(UserError, match="ends in a softmax, but `outputs` says sigmoid"):
        Backbone(Ending(nn.Softmax(dim=1)), "soft", PLAIN, outputs="sigmoid")


def test_weights_that_are_not_finite() -> None:
    model = Ending(nn.Identity()).eval()
    with torch.no_grad():
        model.net.layer3[0].conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"not finite: its weights net\.layer3\.0\.conv1\.weight"):
        Backbone(model, "nan", PLAIN)


def test_logits_that_are_always_the_same() -> None:
    class Certain(nn.Module):
        """A network that is certain of one class but for bright images."""

        def forward(self, images: Tensor) -> Tensor:
            bright = PLAIN.normalise(torch.full((1, 3, 1, 1), 0.8)).mean()
            logits = images.mean(dim=(1, 2, 3))[:, None] - bright
            return (1e6 * logits * torch.tensor([-1.0, 1.0])).softmax(dim=1)

    net = small_resnet()
    assert not Backbone(net, "net", PLAIN).is_constant()
    assert not Backbone(Certain(), "certain", PLAIN, taps=[]).is_constant()
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    assert Backbone(net, "zero", PLAIN).is_constant()


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_those_of_pictures(channels: int) -> None:
    model = small_resnet()
    model.conv1 = nn.Conv2d(channels, 64, 7, 2, 3)
    with pytest.raises(UserError, match=f"takes images of {channels} channels"):
        Backbone(model, "other", PLAIN)


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_resnet()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def test_what_needs_gradients_is_refused_without() -> None:
    backbone = Backbone(Blind(), "blind", PLAIN)
    for name in ("gradcam", "integrated_gradients", "ttame", "ptame", "opticam"):
        with pytest.raises(NotApplicable, match="gives no gradients"):
            REGISTRY[name](backbone)
    for name in ("rise", "scorecam"):
        assert REGISTRY[name](backbone)


def test_what_is_wrapped_around_is_taken_off() -> None:
    model = small_resnet().eval()
    expected = model(_images())
    names = [tap.name for tap in Backbone(copy.deepcopy(model), "plain", PLAIN).taps]
    inner = copy.deepcopy(model)
    inner.layer4 = torch.compile(inner.layer4)
    compiled = copy.deepcopy(model)
    compiled.compile()
    wrapped = [
        torch.compile(copy.deepcopy(model)),
        nn.DataParallel(copy.deepcopy(model)),
        nn.DataParallel(torch.compile(copy.deepcopy(model))),
        torch.optim.swa_utils.AveragedModel(copy.deepcopy(model)),
        inner,
        compiled,
    ]
    for outer in wrapped:
        backbone = Backbone(outer, "wrapped", PLAIN)
        assert [tap.name for tap in backbone.taps] == names
        torch.testing.assert_close(backbone(_images()), expected)


@pytest.mark.filterwarnings("ignore")
def test_quantised_networks_are_black_boxes() -> None:
    model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 5)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert is_quantised(quantised)
    assert not is_quantised(model)
    backbone = Backbone(quantised, "small", PLAIN)
    assert backbone.taps == ()
    assert not backbone.outputs.differentiable
    assert torch.equal(backbone(_images()), quantised(_images()))


def test_scripts_are_modules() -> None:
    script = torch.jit.trace(Ending(nn.Sigmoid()).eval(), _images(1))
    backbone = Backbone(unwrapped(script), "script", PLAIN, [])
    assert backbone.outputs.kind == "sigmoid"
    torch.testing.assert_close(backbone.probabilities(backbone(_images())), script(_images()))


SETTINGS = spec.Backbone.model_validate({"model": "test_resnet", "fit": {}})


@pytest.mark.parametrize("prefix", ["", "model.", "net.", "module.", "_orig_mod.", "model.module."])
@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model", "ema"])
def test_checkpoints_of_trainings(prefix: str, nest: str | None, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = {f"{prefix}{name}": values + 1 for name, values in model.state_dict().items()}
    state.pop(f"{prefix}1.num_batches_tracked")
    path = str(tmp_path / "c.pt")
    torch.save({nest: state, "epoch": 3} if nest else state, path)
    before = model[0].weight.clone()
    load_weights(model, read_checkpoint(path), SETTINGS, path)
    torch.testing.assert_close(model[0].weight, before + 1)


def test_a_prefix_of_some_names_is_none(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    state = {"model.0.weight": torch.zeros(2, 2), "other.0.bias": torch.zeros(2)}
    save_file(state, tmp_path / "c.safetensors")
    path = str(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match=r"0\.bias is missing; model\.0\.weight is not in"):
        load_weights(model, read_checkpoint(path), SETTINGS, path)


def test_what_a_training_keeps_beside_the_network(tmp_path: Any, caplog: Any) -> None:
    model, path = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), str(tmp_path / "c.pt")
    state = {name: values + 1 for name, values in model.state_dict().items()}
    net = {f"net.{name}": values for name, values in state.items()}
    torch.save({"state_dict": {**net, "criterion.weight": torch.ones(2)}}, path)
    load_weights(model, read_checkpoint(path), SETTINGS, path)
    torch.testing.assert_close(dict(model.state_dict()), state)
    torch.save({**net, **{f"teacher.{name}": values for name, values in state.items()}}, path)
    with pytest.raises(UserError, match=r"several such networks \(net, teacher\)"):
        load_weights(model, read_checkpoint(path), SETTINGS, path)
    assert not caplog.records
    torch.save({"model": state, "ema": {}}, path)
    assert read_checkpoint(path).keys() == state.keys()
    assert "holds model and ema: model is taken" in caplog.text
    broken = {**state, "1.running_var": torch.full((2,), torch.inf)}
    with pytest.raises(UserError, match=r"not finite, in 1\.running_var"):
        load_weights(model, broken, SETTINGS, path)


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "bin"])
def test_checkpoints_are_known_by_their_content(suffix: str, tmp_path: Any) -> None:
    state = nn.Linear(2, 2).state_dict()
    for name, write in (("a", save_file), ("b", torch.save)):
        path = tmp_path / f"{name}.{suffix}"
        write(state, path)
        torch.testing.assert_close(read_checkpoint(str(path)), dict(state))
    torch.save([1], path)
    with pytest.raises(UserError, match="holds no state dict"):
        read_checkpoint(str(path))


def test_the_classes_of_a_checkpoint_with_a_prefix(tmp_path: Any) -> None:
    import timm

    model = timm.create_model("test_resnet", num_classes=7)
    state = {f"module.{name}": values for name, values in model.state_dict().items()}
    path = str(tmp_path / "c.pth")
    torch.save({"model_state_dict": {f"net.{k}": v for k, v in state.items()}}, path)
    loaded = load_backbone(
        spec.Backbone.model_validate({"model": "test_resnet", "checkpoint": path})
    )
    assert loaded.num_classes == 7


def test_a_class_that_excludes_no_other_stands_alone() -> None:
    """Losses of training then follow its own probability, and several classes are predicted."""
    from torch.nn import functional

    from ttame_core.backbones import Outputs
    from ttame_core.training.objectives import objective_of

    generator = torch.Generator().manual_seed(0)
    masked, whole = torch.randn(2, 4, 5, generator=generator)
    targets = torch.tensor([0, 4, 2, 2])
    outputs = Outputs("sigmoid")
    z, before = (logits.gather(1, targets[:, None])[:, 0] for logits in (masked, whole))
    loss = objective_of("cross_entropy").term(*outputs.alone(masked, whole, targets))
    torch.testing.assert_close(
        loss, functional.binary_cross_entropy_with_logits(z, torch.ones_like(z))
    )
    loss = objective_of("confidence").term(*outputs.alone(masked, whole, targets))
    torch.testing.assert_close(loss, functional.softplus(before - z).mean())
    p = outputs.probabilities(torch.tensor([[2.0, 1.0, -1.0], [-3.0, -1.0, -2.0]]))
    assert outputs.predict(p, torch.tensor([1, 1])).tolist() == [True, True]
    assert outputs.predict(p, torch.tensor([2, 0])).tolist() == [False, False]
    assert Outputs().predict(p, torch.tensor([1, 1])).tolist() == [False, True]
    classes, chosen = outputs.predicted(torch.tensor([[2.0, 3.0, -1.0], [-3.0, -1.0, -2.0]]))
    assert classes.tolist() == [[1, 0], [1, 2]]
    assert chosen.tolist() == [[True, True], [True, False]]
    logits = torch.tensor([[2.0, 3.0, 1.0]]).repeat(4, 1)
    assert outputs.one_predicted(logits).tolist() == [1, 0, 2, 1]
    assert Outputs().one_predicted(logits).tolist() == [1, 1, 1, 1]
    alone = Outputs().alone(masked, whole, targets)
    assert all(map(torch.equal, alone, (masked, whole, targets)))
