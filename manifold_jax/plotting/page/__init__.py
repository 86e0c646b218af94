"""Reports: one HTML file with interactive plots that needs no network."""
