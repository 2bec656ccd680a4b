"""A report table in its three formats, with the characters that each must escape."""

import csv

from adapt.report.tables import Cell, ReportTable

TABLE = ReportTable(
    "t",
    "title",
    ["data_set", "a, %", "b"],
    [
        [Cell('<b>"quoted" | & שלום'), Cell("50.0 ± 1.0", "best"), Cell("−3", "near")],
        [Cell("100% $x$ {y}"), Cell("1"), Cell("")],
    ],
)


def test_csv_round_trips_every_text():
    assert list(csv.reader(TABLE.to_csv().splitlines())) == [
        list(TABLE.columns),
        *([cell.text for cell in row] for row in TABLE.rows),
    ]


def test_markdown_escapes_markup_and_sets_the_best_in_bold():
    head, rule, first, second = TABLE.to_markdown().splitlines()
    assert head == "| data_set | a, % | b |" and rule == "| --- | --- | --- |"
    assert first == r'| &lt;b&gt;"quoted" \| & שלום | **50.0 ± 1.0** | −3 |'
    assert second == "| 100% $x$ {y} | 1 |  |"


def test_latex_escapes_special_characters():
    lines = TABLE.to_latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}" and lines[-1] == r"\end{tabular}"
    assert lines[2] == r"data\_set & a, \% & b \\"
    assert lines[4] == r'<b>"quoted" | \& שלום & \textbf{50.0 $\pm$ 1.0} & \underline{$-$3} \\'
    assert lines[5] == r"100\% \$x\$ \{y\} & 1 &  \\"
