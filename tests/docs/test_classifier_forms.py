"""Each form of classifier on the page is made, and taken or refused as the page says."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from forms import Row, Table
from pydantic import ValidationError
from safetensors.torch import save_file
from texts_and_images import save

from ttame_core import spec
from ttame_core.backbones import Backbone, load_backbone
from ttame_core.errors import UserError

CLASSIFIERS = Table("Classifiers")
ARGS = {"channels": [8, 16, 24, 32], "stem_width": 8}
TIMM = {"model": "resnet10t", "args": ARGS, "preprocessing": {"input_size": [64, 64]}}
Section = dict[str, Any]

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=4, channels=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.last = nn.Linear(8, classes)

    def forward(self, x):
        return self.last(self.more(self.features(x)).mean(dim=(2, 3)))

class Changed(Net):
    def __init__(self, change, **about):
        super().__init__(**about)
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x))

class Unlearnable(Net):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

torch.manual_seed(0)
def make():
    return """


def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=4, **ARGS).state_dict()


def _saved(here: Path, content: Any) -> Section:
    torch.save(content, here / "net.pt")
    return {**TIMM, "checkpoint": str(here / "net.pt")}


def _made(here: Path, network: str, trusted: bool = True, **keys: Any) -> Section:
    """A function in a module of its own that returns a network."""
    name = f"made_{here.parent.name}"
    (here / f"{name}.py").write_text(NETWORK + network)
    size = {"preprocessing": {"input_size": [32, 32]}}
    if trusted:
        spec.trust(name)
    return {"model": f"{name}:make", "name": "net", **size, **keys}


@CLASSIFIERS.example("weights of a timm model, in safetensors")
def _(here: Path) -> Section:
    save_file(_state(), here / "net.safetensors")
    return {**TIMM, "checkpoint": str(here / "net.safetensors")}


@CLASSIFIERS.example("weights of a torchvision model")
def _(here: Path) -> Section:
    from torchvision.models import mobilenet_v3_small

    torch.save(mobilenet_v3_small(num_classes=4).state_dict(), here / "net.pt")
    section = {"model": "torchvision/mobilenet_v3_small", "num_classes": 4}
    return {**section, "checkpoint": str(here / "net.pt")}


@CLASSIFIERS.example("weights within the record of a training")
def _(here: Path) -> Section:
    return _saved(here, {"epoch": 3, "model_state_dict": _state()})


@CLASSIFIERS.example("weights whose names have a prefix")
def _(here: Path) -> Section:
    return _saved(here, {f"module._orig_mod.{k}": v for k, v in _state().items()})


@CLASSIFIERS.example("a network within the record of a training, beside the weights of its loss")
def _(here: Path) -> Section:
    net = {f"net.{name}": values for name, values in _state().items()}
    return _saved(here, {"state_dict": {**net, "loss.weight": torch.ones(4)}})


@CLASSIFIERS.example(
    "two networks of one architecture in a file, such as a teacher and its student"
)
def _(here: Path) -> Section:
    return _saved(
        here, {f"{n}.{k}": v for n in ("teacher", "student") for k, v in _state().items()}
    )


@CLASSIFIERS.example("weights of another architecture")
def _(here: Path) -> Section:
    return {**_saved(here, _state()), "args": {**ARGS, "stem_width": 16}}


@CLASSIFIERS.example("a whole network, pickled")
def _(here: Path) -> Section:
    return _saved(here, timm.create_model("resnet10t", num_classes=4, **ARGS))


@CLASSIFIERS.example("weights that are not finite")
def _(here: Path) -> Section:
    state = _state()
    state["fc.bias"][0] = torch.nan
    return _saved(here, state)


@CLASSIFIERS.example("weights that are all zero")
def _(here: Path) -> Section:
    return _saved(here, {name: torch.zeros_like(value) for name, value in _state().items()})


@CLASSIFIERS.example("a model without weights")
def _(here: Path) -> Section:
    return TIMM


def _huggingface(here: Path, dtype: torch.dtype = torch.float32) -> Section:
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}
    labels = {"id2label": {0: "cat", 1: "dog", 2: "owl"}}
    config = transformers.ViTConfig(**size, num_hidden_layers=4, image_size=64, **labels)
    transformers.ViTForImageClassification(config).to(dtype).save_pretrained(here)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(here)
    return {"model": str(here)}


@CLASSIFIERS.example("a folder of a Hugging Face image classifier")
def _(here: Path) -> Section:
    return _huggingface(here)


@CLASSIFIERS.example("such a folder in half precision")
def _(here: Path) -> Section:
    return _huggingface(here, torch.float16)


@CLASSIFIERS.example("such a folder of a model of numbers (`problem_type: regression`)")
def _(here: Path) -> Section:
    section = _huggingface(here, torch.float32)
    config = Path(section["model"]) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"problem_type": "regression"}))
    return section


@CLASSIFIERS.example("a folder of CLIP, with prompts")
def _(here: Path) -> Section:
    save(here / "clip", "clip")
    prompts = {"cat": "a photo of a cat", "dog": ["a dog", "dogs"]}
    return {"model": str(here / "clip"), "prompts": prompts}


@CLASSIFIERS.example("a folder of SigLIP, with names and a template")
def _(here: Path) -> Section:
    save(here / "siglip", "siglip")
    texts = {"prompts": ["cat", "dog"], "template": "a photo of a {}"}
    return {"model": str(here / "siglip"), **texts}


def _open_clip(here: Path) -> Section:
    pytest.importorskip("open_clip")
    vision = {"width": 24, "head_width": 12, "layers": 4, "patch_size": 16, "image_size": 64}
    text = {"width": 24, "heads": 2, "layers": 1, "context_length": 24}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (here / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return {"model": str(here), "prompts": {"cat": "a cat", "dog": "a dog"}}


def _open_clip_state(here: Path) -> dict[str, torch.Tensor]:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    return open_clip.create_model(f"local-dir:{here}").state_dict()


@CLASSIFIERS.example("a folder of open_clip, with prompts")
def _(here: Path) -> Section:
    section = _open_clip(here)
    save_file(_open_clip_state(here), here / "open_clip_model.safetensors")
    return section


@CLASSIFIERS.example("weights of a network of open_clip, with prompts")
def _(here: Path) -> Section:
    section = _open_clip(here)
    save_file(_open_clip_state(here), here / "net.safetensors")
    config = json.loads((here / "open_clip_config.json").read_text())["model_cfg"]
    name = f"tiny-{here.parent.name}"
    (here / f"{name}.json").write_text(json.dumps(config))
    pytest.importorskip("open_clip").add_model_config(here / f"{name}.json")
    return {**section, "model": f"open_clip/{name}", "checkpoint": str(here / "net.safetensors")}


@CLASSIFIERS.example("such a folder without its weights")
def _(here: Path) -> Section:
    return _open_clip(here)


@CLASSIFIERS.example("published weights of open_clip for QuickGELU, in a network without it")
def _(here: Path) -> Section:
    prompts = _open_clip(here)["prompts"]
    return {"model": "open_clip/ViT-B-32.openai", "pretrained": True, "prompts": prompts}


@CLASSIFIERS.example("prompts that are the same to the model")
def _(here: Path) -> Section:
    section = _open_clip(here)
    save_file(_open_clip_state(here), here / "open_clip_model.safetensors")
    return {**section, "prompts": {"cat": "a cat", "Cat": "A Cat"}}


@CLASSIFIERS.example("prompts for a model that reads no texts")
def _(here: Path) -> Section:
    return {**_huggingface(here), "prompts": ["cat", "dog"]}


@CLASSIFIERS.example("a function that returns a network")
def _(here: Path) -> Section:
    return _made(here, "Net()")


@CLASSIFIERS.example("a function that `TTAME_TRUST` does not name")
def _(here: Path) -> Section:
    return _made(here, "Net()", trusted=False)


@CLASSIFIERS.example("a network within `DataParallel` or `torch.compile`")
def _(here: Path) -> Section:
    return _made(here, "nn.DataParallel(torch.compile(Net()))")


@CLASSIFIERS.example("a script of TorchScript")
def _(here: Path) -> Section:
    return _made(here, "torch.jit.trace(Net().eval(), torch.rand(1, 3, 32, 32))", taps=[])


@CLASSIFIERS.example("a network that ends in a softmax")
def _(here: Path) -> Section:
    return _made(here, "Changed(nn.Softmax(dim=1), classes=12)")


@CLASSIFIERS.example("a network that ends in a sigmoid")
def _(here: Path) -> Section:
    return _made(here, "Changed(nn.Sigmoid(), classes=12)")


@CLASSIFIERS.example("a network whose classes do not exclude each other")
def _(here: Path) -> Section:
    return _made(here, "Net()", outputs="sigmoid")


@CLASSIFIERS.example("a network with one logit")
def _(here: Path) -> Section:
    return _made(here, "Net(classes=1)")


@CLASSIFIERS.example("a network that returns its logits by name")
def _(here: Path) -> Section:
    return _made(here, "Changed(lambda logits: {'logits': logits, 'loss': None})")


@CLASSIFIERS.example("a network that returns several tensors without names")
def _(here: Path) -> Section:
    return _made(here, "Changed(lambda logits: (logits, 2 * logits))")


@CLASSIFIERS.example("a network that gives no gradients")
def _(here: Path) -> Section:
    return _made(here, "Unlearnable()")


@CLASSIFIERS.example("a network that returns no numbers")
def _(here: Path) -> Section:
    return _made(here, "Changed(lambda logits: logits / 0)")


@CLASSIFIERS.example("a network for pictures of another number of channels")
def _(here: Path) -> Section:
    view = {"input_size": [32, 32], "mean": [0.5], "std": [0.25]}
    return {**_made(here, "Net(channels=1)"), "preprocessing": view}


@CLASSIFIERS.example("such a network, without a mean for its channels")
def _(here: Path) -> Section:
    return _made(here, "Net(channels=1)")


@CLASSIFIERS.example("quantised layers")
def _(here: Path) -> Section:
    return _made(here, "torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear})")


@CLASSIFIERS.example("a folder whose `id2label` has a gap")
def _(here: Path) -> Section:
    section = _huggingface(here)
    config = json.loads((here / "config.json").read_text())
    config["id2label"] = {"0": "cat", "2": "dog", "3": "owl"}
    (here / "config.json").write_text(json.dumps(config))
    return section


@CLASSIFIERS.example("a folder whose `id2label` and `label2id` contradict each other")
def _(here: Path) -> Section:
    section = _huggingface(here)
    config = json.loads((here / "config.json").read_text())
    config["label2id"] = {"dog": 0, "cat": 1, "owl": 2}
    (here / "config.json").write_text(json.dumps(config))
    return section


@CLASSIFIERS.example("a list of names that is too short")
def _(here: Path) -> Section:
    return _made(here, "Net()", class_names=["cat"])


@CLASSIFIERS.example("a layer that the network does not have")
def _(here: Path) -> Section:
    return _made(here, "Net()", taps=["layer9"])


# Where more than the outcome is said: what the classifier then is.
KINDS = {
    "a network that ends in a sigmoid": lambda it: it.outputs.kind == "sigmoid",
    "a network whose classes do not exclude each other": lambda it: it.outputs.kind == "sigmoid",
    "a network with one logit": lambda it: it.num_classes == 2,
    "a network that gives no gradients": lambda it: not it.outputs.differentiable,
    "a script of TorchScript": lambda it: it.taps == (),
    "quantised layers": lambda it: it.taps == () and not it.outputs.differentiable,
    "a folder of SigLIP, with names and a template": lambda it: it.outputs.kind == "sigmoid",
}


@pytest.mark.parametrize("row", CLASSIFIERS.rows, ids=str)
def test_classifiers(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.syspath_prepend(here)
    section, said, backbone = CLASSIFIERS.make(row, here), "", None
    try:
        with caplog.at_level(logging.WARNING):
            backbone = load_backbone(spec.Backbone.model_validate(section))
    except (UserError, ValidationError) as error:
        said = str(error)
    row.check("refused" if backbone is None else "taken", said)
    if backbone is not None:
        assert isinstance(backbone, Backbone)
        images = torch.rand(2, *backbone.preprocessing.shape)
        logits = backbone(backbone.normalise(images))
        assert logits.shape == (2, backbone.num_classes)
        assert logits.isfinite().all()
        assert KINDS.get(row.form, lambda it: True)(backbone)


def test_every_row_has_an_example() -> None:
    CLASSIFIERS.check_complete()
