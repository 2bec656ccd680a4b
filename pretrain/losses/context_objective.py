"""The pretraining objective: a contrastive base loss, and the context objective (LIxP, arXiv 2411.15099) around it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from foundation.settings import (
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UnitFloat,
    check,
)
from foundation.suggestions import unknown_name
from pretrain.losses.companions import measure_companions
from pretrain.losses.contextual_attention import Context, ContextualAttention, contextualize
from pretrain.losses.contrastive import PAIRWISE_LOSSES, Scales, base_loss
from pretrain.losses.equal_texts import EqualTexts, Treatment, treat_equal_texts
from pretrain.losses.pairwise_blocks import BlockLayout, inverse_norms

Scalars = Mapping[str, jax.Array]


class Loss(NamedTuple):
    """A scalar to minimise and the scalars to log."""

    value: jax.Array
    metrics: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A base loss; with `context`, also the same loss on contextualised image embeddings.

    alpha · base(x, t; logit_scale, logit_bias) + (1 − alpha) · base(x_context, t; context_logit_scale,
    context_logit_bias) over the global batch, whatever the number of devices. `reference.objective_loss` is the
    definition.

    base: name of the base loss in `PAIRWISE_LOSSES`.
    context: whether the context loss is computed.
    alpha: weight of the base loss.
    context_start_step: number of steps with the base loss alone, whose weight is 1, before the context loss starts; 0:
        the context loss counts from the first step.
    context_ramp_steps: number of steps after these in which the weight falls linearly from 1 to `alpha`.
    logit_scale, logit_bias: initial scale and bias of the logits; the scale is stored as its logarithm.
    context_temperature: initial divisor of the cosines in the attention. Trained and logged is this value divided by
        √dim, stored as its logarithm.
    max_logit_scale: upper limit of the scales, which each update clamps to it and to at least 1, as in CLIP (arXiv
        2103.00020, section 2.5); 0: no limits. By default 100 for softmax, and no limits for sigmoid, as in SigLIP.
    equal_texts: what an image and a text of another row are if its own text has the same tokens: "negative", as in CLIP
        and SigLIP; "positive" (UniCL, arXiv 2204.03610), for softmax with a target uniform over the positives; or
        "ignored", left out of the sum. This holds for both losses; images still attend to those with the same text.

    Ablations of the context objective:
    self_mask: whether images are kept from attending to themselves.
    stop_gradient: the roles, of "keys" and "values", through which no gradient flows.
    normalized_values: whether the mixtures are of vectors of length 1 instead of raw embeddings.
    shared_logit_scale: whether the context loss uses the scale and bias of the base loss.
    buffer: what images attend to: the "global" batch or their "device".

    Computation:
    dtype: dtype of the operands of matrix products, which accumulate in float32.
    block_size: largest number of rows, and of columns, of a block of pairs (default: chosen for the platform).
    gather_limit: bytes of all embeddings up to which every device gathers them; more go around a ring.
    implementation: of the sigmoid loss: "xla", or "pallas", a kernel for NVIDIA GPUs (`pair_kernel`) that has never run
        on one; the context's attention is XLA's in both. "pallas_interpreted" runs the kernel anywhere, slowly, for
        tests.
    """

    base: str = "sigmoid"
    context: bool = True
    alpha: UnitFloat = 0.9
    context_start_step: NonNegativeInt = 0
    context_ramp_steps: NonNegativeInt = 0
    logit_scale: PositiveFloat = 10.0
    logit_bias: FiniteFloat = -10.0
    max_logit_scale: NonNegativeFloat | None = None
    equal_texts: Treatment = "negative"
    context_temperature: PositiveFloat = 0.1
    self_mask: bool = True
    stop_gradient: tuple[Literal["values", "keys"], ...] = ()
    normalized_values: bool = False
    shared_logit_scale: bool = False
    buffer: Literal["global", "device"] = "global"
    dtype: Literal["float32", "bfloat16"] = "float32"
    block_size: PositiveInt | None = None
    gather_limit: int = BlockLayout.gather_limit
    implementation: Literal["xla", "pallas", "pallas_interpreted"] = "xla"

    def __post_init__(self) -> None:
        check(self, "objective")
        if self.base not in PAIRWISE_LOSSES:
            raise ValueError(unknown_name("objective.base", self.base, PAIRWISE_LOSSES))
        if self.max_logit_scale and self.max_logit_scale < 1:
            raise ValueError(
                f"objective.max_logit_scale is {self.max_logit_scale}; use at least 1, or 0 for no limit of the scale"
            )
        self._check_implementation()
        self._check_schedule()

    def _check_schedule(self) -> None:
        start, ramp = self.context_start_step, self.context_ramp_steps
        if ramp and not start:
            raise ValueError(
                f"objective.context_ramp_steps is {ramp}, but context_start_step is 0: the context loss has its full "
                "weight from the first step. Set context_start_step to the step at which the ramp begins."
            )
        without = "context is False" if not self.context else "alpha is 1" if self.alpha == 1 else None
        if start and without:
            raise ValueError(
                f"objective.context_start_step is {start}, but {without}: no context loss starts there. Set "
                "context_start_step to 0, or context to True and alpha below 1."
            )

    def _check_implementation(self) -> None:
        if self.implementation == "xla":
            return
        if PAIRWISE_LOSSES[self.base].statistics is not None:
            raise ValueError(
                f"objective.implementation {self.implementation!r} is for the sigmoid loss, but objective.base is "
                f"{self.base!r}. Use objective.implementation='xla'."
            )
        if self.implementation == "pallas" and self.dtype != "bfloat16":
            raise ValueError(
                f"objective.implementation 'pallas' computes in bfloat16 only, but objective.dtype is {self.dtype}. "
                "Change one of them."
            )

    def init(self, dim: int) -> dict[str, jax.Array]:
        """Return the initial learnable scalars for embeddings of `dim` dimensions."""
        scalars = {"logit_scale": math.log(self.logit_scale), "logit_bias": self.logit_bias}
        if self.context:
            if not self.shared_logit_scale:
                scalars |= {f"context_{name}": value for name, value in scalars.items()}
            scalars["context_temperature"] = math.log(self.context_temperature / math.sqrt(dim))
        return {name: jnp.asarray(value, jnp.float32) for name, value in scalars.items()}

    @property
    def attention(self) -> ContextualAttention:
        """The options of the context's attention."""
        return ContextualAttention(
            self_mask=self.self_mask,
            stop_gradient=self.stop_gradient,
            normalized_values=self.normalized_values,
            buffer=self.buffer,
        )

    @property
    def logit_scale_limit(self) -> float | None:
        """The limit of the logit scales, or None."""
        limit = self.max_logit_scale
        if limit is None:
            limit = PAIRWISE_LOSSES[self.base].max_logit_scale
        return limit or None

    def check_steps(self, steps: int) -> None:
        """Raise `ValueError` if a run of `steps` steps ends before the context loss has its full weight."""
        start, ramp = self.context_start_step, self.context_ramp_steps
        if start and start + ramp >= steps:
            raise ValueError(
                f"objective.context_start_step {start} and context_ramp_steps {ramp} together are not below the run's "
                f"{steps} steps: the context loss would never have its full weight. Reduce them or make the run longer."
            )

    def alpha_at(self, step: jax.typing.ArrayLike | None) -> jax.typing.ArrayLike:
        """Return the weight of the base loss in the step that is taken after `step` steps."""
        if not self.context_start_step:
            return self.alpha
        if step is None:
            raise ValueError(f"objective.context_start_step is {self.context_start_step}; pass step= for the weights")
        progress = (step + 1 - self.context_start_step) / (self.context_ramp_steps + 1)
        return 1 - (1 - self.alpha) * jnp.clip(progress, 0.0, 1.0)

    def update(self, scalars: Scalars, *, before: Scalars, step: jax.Array) -> dict[str, jax.Array]:
        """Return the scalars with which a run continues after the step that it has taken after `step` steps.

        `scalars` are those that the optimizer has made of `before`. They are clamped. Until the context loss starts,
        its scale and bias are those of the base loss, and the temperature stays as it was.
        """
        scalars = self.clamp(dict(scalars))
        if not self.context_start_step:
            return scalars
        waiting = {"context_temperature": before["context_temperature"]}
        waiting |= {
            name: scalars[name.removeprefix("context_")] for name in scalars if name.startswith("context_logit_")
        }
        started = step >= self.context_start_step
        return scalars | {name: jnp.where(started, scalars[name], value) for name, value in waiting.items()}

    def clamp(self, scalars: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return the scalars with the logit scales, which are logarithms, clamped to their limits."""
        if self.logit_scale_limit is None:
            return scalars
        limit = math.log(self.logit_scale_limit)
        return {
            name: jnp.clip(value, 0.0, limit) if name.endswith("logit_scale") else value
            for name, value in scalars.items()
        }

    def check_batch(self, batch_size: int, devices: int) -> None:
        """Raise `ValueError` for a batch so small that the context objective has nothing to attend to."""
        items, size, least = batch_size, f"batch_size {batch_size}", "2"
        if self.buffer == "device":
            items, least = batch_size // devices, "2 per device"
            size = f"batch_size {batch_size} on {devices} devices, {items} per device,"
        if self.context and self.self_mask and items < 2:
            raise ValueError(f"{size} leaves the context objective nothing to attend to. Use at least {least}.")

    def __call__(
        self,
        scalars: Scalars,
        image_embeddings: jax.Array,
        text_embeddings: jax.Array,
        *,
        tokens: jax.Array | None = None,
        mesh: Mesh | None = None,
        step: jax.typing.ArrayLike | None = None,
    ) -> Loss:
        """Return the loss of raw embeddings `[batch, dim]`, sharded over `mesh`, and its metrics, in float32.

        The tokens `[batch, length]` of the texts are needed unless equal texts are negative, and the number of steps
        taken before this one, `step`, if the context loss starts later. Until then, nothing is computed for it, and
        its metrics are NaN. The metrics `positive_logit` and `negative_logit` are means over the images with their own
        text and with the texts of other rows, whether these are equal or not.
        """
        layout = BlockLayout(
            mesh=mesh,
            dtype=self.dtype,
            block_size=self.block_size,
            gather_limit=self.gather_limit,
            implementation=self.implementation,
        )
        given = {"layout": layout, "equal_texts": treat_equal_texts(self.equal_texts, tokens, mesh)}
        plain = functools.partial(self._base_loss, **given)
        if not self.context:
            return plain(scalars, image_embeddings, text_embeddings)
        both = functools.partial(self._base_and_context_loss, self.alpha_at(step), **given)
        if not self.context_start_step:
            return both(scalars, image_embeddings, text_embeddings)
        names = jax.eval_shape(both, scalars, image_embeddings, text_embeddings).metrics

        def before_start(*arguments: Any) -> Loss:
            value, metrics = plain(*arguments)
            return Loss(value, dict.fromkeys(names, jnp.float32(jnp.nan)) | metrics | {"alpha": jnp.float32(1.0)})

        started = step >= self.context_start_step
        return jax.lax.cond(started, both, before_start, scalars, image_embeddings, text_embeddings)

    def _base_loss(self, scalars: Scalars, u: jax.Array, v: jax.Array, **given: Any) -> Loss:
        """Return the base loss of raw embeddings alone, and its metrics."""
        return self._compare(scalars, (u,), v, scalar_names=("",), weights=(1.0,), **given)

    def _base_and_context_loss(
        self,
        alpha: jax.typing.ArrayLike,
        scalars: Scalars,
        u: jax.Array,
        v: jax.Array,
        *,
        layout: BlockLayout,
        equal_texts: EqualTexts,
    ) -> Loss:
        """Return the weighted sum of the base loss and the context loss, and its metrics."""
        temperature = scalars["context_temperature"]
        context = self.contextualize(u, v, temperature, layout)
        companions = measure_companions(u, v, temperature, attention=self.attention, layout=layout)
        value, metrics = self._compare(
            scalars,
            (u, context.embeddings),
            v,
            scalar_names=("", "" if self.shared_logit_scale else "context_"),
            weights=(alpha, 1 - alpha),
            layout=layout,
            equal_texts=equal_texts,
        )
        attention = {
            "alpha": jnp.asarray(alpha, jnp.float32),
            "context_temperature": jnp.exp(temperature),
            "effective_items": jnp.mean(context.effective_items),
            "companion_attention": companions.attention_share,
            "companions_per_row": companions.per_row,
        }
        return Loss(value, metrics | jax.lax.stop_gradient(attention))

    def _compare(
        self,
        scalars: Scalars,
        views: tuple[jax.Array, ...],
        texts: jax.Array,
        *,
        scalar_names: tuple[str, ...],
        weights: tuple[jax.typing.ArrayLike, ...],
        layout: BlockLayout,
        equal_texts: EqualTexts,
    ) -> Loss:
        """Return the weighted sum of the losses of all views of the images, and its metrics.

        `scalar_names` has the prefix of the scale and bias of each view.
        """
        scales = Scales(*(jnp.stack([scalars[name + part] for name in scalar_names]) for part in Scales._fields))
        value, terms = base_loss(
            self.base, views, texts, scales, weights=weights, layout=layout, equal_texts=equal_texts
        )
        metrics = {"loss": value}
        for k, (name, view) in enumerate(zip(("", "context_"), views, strict=False)):
            metrics[f"{name or 'base_'}loss"] = terms[k]
            metrics[f"{name}logit_scale"] = jnp.exp(scales.logit_scale[k])
            metrics[f"{name}logit_bias"] = scales.logit_bias[k]
            positive, negative = mean_cosines(view, texts)
            shift = scales.logit_bias[k] if PAIRWISE_LOSSES[self.base].biased else 0.0
            metrics[f"{name}positive_logit"] = jnp.exp(scales.logit_scale[k]) * positive + shift
            metrics[f"{name}negative_logit"] = jnp.exp(scales.logit_scale[k]) * negative + shift
        return Loss(value, jax.lax.stop_gradient(metrics))

    def contextualize(
        self, image_embeddings: jax.Array, text_embeddings: jax.Array, temperature: jax.Array, layout: BlockLayout
    ) -> Context:
        """Return the image embeddings of the context loss: mixtures by the similarities of the images."""
        return contextualize(image_embeddings, temperature, attention=self.attention, layout=layout)


class MeanCosines(NamedTuple):
    """Mean cosines of the matched and of the unmatched pairs of a batch."""

    matched: jax.Array
    unmatched: jax.Array


@jax.named_scope("mean_cosines")
def mean_cosines(image_embeddings: jax.Array, text_embeddings: jax.Array) -> MeanCosines:
    """Return the mean cosine of the matched and of the unmatched pairs of raw embeddings `[batch, dim]`.

    The sum over all pairs is the product of two sums, Σ_i x_i · Σ_j t_j, which takes linear time.
    """
    batch, exact = len(image_embeddings), jax.lax.Precision.HIGHEST
    u, v = image_embeddings.astype(jnp.float32), text_embeddings.astype(jnp.float32)
    u_inverse, v_inverse = inverse_norms(u), inverse_norms(v)
    matched = jnp.sum(jnp.sum(u * v, axis=1) * u_inverse * v_inverse)
    pairs = jnp.dot(jnp.dot(u_inverse, u, precision=exact), jnp.dot(v_inverse, v, precision=exact), precision=exact)
    return MeanCosines(matched / batch, (pairs - matched) / max(float(batch) * (batch - 1), 1.0))
