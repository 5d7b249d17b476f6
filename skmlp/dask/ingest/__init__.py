"""From Dask collections or arrays to rows on the workers."""
