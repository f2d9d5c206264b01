"""The mesh of one model over several devices: its sizes, when it is the ambient one, and what is laid out over it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from atlas_jax.distributed.mesh import MODEL_AXES, abstract_model_mesh, ambient_model_mesh, model_mesh, platform, use
from atlas_jax.distributed.sharding import constrain, over_model_mesh, spec, spread
from spectral.convolution import choice


def test_a_mesh_takes_the_first_devices():
    mesh = model_mesh(data=2, sequence=1)
    assert dict(mesh.shape) == {"data": 2, "tensor": 1, "sequence": 1}
    assert list(mesh.devices.flat) == jax.devices()[:2]
    assert model_mesh(devices=jax.devices()[3:]).devices.item() == jax.devices()[3]


@pytest.mark.parametrize("make", [model_mesh, abstract_model_mesh])
def test_an_empty_axis_is_refused(make):
    with pytest.raises(ValueError, match="model mesh: tensor is 0, expected at least 1 device"):
        make(tensor=0)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(ValueError, match="2 x 1 x 4 = 8, expected at most the 4 devices there are"):
        model_mesh(data=2, sequence=4)


def test_the_ambient_mesh_is_the_model_s_or_none():
    assert ambient_model_mesh() is None
    mesh = model_mesh(sequence=4)
    with use(mesh):
        assert ambient_model_mesh() == mesh.abstract_mesh
        with use(None):
            assert ambient_model_mesh() is None
    with jax.set_mesh(mesh):
        assert ambient_model_mesh() == mesh.abstract_mesh

    def share(x):
        assert ambient_model_mesh() is None  # one device's share is a whole for what runs on it
        return x

    with use(mesh):
        jax.make_jaxpr(over_model_mesh(share, (("time",),), ("time",)))(jnp.zeros(8))


def test_the_algorithm_is_chosen_for_the_devices_of_the_mesh():
    assert platform() == "cpu"
    assert choice.modal(131_072, "bfloat16", None).algorithm == "chunked"
    with use(abstract_model_mesh(data=4)):
        assert platform() == "gpu"
        assert choice.modal(131_072, "bfloat16", None).algorithm == "parallel"
    with use(model_mesh(data=4)):
        assert platform() == "cpu"


def test_without_a_mesh_nothing_is_laid_out():
    x = jnp.zeros((3, 5))
    assert constrain("x", x, "batch", "time") is x
    assert over_model_mesh(jnp.sin, (("batch",),), ("batch",)) is jnp.sin


def test_moments_are_split_where_the_other_devices_divide_them():
    mesh = model_mesh(2, 1, 2)

    def spread_over(shape, *axes):
        return tuple(spread(NamedSharding(mesh, spec(*axes)), shape).spec)

    everywhere = ("data", "sequence")
    assert spread_over((3, 8, 16), "layers", None, None) == (None, None, everywhere)
    assert spread_over((3, 8, 16), "layers", None, "inner") == (None, everywhere, "tensor")
    assert spread_over((29, 8), None, "columns") == (None, ("tensor", *everywhere))
    assert spread_over((29, 3), None, None) == (None, None)
    assert MODEL_AXES == ("data", "tensor", "sequence")
