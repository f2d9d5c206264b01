"""Products of gates, and of matrices that are solved with, ask for all bits of their dtype, derivatives too: on a GPU the usual
product of float32 keeps 10 bits, which no test on a CPU sees."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr
from memory_world import RULES, random_beginning, random_tokens

from atlas_jax.memory.decays import BLOCK, fading_sums, ratios, running
from atlas_jax.memory.sequence import MemoryConfig, run
from atlas_jax.memory.unit_triangular import solve

EXACT = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)


def products(jaxpr):
    """Every product of a program and of those inside it: the dtype of its factors, its precision."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.invars[0].aval.dtype, equation.params["precision"]
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
        ):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                yield from products(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


@pytest.mark.parametrize("length", [9, 2 * BLOCK + 1])
@pytest.mark.parametrize("function", [running, ratios, fading_sums, solve])
def test_products_and_their_derivatives_are_exact(function, length):
    square = jnp.zeros((length, length))
    given = {running: (square[0],), ratios: (square[0],), fading_sums: (square[0], square), solve: (square, square)}
    program = jax.make_jaxpr(jax.value_and_grad(lambda given: jnp.sum(jnp.square(function(*given)))))(given[function])
    found = list(products(program.jaxpr))
    assert len(found) > 1
    assert {precision for _, precision in found} == {EXACT}


@pytest.mark.parametrize("rule", ["titans", "omega"])
def test_gates_of_a_memory_with_rounded_factors_are_multiplied_exactly(rule):
    """All else is rounded, so that what is not is gates."""
    config = MemoryConfig(replace(RULES[rule], dtype="bfloat16"), 2 * BLOCK, tile=2 * BLOCK)
    given = random_beginning(config.rule.network.name), random_tokens(length=2 * BLOCK)
    program = jax.make_jaxpr(jax.grad(lambda *given: jnp.sum(jnp.square(run(config, *given)[0])), argnums=(0, 1)))(
        *given
    )
    found = {precision for dtype, precision in products(program.jaxpr) if dtype == jnp.float32}
    assert found == {EXACT}
