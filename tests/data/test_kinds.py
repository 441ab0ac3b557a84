"""Sources and formats of annotations are what the registries hold, with settings of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pydantic import Field
from tiny import shard_all

from ttame_core import spec
from ttame_core.data import sources
from ttame_core.data.kinds import complete
from ttame_core.data.sources.base import Drawn, Entry, Source
from ttame_core.errors import UserError
from ttame_core.lake import Lake, dataset_file
from ttame_core.plugins import Registry, of_class


class Plain(Source):
    """Pictures of one colour."""

    name = "plain"
    drawn_by = ("grey",)

    class Settings(spec.Section):
        grey: int = Field(128, ge=0, le=255)

    def entries(self) -> Iterator[Entry]:
        for number in range(4):
            yield Entry(str(number), "", "ab"[number % 2], "test")

    def draw(self, path: str) -> Drawn:
        return Drawn(Image.new("RGB", (8, 8), (self.settings.grey,) * 3), None)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {**sources.REGISTRY, "plain": Plain}
    monkeypatch.setattr(sources, "REGISTRY", Registry("ttame.sources", own, of_class(Source)))


def test_a_source_is_one_class(plain: None, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    shard_all(spec.Dataset(name="d", source={"kind": "plain", "grey": 7}), lake)
    rows = lake.read_table(dataset_file("d", "index.parquet")).to_pylist()
    assert {row["path"]: row["class"] for row in rows} == {"0": "a", "1": "b", "2": "a", "3": "b"}
    digests = {row["sha256"] for row in rows}
    shard_all(spec.Dataset(name="d", source={"kind": "plain", "grey": 200}), lake)
    again = lake.read_table(dataset_file("d", "index.parquet")).to_pylist()
    assert digests.isdisjoint(row["sha256"] for row in again)  # `grey` is in the fingerprint


def test_a_section_is_completed_once(plain: None) -> None:
    section = complete(spec.Source(kind="plain"), sources.REGISTRY)
    assert section.grey == 128
    assert complete(section, sources.REGISTRY) == section


@pytest.mark.parametrize("given", [{"kind": "plane"}, {"kind": "plain", "gray": 3}])
def test_what_is_wrong_is_a_sentence(plain: None, given: dict[str, object]) -> None:
    with pytest.raises(UserError, match="Did you mean"):
        sources.open_source(spec.Source.model_validate(given))


def test_credentials_are_refused_whatever_the_kind() -> None:
    for key in ({"place": "s3://a:secret@b/c"}, {"places": {"train": ["s3://a:secret@b/c"]}}):
        with pytest.raises(UserError, match="environment") as told:
            spec.Source.model_validate({"kind": "anything", **key})
        assert "secret" not in str(told.value)
