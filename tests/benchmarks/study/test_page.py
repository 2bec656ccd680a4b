"""docs/results/study.md is short and says what the CSV files of docs/study say."""

import re

from benchmarks.study import files, page


def test_the_page_and_the_gains_are_made_from_the_csv_files(tmp_path):
    copy = tmp_path / "STUDY.md"
    copy.write_text(files.PAGE.read_text())
    folder = tmp_path / "study"
    folder.mkdir()
    for path in files.RESULTS.glob("*.csv"):
        if path.name != "gains.csv":
            (folder / path.name).write_bytes(path.read_bytes())
    page.write(folder, page=copy)
    assert copy.read_text() == files.PAGE.read_text()
    assert (folder / "gains.csv").read_text() == (files.RESULTS / "gains.csv").read_text()


def test_the_page_is_short_and_every_file_of_its_folder_is_linked():
    text = files.PAGE.read_text()
    assert len(text.splitlines()) <= 200
    linked = set(re.findall(r"\]\(\.\./study/([\w.-]+)\)", text))
    assert linked == {path.name for path in files.RESULTS.iterdir()}
    assert sum(name.endswith(".svg") for name in linked) == 4


def test_main_writes_the_page(tmp_path, monkeypatch):
    copy = tmp_path / "STUDY.md"
    copy.write_text("<!-- heads -->\n<!-- end of heads -->\n")
    (tmp_path / "heads.csv").write_bytes((files.RESULTS / "heads.csv").read_bytes())
    monkeypatch.setattr(page, "PAGE", copy)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.main() == 0
    assert "| 1,024, shuffled | α 0.5, 0.03 | 57% | +1.4 ± 0.5 |" in copy.read_text()
