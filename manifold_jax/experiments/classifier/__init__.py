"""The manifold that a classifier sees (Grementieri & Fioresi, SIAM J. Imaging Sci. 15, 2022)."""
