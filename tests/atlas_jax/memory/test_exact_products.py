"""Products of gates, and of matrices that are solved with, ask for all bits of their dtype, derivatives too: on a GPU the usual
product of float32 keeps 10 bits, which no test on a CPU sees."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from atlas_jax.memory.decays import BLOCK, fading_sums, ratios, running
from atlas_jax.memory.unit_triangular import solve

EXACT = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)


def products(jaxpr):
    """The precision of every product of a program and of those inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
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
    assert set(found) == {EXACT}
