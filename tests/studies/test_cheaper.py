from __future__ import annotations

from studies.cheaper import rows


def test_learned_rows_with_controls_and_a_searched_beta() -> None:
    table = {row.row.key: row for row in rows()}
    assert len(table) == len(rows()) == 12
    assert [key for key, row in table.items() if row.searched] == ["beta-search"]
    found = {row.row.control_of: set() for row in rows() if row.row.control_of}
    for row in rows():
        if row.row.control_of:
            found[row.row.control_of].add((row.row.key, row.row.family))
    assert found == {
        "metamixup": {("placebo", "placebo"), ("frozen", "frozen")},
        "metamixup-amortised": {
            ("metamixup-amortised-placebo", "placebo"),
            ("metamixup-amortised-frozen", "frozen"),
        },
    }
    exact, placebo = table["metamixup"].policy, table["placebo"].policy
    assert exact is not None
    assert placebo is not None
    assert (placebo.kind, placebo.reading, placebo.every) == ("placebo", exact.reading, 1)
    amortised = table["metamixup-amortised-placebo"].policy
    assert amortised is not None
    assert (amortised.kind, amortised.every) == ("placebo", 16)
