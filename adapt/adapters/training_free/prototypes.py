"""Nearest class mean (arXiv 1703.05175), with SimpleShot's centring (arXiv 1911.04623) and a weight for the text."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.ops import class_means, cosines, matmul, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.support import Support
from adapt.adapters.validation import check_fraction, check_one_of

CENTERING = ("l2", "cl2n", "raw")


@pytree
class Prototypes(Adapter):
    """logits = scale · x·p_c, where p_c is the mean of the normalised support examples of class c.

    `centering` "l2" normalises p_c. "cl2n" does the same after subtracting the mean of the support examples from
    examples, texts and queries, and normalising these again. "raw" keeps the length of p_c, and the logits are
    scale · (x·p_c − ‖p_c‖²/2), which order classes by Euclidean distance. `text_weight` mixes the class text into p_c:
    (1 − text_weight) p_c + text_weight w_c. For a class without examples, p_c = w_c; without text, its logit is −scale.
    """

    name = "prototypes"
    text_weight: float = 0.0
    centering: str = static("l2")

    text_logits = False
    grid = {"centering": ("l2", "cl2n"), "text_weight": (0.0, 0.1, 0.25, 0.5, 0.75)}

    def check_settings(self) -> None:
        check_one_of(self, "centering", CENTERING)
        check_fraction(self, "text_weight")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        center = jnp.zeros(support.features.shape[1])
        if self.centering == "cl2n":
            present = support.labels[:, None] >= 0
            center = jnp.sum(present * support.features, axis=0) / jnp.maximum(present.sum(), 1)
        examples = support.features if self.centering == "raw" else normalize(support.features - center)
        means, counts = class_means(examples, support.labels, support.num_classes)
        prototypes = means if self.centering == "raw" else normalize(means)
        if support.class_text_features is not None:
            text = normalize(support.class_text_features - center)
            prototypes = self._mix(prototypes, text, counts)
            counts = jnp.ones_like(counts)
        return {"prototypes": prototypes, "center": center, "known": counts > 0}

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        x, prototypes = normalize(x - state["center"]), state["prototypes"]
        similarity = cosines(x, prototypes)
        if self.centering == "raw":
            similarity -= jnp.sum(jnp.square(prototypes), axis=1) / 2
        return (support.logit_scale * jnp.where(state["known"], similarity, -1.0),)

    def leave_one_out(self, support: Support, *, key: jax.Array) -> Terms:
        return (self._leave_one_out_centred(support) if self.centering == "cl2n" else self._leave_one_out(support),)

    def _mix(self, prototypes: jax.Array, text: jax.Array, counts: jax.Array) -> jax.Array:
        weight = jnp.where(counts == 0, 1.0, self.text_weight)[:, None]
        mixed = (1 - weight) * prototypes + weight * text
        return mixed if self.centering == "raw" else normalize(mixed)

    def _leave_one_out(self, support: Support) -> jax.Array:
        """Return the logits of each row without it: only the prototype of the row's own class changes."""
        x, labels = support.features, support.labels
        state = self.fit_state(support, key=None)
        (logits,) = self.logit_terms(state, support, x)
        means, counts = class_means(x, labels, support.num_classes)
        rest = counts[labels] - 1
        mean = (counts[labels, None] * means[labels] - x) / jnp.maximum(rest, 1)[:, None]
        own = jnp.where(rest[:, None] > 0, mean, 0.0)
        own = own if self.centering == "raw" else normalize(own)
        if support.class_text_features is not None:
            own = self._mix(own, support.class_text_features[labels], rest)
        similarity = jnp.sum(x * own, axis=1)
        if self.centering == "raw":
            similarity -= jnp.sum(jnp.square(own), axis=1) / 2
        if support.class_text_features is None:
            similarity = jnp.where(rest > 0, similarity, -1.0)
        is_own = labels[:, None] == jnp.arange(support.num_classes)
        return jnp.where(is_own, (support.logit_scale * similarity)[:, None], logits)

    def _leave_one_out_centred(self, support: Support) -> jax.Array:
        """Return the logits of each row without it: the centre c_i changes, and with it every prototype.

        With v_ij = 1/‖s_j − c_i‖, the direction of a prototype is P_c = Σ_{j of c, j ≠ i} v_ij (s_j − c_i). Its
        products with x_i − c_i, with the text t_c − c_i and with itself follow from the inner products of the rows.
        """
        present = support.labels >= 0
        x, members = support.features, support.members
        count = jnp.sum(present)
        total = jnp.sum(jnp.where(present[:, None], x, 0.0), axis=0)
        # The products do not depend on the origin; with the mean as origin they do not cancel.
        origin = total / jnp.maximum(count, 1)
        s = x - origin
        centers = -s / jnp.maximum(count - 1, 1)[None, None]  # c_i − origin; Σ_j (s_j − origin) = 0
        gram, s_center = matmul(s, s.T), matmul(centers, s.T)  # [j, l], [i, j]
        center_center = jnp.sum(jnp.square(centers), axis=1)[:, None]
        own_center = jnp.sum(s * centers, axis=1)[:, None]
        squared = jnp.diagonal(gram)[None] - 2 * s_center + center_center  # ‖s_j − c_i‖², [i, j]
        others = present[None] & ~jnp.eye(len(x), dtype=bool)
        v = jnp.where(others, jax.lax.rsqrt(jnp.maximum(squared, 1e-24)), 0.0)
        to_query = gram - s_center - own_center + center_center  # (s_j − c_i)·(x_i − c_i)
        query_norm = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(to_query), 1e-24))[:, None]
        same = matmul(members, members.T)
        a = matmul(v, members)
        b = matmul(v * s_center, members)
        pp = matmul(v * matmul(v, gram * same), members) - 2 * a * b + a * a * center_center
        p_query = matmul(v * to_query, members)
        p_norm = jnp.where(pp > 1e-12, jax.lax.rsqrt(jnp.maximum(pp, 1e-24)), 0.0)
        p_query = p_query * p_norm * query_norm
        if support.class_text_features is None:
            return support.logit_scale * jnp.where(a > 0, p_query, -1.0)
        t = support.class_text_features - origin
        t_center, t_query = matmul(centers, t.T), matmul(s, t.T)
        tt = jnp.sum(jnp.square(t), axis=1) - 2 * t_center + center_center
        t_norm = jax.lax.rsqrt(jnp.maximum(tt, 1e-24))
        text_query = (t_query - t_center - own_center + center_center) * t_norm * query_norm
        own_text = jnp.sum(s * t[support.labels], axis=1)  # s_j · t of its class
        p_text = matmul(v * own_text[None], members) - a * t_center - b + a * center_center
        p_text = p_text * p_norm * t_norm
        weight = jnp.where(a > 0, self.text_weight, 1.0)
        mixed = (1 - weight) ** 2 + weight**2 + 2 * weight * (1 - weight) * p_text  # of unit vectors
        top = (1 - weight) * p_query + weight * text_query
        return support.logit_scale * top * jax.lax.rsqrt(jnp.maximum(mixed, 1e-24))
