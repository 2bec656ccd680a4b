"""A run is resumed with changes: those of no effect are reported, others need an option or are refused."""

import json
import shutil

import pytest

import jobs
from pretrain.config.resume import ResumeOptions, compare_settings, write_settings
from pretrain.config.run import SETTINGS_FILE, load_settings, read_settings
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.tiny import config, same_parameters

CONSTANT = {"learning_rate": 1e-2, "schedule": "rsqrt"}  # does not depend on the length of the run


def compare(tmp_path, before, now, **options):
    """Return the sentences about a run with the settings `before` that is resumed with the settings `now`."""
    write_settings(tmp_path / SETTINGS_FILE, read_settings(config("s.tar", **before)))
    settings, kept = read_settings(config("s.tar", **now)), load_settings(tmp_path)
    return compare_settings(tmp_path, settings, kept=kept, num_samples=16, options=ResumeOptions(**options))


@pytest.mark.parametrize(
    ("change", "name", "rounding"),
    [
        ({"microbatch_size": 4}, "microbatch_size was None and is 4 from here", True),
        ({"attention": "xla"}, "attention was 'auto' and is 'xla' from here", True),
        ({"remat": "full"}, "remat was 'none' and is 'full' from here", True),
        ({"remat": "auto"}, "remat was 'none' and is 'auto' from here", True),
        ({"scan_unroll": 2}, "scan_unroll was 1 and is 2 from here", True),
        ({"objective": {"base": "sigmoid", "block_size": 4}}, "objective.block_size was None and is 4", True),
        ({"objective": {"base": "sigmoid", "gather_limit": 4}}, "objective.gather_limit was", True),
        (
            {"objective": {"base": "sigmoid", "implementation": "pallas_interpreted"}},
            "objective.implementation was 'xla' and is 'pallas_interpreted'",
            True,
        ),
        ({"mesh": {"fsdp": 2}}, "mesh.fsdp was 1 and is 2 from here", True),
        ({"log_every": 3}, "log_every was 2 and is 3 from here", False),
        ({"data": {"sources": ("s.tar",), "caption": "random", "threads": 3}}, "data.threads was 2 and is 3", False),
        ({"monitor": {"stall_seconds": 5.0}}, "monitor.stall_seconds was 1800.0 and is 5.0 from here", False),
    ],
)
def test_a_setting_that_may_change_is_reported(tmp_path, change, name, rounding):
    [sentence] = compare(tmp_path, {}, change)
    assert sentence.startswith(name) and ("differ by rounding" in sentence) == rounding
    assert compare(tmp_path, change, change) == []


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 4},
        {"dtype": "bfloat16"},
        {"objective": {"base": "sigmoid", "equal_texts": "positive"}},
        {"optimizer": {"learning_rate": 2e-2, "warmup_steps": 2}},
    ],
)
@pytest.mark.parametrize("options", [{}, {"extend": True, "data_moved": True}])
def test_a_setting_that_must_not_change_is_refused_with_any_option(tmp_path, change, options):
    with pytest.raises(ValueError, match=r"contains a run with .* = .*, but this config sets"):
        compare(tmp_path, {}, change, **options)


UNITS = [({"steps": 9}, 9), ({"steps": None, "examples": 80}, 10), ({"steps": None, "epochs": 7.0}, 14)]


@pytest.mark.parametrize(("before", "short"), UNITS)
@pytest.mark.parametrize(("now", "long"), UNITS)
def test_a_run_is_extended_in_any_unit_but_never_shortened(tmp_path, before, short, now, long):
    if before == now:
        assert compare(tmp_path, before, now) == compare(tmp_path, before, now, extend=True) == []
        return
    with pytest.raises(ValueError, match="add --extend to make" if long > short else "with its own config, or use"):
        compare(tmp_path, before, now)
    if long < short:
        with pytest.raises(ValueError, match=f"makes a run longer, but .* has {short} steps, and this config {long}"):
            compare(tmp_path, before, now, extend=True)
        return
    [sentence] = compare(tmp_path, before, now, extend=True)
    assert sentence.startswith(f"the run is extended from {short} to {long} steps; the learning rate follows")


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    return write_shard(tmp_path_factory.mktemp("data") / "s.tar", labelled(6))


@pytest.mark.parametrize("name", [r"back\slash", "[a]", "a*", "a?", "gs:"])
def test_a_workdir_whose_checkpoints_could_not_be_read_is_refused_first(tmp_path, name):
    with pytest.raises(ValueError, match=r"checkpoints cannot be stored in .*: the name contains '.*Rename the folder"):
        pretrain(config("s.tar"), tmp_path / name / "run", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_extended_run_on_moved_data_equals_a_run_that_was_long_from_the_start(shard, tmp_path, said):
    short = config(str(shard), steps=2, optimizer=CONSTANT)
    workdir, recorded = tmp_path / "run: 漢字 $x %20 {a},b=c", []
    pretrain(short, workdir, data_dir=tmp_path / "data")
    assert any("a batch has 8 samples, but the data has 6: a batch contains samples more" in line for line in said)
    moved = tmp_path / "elsewhere" / "s.tar"
    moved.parent.mkdir()
    shutil.copy(shard, moved)
    long = config(str(moved), steps=4, optimizer=CONSTANT)
    given = {"data_dir": tmp_path / "data", "record": recorded.append}
    for options, missing in ((ResumeOptions(), "--data_moved"), (ResumeOptions(data_moved=True), "--extend")):
        with pytest.raises(ValueError, match=f"add {missing}"):
            pretrain(long, workdir, options=options, **given)
    assert not recorded
    both = ResumeOptions(extend=True, data_moved=True)
    assert pretrain(long, workdir, options=both, **given)[:2] == (2, 4)
    assert [change.partition(" ")[0] for change in recorded] == ["data.sources", "the"]
    assert sum(line.startswith("warning: resuming with a change: ") for line in said) == 2
    pretrain(long, tmp_path / "long", data_dir=tmp_path / "data")
    assert same_parameters(workdir, tmp_path / "long")
    assert pretrain(long, workdir, options=both, **given)[:2] == (4, 4) and len(recorded) == 2  # idempotent
    other = write_shard(moved, labelled(7))
    with pytest.raises(ValueError, match=r"had 6 samples \(fingerprint .*\) when this run began, but has 7"):
        pretrain(config(str(other), steps=4, optimizer=CONSTANT), workdir, options=both, **given)


def test_changes_are_lines_of_jobs_jsonl(tmp_path, monkeypatch):
    from ml_collections import ConfigDict

    from pretrain.train import TrainResult

    def train(*arguments, options, record, **rest):
        assert options == ResumeOptions(extend=True)
        record("the run is extended")
        return TrainResult(2, 4, 8)

    monkeypatch.setattr("pretrain.train.pretrain", train)
    jobs.pretrain(ConfigDict({"data_dir": "d", "pretrain": {}}), tmp_path, extend=True)
    lines = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines] == ["resumed: the run is extended", "steps 2–4 of 8 pairs"]
