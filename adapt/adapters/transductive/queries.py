"""The definition of a transductive adapter: it is fitted on unlabelled queries, together with the support set."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.pytrees import pytree
from adapt.adapters.support import FOLDS, Support


@pytree
class Queries:
    """The unlabelled queries of one query set, which a transductive method sees as a whole.

    features: `[queries, dim]`, rows of length 1.
    present: `[queries]`, false for rows that the method must not see: padding, and queries that do not count.
    candidates: `[classes]`, true for the classes among which the queries are classified.
    """

    features: jax.Array
    present: jax.Array
    candidates: jax.Array

    @property
    def count(self) -> jax.Array:
        """The number of queries that are present, at least 1."""
        return jnp.maximum(jnp.sum(self.present), 1)


class TransductiveAdapter(Adapter):
    """Base class of the methods whose logits depend on all queries of a call.

    A subclass overrides `query_logits`. Labels of queries are never used. Selection classifies the left-out support
    examples of a fold as the only queries: the queries of a task have no part in it.
    """

    transductive = True

    def query_logits(self, support: Support, queries: Queries) -> jax.Array:
        """Return the logits `[queries, classes]`, −∞ for classes that are no candidates.

        Rows that are not present influence no other row. Support examples of classes that are no candidates have no
        influence.
        """
        raise TypeError(f"{type(self).__name__} does not define query_logits")

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        everything = jnp.ones(len(x), bool), jnp.ones(support.num_classes, bool)
        return (self.query_logits(support, Queries(x, *everything)),)

    def leave_fold_out(self, support: Support, *, key: jax.Array) -> Terms:
        fold, labelled = support.folds, support.labels >= 0
        candidates = jnp.ones(support.num_classes, bool)

        def logits_of(number: jax.Array) -> jax.Array:
            held_out = Queries(support.features, labelled & (fold == number), candidates)
            return self.query_logits(support.without(fold == number), held_out)

        folds = jax.lax.map(logits_of, jnp.arange(FOLDS))
        return (folds[fold, jnp.arange(len(fold))],)


def candidates_only(support: Support, queries: Queries) -> Support:
    """Return the support set in which examples of classes that are no candidates are padding."""
    return support.without(~queries.candidates[jnp.maximum(support.labels, 0)])
