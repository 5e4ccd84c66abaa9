"""The report of mined clusters: figures, charts, and a gallery of clusters."""
