"""What every task file gives, and what a base is made of."""

import importlib

import pytest

from graft import tasks


@pytest.mark.parametrize(
    ("config_class", "settings", "family"),
    [
        ("BertConfig", {}, "encoder"),
        ("RobertaConfig", {}, "encoder"),
        ("DebertaV2Config", {}, "encoder"),
        ("BertConfig", {"is_decoder": True}, "decoder"),
        ("LlamaConfig", {}, "decoder"),
        ("GPT2Config", {}, "decoder"),
        ("Qwen2Config", {}, "decoder"),
        ("T5Config", {}, "encoder-decoder"),
        ("BartConfig", {}, "encoder-decoder"),
        ("ViTConfig", {}, "vision"),
    ],
)
def test_family_of_the_usual_bases(config_class, settings, family):
    import transformers

    assert tasks.family_of(getattr(transformers, config_class)(**settings)) == family


def test_a_base_of_another_family_is_refused_with_what_the_task_needs(tiny_t5):
    from graft.errors import ConfigError

    with pytest.raises(ConfigError, match=r"t5 is an encoder-decoder, and this task needs an encoder or a decoder"):
        tasks.load_with_head("AutoModelForSequenceClassification", str(tiny_t5), ("encoder", "decoder"))


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_names_itself_its_metrics_and_its_bases(name):
    task, config = tasks.get(name), tasks.config_class(name)
    assert task.name == name == config.model_fields["name"].default
    assert task.families
    for metric in (task.headline, task.selection or task.headline, task.worst or task.headline):
        assert task.metric(metric).name == metric
    assert not task.worst or task.metric(task.worst).per_row is not None
    assert not task.selecting.generated
    fields = [field.name for field in task.fields]
    assert len(set(fields)) == len(fields)
    assert task.baselines()


@pytest.mark.parametrize("name", tasks.names())
def test_task_files_import_nothing_heavy(name):
    """Reading params.yaml imports every task file."""
    import ast
    from pathlib import Path

    source = Path(importlib.import_module(f"graft.tasks.{name}").__file__).read_text()
    top = [one for one in ast.parse(source).body if isinstance(one, ast.Import | ast.ImportFrom)]
    imported = {alias.name for one in top if isinstance(one, ast.Import) for alias in one.names}
    imported |= {one.module or "" for one in top if isinstance(one, ast.ImportFrom)}
    heavy = {"torch", "numpy", "transformers", "peft", "sklearn", "scipy", "pyarrow", "pandas"}
    assert not {name.partition(".")[0] for name in imported} & heavy
