"""A table in its three formats, with what each must escape."""

import csv

from adapt.report.tables import Cell, Table

TABLE = Table(
    "t",
    "title",
    ["data_set", "a, %", "b"],
    [
        [Cell('<b>"quoted" | & שלום'), Cell("50.0 ± 1.0", "best"), Cell("−3", "near")],
        [Cell("100% $x$ {y}"), Cell("1"), Cell("")],
    ],
)


def test_csv_gives_every_text_back():
    assert list(csv.reader(TABLE.to_csv().splitlines())) == [
        list(TABLE.columns),
        *([cell.text for cell in row] for row in TABLE.rows),
    ]


def test_markdown_shows_markup_as_text_and_the_best_in_bold():
    head, rule, first, second = TABLE.to_markdown().splitlines()
    assert head == "| data_set | a, % | b |" and rule == "| --- | --- | --- |"
    assert first == r'| &lt;b&gt;"quoted" \| & שלום | **50.0 ± 1.0** | −3 |'
    assert second == "| 100% $x$ {y} | 1 |  |"


def test_latex_escapes_what_it_reads_as_commands():
    lines = TABLE.to_latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}" and lines[-1] == r"\end{tabular}"
    assert lines[2] == r"data\_set & a, \% & b \\"
    assert lines[4] == r'<b>"quoted" | \& שלום & \textbf{50.0 $\pm$ 1.0} & \underline{$-$3} \\'
    assert lines[5] == r"100\% \$x\$ \{y\} & 1 &  \\"
