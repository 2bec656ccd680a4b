"""The progress line names what a user should notice."""

import pytest

from pretrain.monitoring.step_log import describe

VALUES = {"loss": 1.0, "logit_scale": 10.0, "replaced_records": 0.0, "pairs_per_second": 8.0, "data_wait_share": 0.0}
VALUES |= {"pairs_per_second_per_device": 8.0, "host_memory_gb": 1.0}


@pytest.mark.parametrize(("number", "shown"), [(0.0, None), (0.25, "equal texts per row 0.25"), (3.0, "per row 3")])
def test_equal_texts_are_shown_if_a_batch_has_any(number, shown):
    line = describe(VALUES | {"equal_texts_per_row": number})
    assert shown in line if shown else "equal texts" not in line


def test_the_attention_on_companions_is_shown_with_context():
    context = {"context_logit_scale": 9.0, "context_temperature": 0.03, "effective_items": 5.0}
    line = describe(VALUES | context | {"companion_attention": 0.412})
    assert "attended 5.0  on companions 41%" in line and "companions" not in describe(VALUES)
