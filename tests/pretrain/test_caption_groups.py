"""Batches made of groups of samples with similar captions."""

import numpy as np
import pytest

from pretrain.config.run import read_settings
from pretrain.input_pipeline import open_data, prepare_order
from pretrain.monitoring.metric_writer import read_metrics
from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.tiny import config


def shard_of(folder):
    samples = [(key, image, {"texts": [f"thing {number % 4}"]}) for number, (key, image, _) in enumerate(labelled(16))]
    return str(write_shard(folder / "s.tar", samples))


def settings_of(shard, **changes):
    return config(shard, data={"sources": (shard,), "group_size": 4}, **changes)


def test_groups_are_computed_once_per_run(tmp_path):
    settings = read_settings(settings_of(shard_of(tmp_path)))
    source = open_data(settings, tmp_path)
    order = prepare_order(tmp_path / "groups.npy", source, settings)
    groups = [{source.texts(int(index)) for index in group} for group in order.reshape(-1, 4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 4
    np.save(tmp_path / "groups.npy", order[::-1])
    assert list(prepare_order(tmp_path / "groups.npy", source, settings)) == list(order[::-1])
    np.save(tmp_path / "groups.npy", order[1:])
    with pytest.raises(ValueError, match=r"groups\.npy was made for 15 samples, but the data has 16\. Remove the file"):
        prepare_order(tmp_path / "groups.npy", source, settings)
    assert prepare_order(tmp_path / "none.npy", source, read_settings(config(shard_of(tmp_path)))) is None


@pytest.mark.slow
def test_a_run_trains_on_groups_and_reports_equal_texts(tmp_path):
    def train(name, **objective):
        given = settings_of(shard_of(tmp_path), steps=3, objective={"base": "sigmoid", **objective})
        assert pretrain(given, tmp_path / name, data_dir=tmp_path).step == 3
        assert (tmp_path / name / "groups.npy").is_file()
        return read_metrics(tmp_path / name / "metrics.jsonl")

    runs = [train(name, equal_texts=name) for name in ("negative", "positive", "ignored")]
    for lines in (*runs, train("default")):
        assert [line["equal_texts_per_row"] for line in lines] == [3.0, 3.0]  # two groups of four in a batch
    assert len({lines[0]["loss"] for lines in runs}) == 3


def test_a_group_size_that_does_not_divide_the_batch_raises(tmp_path):
    with pytest.raises(ValueError, match=r"data\.group_size 4 does not divide batch_size 6"):
        read_settings(settings_of(shard_of(tmp_path), batch_size=6))
