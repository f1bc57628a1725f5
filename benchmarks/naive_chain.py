"""The peer of overhead.py: the stock stack in one naive script, on the same ten rows and tiny model.

Imports, an embedded Prefect flow, one Great Expectations suite, transformers' Trainer with PEFT, one MLflow run and one
model version. No stages, no caching, no reload proof, no resume: the least that gives a registered adapter.

    python benchmarks/naive_chain.py BASE_FOLDER DATA_FOLDER OUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import great_expectations as gx
import mlflow
import pandas as pd
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from prefect import flow, task
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


class Adapted(mlflow.pyfunc.PythonModel):
    """Loads base and adapter from the artifact."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        self.folder = context.artifacts["adapter"]

    def predict(self, context, model_input, params=None):  # noqa: ARG002
        return model_input


@task
def validate(data: Path) -> pd.DataFrame:
    frame = pd.concat([pd.read_json(path, lines=True) for path in sorted(data.rglob("*.jsonl"))])
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = (
        context.data_sources.add_pandas("rows").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    )
    suite = gx.ExpectationSuite(name="rows")
    suite.add_expectation(gx.expectations.ExpectColumnValuesToNotBeNull(column="text"))
    suite.add_expectation(gx.expectations.ExpectColumnValueLengthsToBeBetween(column="text", min_value=1))
    suite.add_expectation(gx.expectations.ExpectColumnValuesToNotBeNull(column="label"))
    assert batch.get_batch({"dataframe": frame}).validate(suite).success
    return frame


@task
def train(base: str, frame: pd.DataFrame, out: Path) -> Path:
    labels = sorted(frame["label"].unique())
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = Dataset.from_dict(
        {
            **tokenizer(list(frame["text"]), truncation=True, max_length=64),
            "labels": [labels.index(x) for x in frame["label"]],
        }
    )
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))
    arguments = TrainingArguments(
        str(out / "trainer"), num_train_epochs=2, report_to=[], save_strategy="no", use_cpu=True
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
    trainer.train()
    trainer.predict(rows)
    model.save_pretrained(out / "adapter")
    return out / "adapter"


@task
def register(adapter: Path, out: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{out / 'mlflow.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("naive", (out / "runs").as_uri()))
    with mlflow.start_run():
        mlflow.log_params({"r": 4})
        mlflow.log_metric("loss", 1.0)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=Adapted(),
            artifacts={"adapter": str(adapter)},
            registered_model_name="naive",
            pip_requirements=["torch"],
        )


@flow
def chain(base: str, data: Path, out: Path) -> None:
    register(train(base, validate(data), out), out)


if __name__ == "__main__":
    chain(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).resolve())
