"""`graft check`: what would go wrong, found before anything runs, all of it at once.

Each check reports findings instead of raising, so that one wrong key does not hide a missing column. Light checks
(params, data columns, base files, registry, device) import no torch; the one that asks PEFT what an adapter would train
does, so it runs only where everything before it is in order, and ``graft run`` leaves it to the stage. The trade-off:
the data check reads the first rows of each part only; ``validate`` reads them all.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import ConfigError, DataError, GraftError, shown
from graft.workspace import SPLITS, Workspace

if TYPE_CHECKING:
    from peft import PeftConfig

    from graft.adapters import AdapterSummary, Layers
    from graft.base import BaseConfig, LockedBase
    from graft.data import Problem
    from graft.training import TrainingConfig

State = Literal["ok", "warn", "fail"]
FIRST_ROWS = 50
SHOWN_BROKEN_ROWS = 5
SHOWN_UNFROZEN = 3


@dataclass(frozen=True)
class Finding:
    """One result: ``check`` is the params section it belongs to."""

    check: str
    state: State
    text: str
    exit_code: int = 0
    """Of a ``fail``: the exit code of the error that the run would end with."""


@dataclass(frozen=True)
class Report:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def failures(self) -> list[Finding]:
        """The findings that would end a run."""
        return [one for one in self.findings if one.state == "fail"]

    @property
    def exit_code(self) -> int:
        """0 without failures, the failures' own code where they agree, else 2."""
        codes = {one.exit_code for one in self.failures}
        return 0 if not codes else codes.pop() if len(codes) == 1 else ConfigError.exit_code

    def as_json(self) -> dict[str, Any]:
        """Return the report for scripts."""
        return {"passed": not self.failures, "findings": [asdict(one) for one in self.findings]}

    def refuse_failures(self) -> None:
        """Raise when a check failed.

        Raises:
            GraftError: with every failure; its exit code is that of the report.
        """
        if self.failures:
            code = self.exit_code
            known = [one for one in _kinds(GraftError) if one.exit_code == code != ConfigError.exit_code]
            kind = known[0] if known else ConfigError
            problems = [one.text for one in self.failures]
            raise kind.from_problems("the project is not ready to run (`graft check` says more)", problems)


def _kinds(kind: type[GraftError]) -> Iterator[type[GraftError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _kinds(one)


def check(workspace: Workspace, *, adapter: bool = True, data: bool = True, recorded: bool = True) -> Report:
    """Return what :func:`findings` finds, all of it."""
    return Report(tuple(findings(workspace, adapter=adapter, data=data, recorded=recorded)))


def findings(
    workspace: Workspace, *, adapter: bool = True, data: bool = True, recorded: bool = True
) -> Iterator[Finding]:
    """Check a project as far as it can be without running it, what takes longest last.

    ``adapter=False`` leaves out the question to PEFT (several seconds of imports), ``data=False`` the part files,
    ``recorded=False`` whether data.dvc says what they are.
    Nothing is written.
    """
    from graft import params

    try:
        sections, problems = params.partial(workspace.params)
    except ConfigError as error:
        yield _failed("params", error)
        return
    yield from (Finding("params", "fail", one, ConfigError.exit_code) for one in problems)
    if not problems:
        yield Finding("params", "ok", f"{workspace.params.name}: every key is known and valid")
    stages = [*_stages(workspace)]
    yield from stages
    yield from _data(workspace, sections, recorded=recorded) if data else ()
    base, found = _base(workspace, sections)
    yield from found
    yield from _champion(workspace, sections)
    yield from _tokenization(base, sections)
    yield from _prompt(base, sections)
    yield from _generation(base, sections)
    yield from _columns(sections)
    rows = functools.cache(lambda: _training_rows(workspace, sections))
    state = _known_state(sections, rows if adapter else None)
    yield from _files(workspace, sections, state)
    yield from _names(workspace, sections, state) if data else ()
    yield from _training(sections)
    yield from _warm_start(workspace, sections)
    yield from _metric(sections)
    yield from _tracking(workspace, sections)
    yield from _signing(workspace, sections)
    yield from _placement(workspace, sections)
    if adapter:
        yield from _expectations(workspace, sections)
        wrong = problems or any(one.state == "fail" and one.check in ("params", "base") for one in [*stages, *found])
        yield from _adapter(workspace, sections, base, rows()) if base and not wrong else (_not_asked(),)


def _failed(name: str, error: GraftError) -> Finding:
    return Finding(name, "fail", str(error), error.exit_code)


def _not_asked() -> Finding:
    return Finding("adapter", "warn", "PEFT was not asked about the adapter: mend what is wrong above first")


def _stages(workspace: Workspace) -> Iterator[Finding]:
    """Compare dvc.yaml with the code; DVC needs every section that a stage names to stand in params.yaml."""
    from graft.config import read_yaml
    from graft.stages import STAGES, render, renewal

    path = workspace.root / "dvc.yaml"
    if not path.is_file():
        yield _failed("stages", ConfigError("dvc.yaml: no such file; `graft init` writes one"))
        return
    if path.read_text(encoding="utf-8") != render(workspace.root, workspace.repository):
        yield Finding("stages", "warn", f"dvc.yaml differs from the stages of this code; {renewal(workspace)}")
    given, required = read_yaml(workspace.params)[0].keys(), ("task", "base")
    for section in dict.fromkeys(one for stage in STAGES for one in stage.params):
        if section not in given and section not in required:
            text = f"{workspace.params.name}: no section {section}, which DVC asks for; write `{section}: {{}}`"
            yield _failed("stages", ConfigError(text))


def _data(workspace: Workspace, sections: dict[str, Any], *, recorded: bool) -> Iterator[Finding]:
    """Read the first rows of each part: the splits are there, the columns too, the types fit."""
    from graft.data import TEST_SETS, parts, parts_of_test_sets
    from graft.quarantine import in_words

    try:
        found = parts(workspace.data)
        elsewhere = parts_of_test_sets(workspace.data)
    except GraftError as error:
        yield from _problems("data", error)
        return
    if not {"task", "data"} <= sections.keys():
        return
    broken, aside = 0, list[str]()
    for split in (*SPLITS, *(f"{TEST_SETS}/{name}" for name in elsewhere)):
        files = found[split] if split in found else elsewhere[split.removeprefix(f"{TEST_SETS}/")]
        try:
            found_here = [one for path in files for one in _first_problems(path, workspace.root, sections)]
        except GraftError as error:
            yield _failed("data", error)
            return
        kept = [one for one in found_here if split in found and _goes_aside(one, sections)]
        aside += [one.place for one in kept]
        problems = [str(one) for one in found_here if one not in kept]
        broken += len(problems)
        yield from (Finding("data", "fail", one, 2) for one in problems[:SHOWN_BROKEN_ROWS])
        if len(problems) > SHOWN_BROKEN_ROWS:
            yield Finding("data", "fail", f"data/{split}: {len(problems) - SHOWN_BROKEN_ROWS} more problems", 2)
    if aside:
        places = list(dict.fromkeys(aside))
        shown_places = ", ".join(places[:SHOWN_BROKEN_ROWS]) + (", ..." if len(places) > SHOWN_BROKEN_ROWS else "")
        text = f"{in_words(len(places))} among the first cannot be read and will be in quarantine ({shown_places})"
        yield Finding("data", "warn", text)
    if not broken:
        count = sum(len(one) for one in found.values())
        fields = ", ".join(field.name for field in _fields(sections) if field.required) or "fields"
        yield Finding(
            "data", "ok", f"{count} part files in {len(found)} splits; {fields} fit in the first rows of each"
        )
    if elsewhere and not broken:
        yield Finding("data", "ok", f"test sets from elsewhere: {', '.join(elsewhere)}")
    yield from _wanted_test_sets(elsewhere, sections)
    yield from _recorded(workspace) if recorded else ()
    yield from _provenance(workspace)


def _wanted_test_sets(elsewhere: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[Finding]:
    """Say which test sets the section asks for that are not there: evaluate refuses them, after the training."""
    for name in sections["evaluation"].test_sets or () if "evaluation" in sections else ():
        if name not in elsewhere:
            there = f"there are {', '.join(elsewhere)}" if elsewhere else "there is none"
            yield Finding("data", "fail", f"evaluation.test_sets: no data/test_sets/{name}; {there}", 2)


def _recorded(workspace: Workspace) -> Iterator[Finding]:
    """Say where data/ is other than data.dvc says: a run refuses it."""
    if not workspace.data_dvc.is_file():
        return
    from graft.repository import Repository

    try:
        changes = Repository(workspace).data_changes()
    except GraftError:  # no DVC repository, or none that can be asked: `graft doctor` says it
        return
    if changes:
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        advice = "`graft run --add-data` records the change, `dvc checkout data.dvc` undoes it"
        yield Finding("data", "warn", f"data/ differs from data.dvc ({changes[0]}{more}): {advice}")


def _provenance(workspace: Workspace) -> Iterator[Finding]:
    """Say where the data of data.dvc comes from, and how its conversations were read."""
    from graft.repository.provenance import described, provenance

    found = provenance(workspace.data_dvc)
    yield from (Finding("data", "ok", text) for text in (described(found) if found else ()))


def _fields(sections: dict[str, Any]) -> tuple[Any, ...]:
    from graft import tasks

    fields: tuple[Any, ...] = tasks.get(sections["task"].name).fields_of(sections["task"])
    return fields


def _goes_aside(problem: Problem, sections: Mapping[str, Any]) -> bool:
    """Say whether the contract keeps such a row aside; validate holds their number to a limit."""
    return "validation" in sections and sections["validation"].severity.of_reading(problem) == "quarantine"


def _first_problems(path: Path, root: Path, sections: dict[str, Any]) -> Iterator[Any]:
    from itertools import islice

    from graft.data import Record, read_part
    from graft.validation.contract import fields_beside

    fields = _fields(sections)
    if path.parent.name in SPLITS and "validation" in sections:
        fields = (*fields, *fields_beside(fields, sections["validation"].columns, sections["data"]))
    rows = list(islice(read_part(path, root, fields, sections["data"]), FIRST_ROWS))
    yield from (row for row in rows if not isinstance(row, Record))


def _problems(name: str, error: GraftError) -> Iterator[Finding]:
    yield from (Finding(name, "fail", one, error.exit_code) for one in error.problems or (str(error),))


def _base(workspace: Workspace, sections: dict[str, Any]) -> tuple[LockedBase | None, list[Finding]]:
    """Find the base and compare its files with ``sources.lock``."""
    from graft import base

    if "base" not in sections:
        return None, []
    try:
        locked = base.locked(workspace, sections["base"])
        locked.folder(workspace.root)
    except GraftError as error:
        return None, [_failed("base", error)]
    try:
        base.quantization.arguments(sections["base"].quantization, "cpu")
    except GraftError as error:
        return None, [_failed("base", error)]
    text = f"{locked.source}: {locked.model_type}, {locked.parameters:,} parameters, files as sources.lock pins them"
    return locked, [Finding("base", "ok", text)]


def _champion(workspace: Workspace, sections: dict[str, Any]) -> Iterator[Finding]:
    """Say which champion's data the contract compares with, and whether it is the present one's."""
    from graft.publication.profiles import described_pin
    from graft.validation.champion import KEY
    from graft.workspace import read_json

    if not {"registration", "tracking"} <= sections.keys() or not workspace.sources_lock.is_file():
        return
    try:
        if KEY not in read_json(workspace.sources_lock):
            raise ConfigError(f"sources.lock: pins no {KEY}, not even that there is none; run `graft lock`")
        text, moved = described_pin(workspace, registration=sections["registration"], tracking=sections["tracking"])
    except GraftError as error:
        yield _failed("champion", error)
    else:
        yield Finding("champion", "warn" if moved else "ok", text)


def _warm_start(workspace: Workspace, sections: dict[str, Any]) -> Iterator[Finding]:
    """Say which adapter training starts from, and whether it is here."""
    from graft.artifact.starts import KEY, folder_of, pinned
    from graft.workspace import read_json

    if "training" not in sections or not workspace.sources_lock.is_file():
        return
    try:
        if KEY not in read_json(workspace.sources_lock):
            raise ConfigError(f"sources.lock: has no key {KEY}, which the train stage depends on; run `graft lock`")
        start = pinned(workspace, sections["training"].init_from)
        if start is not None:
            folder_of(workspace, start)
            yield Finding("training", "ok", f"starts from the adapter of {start}")
    except GraftError as error:
        yield _failed("training", error)


def _tokenization(base: LockedBase | None, sections: dict[str, Any]) -> Iterator[Finding]:
    if base is None or not {"task", "tokenization"} <= sections.keys() or _reads_pictures(sections):
        return
    wanted, positions = sections["tokenization"].max_length_tokens, base.positions
    if positions is not None and wanted > positions:
        text = (
            f"tokenization.max_length_tokens: {shown(base.source)} has positions for {positions} tokens "
            f"(got {wanted}); set at most {positions}"
        )
        yield Finding("tokenization", "fail", text, ConfigError.exit_code)
    else:
        limit = f"the base's {positions} positions" if positions is not None else "a base without a limit"
        yield Finding("tokenization", "ok", f"max_length_tokens: {wanted} of {limit}")


def _prompt(base: LockedBase | None, sections: dict[str, Any]) -> Iterator[Finding]:
    """Compare a row and the adapter's own prompt, together, with the base's positions."""
    from graft.adapters import refuse_length

    if base is None or not {"adapter", "tokenization"} <= sections.keys():
        return
    try:
        refuse_length(sections["adapter"], sections["tokenization"].max_length_tokens, base.positions)
    except GraftError as error:
        yield _failed("adapter", error)


def _generation(base: LockedBase | None, sections: dict[str, Any]) -> Iterator[Finding]:
    """Compare prompt and answer with the base's positions, which a decoder has for both together."""
    from graft import tasks
    from graft.adapters import virtual_tokens
    from graft.generation import room_of_prompt
    from graft.text_to_text import SequenceConfig

    task = sections.get("task")
    settings = getattr(task, "generation", None)
    # A source leaves the room that its target needs.
    if task is None or settings is None or isinstance(task, SequenceConfig) or base is None or base.positions is None:
        return
    own = virtual_tokens(sections["adapter"]) if "adapter" in sections else 0
    try:
        room = room_of_prompt(settings, base.positions, own)
    except GraftError as error:
        if any(metric.generated for metric in tasks.get(task.name).metrics):
            yield _failed("generation", error)
        else:
            yield Finding("generation", "warn", f"{error}; until then `graft predict` cannot answer")
        return
    longest = sections["tokenization"].max_length_tokens if "tokenization" in sections else 0
    if longest > room:
        text = (
            f"task.generation.max_new_tokens: {settings.max_new_tokens} and a prompt of {longest} tokens "
            f"(tokenization.max_length_tokens) are more than the base's {base.positions} positions: where text is "
            f"generated, a prompt keeps its last {room} tokens; lower one of the two"
        )
        yield Finding("generation", "warn", text)


def _reads_pictures(sections: dict[str, Any]) -> bool:
    """Say whether the task has pictures, whose size the base's image processor decides: no limit applies to them."""
    from graft import tasks

    return tasks.get(sections["task"].name).processor == "image"


def _columns(sections: dict[str, Any]) -> Iterator[Finding]:
    """Say where numeric columns are named and the adapter does not read them."""
    columns, adapter = getattr(sections.get("task"), "numeric_columns", ()), sections.get("adapter")
    # A method that has no such key refuses it when it is asked about its keys.
    if adapter is None or not columns or adapter.keys.get("features") == "columns":
        return
    from graft.adapters import column_methods

    reading = column_methods()
    unread = f"`{adapter.method}`" + (" without `features: columns`" if adapter.method in reading else "")
    text = (
        f"task.numeric_columns: {', '.join(columns)} are not read by adapter.method {unread}; only "
        f"{' and '.join(reading)} with `features: columns` read them: use one, or leave the columns out"
    )
    yield Finding("task", "warn", text)


def _behaviour(name: str, root: Path, task: Any, state: Mapping[str, Any] | None) -> None:
    from graft import tasks
    from graft.evaluation.probes.behaviour_tests import parsed, read

    if task is None:
        parsed(name, root)
    else:
        read(name, root, tasks.get(task.name), state)


def _general_text(name: str, root: Path, task: Any, state: Mapping[str, Any] | None) -> None:  # noqa: ARG001
    from graft.evaluation.probes.files import lines_of, project_file
    from graft.evaluation.probes.forgetting import KEY

    lines_of(project_file(name, root, KEY), name, KEY)


def _unread(name: str, root: Path, task: Any, state: Mapping[str, Any] | None) -> None:
    """Params are loaded with the contract, which is checked there."""


READERS = {"evaluation.behaviour": _behaviour, "evaluation.forgetting.text": _general_text}
"""Files that a stage late in the chain would refuse: how each is read."""


def _known_state(sections: dict[str, Any], rows: Callable[[], list[dict[str, Any]]] | None) -> Mapping[str, Any] | None:
    """Return what the task learns, where something that is asked before the training needs it: the labels.

    Pinned labels are known at once; else ``rows`` gives the training rows. None where nothing is known.
    """
    task, promotion = sections.get("task"), sections.get("promotion")
    if pinned := getattr(task, "labels", None):
        return {"labels": list(pinned)}
    slices = [gate.slice for gate in (promotion.gates if promotion else ()) if gate.slice is not None]
    named = any(one.label is not None or (one.name or "").startswith("label=") for one in slices)
    asked = getattr(sections.get("evaluation"), "behaviour", None) or named
    if not (rows and asked and {"task", "data"} <= sections.keys()):
        return None
    try:
        return _state(sections, rows())
    except GraftError:  # `_adapter` says it
        return None


def _names(workspace: Workspace, sections: dict[str, Any], state: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Say which columns, values, labels, probes, slices and test sets are asked for and not there, or not measured."""
    from graft import tasks
    from graft.promotion.asked import wrong_names

    if not {"task", "data"} <= sections.keys():
        return
    settings = sections["task"]
    evaluation, promotion = sections.get("evaluation"), sections.get("promotion")
    try:
        task = tasks.get(settings.name)
        found = list(wrong_names(workspace, evaluation, promotion, sections["data"], task, settings, state))
    except GraftError:  # parts that cannot be read: `_data` says it
        return
    yield from (Finding(section, "fail", text, ConfigError.exit_code) for section, text in found)


def _files(workspace: Workspace, sections: dict[str, Any], state: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Say which file holds the contract, what else params name, and whether DVC sees it change."""
    from graft.stages import STAGES, unseen_file

    for path in (path for stage in STAGES for path in stage.files):
        section, _, key = path.partition(".")
        name = attrgetter(key)(sections[section]) if section in sections else None
        if name is None:
            continue
        try:
            READERS.get(path, _unread)(name, workspace.root, sections.get("task"), state)
            if unseen := unseen_file(workspace, path, name):
                raise ConfigError(unseen)
        except ConfigError as error:
            yield from _problems(section, error)
        else:
            yield Finding(section, "ok", f"the contract is in {name}" if key == "contract" else f"{path}: {name}")


def _expectations(workspace: Workspace, sections: dict[str, Any]) -> Iterator[Finding]:
    """Ask Great Expectations (seconds of imports) about the project's own expectations and its stored suite, if any."""
    from graft import contracts
    from graft.data import DataConfig
    from graft.quarantine import in_words

    validation = sections.get("validation")
    if not validation or "task" not in sections:
        return
    stored = contracts.suite_file(workspace, sections["task"].name)
    if not validation.expectations and not stored.is_file():
        return
    from graft.validation.contract import Contract
    from graft.validation.section import with_line

    try:
        Contract(_fields(sections), {}, sections.get("data") or DataConfig(), validation)
        stale = stored.is_file() and not contracts.is_stored(workspace, sections["task"], validation)
    except GraftError as error:
        texts = [with_line(one, workspace) for one in error.problems or (str(error),)]
        yield from (Finding("validation", "fail", one, error.exit_code) for one in texts)
        return
    privacy = (sections.get("data") or DataConfig()).privacy
    yield from (Finding("validation", "warn", text) for text in contracts.private_arguments(validation, privacy))
    if validation.expectations:
        yield Finding(
            "validation", "ok", f"{in_words(len(validation.expectations), 'expectation')} of the project's own"
        )
    if stored.is_file():
        name = stored.relative_to(workspace.root).as_posix()
        text = f"{name}: is not what the contract compiles to; `graft contract --compile` writes it anew"
        yield Finding("validation", *(("warn", text) if stale else ("ok", f"{name} is what the contract compiles to")))


def _training(sections: dict[str, Any]) -> Iterator[Finding]:
    training = sections.get("training")
    if training is None:
        return
    from graft.training.distributed import refuse_sharding

    cores = os.cpu_count() or 1
    if training.threads > cores:
        text = f"training.threads: {training.threads} on {cores} cores is slower than {cores}"
        yield Finding("training", "warn", text)
    placed = "train" in (sections.get("placement") or {})
    if training.device == "cuda" and not placed and not _has_cuda():
        text = "training.device: cuda, but torch finds no CUDA device here; set auto or cpu, or place train on a pool"
        yield Finding("training", "fail", text, 7)
    else:
        hint = "" if placed else _wider_than_needed(sections.get("base"), training)
        text = f"device {training.device}, {training.threads} threads, seed {training.seed}{hint}"
        yield Finding("training", "ok", text)
    yield from () if placed else _processes(training, cores)
    base = sections.get("base")
    if base and "adapter" in sections:
        try:
            refuse_sharding(base, sections["adapter"], training)
        except GraftError as error:
            yield _failed("training", error)
    if base and base.dtype == "bfloat16" and not placed and _runs_on_cpu(training.device) and not _has_bfloat16():
        text = "base.dtype: bfloat16, which this processor only emulates (30 times slower); set float32, or use a GPU"
        yield Finding("training", "warn", text)


def _wider_than_needed(base: BaseConfig | None, training: TrainingConfig) -> str:
    """Return a hint, where the base is held in float32 on a processor that multiplies bfloat16."""
    if base is None or base.dtype != "float32" or base.quantization or not _runs_on_cpu(training.device):
        return ""
    return "; base.dtype: bfloat16 is about twice as fast on this processor" if _has_bfloat16(believed=False) else ""


def _processes(training: TrainingConfig, cores: int) -> Iterator[Finding]:
    """Compare the processes that train together with the devices of this machine."""
    from graft.training.distributed import processes_of

    if training.processes == 1:
        return
    on_cpu = _runs_on_cpu(training.device) or not _has_cuda()
    try:
        count = processes_of(training, "cpu" if on_cpu else "cuda")
    except GraftError as error:
        yield _failed("training", error)
        return
    if on_cpu and count * training.threads > cores:
        text = f"training.processes: {count} of {training.threads} threads each, on {cores} cores"
        yield Finding("training", "warn", text)
    else:
        yield Finding("training", "ok", f"{count} processes, sharding {training.sharding}")


def _runs_on_cpu(device: str) -> bool:
    """Say whether training runs on the CPU, as far as that is known without importing torch."""
    return device == "cpu" or (device == "auto" and not Path("/proc/driver/nvidia").exists())


def _has_bfloat16(cpu: Path = Path("/proc/cpuinfo"), *, believed: bool = True) -> bool:
    """Say whether the processor multiplies bfloat16 itself; where nobody says, ``believed``."""
    if not cpu.is_file():
        return believed
    known = set(cpu.read_text(encoding="utf-8", errors="replace").split())
    return bool(known & {"avx512_bf16", "amx_bf16", "bf16"})


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _metric(sections: dict[str, Any]) -> Iterator[Finding]:
    from graft import tasks

    if not {"task", "promotion"} <= sections.keys():
        return
    task, promotion = tasks.get(sections["task"].name), sections["promotion"]
    asked = [("promotion.metric", name) for name in promotion.metrics]
    gates = enumerate(promotion.gates)
    asked += [(f"promotion.gates.{number}.metric", gate.metric) for number, gate in gates if gate.metric]
    for path, name in asked:
        try:
            task.metric(name)
        except ConfigError as error:
            yield Finding("promotion", "fail", f"{path}: {error}", error.exit_code)


def _tracking(workspace: Workspace, sections: dict[str, Any]) -> Iterator[Finding]:
    """Ask a server for its health, or whether a local store can be written; a server that is away is no failure."""
    from graft import tracking
    from graft.tracking import server

    if "tracking" not in sections:
        return
    try:
        uri = tracking.resolve_uri(sections["tracking"], workspace)
        tracking.artifact_location(sections["tracking"], uri, workspace)
    except GraftError as error:
        yield _failed("tracking", error)
        return
    try:
        if uri.startswith("sqlite:///"):
            _refuse_unwritable(Path(uri.removeprefix("sqlite:///")))
        else:
            server.check_reachable(uri)
    except GraftError as error:
        yield Finding("tracking", "warn", str(error))
    else:
        model = f", model {sections['registration'].name}" if "registration" in sections else ""
        yield Finding("tracking", "ok", f"{server.shown_uri(uri)}{model}")


def _signing(workspace: Workspace, sections: dict[str, Any]) -> Iterator[Finding]:
    """Load the keys that sign and that are trusted; nothing is said where there are none."""
    config = sections["tracking"].signing if "tracking" in sections else None
    if config is None or not (config.key or config.public_keys):
        return
    from graft.provenance import Trust, signatures

    trust = Trust(config, workspace.root, workspace.repository)
    try:
        signer, trusted = signatures.signer_of(trust), signatures.trusted_keys(trust)
    except GraftError as error:
        yield _failed("signing", error)
        return
    own = signer.public_key.keyid[: signatures.SHOWN_ID] if signer else "nobody"
    yield Finding("signing", "ok", f"versions are signed by {own}; {len(trusted)} trusted keys")
    if signer and trusted and signer.public_key.keyid not in trusted:
        text = f"tracking.signing.key: its public key ({own}) is not among public_keys: what it signs would be refused"
        yield Finding("signing", "fail", text, ConfigError.exit_code)


def _refuse_unwritable(file: Path) -> None:
    place = next(one for one in (file, *file.parents) if one.exists())
    if not os.access(place, os.W_OK):
        raise ConfigError(f"tracking.uri: {place} cannot be written; choose another place or change its permissions")


def _placement(workspace: Workspace, sections: dict[str, Any]) -> Iterator[Finding]:
    placement = sections.get("placement")
    if not placement:
        return
    yield Finding("placement", "ok", ", ".join(f"{stage} on pool {pool}" for stage, pool in placement.items()))
    if not (workspace.repository / ".git").exists():
        text = "placement: needs a git repository with a remote that the workers reach"
        yield Finding("placement", "fail", text, ConfigError.exit_code)


def _adapter(
    workspace: Workspace, sections: dict[str, Any], base: LockedBase, rows: list[dict[str, Any]]
) -> Iterator[Finding]:
    """Ask PEFT what the adapter would train, on a model without weights."""
    from graft import tasks
    from graft.adapters import peft_config, preview, refuse_quantized
    from graft.adapters.adalora import refuse_phases
    from graft.training.batching import Plan

    task, config = tasks.get(sections["task"].name), sections["task"]
    try:
        found = peft_config(sections["adapter"])
        _refuse_other_start(workspace, sections, found)
        if sections["base"].quantization:
            unfreezes = "training" in sections and bool(sections["training"].unfreeze)
            refuse_quantized(found, unfreezes)
        training = sections.get("training")
        if found.peft_type == "ADALORA" and rows and training and training.batch_tokens is None:
            # Cleaning may leave fewer rows, and so fewer steps: then the training says it when it starts.
            refuse_phases(found, Plan([0] * len(rows), training).steps)
        try:
            state = _state(sections, rows)
        except DataError as error:
            yield from _problems("data", error)
            return
        if state is None:
            yield Finding(
                "adapter", "warn", "keys are right; its targets were not tried, since no training row can be read"
            )
            return
        trust = sections["base"].trust_remote_code
        summary = preview(
            task,
            config,
            state,
            base.folder(workspace.root),
            sections["adapter"],
            trust_remote_code=trust,
            unfreeze_patterns=sections["training"].unfreeze if "training" in sections else (),
        )
    except GraftError as error:
        yield from _problems("adapter", error)
        return
    yield from _faster(sections, summary)
    yield Finding("adapter", "ok", _described(summary))
    if summary.head_input:
        yield Finding("adapter", "ok", _kept(workspace, sections, summary))
    elif summary.layers:
        yield from _layers(workspace, sections, summary, summary.layers)


def _refuse_other_start(workspace: Workspace, sections: dict[str, Any], found: PeftConfig) -> None:
    """Refuse an adapter to start from that was trained with other numbers than those of ``adapter``."""
    from graft.artifact.files import IDENTITY, plain_config
    from graft.artifact.starts import folder_of, pinned
    from graft.artifact.warm_start import refuse_differences, unlike
    from graft.workspace import read_json

    try:
        start = pinned(workspace, sections["training"].init_from if "training" in sections else None)
        before = read_json(folder_of(workspace, start) / IDENTITY) if start else None
    except GraftError:  # `_warm_start` says it
        return
    if before:
        # What PEFT resolves on the model (modules by their names) is compared when it is there.
        sides = unlike(before["adapter"]["config"], plain_config(found))
        decided = {name: both for name, both in sides.items() if name == "peft_type" or None not in both}
        plain = {
            name: both for name, both in decided.items() if all(isinstance(one, int | float | str) for one in both)
        }
        refuse_differences({name: both for name, both in plain.items() if name != "adapter.target_modules"})


def _faster(sections: dict[str, Any], summary: AdapterSummary) -> Iterator[Finding]:
    """Refuse LoRA+ where there is nothing that it could let learn faster."""
    from graft.training.loraplus import refuse_without_upper

    if "training" in sections and sections["training"].loraplus_lr_ratio is not None:
        try:
            refuse_without_upper(summary.trained)
        except GraftError as error:
            yield _failed("training", error)


def _training_rows(workspace: Workspace, sections: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the training rows that can be read."""
    from graft.data import Record, parts, read_part

    try:
        files = parts(workspace.data)["train"]
        fields = _fields(sections)
        found = (one for path in files for one in read_part(path, workspace.root, fields, sections["data"]))
        return [one.row for one in found if isinstance(one, Record)]
    except GraftError:
        return []


def _state(sections: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return what the task learns from the training rows; None where none can be read.

    Raises:
        DataError: the rows are not what the task needs.
    """
    from graft import tasks

    return tasks.get(sections["task"].name).learn(sections["task"], iter(rows)) if rows else None


def _described(summary: AdapterSummary) -> str:
    size = summary.adapter_bytes / 1e6
    kinds: dict[str, int] = {}
    for name in summary.modules:
        last = name.rpartition(".")[2]
        kinds[last] = kinds.get(last, 0) + 1
    modules = ", ".join(f"{name} ({count})" for name, count in kinds.items())
    on = f", on {modules}" if modules else "" if summary.unfrozen else ", on no module of the base"
    saved = f"; in full: {', '.join(summary.saved_modules)}" if summary.saved_modules else ""
    if summary.unfrozen:
        shown = ", ".join(summary.unfrozen[:SHOWN_UNFROZEN]) + (
            ", ..." if len(summary.unfrozen) > SHOWN_UNFROZEN else ""
        )
        saved += f"; {len(summary.unfrozen)} of the base's own: {shown}"
    return f"{summary.method} trains {summary.counted}, {size:.1f} MB{on}{saved}"


def _kept(workspace: Workspace, sections: dict[str, Any], summary: AdapterSummary) -> str:
    """Say what the base's outputs take, which are computed once where nothing below the head is trained."""
    *positions, width = summary.head_input
    unit = "row" if len(positions) == 1 else "token"
    each, size = _size_kept(workspace, sections, width, unit)
    return f"nothing below the head is trained: base outputs are computed once, about {each:,} bytes a {unit}{size}"


def _layers(
    workspace: Workspace, sections: dict[str, Any], summary: AdapterSummary, layers: Layers
) -> Iterator[Finding]:
    """Say what it saves and costs that the lower layers are frozen, or how to get there."""
    if layers.below and not layers.head_alone:
        # A picture's patches are not counted: there are no tables of tokens that say how many there are.
        each, size = _size_kept(workspace, sections, layers.width, "token")
        text = (
            f"{layers.below} of {layers.total} layers ({layers.below / layers.total:.0%}) lie below all that is "
            f"trained and run once, not in each epoch; their outputs take about {each:,} bytes a token{size}"
        )
        yield Finding("training", "ok", text)
    elif layers.total > 2 and summary.modules and summary.method == "lora" and not summary.unfrozen:
        upper = list(range(layers.total - max(1, layers.total // 3), layers.total))
        text = (
            f"all {layers.total} layers run in each epoch; with adapter.layers_to_transform: {upper} and "
            f"adapter.layers_pattern: [{layers.list_name}] those below would run once (docs: Frozen layers)"
        )
        yield Finding("training", "ok", text)


def _size_kept(workspace: Workspace, sections: dict[str, Any], width: int, unit: str) -> tuple[int, str]:
    """Return the bytes of one vector, and what all of them take, for people; empty before rows were tokenized."""
    from graft.tokenization import MANIFEST
    from graft.workspace import read_json

    each = width * (2 if sections["base"].dtype == "bfloat16" else 4)
    if not (workspace.tokens / MANIFEST).is_file():
        return each, ""
    splits = read_json(workspace.tokens / MANIFEST)["splits"]
    count = sum(splits[name][f"{unit}s"] for name in ("train", "validation"))
    text = f", {each * count / 1e6:,.1f} MB in .graft/store"
    limit = sections["training"].frozen_cache_bytes if "training" in sections else None
    if limit is not None and each * count > limit:
        text += f", above training.frozen_cache_bytes ({limit:,}): they are computed in each epoch"
    return each, text
