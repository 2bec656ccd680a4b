"""The table of machines: rows are compiled, cached, written and compared with the page."""

import json

import pytest

import configs
from benchmarks import compiled_configs
from benchmarks.compiled_configs import (
    ROWS,
    MachineRow,
    cells,
    compile_row,
    differences,
    faults_of,
    read_table,
    write_table,
)

FIGURES = {
    "batch_size": 4096,
    "microbatch_size": 256,
    "remat": "full",
    "peak_bytes": 50.76e9,
    "usable_bytes": 63.7e9,
    "fits": True,
    "faults": [],
    "pairs_per_second_at_most": 7095.2,
}


def page(*rows):
    return "\n".join(["a", "<!-- machines -->", write_table(rows), "<!-- end of machines -->", ""])


def test_every_row_is_a_config_of_the_project_and_the_page_has_it():
    assert {f"{row.config}.py" for row in ROWS} <= set(configs.known_configs())
    shown = read_table(compiled_configs.PAGE.read_text(encoding="utf-8"))
    assert set(shown) == {
        (f"{row.machine} (`{row.topology}`)", f"[{row.config}](../../configs/{row.config}.py)") for row in ROWS
    }


def test_a_peak_that_differs_by_more_than_two_percent_and_a_missing_row_are_named():
    row = cells(ROWS[0], FIGURES)
    shown = read_table(page(row))
    assert list(shown.values()) == [50.8]
    assert differences([row], shown) == []
    larger = cells(ROWS[0], FIGURES | {"peak_bytes": 52e9})
    assert differences([larger], shown) == [f"{row[0]}, {row[1]}: 52.0 GB, but docs/results/machines.md says 50.8 GB"]
    assert "has no row" in differences([cells(ROWS[1], FIGURES)], shown)[0]


def test_a_misfit_and_faults_are_sentences():
    assert faults_of(ROWS[0], FIGURES) == []
    found = faults_of(ROWS[0], FIGURES | {"fits": False, "faults": ["attention in float32"]})
    assert found == [
        "configs/one_gpu.py on l4:1 needs 50.8 GB per device",
        "configs/one_gpu.py on l4:1: attention in float32",
    ]


def test_a_cached_row_is_not_compiled_again_until_its_sources_change(tmp_path, monkeypatch):
    (tmp_path / f"{compiled_configs.fingerprint(ROWS[0])}.json").write_text(json.dumps(FIGURES))
    assert compile_row(ROWS[0], cache=tmp_path) == FIGURES
    monkeypatch.setattr(compiled_configs, "COMPILERS", ("jax",))
    with pytest.raises(RuntimeError, match=r"launch\.py compile --config=configs/unknown\.py"):
        compile_row(MachineRow("none", "l4:1", "unknown", "B/16"), cache=tmp_path)


def test_check_fails_for_a_fault_and_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        compiled_configs, "compile_row", lambda row, cache: FIGURES | {"fits": row.topology != "h100:1"}
    )
    monkeypatch.setattr(compiled_configs, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(page())
    assert compiled_configs.main([]) == 1
    written = (tmp_path / "page.md").read_text()
    assert len(read_table(written)) == len(ROWS)
    assert compiled_configs.main(["--check", "--only=one_gpu"]) == 0
    assert compiled_configs.main(["--check", "--only=gpu_80gb"]) == 1
    assert "gpu_80gb.py on h100:1 needs 50.8 GB" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # the table would lose its other rows
        compiled_configs.main(["--only=gpu_80gb"])
    assert "--only needs --check" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == written
