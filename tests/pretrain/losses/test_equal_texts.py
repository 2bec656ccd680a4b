"""Equal texts are found exactly, and the treatments do what they claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.distributed.sharding import create_mesh
from pretrain.losses import equal_texts
from pretrain.losses.context_objective import Objective
from pretrain.losses.equal_texts import count_other_equal_texts, find_first_equal


def texts(count, length, distinct, vocabulary=7, seed=0):
    """Return tokens `[count, length]` drawn from `distinct` rows, and the index of the first equal row by a loop."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, (distinct, length), np.int32)[rng.integers(0, distinct, count)]
    rows = [tuple(row) for row in tokens]
    return tokens, [rows.index(row) for row in rows]


def constant(tokens):
    return (jnp.zeros(len(tokens), jnp.uint32),) * 2


def first_token(tokens):
    return (tokens[:, 0].astype(jnp.uint32),) * 2


@pytest.mark.parametrize(
    ("hashes", "count", "length", "distinct"),
    [
        *((None, *sizes) for sizes in ((1, 1, 1), (2, 1, 2), (9, 3, 1), (64, 5, 64), (257, 8, 40), (500, 2, 49))),
        (constant, 64, 5, 64),
        (constant, 257, 8, 40),
        (first_token, 2, 1, 2),
        (first_token, 500, 2, 49),
    ],
)
def test_the_first_equal_row_is_found_whatever_the_hash(monkeypatch, hashes, count, length, distinct):
    if hashes is not None:
        monkeypatch.setattr(equal_texts, "_hashes", hashes)
    tokens, expected = texts(count, length, distinct)
    for mesh in (None, create_mesh()):
        found = jax.jit(lambda tokens, mesh=mesh: find_first_equal(tokens, mesh))(tokens)
        assert found.dtype == jnp.int32 and found.tolist() == expected
    others = np.mean([expected.count(first) - 1 for first in expected])
    assert count_other_equal_texts(jnp.asarray(tokens)) == pytest.approx(others)


@pytest.mark.parametrize("extreme", [0, -1, 2**31 - 1, -(2**31)])
def test_rows_that_differ_in_one_token_differ(extreme):
    tokens = np.full((40, 16), extreme, np.int32)
    tokens[1:17] ^= np.diag(np.full(16, 1, np.int32))  # the lowest bit of each column
    tokens[17:33] ^= np.diag(np.full(16, -(2**31), np.int32))  # the highest bit
    expected = [*range(33), *[0] * 7]
    assert find_first_equal(jnp.asarray(tokens)).tolist() == expected


def step(tokens, **settings):
    """Return the value and the gradients of a batch with these texts."""
    objective, rng = Objective(alpha=0.5, block_size=4, logit_bias=-2.0, **settings), np.random.default_rng(1)
    u, v = (jnp.asarray(rng.normal(size=(len(tokens), 8)), jnp.float32) for _ in range(2))
    loss = jax.jit(jax.value_and_grad(lambda *at: objective(*at, tokens=tokens).value, argnums=(0, 1, 2)))
    return loss(objective.init(8), u, v)


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize("context", [False, True])
def test_the_treatments_agree_if_no_texts_are_equal_and_differ_if_some_are(base, context):
    tokens = np.arange(33, dtype=np.int32).reshape(11, 3)
    once = [step(tokens, base=base, context=context, equal_texts=name) for name in ("negative", "positive", "ignored")]
    for other in once[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), once[0], other)
    tokens[5:] = tokens[:6]
    negative, positive, ignored = (
        float(step(tokens, base=base, context=context, equal_texts=name)[0])
        for name in ("negative", "positive", "ignored")
    )
    assert ignored < negative and abs(positive - negative) > 1e-3 and abs(positive - ignored) > 1e-3


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
def test_equal_images_of_equal_texts_are_perfect_matches_unless_negative(base):
    x, tokens = jnp.repeat(jnp.eye(4), 3, axis=0), np.repeat(np.arange(4, dtype=np.int32), 3)[:, None]

    def loss(name):
        objective = Objective(base=base, context=False, equal_texts=name, logit_scale=200.0, logit_bias=-100.0)
        return float(objective(objective.init(4), x, x, tokens=jnp.asarray(tokens)).value)

    least = np.log(3) if base == "softmax" else 0.0  # of a target uniform over three
    assert loss("positive") == pytest.approx(least, abs=1e-5) and loss("ignored") == pytest.approx(0, abs=1e-5)
    assert loss("negative") > 1


@pytest.mark.parametrize("treatment", ["positive", "ignored"])
def test_tokens_are_needed_unless_equal_texts_are_negative(treatment):
    u = jnp.eye(3)
    scalars = Objective().init(3)
    Objective(equal_texts="negative")(scalars, u, u)
    with pytest.raises(ValueError, match=f"objective.equal_texts '{treatment}' needs the tokens of the texts"):
        Objective(equal_texts=treatment)(scalars, u, u)


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
def test_negative_equal_texts_compile_to_a_program_without_tokens(base):
    objective, rows = Objective(base=base), jax.ShapeDtypeStruct((12, 8), jnp.float32)
    tokens = jnp.zeros((12, 3), jnp.int32)

    def lowered(**given):
        def loss(scalars, u, v):
            return objective(scalars, u, v, **given).value

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(objective.init(8), rows, rows).as_text()

    assert lowered(tokens=tokens) == lowered()
