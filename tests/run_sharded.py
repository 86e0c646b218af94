"""Cases of ``test_sharding.py``, with devices that a process must have from its start.

export XLA_FLAGS=--xla_force_host_platform_device_count=8  # 2 for one of two processes
python tests/run_sharded.py CASE ...          prints what went wrong in each, as JSON
python tests/run_sharded.py --process K PORT  the K-th of two processes
"""

import json
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded
import sharded_points
import sharded_rows
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import manifold_jax as mj

assert sharded_points  # its cases are among those of ``sharded``


def run_cases(names):
    cases, outcomes = sharded.FAST | sharded.SLOW, {}
    for name in names:
        name, *rest = name.split("=")
        try:
            cases[name](*rest)
            outcomes[name] = ""
        except Exception:
            outcomes[name] = traceback.format_exc()
    print(json.dumps(outcomes))


def run_process(number, port):
    """Compare what two processes of two devices give with what one device gives."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number))
    assert len(jax.devices()) == 4
    mesh = jax.make_mesh((4,), ("x",))

    def spread(x):
        sharding = NamedSharding(mesh, P("x"))
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    def compare(whole, pieces):
        assert all(not x.is_fully_addressable for x in jax.tree.leaves(pieces))
        sharded.same(whole, jax.tree.map(lambda x: process_allgather(x, tiled=True), pieces), rtol=1e-9)

    points = sharded.torus()
    compare(mj.gram_from_grid(points, sharded.TORUS), mj.gram_from_grid(spread(points), sharded.TORUS))
    circle = mj.Grid((mj.Axis("t", 0.0, 2 * np.pi, 32, periodic=True),))
    turn = circle.axes[0].samples()
    points = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    whole, pieces = mj.measure(points, circle), mj.measure(spread(points), circle)
    compare(whole.fields[2:], pieces.fields[2:])
    np.testing.assert_allclose(pieces.total_volume.value, 2 * np.pi, rtol=1e-4)
    points[3] = np.nan
    with pytest.raises(ValueError, match=r"at 1 of 32 points, first at index \(3"):
        mj.measure(spread(points), circle)
    with pytest.raises(ValueError, match="several processes"):
        mj.measure(spread(np.nan_to_num(points)), circle, progress=print)
    points, tangents = sharded_rows.ellipse(24, 2)
    compare(mj.reach_field(points, tangents), mj.reach_field(spread(points), spread(tangents)))
    print(jnp.sum(process_allgather(jnp.ones(()))))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    if sys.argv[1] == "--process":
        run_process(*sys.argv[2:])
    else:
        run_cases(sys.argv[1:])
