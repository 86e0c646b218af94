"""The manifold that a classifier sees; imports nothing of the package outside itself."""

from manifold_jax.information.fisher import fisher_factor as fisher_factor
from manifold_jax.information.fisher import fisher_matvec as fisher_matvec
from manifold_jax.information.fisher import fisher_spectrum as fisher_spectrum
from manifold_jax.information.fisher import fisher_trace as fisher_trace
from manifold_jax.information.foliation import fisher_involutivity_defect as fisher_involutivity_defect
from manifold_jax.information.foliation import horizontal_basis as horizontal_basis
from manifold_jax.information.foliation import horizontal_projection as horizontal_projection
from manifold_jax.information.foliation import involutivity_defect as involutivity_defect
from manifold_jax.information.foliation import vertical_projection as vertical_projection
from manifold_jax.information.local_data import LocalDataRank as LocalDataRank
from manifold_jax.information.local_data import local_data_factor as local_data_factor
from manifold_jax.information.local_data import local_data_matrix as local_data_matrix
from manifold_jax.information.local_data import local_data_matvec as local_data_matvec
from manifold_jax.information.local_data import local_data_rank as local_data_rank
from manifold_jax.information.local_data import local_data_spectrum as local_data_spectrum
from manifold_jax.information.local_data import local_data_trace as local_data_trace
from manifold_jax.information.log_prob import check_log_prob as check_log_prob
