"""Localized Latent Updates: linear maps of both embeddings that act near the support examples (arXiv 2212.06556)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adapt.adapters.base import Adapter, State, Terms
from adapt.adapters.local_updates.rbf_gate import closeness, cluster
from adapt.adapters.ops import class_means, cosines, matmul, normalize
from adapt.adapters.pytrees import pytree, static
from adapt.adapters.solvers import descend, mean_loss
from adapt.adapters.support import Support
from adapt.adapters.validation import check_at_least, check_gate, check_one_of, check_positive

CENTERS = ("own", "union")
TOWERS = ("both", "image", "text")
DAMPING = ("fixed", "learned")
GATES = ("per_sample", "batch_max")
Parameters = dict[str, jax.Array]


class GateCenters(NamedTuple):
    """The centres of the image gate and of the text gate `[m, dim]`, and which of them exist `[m]`."""

    image: jax.Array
    image_present: jax.Array
    text: jax.Array
    text_present: jax.Array


@pytree
class Llu(Adapter):
    """y = normalize(gate(x) · g(x) + (1 − gate(x)) · x), g(x) = normalize(W x + b), for images x and class texts w.

    gate(x) = damp · exp(rbf · clamp(1 − max_j x·c_j, 0, 1)), see `rbf_gate`. The centres c_j of the image gate are the
    support examples, those of the text gate the texts of the classes with examples; with `centers` "union", both gates
    use all of them. With `clusters` > 0, the centres are merged into that many (complete linkage on cosine distance).

    The maps of the `towers` start as the identity and minimise

        cross-entropy of scale · y_x·y_w + reg · (mse(W_x, I) + mse(b_x, 0) + mse(W_w, I) + mse(b_w, 0))

    over the support examples and the classes that have examples, in `steps` steps of Adam whose learning rate falls
    from `learning_rate` to 0. No gradient flows through the distance. `damping` "learned" trains damp, too. Without
    class texts, the class means of the support examples take their place and are not moved.

    Here a moved text counts for a query only as far as the query itself is near a support example:
    logits = scale · (y_x·w + exp(rbf · …) y_x·(y_w − w)), so that queries far from all support examples keep their
    zero-shot logits. `gate` "batch_max" gives all queries of a call the gate of the nearest query and moves texts
    fully, as the authors' released code does; the adapter is then transductive.
    """

    name = "llu"
    rbf: float = -8.0
    damp: float = 1.0
    reg: float = 1000.0
    learning_rate: float = 3e-4
    steps: int = static(100)
    clusters: int = static(0)
    centers: str = static("own")
    towers: str = static("both")
    damping: str = static("fixed")
    gate: str = static("per_sample")

    training_free = False
    local = True
    grid = {"learning_rate": (3e-4, 1e-4, 1e-3)}

    @property
    def transductive(self) -> bool:  # type: ignore[override]
        return self.gate == "batch_max"

    def check_settings(self) -> None:
        check_gate(self)
        check_at_least(self, 0, "reg", "steps", "clusters")
        check_positive(self, "learning_rate")
        for name, known in (("centers", CENTERS), ("towers", TOWERS), ("damping", DAMPING), ("gate", GATES)):
            check_one_of(self, name, known)
        if self.damping == "learned" and not 0 < self.damp < 1:
            raise ValueError(f"damp {self.damp} is outside (0, 1), the range of a learned damp. Use for example 0.5.")

    def fit_state(self, support: Support, *, key: jax.Array, start: State | None = None) -> State:
        classes = self._class_vectors(support)
        centers = self._gate_centers(support, classes)
        parameters = self._identity(support) if start is None else parameters_of(start)

        def loss(parameters: Parameters) -> jax.Array:
            return self.loss(parameters, support, classes, centers)

        parameters = descend(loss, parameters, learning_rate=self.learning_rate, steps=self.steps)
        return parameters | {"classes": classes} | {f"centers_{name}": rows for name, rows in centers._asdict().items()}

    def extend_state(self, state: State, old: Support, new: Support, *, key: jax.Array) -> State:
        return self.fit_state(new, key=key, start=state)

    def loss(self, parameters: Parameters, support: Support, classes: jax.Array, centers: GateCenters) -> jax.Array:
        """Return the training loss: the cross-entropy plus the distance of the maps from the identity."""
        logits = self._logits(parameters, support, classes, centers, support.features)
        identity = self._identity(support)
        maps = [name for name in parameters if name != "damp"]
        return mean_loss(logits, support) + self.reg * sum(
            jnp.mean(jnp.square(parameters[name] - identity[name])) for name in maps
        )

    def logit_terms(self, state: State, support: Support, x: jax.Array) -> Terms:
        return (self._logits(parameters_of(state), support, state["classes"], centers_of(state), x),)

    def _logits(
        self, parameters: Parameters, support: Support, classes: jax.Array, centers: GateCenters, x: jax.Array
    ) -> jax.Array:
        damp = jax.nn.sigmoid(parameters["damp"]) if "damp" in parameters else self.damp
        near = closeness(x, centers.image, centers.image_present, self.rbf)
        text_near = closeness(classes, centers.text, centers.text_present, self.rbf)
        if self.gate == "batch_max":
            near, text_near = jnp.max(near, initial=0.0), jnp.max(text_near, initial=0.0)
        y, moved = x, classes
        if self.towers != "text":
            y = _move(x, parameters["image_weights"], parameters["image_bias"], damp * near)
        similarity = cosines(y, classes)
        if self.towers != "image" and support.class_text_features is not None:
            moved = _move(classes, parameters["text_weights"], parameters["text_bias"], damp * text_near)
            text_share = near if self.gate == "per_sample" else 1.0
            similarity = similarity + text_share * matmul(y, (moved - classes).T)
        if support.class_text_features is None:
            similarity = jnp.where(support.counts > 0, similarity, -1.0)
        return support.logit_scale * similarity

    def _identity(self, support: Support) -> Parameters:
        parameters, dim = {}, support.features.shape[1]
        towers = ("image",) if support.class_text_features is None else ("image", "text")
        for tower in towers:
            if self.towers in ("both", tower):
                parameters |= {f"{tower}_weights": jnp.eye(dim), f"{tower}_bias": jnp.zeros(dim)}
        if self.damping == "learned":
            parameters["damp"] = jnp.log(self.damp) - jnp.log1p(-jnp.float32(self.damp))
        return parameters

    def _class_vectors(self, support: Support) -> jax.Array:
        if support.class_text_features is not None:
            return support.class_text_features
        return normalize(class_means(support.features, support.labels, support.num_classes).means)

    def _gate_centers(self, support: Support, classes: jax.Array) -> GateCenters:
        image = support.features, support.labels >= 0
        text = classes, support.counts > 0
        if self.centers == "union":
            image = text = jnp.concatenate([image[0], text[0]]), jnp.concatenate([image[1], text[1]])
        if self.clusters:
            image, text = cluster(*image, self.clusters), cluster(*text, self.clusters)
        return GateCenters(*image, *text)


def parameters_of(state: State) -> Parameters:
    """Return the trained arrays of a state."""
    return {name: state[name] for name in state if name != "classes" and not name.startswith("centers_")}


def centers_of(state: State) -> GateCenters:
    """Return the centres of the gates of a state."""
    return GateCenters(*(state[f"centers_{name}"] for name in GateCenters._fields))


def _move(x: jax.Array, weights: jax.Array, bias: jax.Array, gate: jax.Array) -> jax.Array:
    """Return normalize(gate · g(x) + (1 − gate) · x); bit for bit `x` where the gate is 0."""
    moved = normalize(matmul(x, weights.T) + bias)
    return jnp.where(gate == 0, x, normalize(x + gate * (moved - x)))
