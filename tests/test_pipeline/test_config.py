from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.config import load_config, preset_names, read_preset
from storage.errors import ConfigError


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid(preset):
    load_config(read_preset(preset))


def test_later_sources_win_over_earlier_ones():
    base = {"render": {"views": 10, "width": 64}, "train": {"seed": 1}}
    config = load_config(
        base,
        overrides={"render.width": 128},
        settings=["render.height=256", "train.autoencoder.steps=7"],
        environment={
            "FPIPE_RENDER__VIEWS": "12",
            "FPIPE_RENDER__WIDTH": "32",
            "FPIPE_SHARD": "0/2",
            "HOME": "/",
        },
    )
    assert (config.render.views, config.render.width, config.render.height) == (12, 128, 256)
    assert (config.train.seed, config.train.autoencoder.steps) == (1, 7)
    assert base == {"render": {"views": 10, "width": 64}, "train": {"seed": 1}}, "the base is left alone"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.autoencodr.steps=3"], "train.autoencodr: no such setting, did you mean train.autoencoder?"),
        (["render.views=1"], "render.views"),
        (["render=3"], "render"),
        (["render.views.more=3"], "views is a value, not a section"),
        (["render.views"], "section.key=value"),
        (["source.kind=shapenet"], "path"),
        (["compute.fit_resources.GPU=1"], "GPU is no custom resource: set cpus, gpus or memory_bytes"),
        (["compute.fit_resources.licence=0"], "licence: 0 is no amount"),
        (["train.autoencoder.pretrained=a/b", "train.autoencoder.factor=4"], "factor is for .* from scratch"),
    ],
)
def test_errors_name_the_key(settings, said):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        load_config({"render": {"views": 10}}, settings=settings)


def test_a_yaml_file_is_a_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("render: {views: 33}\n")
    assert load_config(read_preset(str(path))).render.views == 33
    path.write_text("- a\n- list\n")
    with pytest.raises(ConfigError, match="mapping"):
        read_preset(str(path))
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_preset(str(path))


def test_every_field_says_what_it_means():
    from pydantic import BaseModel

    from pipeline.config import PipelineConfig

    def undocumented(model: type[BaseModel]):
        attributes = model.__doc__ or ""
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from undocumented(field.annotation)
            elif not field.description and f"{name}:" not in attributes:
                yield f"{model.__name__}.{name}"

    assert list(undocumented(PipelineConfig)) == []


def test_reading_a_configuration_and_rendering_need_no_torch_in_the_driver() -> None:
    """A member of a job array that renders starts in a fraction of the time, and is 200 MB smaller."""
    heavy = {"torch", "ray", "bpy", "zarr", "diffusers"}
    code = (
        "import sys; import pipeline.render_stage, pipeline.retry_stage, pipeline.append_stage\n"
        f"assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
